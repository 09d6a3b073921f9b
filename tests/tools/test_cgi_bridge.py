"""The bridge: it runs scripts as a web server does, and notices output that breaks the rules."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limiter.tools.cgi_bridge import Bridge
from tests.places import PYTHON

TYPE = "Content-Type: a/b\n\n"
OWN_FIELDS = [("Content-Type", "application/json; charset=utf-8"), ("Cache-Control", "no-store")]
ENVIRONMENT = r"os.write(1, b'\n' + b'\n'.join(b'%b=%b' % it for it in os.environb.items()))"
ECHO = r"os.write(1, b'\n' + sys.stdin.buffer.read())"

Answer = tuple[str, list[tuple[str, str]], bytes, str]
"""Status, header fields, body and log."""
Get = Callable[..., Answer]


def write(place: Path, text: str, first: str = f"#!{PYTHON} -IS", mode: int = 0o755) -> None:
    """Write the script, in Python."""
    path = place / "script"
    path.write_text(f"{first}\nimport os, sys\n{text}\n")
    path.chmod(mode)


@pytest.fixture
def get(place: Path) -> Get:
    """Send a request with these variables."""

    def get(**environ: object) -> Answer:
        log = io.StringIO()
        heads: list[Any] = []
        request = {
            "PATH_INFO": "/cgi-bin/script",
            "REQUEST_METHOD": "GET",
            "wsgi.errors": log,
            "wsgi.input": io.BytesIO(b"abc"),
            **environ,
        }
        bridge = Bridge(str(place), {"LIMITER_LIMIT": "10/second", "LIMITER_ROOT": "/st\udcff\u20ac"})
        body = b"".join(bridge(request, lambda *head: heads.append(head)))  # type: ignore[arg-type]
        ((status, fields),) = heads
        return status, fields, body, log.getvalue()

    return get


def check_own(answer: Answer, status: str) -> None:
    """Check an answer that the bridge gives itself, in the form of the limiter's scripts."""
    message = f'{{"message": "{status[4:]}"}}'.encode()
    assert answer[:3] == (status, [*OWN_FIELDS, ("Content-Length", str(len(message)))], message)


@pytest.mark.parametrize(
    ("output", "status", "fields", "body"),
    [
        ("Content-Type: a/b\r\n\r\nx\r\n", "200 OK", [("Content-Type", "a/b")], b"x\r\n"),
        ("content-type: a/b\nSTATUS:\t404 \n\n", "404 Not Found", [("content-type", "a/b")], b""),
        ("Status: 299 X\n\n", "299 Unknown", [], b""),
        ("A:\nA:  1 \nA: 2:3\n\n\n\nx", "200 OK", [("A", ""), ("A", "1"), ("A", "2:3")], b"\n\nx"),
        ("A: \xe9\n\n\xff", "200 OK", [("A", "\xe9")], b"\xff"),
    ],
)
def test_a_response_arrives_as_the_script_wrote_it(
    place: Path, get: Get, output: str, status: str, fields: list[tuple[str, str]], body: bytes
) -> None:
    write(place, f"os.write(1, {output.encode('latin-1')!r}); sys.exit(3)")
    assert get() == (status, fields, body, "")


@pytest.mark.parametrize(
    ("text", "first", "mode", "why"),
    [
        ("", PYTHON, 0o755, "it has ended before its headers were complete"),
        ("print('Content-Type: a/b')", PYTHON, 0o755, "it has ended before its headers were complete"),
        (r"print('hello\n')", PYTHON, 0o755, "line 1 of its header, b'hello': has no colon"),
        ("", "/missing/interpreter", 0o755, "[Errno 2] No such file or directory"),
        ("", PYTHON, 0o644, "[Errno 13] Permission denied"),
    ],
)
def test_a_script_that_fails_is_a_500_and_logged(
    place: Path, get: Get, text: str, first: str, mode: int, why: str
) -> None:
    """tests/scripts/test_cgi_header.py has all rules of a header."""
    write(place, text, f"#!{first}", mode)
    answer = get()
    check_own(answer, "500 Internal Server Error")
    assert answer[3].startswith(f"limiter: {place}/script: {why}")


@pytest.mark.parametrize(
    "path",
    [
        *("", "/cgi-bin/", "/cgi-bin/missing", "/cgi-bin/../script", "/cgi-bin/.hidden"),
        *("/cgi-bin/script\0", "/cgi-bin/script/more", "/cgi-bin/directory", "/cgi-bin/directory/inner"),
        *("/xcgi-bin/script", "/script", "/cgi-bin/\xe9"),
    ],
)
def test_any_other_path_gets_404(place: Path, get: Get, path: str) -> None:
    """Only the plain name of a file in the directory runs a script."""
    write(place, ECHO)
    (place / ".hidden").symlink_to("script")
    (place / "directory").mkdir()
    (place / "directory/inner").symlink_to("../script")
    check_own(get(PATH_INFO=path), "404 Not Found")
    assert get(PATH_INFO=path, REQUEST_METHOD="HEAD")[2] == b""


def test_a_script_gets_the_request_the_settings_and_nothing_else(place: Path, get: Get) -> None:
    """No client can change a setting, also not HTTP_PROXY (CVE-2016-5385).  No script gets credentials."""
    write(place, ENVIRONMENT)
    request = {
        "CONTENT_LENGTH": "3",
        "CONTENT_TYPE": "text/plain",
        "HTTP_LIMITER_LIMIT": "99/second",
        "HTTP_X_ONE": "1",
        "QUERY_STRING": "a=%20b\xe9",
        "REMOTE_ADDR": "192.0.2.1",
        "REQUEST_METHOD": "POST",
        "SERVER_NAME": "localhost",
    }
    withheld = ("PROXY", "AUTHORIZATION", "PROXY_AUTHORIZATION", "A=B")
    others = {"ANOTHER": "x", **dict.fromkeys([f"HTTP_{name}" for name in withheld], "withheld")}
    found = dict(line.split(b"=", 1) for line in get(**request, **others)[2].splitlines())
    found.pop(b"LC_CTYPE", None)  # set by the interpreter itself
    assert found == {
        **{name.encode(): value.encode("latin-1") for name, value in request.items()},
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"LIMITER_LIMIT": b"10/second",
        b"LIMITER_ROOT": os.fsencode("/st\udcff\u20ac"),
        b"SCRIPT_NAME": b"/cgi-bin/script",
    }


def test_a_script_runs_in_its_directory(place: Path, get: Get) -> None:
    write(place, r"print('\n' + os.getcwd())")
    assert get()[2] == f"{place}\n".encode()


@pytest.mark.parametrize(
    ("length", "read"),
    [("2", b"ab"), ("9", b"abc"), ("", b""), ("-1", b""), ("\xb2", b""), ("9" * 5000, b"")],
)
def test_no_more_is_read_than_content_length_says(
    place: Path, get: Get, length: str, read: bytes
) -> None:
    """A body that ends early is passed on as far as it came.  A length that is no number counts as 0."""
    write(place, ECHO)
    assert get(CONTENT_LENGTH=length) == ("200 OK", [], read, "")


@pytest.mark.parametrize("text", [ECHO, r"os.write(1, b'\n' + b'x' * 5_000_000)"])
def test_large_bodies_pass_both_ways_and_need_not_be_read(place: Path, get: Get, text: str) -> None:
    write(place, text)
    body = io.BytesIO(b"x" * 5_000_000)
    assert get(CONTENT_LENGTH="5000000", **{"wsgi.input": body})[2] == body.getvalue()
