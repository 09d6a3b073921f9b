"""The bridge: it runs scripts as a web server does, and notices output that breaks the rules."""

from __future__ import annotations

import gc
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from limiter.tools.cgi_bridge import Bridge
from tests.places import PYTHON, new_root

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # WebOb imports the old module cgi
    from webtest import TestApp, TestResponse

RAN = "Content-Type: text/plain\n\nran"
FAILED = b'{"message": "Internal Server Error"}'
JSON = "application/json; charset=utf-8"


class Site:
    """A directory of scripts that a test writes, and the application that runs them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.inherited = {"LIMITER_LIMIT": "10/second"}

    def add(self, name: str, text: str, first: str = "#!/bin/sh", mode: int = 0o755) -> None:
        """Write a script."""
        path = self.directory / name
        path.write_text(f"{first}\n{text}\n")
        path.chmod(mode)

    def python(self, name: str, text: str) -> None:
        """Write a script in Python."""
        self.add(name, f"import os, sys\n{text}", f"#!{PYTHON} -IS")

    def prints(self, name: str, output: str) -> None:
        """Write a script that prints exactly this text, which is bytes as Latin-1."""
        self.python(name, f"os.write(1, {output.encode('latin-1')!r})")

    @property
    def bridge(self) -> Bridge:
        """The application itself."""
        return Bridge(str(self.directory), self.inherited)

    @property
    def app(self) -> TestApp:
        """The application, in a test client that checks it against PEP 3333."""
        return TestApp(self.bridge)

    def get(self, path: str, **more: Any) -> TestResponse:
        """Send a GET request, and accept any answer."""
        return self.app.get(path, expect_errors=True, **more)

    def ask(self, **environ: object) -> tuple[str, list[tuple[str, str]], bytes, str]:
        """Call without the test client, for requests that it would not send.

        Return status, fields, body and log.
        """
        log = io.StringIO()
        started: list[tuple[str, list[tuple[str, str]]]] = []
        variables = {
            "PATH_INFO": "/cgi-bin/script",
            "REQUEST_METHOD": "GET",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": log,
            **environ,
        }

        def start(status: str, fields: list[tuple[str, str]], _: object = None) -> Callable[..., object]:
            started.append((status, fields))
            return print

        body = b"".join(self.bridge(variables, start))
        ((status, fields),) = started
        return status, fields, body, log.getvalue()


@pytest.fixture
def site() -> Iterator[Site]:
    """An empty directory of scripts, where scripts may run."""
    directory = new_root("/tmp")
    yield Site(directory)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def judge_failure(response: TestResponse) -> str:
    """Require a 500 in the form of the scripts; return the one line of the log."""
    assert response.status == "500 Internal Server Error"
    assert response.headers["Content-Type"] == JSON
    assert response.headers["Cache-Control"] == "no-store"
    assert response.body == FAILED
    (line,) = response.errors.splitlines()
    assert isinstance(line, str)
    assert line.startswith("limiter: ")
    return line


# Responses


@pytest.mark.parametrize(
    ("output", "status", "fields", "body"),
    [
        ("Content-Type: a/b\n\n", "200 OK", [("Content-Type", "a/b")], b""),
        ("Content-Type: a/b\r\n\r\nx\r\n", "200 OK", [("Content-Type", "a/b")], b"x\r\n"),
        ("Status: 404 Not Found\nContent-Type:a/b\n\n", "404 Not Found", [("Content-Type", "a/b")], b""),
        ("content-type: a/b\nSTATUS:\t299 X y \n\n", "299 X y", [("content-type", "a/b")], b""),
        (
            "X-A:\nX-A:  1 \nX-A: 2:3\nContent-Type: a/b\n\n\n\nx",
            "200 OK",
            [("X-A", ""), ("X-A", "1"), ("X-A", "2:3"), ("Content-Type", "a/b")],
            b"\n\nx",
        ),
        (
            "Content-Type: a/b\nX-A: \xe9\n\n\xff",
            "200 OK",
            [("Content-Type", "a/b"), ("X-A", "\xe9")],
            b"\xff",
        ),
    ],
)
def test_responses(
    site: Site, output: str, status: str, fields: list[tuple[str, str]], body: bytes
) -> None:
    """Status, fields in their order, and every byte of the body are as expected."""
    site.prints("script", output)
    assert site.ask() == (status, fields, body, "")


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("", "before the end of its headers"),
        ("\n", "it must have one Content-Type"),
        ("hello\n\n", "not a header field: b'hello'"),
        ("Content-Type: a/b\n", "before the end of its headers"),
        ("Content-Type: a/b", "before the end of its headers"),
        ("Content-Type: a/b\nTraceback (most recent call last)\n\n", "not a header field: b'Traceback"),
        ("<html>: x\n\n", "not a header field: b'<html>: x'"),
        (" X: folded\nContent-Type: a/b\n\n", "not a header field"),
        ("Content-Type: a/b\n X: folded\n\n", "not a header field"),
        ("Content-Type : a/b\n\n", "not a header field"),
        (": x\nContent-Type: a/b\n\n", "not a header field"),
        ("X\xe9: x\nContent-Type: a/b\n\n", "not a header field"),
        ("Content-Type: a/b\nX\0: x\n\n", "not a header field"),
        ("X-A: 1\n\nx", "it must have one Content-Type"),
        ("Content-Type: a/b\ncontent-type: a/b\n\n", "it must have one Content-Type"),
        ("Status: 200 OK\nStatus: 200 OK\nContent-Type: a/b\n\n", "more than one Status"),
        ("Status: 200\nContent-Type: a/b\n\n", "not a status: b'200'"),
        ("Status: \nContent-Type: a/b\n\n", "not a status: b''"),
        ("Status: OK\nContent-Type: a/b\n\n", "not a status: b'OK'"),
        ("Status: 20 OK\nContent-Type: a/b\n\n", "not a status"),
        ("Status: 2000 OK\nContent-Type: a/b\n\n", "not a status"),
        ("Status: 099 OK\nContent-Type: a/b\n\n", "not a status"),
        ("Status: 200 \xe9\nContent-Type: a/b\n\n", "not a status"),
        ("Status: 200 a\rX: b\nContent-Type: a/b\n\n", "not a status"),
        ("X: " + "x" * 65536 + "\nContent-Type: a/b\n\n", "went on too long"),
        ("X: x\n" * 20_000 + "Content-Type: a/b\n\n", "its headers are too long"),
        ("X" * 200_000, "went on too long"),
    ],
)
def test_what_breaks_the_rules_is_a_500_that_says_so(site: Site, output: str, why: str) -> None:
    """The log gets one line, and the client sees nothing of it."""
    site.prints("script", output)
    line = judge_failure(site.get("/cgi-bin/script"))
    assert line.startswith(f"limiter: {site.directory}/script: ")
    assert why in line
    assert len(line) < 300


@pytest.mark.parametrize("character", ["\r", "\0", "\x1b", "\x7f", "\x01"])
def test_a_control_character_in_a_field_is_a_500(site: Site, character: str) -> None:
    """For some clients a bare carriage return ends the line (RFC 9110, 5.5)."""
    site.prints("script", f"Content-Type: a/b\nX-A: a{character}Set-Cookie: b\n\n")
    status, _, body, log = site.ask()
    assert (status, body) == ("500 Internal Server Error", FAILED)
    assert log.count("\n") == 1


def test_a_failing_script_is_judged_by_what_it_says(site: Site) -> None:
    """As under a web server, its exit status does not matter."""
    site.add("script", "printf 'Content-Type: a/b\\n\\nx'; exit 3")
    assert site.get("/cgi-bin/script").body == b"x"
    site.add("script", "kill -9 $$")
    assert "before the end of its headers" in judge_failure(site.get("/cgi-bin/script"))


@pytest.mark.parametrize(
    ("first", "mode"),
    [("#!/missing/interpreter", 0o755), ("#!/bin/sh", 0o644), ("#!/dev", 0o755), ("\x7fELF", 0o755)],
)
def test_a_script_that_cannot_run(site: Site, first: str, mode: int) -> None:
    """The log says what to look at."""
    site.add("script", "echo", first, mode)
    line = judge_failure(site.get("/cgi-bin/script"))
    assert line.startswith(f"limiter: {site.directory}/script: ")
    assert line.endswith("(is it executable, and its first line right?)")


# Which script


@pytest.mark.parametrize(
    "path",
    ["", "/", "/cgi-bin", "/cgi-bin/", "/cgi-bin/missing", "/cgi-bin//script", "/cgi-bin/../script",
     "/cgi-bin/..", "/cgi-bin/.", "/cgi-bin/.hidden", "/cgi-bin/script\0", "/cgi-bin/script\n", "/cgi-bin/\0",
     "/cgi-bin/directory", "/cgi-bin/directory/inner", "/cgi-bin/scri pt", "/cgi-bin/-c", "/cgi-bin/~",
     "/cgi-bin/SCRIPT", "/xcgi-bin/script", "/script", "cgi-bin/script", "//cgi-bin/script",
     "/cgi-bin/%73cript", "/cgi-bin/script;x", "/cgi-bin/\xe9"],
)  # fmt: skip
def test_no_other_file_is_run(site: Site, path: str) -> None:
    """Any path that is not the plain name of a file in the directory gets a 404."""
    for name in ("script", ".hidden", "-c"):
        site.prints(name, RAN)
    site.inherited["PATH"] = str(site.directory)
    (site.directory / "directory").mkdir()
    try:
        status, fields, body, log = site.ask(PATH_INFO=path)
    finally:
        (site.directory / "directory").rmdir()
    assert (status, body, log) == ("404 Not Found", b'{"message": "Not Found"}', "")
    assert dict(fields) == {"Content-Type": JSON, "Cache-Control": "no-store", "Content-Length": "24"}


def test_head_of_a_missing_script(site: Site) -> None:
    """There is no body, but the length that it would have."""
    response = site.app.head("/cgi-bin/missing", expect_errors=True)
    assert (response.status_int, response.body) == (404, b"")


# What the script gets

ENVIRONMENT = """
print("Content-Type: text/plain\\n")
for name in sorted(os.environ):
    print(f"{name}={os.environ[name]}")
"""


def environment(response: TestResponse) -> dict[str, str]:
    """Return the variables that the script got."""
    found = dict(line.split("=", 1) for line in response.text.splitlines())
    found.pop("LC_CTYPE", None)  # set by the interpreter itself
    return found


def test_the_environment(site: Site) -> None:
    """It has the variables of RFC 3875, the request's fields, what the server passes on, and nothing
    else.
    """
    os.environ["LIMITER_SECRET_OF_THE_TEST"] = "secret"
    try:
        site.python("script", ENVIRONMENT)
        response = site.get(
            "/cgi-bin/script/more%20path?a=%20b",
            headers={"X-One": "1"},
            extra_environ={"REMOTE_ADDR": "192.0.2.1"},
        )
    finally:
        del os.environ["LIMITER_SECRET_OF_THE_TEST"]
    assert environment(response) == {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "HTTP_HOST": "localhost:80",
        "HTTP_X_ONE": "1",
        "LIMITER_LIMIT": "10/second",
        "PATH_INFO": "/more path",
        "QUERY_STRING": "a=%20b",
        "REMOTE_ADDR": "192.0.2.1",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/cgi-bin/script",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "SERVER_SOFTWARE": "limiter",
    }


@pytest.mark.parametrize("field", ["Proxy", "Authorization", "Proxy-Authorization"])
def test_what_is_withheld(site: Site, field: str) -> None:
    """A setting in disguise (CVE-2016-5385), and credentials."""
    site.python("script", ENVIRONMENT)
    found = environment(site.get("/cgi-bin/script", headers={field: "withheld", "X-Given": "given"}))
    assert found["HTTP_X_GIVEN"] == "given"
    assert "withheld" not in found.values()


def test_a_client_cannot_set_a_setting(site: Site) -> None:
    """A field cannot, with the same name or with the same letters."""
    site.python("script", ENVIRONMENT)
    found = environment(site.get("/cgi-bin/script", headers={"LIMITER-LIMIT": "99/second"}))
    assert (found["LIMITER_LIMIT"], found["HTTP_LIMITER_LIMIT"]) == ("10/second", "99/second")


@pytest.mark.parametrize("path", ["", "/", "/a/b", "/../..", "//a"])
def test_path_info_is_passed(site: Site, path: str) -> None:
    """It is unchanged, and not set if there is none."""
    site.python("script", ENVIRONMENT)
    _, _, body, _ = site.ask(PATH_INFO=f"/cgi-bin/script{path}")
    assert (f"PATH_INFO={path}\n".encode() in body) == bool(path)
    assert b"SCRIPT_NAME=/cgi-bin/script\n" in body


@pytest.mark.parametrize("name", ["PATH_INFO", "QUERY_STRING", "HTTP_X_A", "REMOTE_ADDR"])
def test_nul_is_a_bad_request(site: Site, name: str) -> None:
    """No variable can contain it; the script does not run."""
    site.prints("script", RAN)
    prefix = "/cgi-bin/script/" if name == "PATH_INFO" else ""
    status, _, body, log = site.ask(**{name: f"{prefix}a\0b"})
    assert (status, body, log) == ("400 Bad Request", b'{"message": "Bad Request"}', "")


def test_a_field_s_name_may_be_any_token(site: Site) -> None:
    """A field whose name no variable can have is left out, or refused; nothing breaks."""
    site.prints("script", RAN)
    status, _, body, _ = site.ask(**{"HTTP_A=B": "c", "HTTP_!#$%&'*+.^`|~": "d"})
    assert (status, body) in [("200 OK", b"ran"), ("400 Bad Request", b'{"message": "Bad Request"}')]


@pytest.mark.parametrize("text", ["a\xe9", "\xc3\xa9", "\xff"])
def test_the_request_s_bytes_arrive_as_they_came(site: Site, text: str) -> None:
    """WSGI's strings are bytes as Latin-1."""
    site.python("script", "os.write(1, b'Content-Type: a/b\\n\\n' + os.environb[b'QUERY_STRING'])")
    assert site.ask(QUERY_STRING=text)[2] == text.encode("latin-1")


@pytest.mark.parametrize("name", [b"\xc3\xa9", b"\xe2\x82\xac", b"\xff", b"plain"])
def test_inherited_bytes_arrive_as_they_are(site: Site, name: bytes) -> None:
    """Those of os.environ are not Latin-1: a store may have any name."""
    site.inherited["LIMITER_ROOT"] = os.fsdecode(b"/store/" + name)
    site.python("script", "os.write(1, b'Content-Type: a/b\\n\\n' + os.environb[b'LIMITER_ROOT'])")
    assert site.ask()[2] == b"/store/" + name


def test_a_script_runs_in_its_directory(site: Site) -> None:
    """As under Apache."""
    site.add("script", "printf 'Content-Type: a/b\\n\\n'; pwd")
    assert site.get("/cgi-bin/script").text == f"{site.directory}\n"


# Bodies

ECHO = """
print("Content-Type: application/octet-stream\\n", flush=True)
while True:
    part = os.read(0, 65536)
    if not part:
        break
    os.write(1, part)
"""


PATIENT = """
import select
print("Content-Type: a/b\\n", flush=True)
go = os.open("go", os.O_RDWR)
os.write(1, b"first")
if select.select([go], [], [], 30)[0]:
    for _ in range(100):
        os.write(1, b"x" * 65536)
"""


@pytest.mark.parametrize("size", [0, 1, 65536, 5_000_000])
def test_bodies_pass_both_ways(site: Site, size: int) -> None:
    """They may have any size, and every byte arrives."""
    site.python("script", ECHO)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    headers = {"Content-Type": "application/octet-stream"}
    assert site.app.post("/cgi-bin/script", body, headers=headers).body == body


def test_a_large_answer_comes_as_it_is_written(site: Site) -> None:
    """It comes in parts, before the script has ended."""
    site.python("script", PATIENT)
    os.mkfifo(site.directory / "go")
    environ = {"PATH_INFO": "/cgi-bin/script", "REQUEST_METHOD": "GET", "wsgi.errors": sys.stderr}
    answer: Any = site.bridge(environ, lambda *_: print)
    with closing(answer):
        parts = iter(answer)
        assert next(parts) == b"first"
        (site.directory / "go").write_bytes(b"on")
        sizes = [len(part) for part in parts]
    assert sum(sizes) == 100 * 65536
    assert max(sizes) <= 65536


@pytest.mark.parametrize("size", [1, 5_000_000])
def test_a_body_that_is_ignored(site: Site, size: int) -> None:
    """The script need not read it, and the client still gets its answer."""
    site.prints("script", RAN)
    response = site.app.post("/cgi-bin/script", b"x" * size, headers={"Content-Type": "text/plain"})
    assert response.body == b"ran"


@pytest.mark.parametrize("length", ["", "-1", "+3", " 3", "3x", "0x3", "\xb2", "9" * 5000, "3, 3"])
def test_a_content_length_that_is_none(site: Site, length: str) -> None:
    """It is passed on as it came; at most what was sent is read; nothing breaks."""
    site.python("script", ECHO)
    status, _, body, log = site.ask(CONTENT_LENGTH=length, **{"wsgi.input": io.BytesIO(b"abc")})
    assert (status, log) in [("200 OK", ""), ("400 Bad Request", "")]
    assert body in (b"", b"abc", b'{"message": "Bad Request"}')


@pytest.mark.parametrize(("length", "read"), [("2", b"ab"), ("3", b"abc"), ("9", b"abc"), ("0", b"")])
def test_no_more_is_read_than_announced(site: Site, length: str, read: bytes) -> None:
    """A body that ends early is passed on as far as it came."""
    site.python("script", ECHO)
    assert site.ask(CONTENT_LENGTH=length, **{"wsgi.input": io.BytesIO(b"abc")})[2] == read


def test_head_has_no_body(site: Site) -> None:
    """The script may print one; everything else is as the script says."""
    site.prints("script", "Status: 201 Created\nX-A: 1\n" + RAN)
    response = site.app.head("/cgi-bin/script")
    assert (response.status, response.headers["X-A"], response.body) == ("201 Created", "1", b"")


def test_an_answer_that_nobody_reads_to_its_end(site: Site) -> None:
    """Closing the answer ends the script: it can write no more, and the bridge waits for it."""
    site.add("script", "printf 'Content-Type: a/b\\n\\n'; exec yes")
    environ = {"PATH_INFO": "/cgi-bin/script", "REQUEST_METHOD": "GET", "wsgi.errors": sys.stderr}
    answer: Any = site.bridge(environ, lambda *_: print)
    assert next(iter(answer)).startswith(b"y")
    answer.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_answer_that_nobody_reads_at_all(site: Site) -> None:
    """A server may also close it before the first part (PEP 3333)."""
    site.prints("script", RAN)
    environ = {"PATH_INFO": "/cgi-bin/script", "REQUEST_METHOD": "GET", "wsgi.errors": sys.stderr}
    answer: Any = site.bridge(environ, lambda *_: print)
    answer.close()
    del answer
    gc.collect()  # if it has not closed its pipe, this test gets the warning
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
