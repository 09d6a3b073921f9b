"""Errors of one's own programs: scripts without a server, long-running processes, WSGI applications."""

from __future__ import annotations

import email
import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from limiter import errors
from tests.conftest import clean_environ
from tests.places import REPOSITORY
from tests.scripts.failures import BEGIN, DIVISION, FAILURES, HALF, PAGE

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # WebOb imports the old module cgi
    from webtest import TestApp, TestResponse

DEADLINE = 60
THREAD = "import threading\nthreading.Thread(target=lambda: 1 / 0).start()\n"
DESTRUCTOR = "class Last:\n    def __del__(self):\n        1 / 0\nLast()\n"
# Sets the limit of open files to their number.
USE_UP = (
    "import os, resource\nfree = os.dup(0)\nos.close(free)\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))\n"
)


class Ended:
    """How a script ended: what a server would make of its output, and the lines of its log."""

    def __init__(self, output: bytes, log: bytes, code: int) -> None:
        self.output = output.decode(errors="backslashreplace")
        head, _, self.body = output.partition(b"\n\n")
        self.headers = email.message_from_bytes(head)
        self.status = int(self.headers.get("Status", "200 OK")[:3])
        self.log = log.decode()
        self.code = code

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines()]

    def reasons(self) -> list[str]:
        return [entry["reason"] for entry in self.entries()]

    def assert_is_own(self, status: int) -> None:
        assert (self.status, json.loads(self.body)) == (status, {"message": HTTPStatus(status).phrase})
        assert self.headers.get_all("Content-Type") == ["application/json; charset=utf-8"]


def run(place: Path, text: str, **variables: str) -> Ended:
    """Run a script as a server does."""
    return execute(place, text, **{"GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "GET", **variables})


def execute(place: Path, text: str, **variables: str) -> Ended:
    script = place / "script.py"
    script.write_text(BEGIN + text)
    own = {"PYTHONPATH": f"{REPOSITORY}:{place}", "LIMITER_LOG_LEVEL": "warning"}
    ended = subprocess.run(
        [sys.executable, script],
        env=clean_environ(**{**own, **variables}),
        input=b"",
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )
    return Ended(ended.stdout, ended.stderr, ended.returncode)


# Python 3.9 prints an exception of an exit handler itself, and calls no hook.
SEEN = [name for name in FAILURES if name != "at-exit" or sys.version_info >= (3, 10)]


@pytest.mark.parametrize("name", SEEN)
def test_a_failure_is_one_answer_and_one_line(place: Path, name: str) -> None:
    failure = FAILURES[name]
    ended = run(place, failure.script)
    (entry,) = ended.entries()
    assert entry["reason"].startswith(failure.reason)
    if failure.left is None:
        ended.assert_is_own(failure.status)
        assert entry["status"] == failure.status
    else:
        assert (ended.status, ended.body) == (failure.status, failure.left)
        assert entry["status"] == 500
        assert entry["reason"].endswith("(headers had been sent)")
    assert ended.code == 0, "or the supervisor would report it again"


HEADER = "Content-Type: text/plain\n\n"
BODY = HEADER + "Half a page\n"
NUMBERS = "".join([f"{number}\n" for number in range(50_000)])
# A script, its output, and its exit status.  Only a supervisor sees the status.
WELL = {
    "bytes and text": (
        f"{PAGE}import sys\nsys.stdout.buffer.write(b'\\xff')\nprint('\\u00e4')",
        BODY + "\\xff\u00e4\n",
        0,
    ),
    "large page": (f"{PAGE}for number in range(50_000):\n    print(number)", BODY + NUMBERS, 0),
    "exit with a status": (f"{PAGE}import sys\nsys.exit(3)", BODY, 3),
    "exit of a thread": (
        f"import sys, threading\n{PAGE}threading.Thread(target=sys.exit).start()",
        BODY,
        0,
    ),
}


@pytest.mark.parametrize(("text", "output", "code"), WELL.values(), ids=WELL)
def test_a_script_that_does_not_fail_is_left_alone(
    place: Path, text: str, output: str, code: int
) -> None:
    ended = run(place, text, PYTHONUTF8="1")
    assert (ended.output, ended.log, ended.code) == (output, "", code)


def test_the_answer_to_head_has_the_fields_but_no_body(place: Path) -> None:
    ended = run(place, "raise errors.TooManyRequests('busy', 2)", REQUEST_METHOD="HEAD")
    assert (ended.status, ended.headers["Retry-After"], ended.body) == (429, "2", b"")


@pytest.mark.parametrize(
    "text",
    [
        "while True:\n    print('more')",
        "try:\n    while True:\n        print('more')\nfinally:\n    {}['its resource']",
        "sys.stdin.read()\nprint('at its end')",
    ],
)
def test_a_client_that_leaves_is_no_failure(place: Path, text: str) -> None:
    """As with the supervisor: there is nobody to answer, and the script learns this."""
    script = place / "script.py"
    script.write_text(f"{BEGIN}import sys\n{PAGE}sys.stdout.flush()\n{text}")
    environ = clean_environ(PYTHONPATH=str(REPOSITORY), GATEWAY_INTERFACE="CGI/1.1")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, script], env=environ, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"Content-Type: text/plain\n"
        process.stdout.close()
        process.stdout = None
        assert process.communicate(b"", DEADLINE)[1] == b""
        assert process.returncode == 0


CLOSED = "OSError: [Errno 9] Bad file descriptor"


@pytest.mark.parametrize(("end", "reason"), [("print(70_000 * 'x')", CLOSED), ("1 / 0", DIVISION)])
def test_a_failure_that_nobody_is_answered_says_so(place: Path, end: str, reason: str) -> None:
    ended = run(place, f"import os\n{PAGE}os.close(1)\n{end}")
    assert ended.reasons() == [f"{reason} (nobody took the answer: {CLOSED})"]


def test_sigterm_ends_a_script_only_after_its_report(place: Path) -> None:
    """Apache sends it when it finds that the client has left."""
    text = (
        "import os, signal\nclass Late(Exception):\n    def __str__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n        return 'late'\nraise Late"
    )
    ended = run(place, text)
    ended.assert_is_own(500)
    assert (ended.reasons(), ended.code) == (["Late: late"], -signal.SIGTERM)


def test_the_fields_of_guard_stay_in_front(place: Path, root: str) -> None:
    text = "from limiter.cgi import guard\nguard()\n1 / 0"
    ended = run(place, text, LIMITER_ROOT=root, QUERY_STRING="app_id=acme")
    ended.assert_is_own(500)
    assert ended.headers["RateLimit-Policy"] == '"10-per-1s";q=10;w=1'


@pytest.mark.parametrize(
    ("end", "status"),
    [("1 / 0", 1), (f"{THREAD}threading.Event().wait()".replace("\n", "\n    "), 1), ("sys.exit(3)", 3)],
    ids=["exception", "thread", "exit"],
)
def test_a_child_of_the_script_answers_nothing_and_ends_with_its_own_status(
    place: Path, end: str, status: int
) -> None:
    text = f"import os, sys\nif not os.fork():\n    print('child')\n    {end}\n_, status = os.wait()\n"
    ended = run(place, f"{text}{PAGE}print(os.WEXITSTATUS(status))")
    assert ended.body == HALF + b"%d\n" % status
    assert ended.reasons() == ([f"{DIVISION} (the answer had been given)"] if status == 1 else [])
    assert ended.code == 0


def test_what_fails_after_the_answer_is_another_line(place: Path) -> None:
    ended = run(place, f"{DESTRUCTOR}raise KeyError(1)")
    ended.assert_is_own(500)
    assert ended.reasons() == [DIVISION, "KeyError: 1 (the answer had been given)"]


def test_installed_again_it_has_the_new_settings_and_one_page(place: Path) -> None:
    log = place / "log"
    ended = run(place, f"errors.install(log={str(log)!r})\n{PAGE}1 / 0")
    ended.assert_is_own(500)
    assert ended.log == ""
    assert json.loads(log.read_text())["reason"] == DIVISION


ENDS = {
    "exception": "1 / 0",
    "exit after a failure": f"{DESTRUCTOR}raise SystemExit(3)",
    "thread": f"{THREAD}threading.Event().wait()",
    "destructor": DESTRUCTOR,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_a_script_that_fails_has_written_to_its_files_is_there(place: Path, end: str) -> None:
    text = (
        "files = [open(f'{__file__}.{mode}', mode) for mode in ('w', 'wb', 'w+b')]\n"
        "files[0].write('what it has')\nfiles[1].write(b'what it has')\nfiles[2].write(b'what it has')\n"
        f"closed = open('/dev/null')\nclosed.close()\n{PAGE}{end}"
    )
    ended = run(place, text)
    ended.assert_is_own(500)
    assert (len(ended.entries()), ended.code) == (1, 0)
    written = [(place / f"script.py.{mode}").read_text() for mode in ("w", "wb", "w+b")]
    assert written == 3 * ["what it has"]


def test_a_script_that_fails_calls_its_exit_functions(place: Path) -> None:
    """This includes exit functions that were registered before install()."""
    done = place / "done"
    (place / "sitecustomize.py").write_text(
        f"import atexit\natexit.register(lambda: open({str(done)!r}, 'x').close())\n"
    )
    run(place, f"{PAGE}1 / 0").assert_is_own(500)
    assert done.exists()


@pytest.mark.parametrize("order", ["install first", "time-out first"])
@pytest.mark.parametrize("page", ['print("Content-Type: text/plain")', PAGE])
def test_an_unresponsive_store_does_not_cost_the_answer(place: Path, order: str, page: str) -> None:
    """In either order.  Standard output is then closed early, but after the answer is sent."""
    time_out = "from limiter.request import script_deadline as deadline\ndeadline._give_up(2.0)\n"
    (place / "sitecustomize.py").write_text(time_out if order == "time-out first" else "")
    ended = run(place, time_out + page if order == "install first" else page)
    assert ended.code == 0
    if page == PAGE:
        assert (ended.body, ended.log) == (HALF, "")
    else:
        ended.assert_is_own(500)
        assert [entry["status"] for entry in ended.entries()] == [500]


@pytest.mark.parametrize("end", ["1 / 0", THREAD, DESTRUCTOR], ids=["exception", "thread", "destructor"])
def test_a_process_without_a_request_only_reports(place: Path, end: str) -> None:
    ended = execute(place, f"print('before', flush=True)\n{end}")
    assert (ended.output, ended.reasons()) == ("before\n", [DIVISION])


# Without a file descriptor left, the log cannot be opened.


def test_a_script_without_a_descriptor_left_is_answered(place: Path) -> None:
    ended = run(place, f"{USE_UP}open('/dev/null')", LIMITER_LOG=f"{place}/log")
    ended.assert_is_own(500)
    assert ended.log.startswith("limiter: 'OSError")


CALL = "print(*application({'REQUEST_METHOD': 'GET'}, lambda *_: None))\n"


@pytest.mark.parametrize(
    ("act", "output"),
    [(THREAD, ""), (CALL, 'b\'{"message": "Internal Server Error"}\'\n')],
    ids=["thread", "WSGI"],
)
def test_a_long_running_process_without_a_descriptor_left_reports_on_standard_error(
    place: Path, act: str, output: str
) -> None:
    prepare = "import threading\napplication = errors.HandleErrors(lambda *_: 1 / 0)\n"
    ended = execute(place, f"{prepare}{USE_UP}{act}", LIMITER_LOG=f"{place}/log")
    assert ended.output == output
    reason, why = ended.reasons()
    assert reason == DIVISION
    assert why.startswith(f"LIMITER_LOG='{place}/log': OSError: [Errno 24]")


def test_a_mistake_in_the_settings_is_an_exception(place: Path) -> None:
    names = ["log", "level", "sample", "mail_to", "mail_from", "smtp"]
    call = "try:\n    errors.install({}='a b')\nexcept ValueError as error:\n    print(error)\n"
    mistakes = execute(place, "".join(map(call.format, names))).output.splitlines()
    settings = ["LOG", "LOG_LEVEL", "LOG_SAMPLE", "MAIL_TO", "MAIL_FROM", "SMTP"]
    assert [it.partition("=")[0] for it in mistakes] == [f"LIMITER_{it}" for it in settings]


def test_to_install_loads_little(place: Path) -> None:
    heavy = ["asyncio", "email", "http", "json", "limiter.report.journal", "limiter.report.mail", "re"]
    tell = f"import sys; print([name for name in {heavy} if name in sys.modules])"
    ended = run(place, PAGE + tell)
    before = subprocess.run([sys.executable, "-c", tell], capture_output=True, check=True)
    assert ended.body.splitlines()[1] == before.stdout.strip()


# Exceptions with a status.


class NoSuchOrder(errors.NotFound):
    """An order that does not exist."""


@pytest.mark.parametrize(
    ("error", "status", "fields"),
    [
        (errors.HTTPError(410, "gone"), "410 Gone", {}),
        (errors.HTTPError(503, fields={"X-A": "b"}), "503 Service Unavailable", {"X-A": "b"}),
        (errors.BadRequest("x"), "400 Bad Request", {}),
        (errors.Unauthorized("x"), "401 Unauthorized", {"WWW-Authenticate": 'AppId realm="limiter"'}),
        (errors.Forbidden("x"), "403 Forbidden", {}),
        (errors.NotFound("x"), "404 Not Found", {}),
        (NoSuchOrder("7"), "404 Not Found", {}),
        (errors.MethodNotAllowed(allow=["PUT", "GET"]), "405 Method Not Allowed", {"Allow": "PUT, GET"}),
        (errors.Conflict("x"), "409 Conflict", {}),
        (errors.TooManyRequests("x", 0.1), "429 Too Many Requests", {"Retry-After": "1"}),
        (errors.ServiceUnavailable("x", 1.5), "503 Service Unavailable", {"Retry-After": "2"}),
        (errors.ServiceUnavailable("x"), "503 Service Unavailable", {}),
    ],
)
def test_statuses(error: errors.HTTPError, status: str, fields: dict[str, str]) -> None:
    assert (error.status, error.fields) == (status, fields)


@pytest.mark.parametrize("code", [0, 200, 399, 419, 600])
def test_only_an_error_is_a_status(code: int) -> None:
    with pytest.raises(ValueError, match=f"status {code}"):
        errors.HTTPError(code)


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "\u00e4", "\0"])
def test_no_field_can_be_injected(value: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        errors.Unauthorized(challenge=value)


# WSGI.


Application = Callable[[Any, Any], Any]
PLAIN = [("Content-Type", "text/plain")]


def ask(
    application: Application, place: Path, method: str = "GET"
) -> tuple[TestResponse, list[dict[str, Any]]]:
    """Return the answer of an application behind ``HandleErrors``, and the entries of the log.

    WebTest checks that both sides keep to the protocol.
    """
    log = place / "log"
    variables = {"LIMITER_LOG": str(log), "LIMITER_LOG_LEVEL": "warning"}
    app = TestApp(errors.HandleErrors(application), variables)
    reply = app.request("/x?app_id=acme", method=method, expect_errors=True)
    return reply, [json.loads(line) for line in log.read_text().splitlines()]


def fails_after(part: bytes) -> Application:
    """Return an application that yields this part of its body, and then fails."""

    def application(_: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield part
        raise KeyError("x")

    return application


def fails_after_a_write(_: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)(b"half")
    raise KeyError("x")


def answers(parts: Any) -> Application:
    """Return an application that answers 200 with this body."""

    def application(_: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return parts

    return application


FAIL_BEFORE_THE_BODY = {
    "at once": lambda *_: 1 / 0,
    "in the first part": fails_after(b""),
    "behind a validator of the application's side": validator(fails_after(b"")),
    "body without start_response": lambda *_: iter([b"x"]),
    "neither body nor start_response": lambda *_: iter([]),
    "list without start_response": lambda *_: [b"x"],
    "after start_response": answers(None),
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("application", FAIL_BEFORE_THE_BODY.values(), ids=FAIL_BEFORE_THE_BODY)
def test_a_wsgi_application_that_fails_before_its_body_is_answered(
    place: Path, application: Application, method: str
) -> None:
    reply, (entry,) = ask(application, place, method)
    assert reply.status == "500 Internal Server Error"
    assert reply.body == (b"" if method == "HEAD" else b'{"message": "Internal Server Error"}')
    assert reply.headers["Content-Length"] == "36"
    assert (entry["status"], entry["app_id"], entry["path"]) == (500, "acme", "/x")


def test_a_wsgi_application_answers_with_an_exception(place: Path) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        raise errors.TooManyRequests("busy", 2)

    reply, (entry,) = ask(application, place)
    assert (reply.status, reply.json) == ("429 Too Many Requests", {"message": "Too Many Requests"})
    assert reply.headers["Retry-After"] == "2"
    assert entry["reason"] == "TooManyRequests: busy"


@pytest.mark.parametrize(
    "application", [fails_after(b"half"), fails_after_a_write], ids=["part", "write"]
)
def test_a_wsgi_application_that_fails_in_its_body_is_left_to_the_server(
    place: Path, application: Application
) -> None:
    left: list[bytes] = []
    statuses = []

    def start_response(status: str, *_: object) -> Callable[[bytes], None]:
        statuses.append(status)
        return left.append

    environ = {"LIMITER_LOG": f"{place}/log"}
    with pytest.raises(KeyError):
        left.extend(errors.HandleErrors(application)(environ, start_response))
    assert (statuses, left) == (["200 OK"], [b"half"])
    assert json.loads((place / "log").read_text())["reason"] == "KeyError: 'x' (headers had been sent)"


def test_what_is_no_exception_is_the_servers(place: Path) -> None:
    with pytest.raises(SystemExit):
        ask(lambda *_: sys.exit(), place)
    assert not (place / "log").exists()


def test_a_close_that_fails_is_one_line(place: Path) -> None:
    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            yield b"well"

        def close(self) -> None:
            raise KeyError("x")

    reply, (entry,) = ask(answers(Parts()), place)
    assert (reply.status, reply.body) == ("200 OK", b"well")
    assert entry["reason"] == "KeyError: 'x' (headers had been sent)"


@pytest.mark.parametrize("parts", [[b"well"], FileWrapper(BytesIO(b"well"))], ids=["list", "file"])
def test_what_a_server_treats_in_its_own_way_is_left_to_it(parts: Any) -> None:
    """A list gives its length; the kernel may send a file."""
    environ = {"wsgi.file_wrapper": FileWrapper}
    assert errors.HandleErrors(answers(parts))(environ, lambda *_: print) is parts


def test_a_mistake_in_a_requests_settings_does_not_mask_the_error(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    reply = errors.HandleErrors(fails_after(b""))({"LIMITER_SMTP": "a b"}, lambda *_: print)
    assert b"".join(reply) == b'{"message": "Internal Server Error"}'
    lines = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines()]
    assert [line["reason"].split(":")[0] for line in lines] == ["ValueError", "KeyError"]
