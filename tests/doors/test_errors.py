"""Errors of one's own programs: scripts without a server, long-running processes, WSGI applications."""

from __future__ import annotations

import email
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from limiter import errors
from tests.conftest import clean_environ
from tests.failures import BEGIN, FAILURES, HALF, PAGE, PHRASES
from tests.places import REPOSITORY

DEADLINE = 60


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

    def assert_is_own(self, status: int) -> None:
        assert (self.status, json.loads(self.body)) == (status, {"message": PHRASES[status]})
        assert self.headers.get_all("Content-Type") == ["application/json; charset=utf-8"]


def run(place: Path, text: str, **variables: str) -> Ended:
    """Run a script as a server does."""
    return execute(place, text, **{"GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "GET", **variables})


def execute(place: Path, text: str, **variables: str) -> Ended:
    """Run a script."""
    script = place / "script.py"
    script.write_text(BEGIN + text)
    environ = clean_environ(
        **{"PYTHONPATH": str(REPOSITORY), "LIMITER_LOG_LEVEL": "warning", **variables}
    )
    ended = subprocess.run(
        [sys.executable, script],
        env=environ,
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
    for field, value in failure.fields.items():
        assert ended.headers.get_all(field) == [value]
    assert ended.code == 0, "or whoever supervises it would tell again"


def test_a_script_that_is_well_is_left_alone(place: Path) -> None:
    ended = run(
        place, f"{PAGE}import sys\nsys.stdout.buffer.write(b'\\xff')\nprint('\\u00e4')", PYTHONUTF8="1"
    )
    assert (ended.headers["Content-Type"], ended.log, ended.code) == ("text/plain", "", 0)
    assert ended.body == HALF + b"\xff\xc3\xa4\n"


def test_a_large_page_arrives_whole(place: Path) -> None:
    ended = run(place, PAGE + "for number in range(50_000):\n    print(number)")
    assert ended.body == HALF + b"".join(b"%d\n" % number for number in range(50_000))


def test_headers_may_come_in_pieces(place: Path) -> None:
    ended = run(
        place, "for it in 'Content-Type: text/plain\\r\\n\\r\\nHalf a page\\n':\n    print(it, end='')"
    )
    assert (ended.output, ended.log) == ("Content-Type: text/plain\r\n\r\nHalf a page\n", "")


def test_head_has_no_body(place: Path) -> None:
    ended = run(place, "1 / 0", REQUEST_METHOD="HEAD")
    assert (ended.status, ended.body) == (500, b"")


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
    environ = clean_environ(
        PYTHONPATH=str(REPOSITORY), GATEWAY_INTERFACE="CGI/1.1", LIMITER_LOG=str(place / "log")
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, script], env=environ, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"Content-Type: text/plain\n"
        process.stdout.close()
        process.stdin.close()
        assert process.wait(DEADLINE) == 0
        assert process.stderr
        assert process.stderr.read() == b""
    assert not (place / "log").exists()


def test_a_failure_that_nobody_is_answered_says_so(place: Path) -> None:
    ended = run(place, f"import os\n{PAGE}os.close(1)\nprint(70_000 * 'x')")
    (entry,) = ended.entries()
    nobody = "nobody took the answer: OSError: [Errno 9] Bad file descriptor"
    assert entry["reason"] == f"OSError: [Errno 9] Bad file descriptor ({nobody})"


def test_the_fields_of_guard_stay_in_front(place: Path, root: str) -> None:
    text = "from limiter.cgi import guard\nguard()\n1 / 0"
    ended = run(place, text, LIMITER_ROOT=root, QUERY_STRING="app_id=acme")
    ended.assert_is_own(500)
    assert ended.headers["RateLimit-Policy"] == '"10-per-1s";q=10;w=1'


def test_a_child_of_the_script_has_no_part_in_the_answer(place: Path) -> None:
    ended = run(place, f"{PAGE}import os\nif not os.fork():\n    print('child')\n    1 / 0\nos.wait()")
    assert ended.body == HALF
    (entry,) = ended.entries()
    assert entry["reason"].endswith("(the answer had been given)")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("1 / 0", 1),
        ("sys.exit(3)", 3),
        ("sys.exit()", 0),
        ("threading.Thread(target=lambda: 1 / 0).start()\n    threading.Event().wait()", 1),
    ],
)
def test_a_child_that_fails_tells_its_parent_so(place: Path, end: str, status: int) -> None:
    text = f"import os, sys, threading\nif not os.fork():\n    {end}\nelse:\n    _, status = os.wait()\n"
    ended = run(place, f"{text}    {PAGE}    print(os.WEXITSTATUS(status))")
    assert ended.body == HALF + b"%d\n" % status
    assert ended.code == 0


def test_what_fails_after_the_answer_is_another_line(place: Path) -> None:
    text = (
        "import threading\nclass Last:\n    def __del__(self):\n        1 / 0\nLast()\nraise KeyError(1)"
    )
    ended = run(place, text)
    ended.assert_is_own(500)
    assert [entry["reason"] for entry in ended.entries()] == [
        "ZeroDivisionError: division by zero",
        "KeyError: 1 (the answer had been given)",
    ]


def test_installed_again_it_has_the_new_settings_and_one_page(place: Path) -> None:
    log = place / "log"
    ended = run(place, f"errors.install(log={str(log)!r})\n{PAGE}1 / 0")
    ended.assert_is_own(500)
    assert ended.log == ""
    assert json.loads(log.read_text())["reason"].startswith("ZeroDivisionError")


def test_a_thread_may_exit(place: Path) -> None:
    ended = run(
        place,
        f"import sys, threading\nthread = threading.Thread(target=sys.exit)\nthread.start()\nthread.join()\n{PAGE}",
    )
    assert (ended.body, ended.log) == (HALF, "")


def test_an_exit_tells_where_it_was_asked_for(place: Path) -> None:
    (entry,) = run(place, f"import sys\n{PAGE}def leave():\n    sys.exit(1)\nleave()").entries()
    script = place / "script.py"
    assert entry["where"] == f"{script}:7"
    assert entry["stack"] == [f"{script}:7 leave", f"{script}:8 <module>"]


@pytest.mark.parametrize(
    "text",
    [
        "sys.exit()",
        "sys.exit(0)",
        "exit()",
        "raise SystemExit",
        "try:\n    sys.exit('caught')\nexcept SystemExit as error:\n    assert error.code == 'caught'",
        "import threading\nthreading.Thread(target=sys.exit, args=[1]).start()",
        "import _thread\n_thread.start_new_thread(sys.exit, (1,))",
    ],
)
def test_an_exit_that_tells_of_no_failure_is_none(place: Path, text: str) -> None:
    ended = run(place, f"import sys\n{PAGE}{text}")
    assert (ended.body, ended.log, ended.code) == (HALF, "", 0)


def test_a_process_without_a_request_exits_as_ever(place: Path) -> None:
    ended = execute(place, "import sys\nsys.exit('no database')")
    assert (ended.output, ended.log, ended.code) == ("", "no database\n", 1)


ENDS = {
    "exception": "1 / 0",
    "exit": "import sys\nsys.exit(1)",
    "bare exit": "Last()\nraise SystemExit(3)",
    "thread": "import threading\nthreading.Thread(target=lambda: 1 / 0).start()\nthreading.Event().wait()",
    "destructor": "Last()",
    "interrupt": "raise KeyboardInterrupt",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_a_script_that_fails_has_written_to_its_files_is_there(place: Path, end: str) -> None:
    names = [place / name for name in ("text", "bytes", "both")]
    text = (
        f"files = [open({str(names[0])!r}, 'w'), open({str(names[1])!r}, 'wb'), open({str(names[2])!r}, 'w+b')]\n"
        "files[0].write('what it has')\nfiles[1].write(b'what it has')\nfiles[2].write(b'what it has')\n"
        "closed = open('/dev/null')\nclosed.close()\n"
        f"class Last:\n    def __del__(self):\n        1 / 0\n{PAGE}{end}"
    )
    ended = run(place, text)
    ended.assert_is_own(500)
    assert (len(ended.entries()), ended.code) == (1, 0)
    assert [name.read_text() for name in names] == 3 * ["what it has"]


@pytest.mark.parametrize("end", ["exception", "exit", "interrupt"])
def test_a_script_that_fails_does_what_it_has_left_for_its_end(place: Path, end: str) -> None:
    """This includes exit functions that were registered before install()."""
    done = place / "done"
    (place / "sitecustomize.py").write_text(
        f"import atexit\natexit.register(lambda: open({str(done)!r}, 'x').close())\n"
    )
    ended = run(place, f"{PAGE}{ENDS[end]}", PYTHONPATH=f"{REPOSITORY}:{place}")
    ended.assert_is_own(500)
    assert done.exists()


@pytest.mark.parametrize("order", ["install first", "silence first"])
@pytest.mark.parametrize("page", ['print("Content-Type: text/plain")', PAGE])
def test_a_store_that_was_silent_does_not_cost_the_answer(place: Path, order: str, page: str) -> None:
    """In either order.  Standard output is then closed early, but after the answer is sent."""
    silent = "from limiter.request import deadline\ndeadline._give_up(2.0)\n"
    (place / "sitecustomize.py").write_text(silent if order == "silence first" else "")
    text = silent + page if order == "install first" else page
    ended = run(place, text, PYTHONPATH=f"{REPOSITORY}:{place}")
    assert ended.code == 0
    if page == PAGE:
        assert (ended.body, ended.log) == (HALF, "")
        return
    ended.assert_is_own(500)
    (entry,) = ended.entries()
    assert entry["status"] == 500


def test_a_log_on_a_full_disk_is_no_further_failure(place: Path) -> None:
    ended = run(place, "1 / 0", LIMITER_LOG="/dev/full")
    ended.assert_is_own(500)
    problem, why = ended.entries()
    assert problem["status"] == 500
    assert "/dev/full" in why["reason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import threading\nthreading.Thread(target=lambda: 1 / 0).start()", "ZeroDivisionError: "),
        ("class Last:\n    def __del__(self):\n        1 / 0\nLast()\n", "ZeroDivisionError: "),
    ],
)
def test_a_process_without_a_request_only_reports(place: Path, text: str, reason: str) -> None:
    ended = execute(place, f"print('before', flush=True)\n{text}")
    (entry,) = ended.entries()
    assert entry["reason"].startswith(reason)
    assert ended.output == "before\n"


USE_UP = """\
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
try:
    while True:
        files.append(open("/dev/null"))
except OSError:
    pass
"""


def test_a_process_that_stays_tells_of_each_failure_without_a_descriptor_left(place: Path) -> None:
    """The second failure needs what the first did not: a module that was not loaded, and a file."""
    log = place / "log"
    text = (
        f"import threading\n{USE_UP}def fail(error):\n    raise error\n"
        "def work(error):\n    it = threading.Thread(target=fail, args=[error])\n    it.start()\n    it.join()\n"
        f"work(KeyError(1))\nerrors.install({str(log)!r})\nwork(KeyError(2))\n"
    )
    ended = execute(place, text)
    (entry,) = ended.entries()
    assert entry["reason"] == "KeyError: 1"
    assert json.loads(log.read_text())["reason"] == "KeyError: 2"


def test_spares_leave_a_file_alone_that_has_one_of_their_numbers(place: Path) -> None:
    text = (
        "import os\nfor number in range(3, 64):\n    try:\n        os.close(number)\n    except OSError:\n"
        "        pass\nfiles = [open('/dev/null') for _ in range(40)]\n"
        "class Last:\n    def __del__(self):\n        1 / 0\n"
        "Last()\nfor file in files:\n    os.fstat(file.fileno())\n    file.close()\nprint('all there')"
    )
    ended = execute(place, text)
    assert ended.output == "all there\n"
    assert [entry["reason"] for entry in ended.entries()] == ["ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("log='here'", "LIMITER_LOG='here'"),
        ("sample=0", "LIMITER_LOG_SAMPLE='0'"),
        ("mail_to='a b'", "LIMITER_MAIL_TO"),
    ],
)
def test_a_mistake_in_the_settings_is_an_exception(arguments: str, named: str, place: Path) -> None:
    ended = execute(
        place, f"try:\n    errors.install({arguments})\nexcept ValueError as error:\n    print(error)"
    )
    assert ended.output.startswith(named)


def test_to_install_loads_little(place: Path) -> None:
    heavy = [
        "asyncio",
        "email",
        "json",
        "limiter.report.journal",
        "limiter.report.mail",
        "limiter.core.store",
        "re",
        "smtplib",
    ]
    tell = f"import sys; print([name for name in {heavy} if name in sys.modules])"
    ended = run(place, PAGE + tell)
    before = subprocess.run([sys.executable, "-c", tell], capture_output=True, check=True)
    assert ended.body.splitlines()[1] == before.stdout.strip()


# Exceptions with a status.


@pytest.mark.parametrize(
    ("error", "status", "fields"),
    [
        (errors.HTTPError(410, "gone"), "410 Gone", {}),
        (
            errors.HTTPError(503, fields={"X-Why": "backup"}),
            "503 Service Unavailable",
            {"X-Why": "backup"},
        ),
        (errors.BadRequest("x"), "400 Bad Request", {}),
        (errors.Unauthorized("x"), "401 Unauthorized", {"WWW-Authenticate": 'AppId realm="limiter"'}),
        (errors.Forbidden("x"), "403 Forbidden", {}),
        (errors.NotFound("x"), "404 Not Found", {}),
        (errors.MethodNotAllowed(allow=["GET"]), "405 Method Not Allowed", {"Allow": "GET"}),
        (errors.Conflict("x"), "409 Conflict", {}),
        (errors.TooManyRequests("x", 0.1), "429 Too Many Requests", {"Retry-After": "1"}),
        (errors.InternalServerError("x"), "500 Internal Server Error", {}),
        (errors.BadGateway("x"), "502 Bad Gateway", {}),
        (errors.ServiceUnavailable("x", 60), "503 Service Unavailable", {"Retry-After": "60"}),
        (errors.GatewayTimeout("x"), "504 Gateway Timeout", {}),
    ],
)
def test_statuses(error: errors.HTTPError, status: str, fields: dict[str, str]) -> None:
    assert (error.status, error.fields) == (status, fields)


@pytest.mark.parametrize("code", [0, 200, 302, 399, 418, 499, 600])
def test_only_an_error_is_a_status(code: int) -> None:
    with pytest.raises(ValueError, match=f"status {code}"):
        errors.HTTPError(code)


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "\u00e4", "\0"])
def test_no_field_can_be_injected(value: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        errors.Unauthorized(challenge=value)


# WSGI.


class Answer:
    """What a WSGI server gets from an application behind ``HandleErrors``."""

    def __init__(
        self, application: Callable[..., Iterable[bytes]], place: Path, method: str = "GET"
    ) -> None:
        self.status = 0
        self.fields: dict[str, str] = {}
        self.replaced = False
        self.left = b""
        self.error: BaseException | None = None
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": "/x",
            "QUERY_STRING": "app_id=acme",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": sys.stdin.buffer,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "LIMITER_LOG": f"{place}/log",
            "LIMITER_LOG_LEVEL": "warning",
        }
        self.parts: Any = ()
        try:
            self.parts = errors.HandleErrors(application)(environ, self.start)
            for part in self.parts:
                self.left += part
            assert self.status
        except Exception as error:
            self.error = error
        finally:
            getattr(self.parts, "close", lambda: None)()
        log = place / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        self.entries = [json.loads(line) for line in lines]

    def start(
        self, status: str, fields: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        self.replaced = bool(self.status)
        assert exc_info or not self.replaced
        if self.left and exc_info:
            raise exc_info[1]
        self.status, self.fields = int(status[:3]), dict(fields)

        def write(data: bytes) -> None:
            self.left += data

        return write


def fails_at_once(environ: Any, start_response: Any) -> list[bytes]:
    raise KeyError("x")


def fails_after_start(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    raise KeyError("x")


def fails_in_the_first_part(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b""
    raise KeyError("x")


def does_not_start(environ: Any, start_response: Any) -> Iterator[bytes]:
    yield b"x"


def does_not_start_a_list(environ: Any, start_response: Any) -> list[bytes]:
    return [b"x"]


def returns_nothing(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])


@pytest.mark.parametrize(
    "application",
    [
        fails_at_once,
        fails_after_start,
        fails_in_the_first_part,
        does_not_start,
        does_not_start_a_list,
        returns_nothing,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_wsgi_application_that_fails_before_its_body(
    place: Path, application: Callable[..., Iterable[bytes]], method: str
) -> None:
    answer = Answer(application, place, method)
    assert (answer.status, answer.error) == (500, None)
    assert answer.left == (b"" if method == "HEAD" else b'{"message": "Internal Server Error"}')
    assert answer.fields["Content-Length"] == "36"
    (entry,) = answer.entries
    assert (entry["status"], entry["app_id"], entry["path"]) == (500, "acme", "/x")


def test_a_wsgi_application_answers_with_an_exception(place: Path) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        raise errors.TooManyRequests("busy", 2)

    answer = Answer(application, place)
    assert (answer.status, answer.left) == (429, b'{"message": "Too Many Requests"}')
    assert answer.fields["Retry-After"] == "2"
    assert [entry["reason"] for entry in answer.entries] == ["TooManyRequests: busy"]


@pytest.mark.parametrize("how", ["part", "write"])
def test_a_wsgi_application_that_fails_in_its_body_is_left_to_the_server(place: Path, how: str) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        if how == "write":
            write(b"half")
        else:
            yield b"half"
        raise KeyError("x")

    answer = Answer(application, place)
    assert (answer.status, answer.left, answer.replaced) == (200, b"half", False)
    assert isinstance(answer.error, KeyError)
    assert [entry["reason"] for entry in answer.entries] == ["KeyError: 'x' (headers had been sent)"]


def test_a_wsgi_application_without_a_descriptor_left_is_answered_and_told_of(place: Path) -> None:
    log = place / "log"
    text = (
        "import sys\n"
        f"def application(environ, start_response):\n    1 / 0\n"
        "application = errors.HandleErrors(application)\n"
        f"environ = {{'REQUEST_METHOD': 'GET', 'LIMITER_LOG': {str(log)!r}}}\n"
        f"{USE_UP}def start_response(status, *_):\n    print(status)\n"
        "for _ in range(2):\n    print(*application(environ, start_response))\n"
    )
    ended = execute(place, text)
    answer = """500 Internal Server Error\nb'{"message": "Internal Server Error"}'\n"""
    assert (ended.output, ended.log) == (2 * answer, "")
    reasons = [json.loads(line)["reason"] for line in log.read_text().splitlines()]
    assert reasons == 2 * ["ZeroDivisionError: division by zero"]


def test_what_is_no_exception_is_the_servers(place: Path) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        raise SystemExit

    with pytest.raises(SystemExit):
        Answer(application, place)
    assert not (place / "log").exists()


def test_a_close_that_fails_is_one_line(place: Path) -> None:
    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            yield b"well"

        def close(self) -> None:
            raise KeyError("x")

    def application(environ: Any, start_response: Any) -> Parts:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Parts()

    answer = Answer(application, place)
    assert (answer.status, answer.left, answer.error) == (200, b"well", None)
    (entry,) = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    assert entry["reason"] == "KeyError: 'x' (headers had been sent)"


@pytest.mark.parametrize("kind", ["list", "file"])
def test_what_a_server_treats_in_its_own_way_is_left_to_it(place: Path, kind: str) -> None:
    """A list gives its length; the kernel may send a file."""
    with (place / "file").open("w+b") as file:
        file.write(b"well")
        file.seek(0)
        parts: Any = [b"well"] if kind == "list" else FileWrapper(file)

        def application(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return parts

        answer = Answer(application, place)
    assert answer.parts is parts
    assert (answer.left, answer.entries) == (b"well", [])


@pytest.mark.parametrize("application", [fails_after_start, fails_in_the_first_part])
def test_the_wrapper_keeps_to_the_protocol(place: Path, application: Any) -> None:
    """The standard library's validator checks both sides."""
    inner = validator(application)
    answer = Answer(validator(errors.HandleErrors(inner)), place)
    assert (answer.status, answer.left) == (500, b'{"message": "Internal Server Error"}')


def test_a_mistake_in_a_requests_settings_does_not_hide_the_error(
    place: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_SMTP", "a b")
    answer = Answer(fails_at_once, place)
    assert answer.status == 500
    lines = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines()]
    assert [line["reason"].split(":")[0] for line in lines] == ["ValueError", "KeyError"]
