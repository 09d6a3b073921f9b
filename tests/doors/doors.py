"""One interface for all doors: send a request, get the answer and the log.

::

    answer = DOORS["check"].send({"LIMITER_ROOT": root, "LIMITER_LIMIT": "3/hour"}, "app_id=acme")
    assert (answer.status, answer.body, answer.log) == ("429", MESSAGE, [])

Each request runs in a child process of its own, without a server.  The settings reach each door as they
do in production: by the environment, by the WSGI environ, or as arguments of the map's program.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

import limiter.apache.guard
import limiter.apache.rewrite_map
import limiter.asgi
import limiter.cgi
import limiter.tools.cli
import limiter.wsgi
from limiter.apache.graceful_restart import Handover
from limiter.request.x_ratelimit import X_NAMES
from tests.faults import Ended, run, use

THROUGH = b"through"
"""The body that the application behind a door answers with."""
PAGE = b"Content-Type: text/plain\n\n" + THROUGH
ACTION = ("/usr/bin/printf", PAGE.decode().replace("\n", "\\n"))
"""The program behind the guard for Apache's Action, and its argument."""

Message = MutableMapping[str, Any]


@dataclass(frozen=True)
class Request:
    """A request and the settings that apply to it: LIMITER_ variables and TMPDIR."""

    settings: Mapping[str, str]
    query: str = "app_id=acme"
    fields: Mapping[str, str] = field(default_factory=dict)
    """The header fields of the request."""
    method: str = "GET"
    body: bytes = b""
    address: str | None = "192.0.2.1"
    """None: a peer on a unix socket, of which the server reports nothing."""
    path: str = ""
    """The path as the client sends it; "": the door gets none."""

    def header(self, name: str) -> str:
        """Return the value of a header field, or ""."""
        return {key.lower(): value for key, value in self.fields.items()}.get(name.lower(), "")

    @property
    def variables(self) -> dict[str, str]:
        """The request as CGI variables (RFC 3875)."""
        variables = {
            "REQUEST_METHOD": self.method,
            "QUERY_STRING": self.query,
        }
        if self.address is not None:
            variables["REMOTE_ADDR"] = self.address
        if self.path:
            variables["REQUEST_URI"] = f"{self.path}?{self.query}"
            variables["PATH_INFO"] = unquote_to_bytes(self.path).decode("latin-1")
        if self.body and not self.header("Transfer-Encoding"):
            variables["CONTENT_LENGTH"] = str(len(self.body))
        for name, value in self.fields.items():
            variable = name.upper().replace("-", "_")
            variables[variable if variable == "CONTENT_TYPE" else f"HTTP_{variable}"] = value
        return variables


@dataclass(frozen=True)
class Answer:
    """What a door answers, and what it logs."""

    status: str
    """Three digits."""
    fields: dict[str, str]
    """The header fields, by their names in lower case."""
    body: bytes
    log: list[str]
    """The lines on standard error."""


@dataclass(frozen=True)
class Door:
    """A door: ``send`` is all that most tests need."""

    name: str
    answer_request: Callable[[Request], None]
    """Answers on standard output, and may end the process."""
    read: Callable[[Ended], Answer]
    guards: bool = False
    """Whether an application behind the door answers admitted requests, with THROUGH."""

    def send(
        self,
        settings: Mapping[str, str],
        query: str = "app_id=acme",
        fields: Mapping[str, str] | None = None,
        method: str = "GET",
        body: bytes = b"",
        address: str | None = "192.0.2.1",
        path: str = "",
    ) -> Answer:
        """Send one request, and return the answer."""
        request = Request(settings, query, fields or {}, method, body, address, path)
        return self.read(run(partial(self.open, request)))

    def open(self, request: Request) -> None:
        """Answer a request in this process, a child, on its own standard output and error."""
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        body = os.memfd_create("body")
        os.write(body, request.body)
        os.lseek(body, 0, os.SEEK_SET)
        os.dup2(body, 0)
        self.answer_request(request)


def clients(store: str) -> list[str]:
    """Return the app_ids that have a directory in the store, sorted."""
    return sorted({name.partition("@")[0] for name in os.listdir(store) if name[0] != "."})


# How each door gets a request.


def _check(request: Request) -> None:
    use({**request.settings, **request.variables})
    limiter.cgi.check()


def _guard(request: Request) -> None:
    use({**request.settings, **request.variables})
    limiter.cgi.guard()
    os.write(1, PAGE)


def action_variables(request: Request) -> dict[str, str]:
    """Return the variables that Apache's mod_actions sets for the guard."""
    program, _ = ACTION
    own = {"REDIRECT_HANDLER": "limited", "REDIRECT_URL": "/page", "PATH_INFO": "/page"}
    return {**request.settings, **request.variables, **own, "PATH_TRANSLATED": program}


def _action(request: Request) -> None:
    use(action_variables(request))
    sys.argv = ["guard.py", *ACTION[1:]]
    limiter.apache.guard.run()


def _wsgi(request: Request) -> None:
    use({})

    def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Any:
        _write_head(status, headers)

    def application(_: object, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [THROUGH]

    door = limiter.wsgi.RateLimit(application)
    environ: dict[str, Any] = {**request.settings, **request.variables, "wsgi.errors": sys.stderr}
    os.write(1, b"".join(door(environ, start_response)))


def _asgi(request: Request) -> None:
    use(request.settings)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            _write_head(str(message["status"]), headers)
        else:
            os.write(1, message["body"])

    async def receive() -> Message:
        raise AssertionError("nobody reads the body")

    async def application(_: object, __: object, send: Callable[[Message], Awaitable[None]]) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": THROUGH})

    scope = {
        "type": "http",
        "method": request.method,
        "path": unquote(request.path),
        "headers": [(name.lower().encode(), value.encode()) for name, value in request.fields.items()],
        "query_string": request.query.encode(),
        "client": None if request.address is None else (request.address, 80),
    }
    asyncio.run(limiter.asgi.RateLimit(application)(scope, receive, send))


def _write_head(status: str, headers: list[tuple[str, str]]) -> None:
    fields = [("Status", status), *headers]
    os.write(1, "".join([f"{name}: {value}\n" for name, value in fields]).encode() + b"\n")


def _rewrite_map(request: Request) -> None:
    use({})
    sys.argv = [
        "rewritemap",
        "PATHS=^/",
        *[f"{name}={value}" for name, value in request.settings.items()],
    ]
    kind, _, name = request.settings.get("LIMITER_KEY", "").partition(":")
    header = request.header(name if kind == "header" else "X-Forwarded-For")
    fields = (request.address or "", request.method, request.path or "/", request.query)
    forwarded = quote(request.header("X-Forwarded-For"))
    line = f"{' '.join(fields)} {forwarded} {header}\n".encode()
    sys.stdin = io.TextIOWrapper(io.BytesIO(line))
    limiter.apache.rewrite_map.main(Handover())


def _hit(request: Request) -> None:
    use(request.settings)
    sys.argv = ["limiter", "hit", request.query.partition("=")[2]]
    status = limiter.tools.cli.main()
    sys.stdout.flush()
    os._exit(status)


# How each door answers: complete and well-formed, or the test fails.


def _log(ended: Ended) -> list[str]:
    assert not ended.killed
    assert b"Traceback" not in ended.output + ended.log
    return ended.log.decode().splitlines()


def _read_response(ended: Ended) -> Answer:
    log = _log(ended)
    assert ended.code == 0, log
    head, separator, body = ended.output.partition(b"\n\n")
    assert separator, (ended.output, log)
    pairs = [line.partition(": ")[::2] for line in head.decode().split("\n")]
    assert all(re.fullmatch("[A-Za-z-]+", name) and value for name, value in pairs), head
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(pairs), head
    return Answer(fields.pop("status", "200")[:3], fields, body, log)


def _read_line_of_map(ended: Ended) -> Answer:
    log = _log(ended)
    assert ended.code == 0, log
    answer = ended.output.decode()
    found = re.fullmatch(
        r"(200|400|401|429|500)(?:\|([^|]*)(?:\|([0-9a-f]*)(?:\|(\d*)(?:\|([\d ]*)(?:\|([^|]*))?)?)?)?)?\n",
        answer,
    )
    assert found, (answer, log)
    assert not answer.endswith("|\n")
    status, limits, _, retry, x, members = [it or "" for it in found.groups()]
    if ";" in limits and "~" not in limits:
        *names, quota, window, remaining, seconds = limits.split(";")
        name = names[0] if names else f"{quota}-per-{window}s"
        limits = f'"{name}";q={quota};w={window}~"{name}";r={remaining};t={seconds}'
    policy, _, standing = limits.partition("~")
    fields = {"ratelimit-policy": policy, "ratelimit": standing, "retry-after": retry}
    fields.update(zip(map(str.lower, X_NAMES), x.split()))
    body = f'{{{members}"status": {status}}}'.encode() if members else b""
    return Answer(status, {name: value for name, value in fields.items() if value}, body, log)


def _read_exit_status(ended: Ended) -> Answer:
    log = _log(ended)
    if ended.code == 2:
        assert ended.output == b""
        return Answer("401" if b"(401)" in ended.log else "500", {}, b"", log)
    admitted_or_denied = rb"(allowed|denied, retry after [\d.]+ s)\n(  .* used.*\n)+"
    assert re.fullmatch(rb"acme: (unlimited\n|" + admitted_or_denied + rb")", ended.output), log
    assert (b"denied" in ended.output) == (ended.code == 1)
    return Answer(["200", "429"][ended.code], {}, ended.output, log)


DOORS = {
    door.name: door
    for door in (
        Door("check", _check, _read_response),
        Door("guard", _guard, _read_response, guards=True),
        Door("action", _action, _read_response, guards=True),
        Door("wsgi", _wsgi, _read_response, guards=True),
        Door("asgi", _asgi, _read_response, guards=True),
        Door("rewritemap", _rewrite_map, _read_line_of_map),
    )
}
"""The doors for web requests, by name."""
DOORS_AND_HIT = {**DOORS, "hit": Door("hit", _hit, _read_exit_status)}
"""Also the command ``limiter hit``, which knows neither query string nor header."""
