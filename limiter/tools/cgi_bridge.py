"""A directory of CGI scripts (RFC 3875) as a WSGI application (PEP 3333), to try them without Apache.

It runs each script in a process of its own, and answers when the script has ended.  If the script cannot
run, or its header is invalid (``limiter.scripts.cgi_header``), the client gets 500, and a line on the
error stream gives the reason.
"""

import os
import re
import subprocess
from http.client import responses

from limiter.request.response import INTERNAL_SERVER_ERROR, NOT_FOUND, body, fields
from limiter.scripts.cgi_header import Header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    Answer = tuple[str, list[tuple[str, str]], bytes]
    """Status, header fields and body."""

_PATH = "/cgi-bin/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LENGTH = re.compile(r"[0-9]{1,9}")

# The variables that a script gets of a request.  A header field's name may contain "=", but a variable's
# name may not.
_META = re.compile(r"(CONTENT|HTTP|QUERY|REMOTE|REQUEST|SERVER)_[^=]+")
# Not passed on: programs would take HTTP_PROXY for a setting (CVE-2016-5385).  The others are credentials.
_WITHHELD = ("HTTP_PROXY", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION")


class Bridge:
    """The scripts of one directory: ``/cgi-bin/check.py`` runs ``check.py``.

    ``inherited`` are environment variables that every script gets, such as PATH and LIMITER_ROOT.
    """

    def __init__(self, directory: str, inherited: "dict[str, str]") -> None:
        self._directory = directory
        self._inherited = inherited

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "list[bytes]":
        """Run the script that the URL names, and pass on its answer."""
        status, headers, content = self._answer(environ)
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

    def _answer(self, environ: "WSGIEnvironment") -> "Answer":
        url = environ.get("PATH_INFO", "")
        name = url[len(_PATH) :]
        script = os.path.join(self._directory, name)
        if not url.startswith(_PATH) or not _NAME.fullmatch(name) or not os.path.isfile(script):
            return _own(NOT_FOUND)
        try:
            ended = subprocess.run(
                [script],
                input=_input(environ),
                stdout=subprocess.PIPE,
                cwd=self._directory,
                env={**self._inherited, **_variables(environ), "SCRIPT_NAME": url},
                check=False,
            )
            return _parse(ended.stdout)
        except (OSError, ValueError) as error:
            print(f"limiter: {script}: {error}", file=environ["wsgi.errors"])
            return _own(INTERNAL_SERVER_ERROR)


def _variables(environ: "WSGIEnvironment") -> "dict[str, str]":
    names = [name for name in environ if _META.fullmatch(name) and name not in _WITHHELD]
    # WSGI strings stand for bytes, one character per byte.
    request = {name: os.fsdecode(environ[name].encode("latin-1")) for name in names}
    return {"GATEWAY_INTERFACE": "CGI/1.1", "QUERY_STRING": "", **request}


def _input(environ: "WSGIEnvironment") -> bytes:
    length = environ.get("CONTENT_LENGTH") or "0"
    content: bytes = environ["wsgi.input"].read(int(length)) if _LENGTH.fullmatch(length) else b""
    return content


def _parse(output: bytes) -> "Answer":
    """Return the answer in the output of a script (RFC 3875, 6).  Raises ValueError if it is invalid."""
    header = Header()
    header.read(output)
    if not header.is_complete:
        raise ValueError("it has ended before its headers were complete")
    headers = []
    for line in output[: header.size].splitlines()[:-1]:
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() != "status":
            headers.append((name, value.strip()))
    return f"{header.status} {responses.get(header.status, 'Unknown')}", headers, output[header.size :]


def _own(status: str) -> "Answer":
    """Return the answer for a script that cannot answer itself, in the form of the limiter's scripts."""
    message = body(status)
    return status, [*fields(status, None), ("Content-Length", str(len(message)))], message
