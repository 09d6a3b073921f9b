"""The reporter: what it reports, about what, and how; and the doors, which report if configured to."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from limiter.report.problems import report_problem
from limiter.report.reporter import Reporter, reporter_of
from tests.conftest import NOBODY, clean_environ
from tests.doors.doors import DOORS
from tests.hanging import hanging_mount
from tests.mailbox import Mailbox
from tests.places import PYTHON, REPOSITORY
from tests.report.conftest import DEADLINE, entries


def reporter(place: Path, **more: str) -> Reporter:
    variables = {"LIMITER_LOG": f"{place}/log", "TMPDIR": str(place), **more}
    return Reporter({name.encode(): value.encode() for name, value in variables.items()})


def test_a_mistake_in_the_settings_is_logged_and_the_defaults_are_used(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    reporter_of({b"LIMITER_LOG": b"here", b"UNIQUE_ID": b"7"}).report("500 x", "KeyError: 'x'")
    lines = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines()]
    assert [line["reason"] for line in lines] == [
        "ValueError: LIMITER_LOG='here': expected 'stderr', 'syslog' or a file's absolute path",
        "KeyError: 'x'",
    ]
    assert [line["id"] for line in lines] == ["7", "7"]


def test_one_in_n_is_reported_of_4xx(place: Path) -> None:
    """The bounds are six standard deviations from the mean."""
    it = reporter(place, LIMITER_LOG_LEVEL="warning", LIMITER_LOG_SAMPLE="4")
    for _ in range(1000):
        it.report("429 Too Many Requests", "x")
    lines = entries(place)
    assert 168 <= len(lines) <= 332
    assert {line["sample"] for line in lines} == {4}
    it.report("200 OK", "x")
    it.report("500 Internal Server Error", "x")
    assert "sample" not in entries(place)[-1]
    assert len(entries(place)) == len(lines) + 1


def test_the_report_of_an_exception_has_its_place_and_its_cause(place: Path) -> None:
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
    first, second = entries(place)
    assert first["reason"] == "FileNotFoundError: [Errno 2] No such file: '/x' (headers had been sent)"
    assert second["reason"] == "ValueError (from KeyError: 'x')"
    assert second["where"].startswith(f"{__file__}:")
    (frame,) = second["stack"]
    assert frame.endswith("test_the_report_of_an_exception_has_its_place_and_its_cause")


def test_a_secret_is_masked_before_a_long_message_is_cut(place: Path) -> None:
    message = f"{1400 * '-'} postgres://me:{400 * 'hunter2'}@db"
    reporter(place).report_error("500 x", ValueError(message))
    reporter(place).report_error("500 x", ValueError(message.replace("-", "token=x ")))
    assert "hunter2" not in (place / "log").read_text()


# Failures of the report itself


def test_a_report_never_raises(
    place: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter.report.exception_text.stack_of", None)
    it = reporter(place)
    it.report("no status", "KeyError: 'x'")
    it.report_error("500 x", KeyError("x"))
    assert capfdbinary.readouterr().err.decode().splitlines() == [
        "limiter: \"KeyError: 'x'; and then ValueError\"",
        "limiter: 'KeyError; and then TypeError'",
    ]


def test_a_log_that_fails_is_reported_on_standard_error(
    place: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (place / "log").mkdir()
    reporter(place).report("500 x", "KeyError: 'x'")
    problem, why = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines()]
    assert (problem["status"], problem["reason"]) == (500, "KeyError: 'x'")
    assert (why["status"], why["reason"].split(":")[0]) == (None, f"LIMITER_LOG='{place}/log'")


def test_a_mail_is_sent_even_if_no_line_can_be_written(place: Path, box: Mailbox) -> None:
    code = (
        "import posix\nfrom limiter.report.reporter import Reporter\n"
        "Reporter(posix.environ).report('500 x', \"KeyError: 'x'\")\n"
    )
    environ = clean_environ(
        LIMITER_LOG="/dev/full",
        LIMITER_MAIL_TO="root",
        LIMITER_SMTP=f"127.0.0.1:{box.port}",
        TMPDIR=str(place),
    )
    with open("/dev/full", "wb") as full:
        subprocess.run([PYTHON, "-c", code], cwd=REPOSITORY, env=environ, stderr=full, check=True)
    box.wait_for("reason: KeyError: 'x'")


def test_a_mail_that_cannot_be_started_is_one_more_line(place: Path) -> None:
    (place / f"limiter-{os.geteuid()}").symlink_to("/")
    reporter(place, LIMITER_MAIL_TO="root").report("500 x", "KeyError: 'x'")
    _, line = entries(place)
    assert line["reason"].startswith("No mail: StoreError: ")
    assert "not trusted" in line["reason"]


# The doors


def test_without_settings_a_door_writes_one_plain_line() -> None:
    lines: list[str] = []
    report_problem({b"LIMITER_LOG_SAMPLE": b"2"}, OSError("x"), lines.append)
    report_problem({b"LIMITER_LOG_LEVEL": b"error"}, "shadow: acme", lines.append)
    assert lines == ["OSError: x", "shadow: acme"]


def test_what_shadow_mode_would_have_denied_goes_to_the_log(place: Path) -> None:
    """With LIMITER_LOG set nobody was told of it."""
    lines: list[str] = []
    environ = {
        b"LIMITER_LOG": os.fsencode(place / "log"),
        b"REQUEST_METHOD": b"GET",
        b"PATH_INFO": b"/page",
    }
    report_problem(environ, "shadow: acme would have got 429 Too Many Requests", lines.append)
    (line,) = entries(place)
    assert line["reason"] == "shadow: acme would have got 429 Too Many Requests"
    assert (line["method"], line["path"]) == ("GET", "/page")
    assert lines == []


@pytest.fixture
def door_settings(place: Path, store: str) -> dict[str, str]:
    """The settings of a door that reports to the log ``place/log``."""
    if os.geteuid() == 0:  # the map never calls a store as root
        os.chown(place, NOBODY, NOBODY)
    return {"LIMITER_ROOT": store, "LIMITER_LOG": f"{place}/log", "LIMITER_TIMEOUT": "600"}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("level", "reported"), [("warning", [429, 401, 500]), ("error", [500]), ("", [500])]
)
def test_every_door_reports_failures_and_denials_as_the_level_says(
    place: Path, door_settings: dict[str, str], door: str, level: str, reported: list[int]
) -> None:
    settings = {**door_settings, "LIMITER_LOG_LEVEL": level}
    for limits, query, status in [
        ("1/hour", "app_id=acme", "200"),
        ("1/hour", "app_id=acme", "429"),
        ("1/hour", "app_id=/&token=x", "401"),
        ("1/fortnight", "app_id=acme", "500"),
    ]:
        answer = DOORS[door].send({**settings, "LIMITER_LIMIT": limits}, query)
        assert (answer.status, answer.log) == (status, [])
    lines = entries(place)
    assert [line["status"] for line in lines] == reported
    queries = {429: "app_id=acme", 401: "app_id=/&token=***", 500: "app_id=acme"}
    assert [line["query"] for line in lines] == [queries[status] for status in reported]
    assert {(line["address"], line["method"]) for line in lines} <= {("192.0.2.1", "GET")}
    assert "fortnight" in lines[-1]["reason"]
    assert lines[-1]["where"].rpartition(":")[0].endswith("limiter/core/notation.py")


@pytest.mark.parametrize("door", DOORS)
def test_no_door_reports_an_app_id_that_may_be_a_key(
    place: Path, root: str, door_settings: dict[str, str], door: str
) -> None:
    """It is not even in a path of the store."""
    Path(root, "sk-live-1@10-per-1s").touch()
    answer = DOORS[door].send({**door_settings, "LIMITER_KEY": "api_key"}, "api_key=sk-live-1")
    assert answer.status == "500"
    (line,) = entries(place)
    assert line["reason"].endswith(f"Not a directory: '{root}/***@10-per-1s')")
    assert "sk-live" not in json.dumps(line)


@pytest.mark.parametrize("name", ["check", "guard", "supervised", "unstarted"])
def test_a_cgi_door_answers_first_and_reports_even_after_sigterm(
    root: str, installed: Path, name: str
) -> None:
    """The log is on a file system that hangs.  Then Apache, whose client has left, sends SIGTERM."""
    script = Path(root, "script")
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o644 if name == "unstarted" else 0o755)
    with hanging_mount() as mount:
        environ = clean_environ(
            LIMITER_ROOT=f"{root}/nowhere" if name in ("check", "guard") else root,
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
            [installed / f"cgi-bin/{'check' if name == 'check' else 'guard'}.py"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout
            try:
                mount.wait_until_stuck()
                os.set_blocking(process.stdout.fileno(), False)
                assert process.stdout.read().endswith(b'\n\n{"message": "Internal Server Error"}')
                process.terminate()
            finally:
                mount.release()
            assert process.wait(DEADLINE) == 0
        (line,) = entries(mount.path)
        assert line["status"] == 500


@pytest.mark.parametrize(
    ("limit", "on_error", "answer"),
    [
        ("10/hour", "deny", "500 Internal Server Error"),
        ("10/hour", "admit", "[b'through']"),
        ("0/hour", "deny", "429 Too Many Requests"),
    ],
)
def test_a_long_running_door_decides_and_reports_without_a_free_descriptor(
    place: Path, root: str, limit: str, on_error: str, answer: str
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
        LIMITER_ON_ERROR=on_error,
        LIMITER_LOG=f"{place}/log",
        LIMITER_LOG_LEVEL="warning",
        LIMITER_TIMEOUT="600",
    )
    ended = subprocess.run(
        [PYTHON, "-c", code], cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith(answer)
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("limiter: ")
