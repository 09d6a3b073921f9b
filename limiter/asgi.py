"""The ASGI door: limits in front of any ASGI application that runs on asyncio, in two lines::

    from limiter.asgi import RateLimit
    app = RateLimit(app)

The client gets a status, JSON and no reason; the reason of a 500 is one line on standard error.
"""

import asyncio
import posix
import sys
from concurrent.futures import ThreadPoolExecutor

from limiter.gate import Gates, Undecided, write_line
from limiter.response import INTERNAL_SERVER_ERROR, OK, body, fields, standings
from limiter.store import unasked
from limiter.verdict import tell, tell_denial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from limiter.hit import Decision
    from limiter.limiter import Limiter
    from limiter.verdict import Verdict

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Requests that wait for the store at once; the others wait for these.
_THREADS = 32

# What begins an answer: its headers are still to be sent.
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
_NO_PREFIX = (b"CONTENT_TYPE", b"CONTENT_LENGTH")


class RateLimit:
    """Answers 401, 429 or 500 itself, as the settings say, or lets the application answer.

    The settings are the variables of the process, as they are at each request.  A ``limiter`` given decides
    alone, whatever they say of the store, the limits and the register.  A ``key`` given replaces
    LIMITER_KEY: text in its notation, of which ``env:`` knows REMOTE_ADDR and what comes of headers
    (HTTP_...), or a function that gets the scope and returns who asks, any text (``limiter.identity``), or
    None: 401; it runs on the event loop.  The body is never read.

    A handshake of a WebSocket is a request, too.  One that is denied gets the same answer, if the server
    offers the extension ``websocket.http.response``, else it is closed with code 1008, which a server makes a 403.

    The event loop never waits for the store: a denial from memory is decided at once, anything else by
    threads of this object's own.  The application finds the Decision in ``scope["limiter.decision"]``: None if
    nothing was counted, as for the unlimited, in shadow mode, or if the store failed and LIMITER_ON_ERROR
    says to admit.  The fields that tell where the limits stand join its own.  Raises ValueError for a bad key.
    """

    def __init__(
        self,
        app: "Application",
        limiter: "Limiter | None" = None,
        key: "str | Callable[[Scope], str | None] | None" = None,
    ) -> None:
        self._app = app
        self._gates = Gates(limiter, key)
        # Not the loop's own: the application's work must not delay a verdict, nor a silent store that work.
        self._threads = ThreadPoolExecutor(_THREADS, "limiter")

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or pass on whatever else the server says."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, decision = await self._judge(scope)
        if status is not OK:
            await _refuse(scope, receive, send, status, decision)
            return

        async def send_with_standings(message: "Message") -> None:
            if message["type"] in _STARTS:
                headers = [*message.get("headers", ()), *_encoded(standings(decision))]
                message = {**message, "headers": headers}
            await send(message)

        scope = {**scope, "limiter.decision": decision}
        await self._app(scope, receive, send if decision is None else send_with_standings)

    async def _judge(self, scope: "Scope") -> "Verdict":
        def log(problem: "Exception | str") -> None:
            tell(_request(scope), problem, lambda reason: write_line(sys.stderr, reason))

        def find() -> "str | None":
            return self._gates.find(
                gate, scope, lambda name: _variable(scope, name), scope.get("query_string", b"")
            )

        try:
            gate = self._gates.choose({})
        except ValueError as error:
            log(error)
            return INTERNAL_SERVER_ERROR, None
        try:
            return gate.recall(find, log)
        except Undecided as undecided:
            app_id = undecided.app_id
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._threads, gate.judge, lambda: app_id, log)
        except RuntimeError as error:
            return gate.fail(unasked(error), log)
        return await future


def _variable(scope: "Scope", name: bytes) -> "bytes | None":
    """A CGI variable, as a server would make it: a header that was sent twice has both values."""
    if name == b"REMOTE_ADDR":
        client = scope.get("client")
        return client[0].encode() if client else None
    if name not in _NO_PREFIX:
        if not name.startswith(b"HTTP_"):
            return None
        name = name[5:]
    name = name.replace(b"_", b"-").lower()
    values = [value for header, value in scope["headers"] if header.lower() == name]
    return b", ".join(values) if values else None


def _request(scope: "Scope") -> "dict[bytes, bytes]":
    """The request as CGI variables, over those of the process."""
    return {
        **posix.environ,
        b"REQUEST_METHOD": scope.get("method", "GET").encode(),
        b"SCRIPT_NAME": scope.get("root_path", "").encode("utf-8", "surrogatepass"),
        b"PATH_INFO": scope.get("path", "").encode("utf-8", "surrogatepass"),
        b"QUERY_STRING": scope.get("query_string", b""),
    }


async def _refuse(
    scope: "Scope", receive: "Receive", send: "Send", status: str, decision: "Decision | None"
) -> None:
    if status[0] == "4" and posix.environ.get(b"LIMITER_LOG_LEVEL") == b"warning":
        tell_denial(_request(scope), status)
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect, which this answers
        kind = "websocket.http.response"
        if kind not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": status})
            return
    message = body(status)
    headers = _encoded([*fields(status, decision), ("Content-Length", str(len(message)))])
    await send({"type": f"{kind}.start", "status": int(status[:3]), "headers": headers})
    is_head = scope.get("method") == "HEAD"
    await send({"type": f"{kind}.body", "body": b"" if is_head else message})


def _encoded(fields: "list[tuple[str, str]]") -> "list[tuple[bytes, bytes]]":
    return [(name.lower().encode(), value.encode()) for name, value in fields]
