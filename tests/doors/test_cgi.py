"""The CGI door: the real cgi-bin/check.py, run as a web server runs it, and guarded scripts."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limiter.core.limiter import Limiter
from limiter.tools.cgi_bridge import Bridge
from tests.places import PYTHON, new_root

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # WebOb imports the old module cgi
    from webtest import TestApp, TestResponse

APPLICATION = Callable[..., TestApp]
PATH = "/cgi-bin/check.py"
FORM = "application/x-www-form-urlencoded"
FORM_MOST = 65536
SETTINGS = {"LIMITER_LIMIT": "2/hour", "LIMITER_TIMEOUT": "60"}
"""The time-out is one that even a busy machine does not exceed."""

BODIES = {
    200: b'{"message": "OK"}',
    401: b'{"message": "Unauthorized"}',
    429: b'{"message": "Too Many Requests"}',
    500: b'{"message": "Internal Server Error"}',
}
COMMON = [("Content-Type", "application/json; charset=utf-8"), ("Cache-Control", "no-store")]
POLICY = ("RateLimit-Policy", '"2-per-3600s";q=2;w=3600')
CHALLENGE = ("WWW-Authenticate", 'AppId realm="limiter"')


@pytest.fixture
def site(installed: Path, root: str) -> APPLICATION:
    """Turn the installed scripts, with a store and settings, into an application under test."""

    def make(scripts: Path = installed / "cgi-bin", **settings: str) -> TestApp:
        variables = {"LIMITER_ROOT": root, **SETTINGS, **settings}
        return TestApp(Bridge(str(scripts), {name: text for name, text in variables.items() if text}))

    return make


@pytest.fixture
def scripts(installed: Path) -> Iterator[Path]:
    """The cgi-bin of a copy of the installation, where a test may add its own scripts."""
    path = new_root("/tmp")
    shutil.copytree(installed, path, dirs_exist_ok=True)
    yield path / "cgi-bin"
    shutil.rmtree(path)


def script(path: Path, text: str) -> None:
    """Write a guarded script: two lines, and then its own text."""
    first = f"#!{PYTHON}\nimport sys\nsys.path.insert(0, {str(path.parents[1])!r})\n"
    path.write_text(first + text)
    path.chmod(0o755)


def get(app: TestApp, query: str = "app_id=acme", path: str = PATH) -> TestResponse:
    """Send a GET request; any status is accepted."""
    return app.get(f"{path}?{query}", expect_errors=True)


def post(
    app: TestApp, body: bytes, query: str = "", media_type: str = FORM, path: str = PATH
) -> TestResponse:
    """Send a POST request; any status is accepted."""
    url = f"{path}?{query}" if query else path
    return app.post(url, body, headers={"Content-Type": media_type}, expect_errors=True)


def fields(response: TestResponse) -> list[tuple[str, str]]:
    """Return its header fields in order, without the length that the test client adds."""
    return [field for field in response.headers.items() if field[0] != "Content-Length"]


def judge(response: TestResponse, status: int, expected: list[tuple[str, str]]) -> None:
    """Check a response against the contract: status, header fields in order, and body."""
    reasons = {200: "OK", 401: "Unauthorized", 429: "Too Many Requests", 500: "Internal Server Error"}
    assert response.status == f"{status} {reasons[status]}"
    assert fields(response) == expected + COMMON
    assert response.body == BODIES[status]


def standing(remaining: int) -> tuple[str, str]:
    """Return the RateLimit field of two an hour, right after the first hit."""
    return ("RateLimit", f'"2-per-3600s";r={remaining};t=3600')


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Return what the scripts wrote to the log since the last call."""
    return capfd.readouterr().err.splitlines()


# Answers


def test_two_are_admitted_and_the_third_is_not(
    site: APPLICATION, capfd: pytest.CaptureFixture[str]
) -> None:
    """200 twice and then 429, in every byte; nothing is logged."""
    app = site()
    judge(get(app), 200, [POLICY, standing(1)])
    second = get(app)
    assert second.status == "200 OK"
    assert re.fullmatch('"2-per-3600s";r=0;t=3[0-9]{3}', second.headers["RateLimit"])
    third = get(app)
    wait = third.headers["Retry-After"]
    assert re.fullmatch("3[0-9]{3}", wait)
    standing_then = ("RateLimit", f'"2-per-3600s";r=0;t={wait}')
    judge(third, 429, [POLICY, standing_then, ("Retry-After", wait)])
    judge(get(app, "app_id=emca"), 200, [POLICY, standing(1)])
    assert lines(capfd) == []


QUERIES = ["", "app_id", "app_id=", "app_ID=acme", "id=acme", "app_id=.", "app_id=..%2Facme", "app_id=a%00",
           "app_id=a+b", "app_id=" + "a" * 65, "app_id=acme&app_id=acme", "app_id=acme&%61pp_id=other",
           "app_id=acme;", "app_id=%E9", "app_id=.new-1", "app_id=acme%0AStatus:%20200%20OK"]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_who_does_not_say_who_asks_is_unauthorized(
    site: APPLICATION, root: str, capfd: pytest.CaptureFixture[str], query: str
) -> None:
    """A missing, bad or second app_id gets 401; no file is touched, and nothing is logged."""
    judge(get(site(), query), 401, [CHALLENGE])
    assert os.listdir(root) == []
    assert lines(capfd) == []


@pytest.mark.parametrize(
    "query", ["app_id=acme", "app_id=%61cme", "a%70p_id=acme", "x=1&app_id=acme&y", "&&app_id=acme&"]
)
def test_the_same_in_other_words(site: APPLICATION, root: str, query: str) -> None:
    """An app_id is what it decodes to, at any position."""
    judge(get(site(), query), 200, [POLICY, standing(1)])
    assert os.listdir(root) == ["acme"]


@pytest.mark.parametrize(
    ("query", "settings", "status"),
    [
        ("app_id=acme", {}, 200),
        ("app_id=acme", {"LIMITER_LIMIT": "0/hour"}, 429),
        ("", {}, 401),
        ("app_id=acme", {"LIMITER_LIMIT": "many"}, 500),
    ],
)
def test_head_is_get_without_a_body(
    site: APPLICATION, query: str, settings: dict[str, str], status: int
) -> None:
    """HEAD has the same status and fields, and counts as a hit, but has no body."""
    app = site(**settings)
    head = app.head(f"{PATH}?{query}", expect_errors=True)
    assert head.status_int == status
    assert head.body == b""
    got = get(app, query.replace("acme", "emca"))
    assert head.status == got.status
    assert fields(head) == fields(got)


def test_head_counts(site: APPLICATION, root: str) -> None:
    """HEAD is a hit like any other."""
    assert site().head(f"{PATH}?app_id=acme").status_int == 200
    assert Limiter(root, "2/hour").peek("acme").remaining == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_any_method_is_a_hit(site: APPLICATION, method: str) -> None:
    """The limiter does not decide which methods are allowed."""
    response = site().request(f"{PATH}?app_id=acme", method=method)
    judge(response, 200, [POLICY, standing(1)])


@pytest.mark.parametrize(
    ("limits", "policy"),
    [
        ("5/minute fixed", '"5-per-60s-fixed";q=5;w=60'),
        ("5/second burst 21", '"5-per-1s-burst-21";q=21;w=5'),
        ("2/hour;9 per 2 days", '"2-per-3600s";q=2;w=3600, "9-per-172800s";q=9;w=172800'),
        ("", '"10-per-1s";q=10;w=1'),
    ],
)
def test_every_kind_of_limit(site: APPLICATION, limits: str, policy: str) -> None:
    """Each kind has its policy; the default is ten a second."""
    response = get(site(LIMITER_LIMIT=limits))
    assert response.status == "200 OK"
    assert response.headers["RateLimit-Policy"] == policy


def test_zero_is_denied_with_a_number(site: APPLICATION, root: str) -> None:
    """Retry-After holds a number, though waiting never helps; nothing is written."""
    policy = ("RateLimit-Policy", '"0-per-60s";q=0;w=60')
    expected = [policy, ("RateLimit", '"0-per-60s";r=0;t=1'), ("Retry-After", "60")]
    judge(get(site(LIMITER_LIMIT="0/minute")), 429, expected)
    assert os.listdir(root) == []


# Forms


@pytest.mark.parametrize("media_type", [FORM, FORM.upper(), FORM + "; charset=utf-8", FORM + " ;x"])
def test_a_form_may_hold_the_app_id(site: APPLICATION, media_type: str) -> None:
    """It is read like a query string."""
    judge(post(site(), b"x=1&app_id=acme", media_type=media_type), 200, [POLICY, standing(1)])


@pytest.mark.parametrize(
    ("query", "body"),
    [("app_id=acme", b"app_id=acme"), ("app_id=acme", b"app_id=emca"), ("app_id", b"app_id=acme"),
     ("", b"app_id=acme&app_id=acme"), ("", b"app_id=a\r\n"), ("", b""), ("", b"\xff\x00&%")],
)  # fmt: skip
def test_query_and_form_count_together(site: APPLICATION, root: str, query: str, body: bytes) -> None:
    """An app_id in both counts as given twice."""
    judge(post(site(), body, query), 401, [CHALLENGE])
    assert os.listdir(root) == []


@pytest.mark.parametrize("media_type", ["text/plain", "multipart/form-data; boundary=x", "application/json",
                                        "application/x-www-form-urlencoded-not", "text/x; " + FORM])  # fmt: skip
def test_another_body_is_no_form(site: APPLICATION, media_type: str) -> None:
    """It is not read: no app_id is found in it, and none counts as a second one."""
    app = site()
    judge(post(app, b"app_id=acme", media_type=media_type), 401, [CHALLENGE])
    judge(post(app, b"app_id=emca", "app_id=acme", media_type), 200, [POLICY, standing(1)])


@pytest.mark.parametrize("over", [0, 1])
def test_forms_of_up_to_64_kib(site: APPLICATION, over: int) -> None:
    """With one byte more it no longer counts as a form, and only the query is read."""
    body = b"app_id=acme&".ljust(FORM_MOST + over, b"x")
    app = site()
    if over:
        judge(post(app, body), 401, [CHALLENGE])
        judge(post(app, body, "app_id=acme"), 200, [POLICY, standing(1)])
    else:
        judge(post(app, body), 200, [POLICY, standing(1)])
        judge(post(app, body, "app_id=acme"), 401, [CHALLENGE])


# Without a web server between: what no client could send through one


def run(
    check: Path, environ: dict[str, str], body: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the script itself with exactly this environment."""
    return subprocess.run([check], env=environ, input=body, cwd=cwd, capture_output=True, check=False)


def raw(status: int, *fields: str) -> bytes:
    """Return a response as the script writes it."""
    reasons = {200: "OK", 401: "Unauthorized", 500: "Internal Server Error"}
    head = [
        f"Status: {status} {reasons[status]}",
        *fields,
        *(f"{name}: {text}" for name, text in COMMON),
    ]
    return "\n".join(head).encode() + b"\n\n" + BODIES[status]


UNAUTHORIZED = raw(401, "{}: {}".format(*CHALLENGE))
ADMITTED = raw(200, "{}: {}".format(*POLICY), "{}: {}".format(*standing(1)))
FAILED = raw(500)
ONE_LINE = re.compile(rb"limiter: [A-Za-z]+: [\x20-\x7e]+\n")


@pytest.mark.parametrize("length", ["-1", "+11", " 11", "11 ", "1e1", "0x0b", "eleven", "11,11", "", "999999",
                                    "9" * 5000, "\u0661\u0661", "1_1"])  # fmt: skip
def test_a_bad_content_length_is_no_form(installed: Path, root: str, length: str) -> None:
    """Nothing is found in it, and the script does not wait for it."""
    environ = {
        "CONTENT_LENGTH": length,
        "CONTENT_TYPE": FORM,
        "LIMITER_ROOT": root,
        **SETTINGS,
        "REQUEST_METHOD": "POST",
    }
    check = installed / "cgi-bin/check.py"
    ended = run(check, environ, b"app_id=acme")
    assert (ended.stdout, ended.stderr, ended.returncode) == (UNAUTHORIZED, b"", 0)
    ended = run(check, {**environ, "QUERY_STRING": "app_id=acme"}, b"app_id=acme")
    assert (ended.stdout, ended.stderr, ended.returncode) == (ADMITTED, b"", 0)


@pytest.mark.parametrize("body", [b"", b"app_id=acme"])
def test_a_form_that_is_cut_off(installed: Path, root: str, body: bytes) -> None:
    """Half of it might be another's app_id, so it names nobody."""
    environ = {"CONTENT_LENGTH": "12", "CONTENT_TYPE": FORM, "LIMITER_ROOT": root, **SETTINGS}
    ended = run(installed / "cgi-bin/check.py", environ, body)
    assert (ended.stdout, ended.stderr, ended.returncode) == (UNAUTHORIZED, b"", 0)
    assert os.listdir(root) == []


@pytest.mark.parametrize("query", ["", "app_id=acme"])
def test_a_body_that_nobody_wants_is_taken_from_the_server(
    installed: Path, root: str, query: str
) -> None:
    """Some servers use one socket for both directions; an unread body would then destroy the answer."""
    environ = {"CONTENT_LENGTH": "150000", "CONTENT_TYPE": "text/plain", "QUERY_STRING": query,
               "LIMITER_ROOT": root, **SETTINGS}  # fmt: skip
    ours, its = socket.socketpair()
    with ours:
        with its:
            process = subprocess.Popen(
                [installed / "cgi-bin/check.py"], env=environ, stdin=its.fileno(), stdout=its.fileno()
            )
        ours.sendall(b"x" * 150_000)
        answer = b"".join(iter(lambda: ours.recv(65536), b""))
        process.wait()
    assert answer == (ADMITTED if query else UNAUTHORIZED)


def test_what_follows_a_form_is_not_looked_at(installed: Path, root: str) -> None:
    """Only the stated length is read."""
    environ = {
        "CONTENT_LENGTH": "11",
        "CONTENT_TYPE": FORM,
        "LIMITER_ROOT": root,
        **SETTINGS,
    }
    ended = run(installed / "cgi-bin/check.py", environ, b"app_id=acme&app_id=emca")
    assert (ended.stdout, ended.stderr) == (ADMITTED, b"")


def test_a_form_that_comes_in_pieces(installed: Path, root: str) -> None:
    """It is read until it is whole."""
    environ = {
        "CONTENT_LENGTH": "11",
        "CONTENT_TYPE": FORM,
        "LIMITER_ROOT": root,
        **SETTINGS,
    }
    ours, its = socket.socketpair()
    with ours, its:
        process = subprocess.Popen(
            [installed / "cgi-bin/check.py"], env=environ, stdin=its.fileno(), stdout=subprocess.PIPE
        )
        for byte in b"app_id=acme":
            ours.sendall(bytes([byte]))
        ours.shutdown(socket.SHUT_WR)
        output, _ = process.communicate()
    assert output == ADMITTED


def test_without_any_environment(installed: Path) -> None:
    """There is no app_id."""
    ended = run(installed / "cgi-bin/check.py", {})
    assert (ended.stdout, ended.stderr, ended.returncode) == (UNAUTHORIZED, b"", 0)


@pytest.mark.parametrize("name", ["check.py", "./check.py", "../cgi-bin/check.py"])
@pytest.mark.parametrize("interpreter", [True, False])
def test_from_its_own_directory(installed: Path, root: str, name: str, interpreter: bool) -> None:
    """The script finds the package by any name."""
    environ = {"QUERY_STRING": "app_id=acme", "LIMITER_ROOT": root, **SETTINGS}
    command = [PYTHON, "-IS", name] if interpreter else [name if "/" in name else f"./{name}"]
    ended = subprocess.run(
        command, env=environ, cwd=installed / "cgi-bin", capture_output=True, check=False
    )
    assert (ended.stdout, ended.stderr) == (ADMITTED, b"")


def test_from_another_directory(installed: Path, root: str, tmp_path: Path) -> None:
    """It finds the package, and ignores another one in that directory."""
    (tmp_path / "limiter.py").write_text("raise SystemExit('wrong package')")
    environ = {"QUERY_STRING": "app_id=acme", "LIMITER_ROOT": root, **SETTINGS,
               "PYTHONPATH": str(tmp_path)}  # fmt: skip
    ended = run(installed / "cgi-bin/check.py", environ, cwd=tmp_path)
    assert (ended.stdout, ended.stderr) == (ADMITTED, b"")


@pytest.mark.parametrize("compiled", [True, False])
def test_the_package_inside_cgi_bin(scripts: Path, root: str, compiled: bool) -> None:
    """This is for hosts that offer only one directory.  Compiled files are optional."""
    shutil.move(scripts.parent / "limiter", scripts / "limiter")
    if not compiled:
        shutil.rmtree(scripts / "limiter" / "__pycache__")
    environ = {"QUERY_STRING": "app_id=acme", "LIMITER_ROOT": root, **SETTINGS}
    ended = run(scripts / "check.py", environ)
    assert (ended.stdout, ended.stderr) == (ADMITTED, b"")


def _closed(check: Path, environ: dict[str, str], which: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" {which}', check], env=environ, capture_output=True, check=False
    )


@pytest.mark.parametrize("which", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full",
                                   ">/dev/full 2>/dev/full"])  # fmt: skip
@pytest.mark.parametrize("settings", [{"LIMITER_LIMIT": "2/hour"}, {"LIMITER_LIMIT": "many"}])
def test_streams_that_are_closed_or_full(
    installed: Path, root: str, which: str, settings: dict[str, str]
) -> None:
    """All lines that can be logged are; there is no traceback, and the store is as after any hit."""
    environ = {"QUERY_STRING": "app_id=acme", "LIMITER_ROOT": root, **SETTINGS, **settings}
    ended = _closed(installed / "cgi-bin/check.py", environ, which)
    bad = settings["LIMITER_LIMIT"] == "many"
    if ">&-" in which.replace("2>&-", "") or which.startswith(">/"):
        assert ended.stdout == b""
    else:
        assert ended.stdout == (FAILED if bad else ADMITTED)
    assert re.fullmatch(rb"(limiter: [A-Za-z]+: [\x20-\x7e]+\n)*", ended.stderr)
    expected = 0 if "2>" in which else bad + (">&-" in which or which.startswith(">/"))
    assert ended.stderr.count(b"\n") == expected
    assert ended.returncode == 0
    assert os.listdir(root) == ([] if bad else ["acme"])
    if not bad:
        assert Limiter(root, "2/hour").peek("acme").remaining == 1


def test_a_reader_that_has_gone(installed: Path, root: str) -> None:
    """A client that hangs up causes one log line, not a traceback."""
    environ = {"QUERY_STRING": "app_id=acme", "LIMITER_ROOT": root, **SETTINGS}
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [installed / "cgi-bin/check.py"], env=environ, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert ended.stderr == b"limiter: BrokenPipeError: [Errno 32] Broken pipe\n"
    assert ended.returncode == 0


# What goes wrong inside

BAD_SETTINGS: list[tuple[dict[str, str], str]] = [
    ({"LIMITER_LIMIT": "many"}, "limit 'many': expected a number of hits at character 1"),
    ({"LIMITER_LIMIT": "10001/second"}, "expected a sliding limit of at most 10000 hits"),
    ({"LIMITER_LIMIT": "1/second\nStatus: 200 OK"}, "limit '1/second"),
    ({"LIMITER_LIMIT": "1/second \x1b[2J\u2028"}, "limit '1/second "),
    ({"LIMITER_LIMIT": "9" * 100_000}, "limit '999"),
    ({"LIMITER_ROOT": "store"}, "LIMITER_ROOT='store': expected an absolute path"),
    ({"LIMITER_ROOT": "./\n"}, "LIMITER_ROOT="),
    ({"LIMITER_ON_ERROR": "perhaps"}, "LIMITER_ON_ERROR='perhaps': expected 'deny' or 'admit'"),
    ({"LIMITER_ON_ERROR": "admit", "LIMITER_LIMIT": "many"}, "limit 'many'"),
    ({"LIMITER_ON_ERROR": "admit", "LIMITER_ROOT": "store"}, "LIMITER_ROOT='store'"),
]


@pytest.mark.parametrize(("settings", "why"), BAD_SETTINGS)
def test_bad_settings_are_a_500_and_one_line(
    site: APPLICATION, root: str, capfd: pytest.CaptureFixture[str], settings: dict[str, str], why: str
) -> None:
    """The client gets no reason; the log gets one line, without control characters."""
    judge(get(site(**settings)), 500, [])
    (line,) = lines(capfd)
    assert line.startswith("limiter: ValueError: ")
    assert why in line
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= 4000
    assert os.listdir(root) == []


@pytest.mark.parametrize("name", ["missing", "missing\n[error] forged", "missing\x1b[2J\u2028\u00e9"])
@pytest.mark.parametrize("on_error", ["", "deny", "admit"])
def test_a_store_that_fails_gets_the_configured_verdict(
    site: APPLICATION, root: str, capfd: pytest.CaptureFixture[str], on_error: str, name: str
) -> None:
    """500 or 200, always one line in the log, and no reason for the client."""
    response = get(site(LIMITER_ROOT=f"{root}/{name}", LIMITER_ON_ERROR=on_error))
    judge(response, 200 if on_error == "admit" else 500, [])
    (line,) = lines(capfd)
    assert line.startswith("limiter: StoreError: [Errno 2] The store does not exist")
    assert f"{root}/missing" in line
    assert line.isascii()
    assert line.isprintable()


def test_who_does_not_say_who_asks_is_unauthorized_whatever_fails(site: APPLICATION, root: str) -> None:
    """Without an app_id, the store is not called."""
    judge(get(site(LIMITER_ROOT=f"{root}/missing", LIMITER_ON_ERROR="admit"), ""), 401, [CHALLENGE])


def test_the_default_store(site: APPLICATION, tmp_path: Path) -> None:
    """It is in the temporary directory, only for its owner."""
    app = site(LIMITER_ROOT="", TMPDIR=str(tmp_path))
    judge(get(app), 200, [POLICY, standing(1)])
    (store,) = tmp_path.iterdir()
    assert store.name == f"limiter-{os.geteuid()}"
    assert store.stat().st_mode & 0o7777 == 0o700
    assert [path.name for path in store.iterdir()] == ["acme"]


def test_a_default_store_that_is_not_to_be_trusted(
    site: APPLICATION, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A link in its place is refused, and the log says so."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"limiter-{os.geteuid()}").symlink_to("elsewhere")
    judge(get(site(LIMITER_ROOT="", TMPDIR=str(tmp_path))), 500, [])
    (line,) = lines(capfd)
    assert "it is not trusted" in line
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Guarded scripts

OWN = """
from limiter.cgi import guard
decision = guard()
print("Content-Type: text/plain")
print("X-Own: 1")
print()
print(repr(decision), repr(sys.stdin.read()))
"""


def test_a_guarded_script_answers_for_itself(site: APPLICATION, scripts: Path) -> None:
    """The limiter's fields come first; the body is unchanged; guard() returns the decision."""
    script(scripts / "own.py", OWN)
    response = post(site(scripts), b"app_id=emca&x=1", "app_id=acme", path="/cgi-bin/own.py")
    assert response.status == "200 OK"
    assert fields(response) == [
        POLICY,
        standing(1),
        ("Content-Type", "text/plain"),
        ("X-Own", "1"),
    ]
    decision = "Decision(allowed=True, limit=2, remaining=1, retry_after=0.0)"
    assert response.text == f"{decision} 'app_id=emca&x=1'\n"


def test_a_guarded_script_does_not_run_when_it_is_denied(
    site: APPLICATION, scripts: Path, root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """401, 429 and 500 are complete answers of the limiter, with and without a request body."""
    script(scripts / "own.py", OWN)
    path = "/cgi-bin/own.py"
    judge(get(site(scripts), "", path), 401, [CHALLENGE])
    judge(post(site(scripts), b"app_id=acme", path=path), 401, [CHALLENGE])
    zero = site(scripts, LIMITER_LIMIT="0/hour")
    expected = [("RateLimit-Policy", '"0-per-3600s";q=0;w=3600'), ("RateLimit", '"0-per-3600s";r=0;t=1'),
              ("Retry-After", "3600")]  # fmt: skip
    judge(get(zero, path=path), 429, expected)
    assert zero.head(f"{path}?app_id=acme", expect_errors=True).body == b""
    assert lines(capfd) == []
    judge(get(site(scripts, LIMITER_ROOT=f"{root}/missing"), path=path), 500, [])
    assert len(lines(capfd)) == 1


def test_a_guarded_script_runs_without_the_store_if_so_configured(
    site: APPLICATION, scripts: Path, root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Then there is no decision, and there are no fields."""
    script(scripts / "own.py", OWN)
    app = site(scripts, LIMITER_ROOT=f"{root}/missing", LIMITER_ON_ERROR="admit")
    response = get(app, path="/cgi-bin/own.py")
    assert fields(response) == [("Content-Type", "text/plain"), ("X-Own", "1")]
    assert response.text == "None ''\n"
    assert len(lines(capfd)) == 1


def test_a_guarded_script_may_set_the_settings(site: APPLICATION, scripts: Path) -> None:
    """What it writes to os.environ before guard() counts, and what it deletes does not."""
    change = """
import os
os.environ["LIMITER_LIMIT"] = "7/hour"
os.environ["QUERY_STRING"] = "app_id=" + os.environ.pop("REMOTE_USER", "nobody")
del os.environ["LIMITER_ON_ERROR"]
"""
    script(scripts / "own.py", change + OWN)
    response = get(site(scripts, LIMITER_ON_ERROR="perhaps"), path="/cgi-bin/own.py")
    assert response.headers["RateLimit"] == '"7-per-3600s";r=6;t=3600'


def test_head_of_a_guarded_script(site: APPLICATION, scripts: Path) -> None:
    """The fields are those of GET."""
    script(scripts / "own.py", OWN)
    response = site(scripts).head("/cgi-bin/own.py?app_id=acme")
    assert response.headers["RateLimit"] == standing(1)[1]
    assert response.body == b""


@pytest.mark.parametrize("size", [0, 65536, 3_000_000])
def test_a_large_body_is_left_to_the_guarded_script(site: APPLICATION, scripts: Path, size: int) -> None:
    """It can read the whole body."""
    script(scripts / "own.py", OWN.replace("sys.stdin.read()", "len(sys.stdin.buffer.read())"))
    response = post(site(scripts), b"x" * size, "app_id=acme", path="/cgi-bin/own.py")
    assert response.text.endswith(f") '{size}'\n") or response.text.endswith(f") {size}\n")
