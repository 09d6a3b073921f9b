"""The reporter: what it reports, about what, and how; and the doors, which report if configured to."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limiter import asgi, wsgi
from limiter.report.problems import report_problem
from limiter.report.reporter import Reporter, reporter_of
from tests.conftest import clean_environ
from tests.hanging import hanging_mount
from tests.places import PYTHON, REPOSITORY

MISTAKES = {
    "LIMITER_LOG": ["errors.log", "Syslog", "/", "/var/log/"],
    "LIMITER_LOG_LEVEL": ["4xx", "Warning"],
    "LIMITER_LOG_SAMPLE": ["0", "-1", "1.5", "many", "1000001", "\u0663"],
    "LIMITER_MAIL_TO": [
        "a b@example.org",
        "Me <me@example.org>",
        "a@b@c",
        "me@",
        "@example.org",
        ",",
        "-oi",
        "a@b\nc",
    ],
    "LIMITER_MAIL_FROM": ["a@example.org, b@example.org", "a\r\nb@example.org", "\u00e4@example.org"],
    "LIMITER_SMTP": [
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "a b",
        "smtp://example.org",
        "bin/sendmail",
    ],
}
DEADLINE = 60
CASES = [(name, value) for name, values in MISTAKES.items() for value in values]


def reporter(place: Path, **more: str) -> Reporter:
    variables = {"LIMITER_LOG": f"{place}/log", "TMPDIR": str(place), **more}
    return Reporter({name.encode(): value.encode() for name, value in variables.items()})


def log(place: Path) -> list[dict[str, Any]]:
    file = place / "log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_mistake_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        Reporter({name.encode(): value.encode()})
    assert str(caught.value).startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMITER_LOG", "syslog"),
        ("LIMITER_LOG_LEVEL", "warning"),
        ("LIMITER_LOG_SAMPLE", "1000000"),
        ("LIMITER_MAIL_TO", "root, a.b+c@example.org"),
        ("LIMITER_SMTP", "mail.example.org:587"),
        ("LIMITER_SMTP", "/usr/bin/msmtp"),
        ("LIMITER_SMTP", ""),
    ],
)
def test_what_is_right_is_taken(name: str, value: str) -> None:
    Reporter({name.encode(): value.encode()})


def test_a_mistake_is_a_line_where_nobody_else_can_tell(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    reporter_of({b"LIMITER_LOG": b"here", b"UNIQUE_ID": b"7"}).report("500 x", "KeyError: 'x'")
    lines = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines()]
    assert [line["reason"] for line in lines] == [
        "ValueError: LIMITER_LOG='here': expected 'stderr', 'syslog' or a file's absolute path",
        "KeyError: 'x'",
    ]
    assert [line["id"] for line in lines] == ["7", "7"]


@pytest.mark.parametrize(
    ("level", "statuses"), [("", [500, 504]), ("error", [500, 504]), ("warning", [404, 429, 500, 504])]
)
def test_the_level_says_what_is_told(place: Path, level: str, statuses: list[int]) -> None:
    it = reporter(place, LIMITER_LOG_LEVEL=level)
    for status in (
        "200 OK",
        "404 Not Found",
        "429 Too Many Requests",
        "500 Internal",
        "504 Gateway Timeout",
    ):
        it.report(status, "x")
    assert [line["status"] for line in log(place)] == statuses


def test_of_4xx_one_in_n_is_told(place: Path) -> None:
    """The bounds are six standard deviations from the mean."""
    it = reporter(place, LIMITER_LOG_LEVEL="warning", LIMITER_LOG_SAMPLE="4")
    for _ in range(1000):
        it.report("429 Too Many Requests", "x")
    lines = log(place)
    assert 168 <= len(lines) <= 332
    assert {line["sample"] for line in lines} == {4}
    it.report("500 Internal Server Error", "x")
    assert "sample" not in log(place)[-1]
    assert len(log(place)) == len(lines) + 1


def test_an_exception_tells_where_it_was_raised_and_what_caused_it(place: Path) -> None:
    def inner() -> None:
        raise KeyError("x")

    try:
        try:
            inner()
        except KeyError:
            raise OSError(2, "No such file", "/x") from None
    except OSError as error:
        reporter(place).report_error("500 x", error, "headers had been sent")
    try:
        try:
            inner()
        except KeyError as error:
            raise ValueError from error
    except ValueError as error:
        reporter(place).report_error("500 x", error)
    first, second = log(place)
    assert first["reason"] == "FileNotFoundError: [Errno 2] No such file: '/x' (headers had been sent)"
    assert second["reason"] == "ValueError (from KeyError: 'x')"
    assert second["where"].startswith(f"{__file__}:")
    assert [frame.split()[1] for frame in second["stack"]] == [
        "test_an_exception_tells_where_it_was_raised_and_what_caused_it"
    ]


def test_a_secret_in_a_long_message_is_masked_before_that_is_cut(place: Path) -> None:
    message = f"{1400 * '-'} postgres://me:{400 * 'hunter2'}@db"
    reporter(place).report_error("500 x", ValueError(message))
    reporter(place).report_error("500 x", ValueError(message.replace("-", "token=x ")))
    assert "hunter2" not in (place / "log").read_text()


def test_it_never_raises(place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    it = reporter(place)
    it.report("no status", "KeyError: 'x'")
    it.report_error("no status", KeyError("x"))
    said = capfdbinary.readouterr().err.decode().splitlines()
    assert said == [
        "limiter: \"KeyError: 'x'; and then ValueError\"",
        "limiter: 'KeyError; and then ValueError'",
    ]


def test_a_log_that_fails_is_told_on_standard_error(
    place: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (place / "log").mkdir()
    reporter(place).report("500 x", "KeyError: 'x'")
    problem, why = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines()]
    assert (problem["status"], problem["reason"]) == (500, "KeyError: 'x'")
    assert (why["status"], why["reason"].split(":")[0]) == (None, f"LIMITER_LOG='{place}/log'")


def test_a_mail_goes_where_neither_the_log_nor_standard_error_takes_a_line(place: Path) -> None:
    mails = place / "mail"
    program = place / "sendmail"
    os.mkfifo(mails)
    program.write_text(f"#!/bin/sh\nexec cat >{mails}\n")
    program.chmod(0o755)
    code = (
        "import posix\nfrom limiter.report.reporter import Reporter\n"
        "Reporter(posix.environ).report('500 x', \"KeyError: 'x'\")\n"
    )
    environ = clean_environ(
        LIMITER_LOG="/dev/full", LIMITER_MAIL_TO="root", LIMITER_SMTP=str(program), TMPDIR=str(place)
    )
    reading = os.open(mails, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(reading) as file, open("/dev/full", "wb") as full:
        subprocess.run([PYTHON, "-c", code], cwd=REPOSITORY, env=environ, stderr=full, check=True)
        assert select.select([file], [], [], DEADLINE)[0]
        os.set_blocking(reading, True)
        assert "reason: KeyError: 'x'" in file.read()


def test_a_mail_that_cannot_be_begun_is_one_line_more(place: Path) -> None:
    (place / f"limiter-{os.geteuid()}").symlink_to("/")
    reporter(place, LIMITER_MAIL_TO="root").report("500 x", "KeyError: 'x'")
    assert [line["reason"].split(":")[0] for line in log(place)] == ["KeyError", "No mail"]


def test_nothing_heavy_is_loaded_before_anything_fails() -> None:
    code = (
        "import posix, sys\nfrom limiter.report.reporter import Reporter\nReporter(posix.environ)\n"
        "print([name for name in ('re', 'json', 'os', 'email', 'limiter.report.journal') if name in sys.modules])"
    )
    ended = subprocess.run([PYTHON, "-S", "-c", code], cwd=REPOSITORY, capture_output=True, check=True)
    loaded = subprocess.run(
        [PYTHON, "-S", "-c", "import sys; print('os' in sys.modules)"], capture_output=True, check=True
    )
    assert ended.stdout.decode() == ("['os']\n" if loaded.stdout == b"True\n" else "[]\n")


# The doors.


def test_without_settings_a_door_writes_its_one_plain_line() -> None:
    said: list[str] = []
    report_problem({b"LIMITER_LOG_SAMPLE": b"2"}, OSError("x"), said.append)
    report_problem({b"LIMITER_LOG": b"/nowhere"}, "shadow: acme", said.append)
    assert said == ["OSError: x", "shadow: acme"]


Asked = Callable[[str], str]


def check(variables: dict[str, str], home: Path) -> Asked:
    def ask(query: str) -> str:
        environ = clean_environ(**variables, QUERY_STRING=query)
        script = home / "cgi-bin/check.py"
        ended = subprocess.run([script], env=environ, capture_output=True, text=True, check=True)
        assert ended.stderr == ""
        return ended.stdout.splitlines()[0][8:]

    return ask


def guarded(variables: dict[str, str], home: Path) -> Asked:
    def ask(query: str) -> str:
        environ = clean_environ(**variables, QUERY_STRING=query, PYTHONPATH=str(home))
        code = "from limiter.cgi import guard; guard(); print('Status: 200 OK')"
        ended = subprocess.run(
            [PYTHON, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        assert ended.stderr == ""
        status = next(line for line in ended.stdout.splitlines() if line.startswith("Status: "))
        return status[8:]

    return ask


def wsgi_application(variables: dict[str, str], _: Path) -> Asked:
    def application(__: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    door = wsgi.RateLimit(application)

    def ask(query: str) -> str:
        started: list[str] = []
        environ = {**variables, "QUERY_STRING": query, "REQUEST_METHOD": "GET", "wsgi.errors": None}
        door(environ, lambda status, *_: started.append(status))  # type: ignore[arg-type]
        return started[0]

    return ask


def asgi_application(_: dict[str, str], __: Path) -> Asked:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    door = asgi.RateLimit(application)

    def ask(query: str) -> str:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {}

        scope = {"type": "http", "method": "GET", "query_string": query.encode(), "headers": []}
        asyncio.run(door(scope, receive, send))
        return str(sent[0]["status"])

    return ask


def the_map(variables: dict[str, str], home: Path) -> Asked:
    def ask(query: str) -> str:
        settings = [f"{name}={value}" for name, value in variables.items()]
        ended = subprocess.run(
            [PYTHON, "-IS", home / "rewritemap", *settings],
            env=clean_environ(),
            input=f"127.0.0.1 {query} \n",
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stderr == ""
        return ended.stdout

    return ask


every_door = pytest.mark.parametrize(
    "door", [check, guarded, wsgi_application, asgi_application, the_map]
)


@every_door
def test_every_door_reports_failures_and_if_told_to_denials(
    place: Path,
    root: str,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    door: Callable[[dict[str, str], Path], Asked],
) -> None:
    if os.geteuid() == 0:  # the map never calls a store as root
        os.chown(root, 65534, 65534)
        os.chown(place, 65534, 65534)
    variables = {
        "LIMITER_ROOT": root,
        "LIMITER_LIMIT": "1/hour",
        "LIMITER_LOG": f"{place}/log",
        "LIMITER_LOG_LEVEL": "warning",
        "LIMITER_TIMEOUT": "600",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ask = door(variables, installed)
    assert [ask(query)[:3] for query in ("app_id=acme", "app_id=acme", "app_id=/&token=x")] == [
        "200",
        "429",
        "401",
    ]
    assert [(line["status"], line["query"]) for line in log(place)] == [
        (429, "app_id=acme"),
        (401, "app_id=/&token=***"),
    ]
    for level in ("warning", "error", ""):
        variables["LIMITER_LOG_LEVEL"] = level
        variables["LIMITER_LIMIT"] = "1/fortnight"
        monkeypatch.setenv("LIMITER_LOG_LEVEL", level)
        monkeypatch.setenv("LIMITER_LIMIT", "1/fortnight")
        assert ask("app_id=acme")[:3] == "500"
        assert ask("")[:3] == "401"
    statuses = [line["status"] for line in log(place)[2:]]
    assert statuses == [500, 401, 500, 500]
    assert "fortnight" in log(place)[2]["reason"]
    assert log(place)[2]["where"].rpartition(":")[0].endswith("limiter/core/notation.py")


@pytest.mark.parametrize("name", ["check", "guard", "script", "supervised", "unstarted"])
def test_the_client_has_its_answer_before_anybody_is_told_and_may_leave(
    root: str, installed: Path, name: str
) -> None:
    """The log is on a file system that hangs.  Then Apache, whose client has left, sends SIGTERM."""
    script = Path(root, "script")
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o644 if name == "unstarted" else 0o755)
    commands = {
        "check": [str(installed / "cgi-bin/check.py")],
        "guard": [str(installed / "cgi-bin/guard.py")],
        "script": [PYTHON, "-c", "from limiter.cgi import guard; guard()"],
    }
    fails = name in commands
    with hanging_mount() as mount:
        environ = clean_environ(
            LIMITER_ROOT=f"{root}/nowhere" if fails else root,
            LIMITER_LOG=f"{mount.path}/log",
            LIMITER_SUPERVISE="1" if name == "supervised" else "0",
            LIMITER_TIMEOUT="600",
            PYTHONPATH=str(installed),
            QUERY_STRING="app_id=acme",
            REDIRECT_HANDLER="limited",
            REDIRECT_URL="/script",
            PATH_INFO="/script",
            PATH_TRANSLATED=str(script),
        )
        mount.hang()
        with subprocess.Popen(
            commands.get(name, commands["guard"]),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout
            answer = b""
            try:
                while not answer.endswith(b'{"message": "Internal Server Error"}'):
                    assert select.select([process.stdout], [], [], DEADLINE)[0], "it waits for the log"
                    part = os.read(process.stdout.fileno(), 4096)
                    assert part, answer
                    answer += part
                mount.wait_until_stuck()
                process.terminate()
            finally:
                mount.release()
            assert process.wait(DEADLINE) == 0
        (line,) = (mount.path / "log").read_text().splitlines()
        assert json.loads(line)["status"] == 500


@every_door
def test_no_door_tells_who_asked_if_that_may_be_a_key(
    place: Path,
    root: str,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    door: Callable[[dict[str, str], Path], Asked],
) -> None:
    """It is not even in a path of the store."""
    Path(root, "sk-live-1").touch()
    if os.geteuid() == 0:
        os.chown(root, 65534, 65534)
        os.chown(place, 65534, 65534)
    variables = {"LIMITER_ROOT": root, "LIMITER_KEY": "api_key", "LIMITER_LOG": f"{place}/log"}
    variables["LIMITER_TIMEOUT"] = "600"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert door(variables, installed)("api_key=sk-live-1")[:3] == "500"
    (line,) = log(place)
    assert line["reason"].endswith(f"Not a directory: '{root}/***/10-per-1s')")
    assert "sk-live" not in json.dumps(line)


@pytest.mark.parametrize(
    ("limit", "status"), [("10/hour", "500 Internal Server Error"), ("0/hour", "429 Too Many Requests")]
)
def test_a_door_that_stays_gives_its_verdict_and_tells_of_it_without_a_descriptor_left(
    place: Path, root: str, limit: str, status: str
) -> None:
    """If the usual report needs more, it is written by code that loads nothing."""
    code = (
        "import resource\nfrom limiter.wsgi import RateLimit\n"
        "door = RateLimit(lambda *_: [b'through'])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\nfiles = []\n"
        "try:\n    while True:\n        files.append(open('/dev/null'))\nexcept OSError:\n    pass\n"
        "print(door({'REQUEST_METHOD': 'GET', 'QUERY_STRING': 'app_id=acme'}, print))\n"
    )
    environ = clean_environ(
        LIMITER_ROOT=root,
        LIMITER_LIMIT=limit,
        LIMITER_LOG=f"{place}/log",
        LIMITER_LOG_LEVEL="warning",
        LIMITER_TIMEOUT="600",
    )
    ended = subprocess.run(
        [PYTHON, "-c", code], cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith(status)
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("limiter: ")
