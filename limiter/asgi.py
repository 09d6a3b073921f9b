"""The ASGI door: limits in front of any ASGI application that runs on asyncio, in two lines::

    from limiter.asgi import RateLimit
    app = RateLimit(app)

The client gets a status and JSON, but no reason.  The reason for a 500 is one line on standard error.
"""

import asyncio
import posix
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from limiter.core.store import StoreError
from limiter.report import reporter  # noqa: F401  (load it while descriptors are free)
from limiter.report.problems import report_denial, report_problem, write_line
from limiter.request.long_running import Gates
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, UNAUTHORIZED, body, fields, standings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from limiter.core.decision import Decision
    from limiter.core.limiter import Limiter
    from limiter.request.gate import Verdict

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# At most so many requests wait for the store at once; the others wait for a thread.
_THREADS = 32

# The messages that begin an answer and carry its headers.
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
_NO_PREFIX = (b"CONTENT_TYPE", b"CONTENT_LENGTH")


class RateLimit:
    """As ``limiter.wsgi.RateLimit``, for ASGI.

    The settings are the variables of the process.  A function as ``key`` gets the scope, and runs on the
    event loop.  In text, ``env:`` knows REMOTE_ADDR and the variables made from headers (HTTP_...).  The
    application finds the Decision in ``scope["limiter.decision"]``.

    A WebSocket handshake is a request, too.  If it is denied, it gets the same answer if the server
    offers the extension ``websocket.http.response``.  Otherwise it is closed with code 1008, which the
    server turns into a 403.

    The event loop never waits for the store.  Denials from memory are decided at once, and everything
    else is decided in this object's own threads.
    """

    def __init__(
        self,
        app: "Application",
        limiter: "Limiter | None" = None,
        key: "str | Callable[[Scope], str | None] | None" = None,
    ) -> None:
        self._app = app
        self._gates = Gates(limiter, key)
        # Not the loop's own threads: the application must not delay a decision, and an unresponsive
        # store must not delay the application.
        self._threads = ThreadPoolExecutor(_THREADS, "limiter")

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or pass on other events of the server."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, decision = await self._verdict(scope)
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

    async def _verdict(self, scope: "Scope") -> "Verdict":
        def log(problem: "Exception | str") -> None:
            report_problem(_request(scope), problem, lambda reason: write_line(sys.stderr, reason))

        try:
            gate = self._gates.choose({})
        except ValueError as error:
            log(error)
            return INTERNAL_SERVER_ERROR, None
        if gate.is_off:
            return OK, None
        app_id = None
        try:
            app_id = gate.find(scope, partial(_variable, scope), scope.get("query_string", b""))
            verdict = (UNAUTHORIZED, None) if app_id is None else gate.recall(app_id)
        except Exception as error:
            return gate.failed(app_id, error, log)
        if verdict is not None:
            return gate.enforced(app_id, verdict, log)
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._threads, gate.verdict, lambda: app_id, log)
        except RuntimeError as error:
            return gate.failed(app_id, StoreError.no_thread(error), log)
        return await future


def _variable(scope: "Scope", name: bytes) -> "bytes | None":
    """Return a CGI variable as a server would make it: a header sent twice has both values."""
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
    """Return the variables of the process, and the request as CGI variables, which take precedence."""
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
    report_denial(status, posix.environ.get(b"LIMITER_LOG_LEVEL"), lambda: _request(scope))
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
