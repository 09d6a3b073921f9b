"""A directory of CGI scripts (RFC 3875) as a WSGI application (PEP 3333).

It runs each script in a process of its own, as a web server does.  It is strict: if a response breaks
the rules, the client gets 500, and a line on the error stream says what is wrong.
"""

import os
import re
import subprocess
import tempfile

from limiter.request.response import INTERNAL_SERVER_ERROR, body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO
    from wsgiref.types import StartResponse, WSGIEnvironment

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_STATUS = re.compile(rb"[1-9][0-9]{2} [\t\x20-\x7e]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_HEADERS_MOST = 65536

# The variables that a script gets, besides the header fields.
_META = (
    "AUTH_TYPE",
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REQUEST_METHOD",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
)
# Not passed on: programs would take HTTP_PROXY for a setting (CVE-2016-5385).  The others are
# credentials, or a length that CONTENT_LENGTH already gives.
_WITHHELD = ("HTTP_PROXY", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_CONTENT_LENGTH")


class Bridge:
    """The scripts of one directory, below one URL path: ``/cgi-bin/check.py`` runs ``check.py``.

    ``inherited`` are environment variables that every script gets, such as PATH and LIMITER_ROOT.
    """

    def __init__(self, directory: str, inherited: "dict[str, str]", path: str = "/cgi-bin/") -> None:
        self._directory = os.path.abspath(directory)
        self._inherited = inherited
        self._path = path

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        """Run the script that the URL names, and pass on its answer."""
        url = environ.get("PATH_INFO", "")
        name, slash, rest = url[len(self._path) :].partition("/")
        script = os.path.join(self._directory, name)
        if not url.startswith(self._path) or not _NAME.fullmatch(name) or not os.path.isfile(script):
            return _refuse(environ, start_response, "404 Not Found")
        variables = self._variables(environ, self._path + name, slash + rest)
        if any(b"\0" in value for value in variables.values()):
            return _refuse(environ, start_response, "400 Bad Request")
        try:
            process = _run(script, variables, _body(environ))
        except OSError as error:
            why = f"{script}: {error.strerror} (is it executable, and its first line right?)"
            return _fail(environ, start_response, why)
        assert process.stdout is not None
        try:
            status, headers = _head(process.stdout)
        except _MalformedError as error:
            _end(process)
            return _fail(environ, start_response, f"{script}: {error}")
        try:
            start_response(status, headers)
        except BaseException:
            _end(process)
            raise
        return _Rest(process, environ["REQUEST_METHOD"] == "HEAD")

    def _variables(
        self, environ: "WSGIEnvironment", script_name: str, path_info: str
    ) -> "dict[bytes, bytes]":
        request = {name: environ[name] for name in _META if environ.get(name)}
        for name, value in environ.items():
            # A header field's name may contain "=", but a variable's name may not.
            if name.startswith("HTTP_") and name not in _WITHHELD and "=" not in name:
                request[name] = value
        request.setdefault("QUERY_STRING", "")
        request["GATEWAY_INTERFACE"] = "CGI/1.1"
        request["SERVER_SOFTWARE"] = "limiter"
        request["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + script_name
        if path_info:
            request["PATH_INFO"] = path_info
        return {
            **{os.fsencode(name): os.fsencode(value) for name, value in self._inherited.items()},
            # WSGI strings stand for bytes, one character per byte.
            **{name.encode("latin-1"): value.encode("latin-1") for name, value in request.items()},
        }


class _MalformedError(Exception):
    """What is wrong with a response."""


def _body(environ: "WSGIEnvironment") -> "IO[bytes]":
    """Return the request's body as a file.  A script that does not read it then blocks nothing."""
    spooled = tempfile.TemporaryFile()  # noqa: SIM115 (the script's process takes it over)
    length = environ.get("CONTENT_LENGTH") or "0"
    missing = int(length) if _LENGTH.fullmatch(length) else 0
    while missing:
        part = environ["wsgi.input"].read(min(missing, 65536))
        if not part:
            break
        missing -= len(part)
        spooled.write(part)
    spooled.seek(0)
    return spooled


def _run(script: str, variables: "dict[bytes, bytes]", stdin: "IO[bytes]") -> "subprocess.Popen[bytes]":
    with stdin:
        return subprocess.Popen(
            [script],
            stdin=stdin,
            stdout=subprocess.PIPE,
            cwd=os.path.dirname(script),
            env=variables,
        )


def _head(output: "IO[bytes]") -> "tuple[str, list[tuple[str, str]]]":
    """Return the status and header fields of a document response (RFC 3875, 6.2.1)."""
    fields: list[tuple[bytes, bytes]] = []
    size = 0
    while True:
        line = output.readline(_HEADERS_MOST)
        size += len(line)
        if not line.endswith(b"\n"):
            raise _MalformedError("it ended, or went on too long, before the end of its headers")
        line = line.rstrip(b"\r\n")
        if not line:
            break
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _TOKEN.fullmatch(name):
            raise _MalformedError(f"not a header field: {line[:80]!r}")
        if not _VALUE.fullmatch(value) and name.lower() != b"status":
            raise _MalformedError(f"a control character in a header field: {line[:80]!r}")
        if size > _HEADERS_MOST:
            raise _MalformedError("its headers are too long")
        fields.append((name, value))
    names = [name.lower() for name, _ in fields]
    if names.count(b"content-type") != 1:
        raise _MalformedError("it must have one Content-Type")
    if names.count(b"status") > 1:
        raise _MalformedError("it has more than one Status")
    status = dict(zip(names, (value for _, value in fields))).get(b"status", b"200 OK")
    if not _STATUS.fullmatch(status):
        raise _MalformedError(f"not a status: {status[:80]!r}")
    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in fields
        if name.lower() != b"status"
    ]
    return status.decode("latin-1"), headers


class _Rest:
    """The body of a response, as it arrives.  Closing it ends the script, even if nothing was read."""

    def __init__(self, process: "subprocess.Popen[bytes]", head: bool) -> None:
        self._process = process
        self._head = head

    def __iter__(self) -> "Iterator[bytes]":
        assert self._process.stdout is not None
        while part := self._process.stdout.read1(65536):  # type: ignore[attr-defined]
            if not self._head:
                yield part
        self.close()

    def close(self) -> None:
        """Close the script's output, and wait for its end."""
        _end(self._process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Close the output and wait for the end: a script that still writes ends, as under Apache."""
    assert process.stdout is not None
    process.stdout.close()
    process.wait()


def _refuse(environ: "WSGIEnvironment", start_response: "StartResponse", status: str) -> "list[bytes]":
    """Answer for a script that cannot answer itself, in the same form as the limiter's scripts."""
    message = body(status)
    fields = [("Content-Type", "application/json; charset=utf-8"), ("Cache-Control", "no-store")]
    start_response(status, [*fields, ("Content-Length", str(len(message)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [message]


def _fail(environ: "WSGIEnvironment", start_response: "StartResponse", why: str) -> "list[bytes]":
    print(f"limiter: {why}", file=environ["wsgi.errors"])
    return _refuse(environ, start_response, INTERNAL_SERVER_ERROR)
