"""The real cgi-bin/check.py without a web server, and guarded scripts: forms, streams, locations.

What every door does, also this one, is in test_contract.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from limiter.core.limiter import Limiter
from tests.doors.doors import clients
from tests.places import PYTHON

FORM = "application/x-www-form-urlencoded"
FORM_MOST = 65536
FIELDS = b'RateLimit-Policy: "2-per-3600s";q=2;w=3600\nRateLimit: "2-per-3600s";r=1;t=3600\n'
JSON = b"Content-Type: application/json; charset=utf-8\nCache-Control: no-store\n\n"
ADMITTED = b"Status: 200 OK\n" + FIELDS + JSON + b'{"message": "OK"}'
FAILED = b"Status: 500 Internal Server Error\n" + JSON + b'{"message": "Internal Server Error"}'


@pytest.fixture
def check(installed: Path) -> Path:
    return installed / "cgi-bin/check.py"


def variables(root: str, query: str = "app_id=acme", **more: str) -> dict[str, str]:
    """Return the whole environment; the time-out is one that even a busy machine does not exceed."""
    settings = {"LIMITER_ROOT": root, "LIMITER_LIMIT": "2/hour", "LIMITER_TIMEOUT": "60"}
    return {"QUERY_STRING": query, **settings, **more}


def run(
    command: list[str | Path], environ: dict[str, str], **more: Any
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, env=environ, capture_output=True, check=False, **more)


def post(
    script: Path, root: str, query: str, body: bytes, media_type: str = FORM, length: str | None = None
) -> str:
    """Return the status of a POST request; nothing may be logged."""
    length = str(len(body)) if length is None else length
    environ = variables(root, query, CONTENT_TYPE=media_type, CONTENT_LENGTH=length)
    done = run([script], environ, input=body)
    assert (done.stderr, done.returncode) == (b"", 0)
    return done.stdout[8:11].decode()


# Forms

ACME = b"app_id=acme"


@pytest.mark.parametrize("media_type", [FORM, FORM.upper(), FORM + "; charset=utf-8", FORM + " ;x"])
@pytest.mark.parametrize(
    ("body", "length"),
    [(ACME, None), (ACME + b"&app_id=emca", "11"), (ACME.ljust(FORM_MOST, b"&"), None)],
)
def test_a_form_of_up_to_64_kib_is_read_like_a_query_string(
    check: Path, root: str, media_type: str, body: bytes, length: str | None
) -> None:
    """Only the stated length is read.  An app_id in query string and form counts as given twice."""
    assert post(check, root, "", body, media_type, length) == "200"
    assert post(check, root, "app_id=acme", body, media_type, length) == "401"
    assert Limiter(root, "2/hour").peek("acme").remaining == 1


LENGTHS = [
    *("-1", "+11", " 11", "11 ", "1e1", "0x0b", "eleven", "11,11", "", "999999", "12", "9" * 5000),
    *("\u0661\u0661", "1_1"),
]
MEDIA_TYPES = [
    *("text/plain", "multipart/form-data; boundary=x", "application/json", f"{FORM}-not"),
    f"text/x; {FORM}",
]


@pytest.mark.parametrize(
    ("body", "media_type", "length"),
    [
        *[(ACME, FORM, length) for length in LENGTHS],
        *[(ACME, media_type, None) for media_type in MEDIA_TYPES],
        (ACME.ljust(FORM_MOST + 1, b"&"), FORM, None),
        (b"", FORM, "12"),
    ],
)
def test_another_body_is_no_form(
    check: Path, root: str, body: bytes, media_type: str, length: str | None
) -> None:
    """No app_id is found in it, and none counts as a second one.  Half a form might name another."""
    assert post(check, root, "", body, media_type, length) == "401"
    assert clients(root) == []
    assert post(check, root, "app_id=acme", body, media_type, length) == "200"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("app_id=acme", b"app_id=emca"),
        ("app_id", ACME),
        *[("", body) for body in (ACME + b"&" + ACME, b"app_id=a\r\n", b"", b"\xff\x00&%")],
    ],
)
def test_query_and_form_count_together(check: Path, root: str, query: str, body: bytes) -> None:
    assert post(check, root, query, body) == "401"
    assert clients(root) == []


@pytest.mark.parametrize(
    ("media_type", "query", "body"),
    [(FORM, "", ACME), ("text/plain", "app_id=acme", b"x" * 150_000)],
)
def test_a_body_is_read_to_its_end(
    check: Path, root: str, media_type: str, query: str, body: bytes
) -> None:
    """It may come in pieces.

    Some servers use one socket for both directions; an unread body would then destroy the answer.
    """
    environ = variables(root, query, CONTENT_LENGTH=str(len(body)), CONTENT_TYPE=media_type)
    ours, its = socket.socketpair()
    with ours:
        with its:
            process = subprocess.Popen([check], env=environ, stdin=its.fileno(), stdout=its.fileno())
        for byte in body[:5]:
            ours.sendall(bytes([byte]))
        ours.sendall(body[5:])
        answer = b"".join(iter(lambda: ours.recv(65536), b""))
        process.wait()
    assert answer == ADMITTED


def post_chunked(
    script: Path, root: str, query: str, body: bytes, **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Send a body of unknown length, as Apache does: without CONTENT_LENGTH, and the input ends after it."""
    environ = variables(root, query, CONTENT_TYPE=FORM, HTTP_TRANSFER_ENCODING="chunked", **more)
    return run([script], environ, input=body)


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("", ACME, b"200"),
        ("", ACME.ljust(FORM_MOST, b"&"), b"200"),
        ("app_id=acme", ACME, b"401"),
        ("app_id=acme", b"app_id=emca", b"401"),
        ("app_id=acme", b"x=1", b"200"),
        ("", b"x=1", b"401"),
        ("", b"", b"401"),
        # It is no form then, as with a length.
        ("", ACME.ljust(FORM_MOST + 1, b"&"), b"401"),
        ("app_id=acme", ACME.ljust(FORM_MOST + 1, b"&"), b"200"),
        ("app_id=acme", ACME.ljust(1_000_000, b"&"), b"200"),
    ],
)
def test_a_chunked_form_is_read_as_others_are(
    check: Path, root: str, query: str, body: bytes, status: bytes
) -> None:
    done = post_chunked(check, root, query, body)
    assert (done.stdout[8:11], done.stderr) == (status, b"")
    assert clients(root) == (["acme"] if status == b"200" else [])


def test_a_chunked_form_may_come_in_pieces(check: Path, root: str) -> None:
    environ = variables(root, "", CONTENT_TYPE=FORM, HTTP_TRANSFER_ENCODING="chunked")
    with subprocess.Popen(
        [check], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for byte in ACME:
            process.stdin.write(bytes([byte]))
            process.stdin.flush()
        process.stdin.close()
        assert process.stdout.read() == ADMITTED


def test_a_long_chunked_body_is_not_kept(check: Path, root: str) -> None:
    """A client may send it for ever."""
    environ = variables(root, "", CONTENT_TYPE=FORM, HTTP_TRANSFER_ENCODING="chunked")
    size = 300_000_000
    limited = f"ulimit -v 200000; head -c {size} /dev/zero | tr '\\0' '&' | {check}"
    done = run(["/bin/sh", "-c", limited], {**environ, "PATH": os.environ["PATH"]})
    assert (done.stdout[8:11], done.stderr) == (b"401", b"")


@pytest.mark.parametrize(
    ("body", "more", "why"),
    [
        (b"x=1", {"CONTENT_LENGTH": "4"}, "it ended early"),
        (b"x" * (FORM_MOST + 1), {"CONTENT_LENGTH": str(FORM_MOST + 1)}, "it has more than 64 KiB"),
        (b"x" * (FORM_MOST + 1), {"HTTP_TRANSFER_ENCODING": "chunked"}, "it has more than 64 KiB"),
        (b"x=1", {"CONTENT_LENGTH": "3"}, None),
        (b"x=1", {"HTTP_TRANSFER_ENCODING": "chunked"}, None),
        (b"x=1", {"CONTENT_LENGTH": "4", "CONTENT_TYPE": "text/plain"}, None),
    ],
)
def test_a_form_that_could_not_be_read_is_the_reason_in_the_log(
    check: Path, root: str, body: bytes, more: dict[str, str], why: str | None
) -> None:
    environ = variables(root, "", LIMITER_LOG_LEVEL="warning", **{"CONTENT_TYPE": FORM, **more})
    done = run([check], environ, input=body)
    reason = f", and the form could not be read: {why}" if why else ""
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["reason"] == f"Unauthorized: app_id is missing{reason}"


# Where the package is


@pytest.mark.parametrize("prefix", [[], [PYTHON, "-IS"]])
@pytest.mark.parametrize("name", ["./check.py", "../cgi-bin/check.py", "{}/check.py"])
def test_a_script_finds_the_package_by_any_name(
    check: Path, root: str, tmp_path: Path, prefix: list[str | Path], name: str
) -> None:
    """It ignores another package of that name."""
    (tmp_path / "limiter.py").write_text("raise SystemExit('wrong package')")
    environ = variables(root, PYTHONPATH=str(tmp_path))
    cwd = tmp_path if name.startswith("{") else check.parent
    done = run([*prefix, name.format(check.parent)], environ, cwd=cwd)
    assert (done.stdout, done.stderr) == (ADMITTED, b"")


@pytest.mark.parametrize("compiled", [True, False])
def test_the_package_may_be_inside_cgi_bin(copy: Path, root: str, compiled: bool) -> None:
    """This is for hosts that offer only one directory.  Compiled files are optional."""
    shutil.move(copy / "limiter", copy / "cgi-bin/limiter")
    if not compiled:
        shutil.rmtree(copy / "cgi-bin/limiter/__pycache__")
    done = run([copy / "cgi-bin/check.py"], variables(root))
    assert (done.stdout, done.stderr) == (ADMITTED, b"")


# Streams


@pytest.mark.parametrize(
    ("which", "is_answered", "is_logged"),
    [
        ("<&-", True, True),
        (">&-", False, True),
        ("2>&-", True, False),
        ("<&- >&-", False, True),
        (">&- 2>&-", False, False),
        ("<&- >&- 2>&-", False, False),
        (">/dev/full", False, True),
        (">/dev/full 2>/dev/full", False, False),
    ],
)
@pytest.mark.parametrize(("limit", "answer"), [("2/hour", ADMITTED), ("many", FAILED)])
def test_streams_may_be_closed_or_full(
    check: Path, root: str, which: str, is_answered: bool, is_logged: bool, limit: str, answer: bytes
) -> None:
    """All lines that can be logged are; there is no traceback, and the store is as after any hit."""
    shell: list[str | Path] = ["/bin/sh", "-c", f'exec "$0" {which}', check]
    done = run(shell, variables(root, LIMITER_LIMIT=limit))
    assert (done.stdout, done.returncode) == (answer if is_answered else b"", 0)
    lines = (not is_answered) + (limit == "many") if is_logged else 0
    assert re.fullmatch(rb"(limiter: [A-Za-z]+: [\x20-\x7e]+\n){%d}" % lines, done.stderr)
    hits = [] if limit == "many" else ["acme"]
    assert clients(root) == hits
    assert Limiter(root, "2/hour").peek("acme").remaining == 2 - len(hits)


def test_a_client_that_has_gone_is_one_log_line(check: Path, root: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [check], env=variables(root), stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.stderr == b"limiter: BrokenPipeError: [Errno 32] Broken pipe\n"
    assert done.returncode == 0


# Guarded scripts

OWN = """
from limiter.cgi import guard
decision = guard()
print("Content-Type: text/plain\\n")
print(repr(decision), repr(sys.stdin.read()))
"""
SETS_SETTINGS = """
import os
os.environ["LIMITER_LIMIT"] = "2/hour"
os.environ["QUERY_STRING"] = "app_id=" + os.environ.pop("REMOTE_USER", "nobody")
del os.environ["LIMITER_ON_ERROR"]
"""
DECISION = b"Decision(allowed=True, limit=2, remaining=1, retry_after=0.0)"


def run_own(
    place: Path, root: str, text: str = OWN, query: str = "app_id=acme", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a guarded script with a form of another application on its standard input."""
    script = place / "own.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(place)!r})\n{text}")
    environ = variables(root, query, CONTENT_TYPE=FORM, CONTENT_LENGTH="11", **more)
    return run([PYTHON, script], environ, input=b"app_id=emca")


def test_a_guarded_script_answers_for_itself(copy: Path, root: str) -> None:
    """The limiter's fields come first; the body is unread; guard() returns the decision."""
    done = run_own(copy, root)
    assert done.stdout == FIELDS + b"Content-Type: text/plain\n\n" + DECISION + b" 'app_id=emca'\n"


def test_a_denied_script_does_not_run(copy: Path, root: str) -> None:
    """The body does not matter, even if it is a form."""
    done = run_own(copy, root, query="")
    assert done.stdout.startswith(b"Status: 401 ")
    assert done.stdout.endswith(b'\n\n{"message": "Unauthorized"}')


def test_guard_returns_no_decision_if_the_store_failed(copy: Path, root: str) -> None:
    done = run_own(copy, f"{root}/missing", LIMITER_ON_ERROR="admit")
    assert done.stdout == b"Content-Type: text/plain\n\nNone 'app_id=emca'\n"
    assert done.stderr.count(b"\n") == 1


def test_a_guarded_script_may_set_the_settings(copy: Path, root: str) -> None:
    """What it writes to os.environ before guard() counts, and what it deletes does not."""
    more = {"LIMITER_LIMIT": "9/day", "LIMITER_ON_ERROR": "perhaps", "REMOTE_USER": "me"}
    done = run_own(copy, root, SETS_SETTINGS + OWN, **more)
    assert done.stdout.startswith(FIELDS)
    assert clients(root) == ["me"]
