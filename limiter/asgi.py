"""The ASGI door: limits in front of any ASGI application that runs on asyncio, in two lines::

    from limiter.asgi import RateLimit
    app = RateLimit(app)

The client gets a status and JSON, but no reason.  The reason for a 500 is one line on standard error.
"""

import asyncio
import posix
import sys
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from limiter.core.store import StoreError
from limiter.report import reporter  # noqa: F401  (load it while descriptors are free)
from limiter.report.problems import report_denial, report_problem, write_line
from limiter.request.gates import Gates
from limiter.request.long_running import EXEMPT, LongRunningGate
from limiter.request.one_hit import POLICIES
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, UNAUTHORIZED, body, fields, standings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence
    from typing import Any

    from limiter.core.decision import Decision
    from limiter.core.limiter import Limiter
    from limiter.request.gate import Verdict
    from limiter.request.one_hit import Policies
    from limiter.request.settings import Settings

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

__all__ = ["EXEMPT", "RateLimit"]


class RateLimit:
    """As ``limiter.wsgi.RateLimit``, for ASGI.

    The settings are the variables of the process.  A function as ``key`` gets the scope, and runs on the
    event loop; an ``async def`` is awaited.  In text, ``env:`` knows REMOTE_ADDR and the variables made from
    headers (HTTP_...).  The application finds the Decision in ``scope["limiter.decision"]``.

    A WebSocket handshake is a request, too.  If it is denied, it gets the same answer if the server
    offers the extension ``websocket.http.response``.  Otherwise it is closed with code 1008, which the
    server turns into a 403.

    The event loop never waits for a store that may hang.  Denials from memory are decided at once, and so is
    everything on a local file system.  All else is decided in this object's own threads.
    """

    def __init__(
        self,
        app: "Application",
        limiter: "Limiter | None" = None,
        key: "str | Callable[[Scope], str | Awaitable[str | None] | None] | None" = None,
        rules: "Sequence[str] | None" = None,
    ) -> None:
        self._arguments = app, limiter, key, rules
        self._app = app
        self._gates = Gates(limiter, key, rules)
        # Not the loop's own threads: the application must not delay a decision, and an unresponsive
        # store must not delay the application.
        self._threads = ThreadPoolExecutor(_THREADS, "limiter")

    def __reduce__(self) -> "tuple[type, tuple[object, ...]]":
        """A copy, or what is pickled, begins with the same arguments and nothing else."""
        return type(self), self._arguments

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or pass on other events of the server."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, self._threads)
        status, decision = await visit.verdict(self._gates)
        if status is not OK:
            report_denial(
                status, posix.environ.get(b"LIMITER_LOG_LEVEL"), lambda: _request(scope), visit.why
            )
            await visit.refuse(receive, send, status, decision)
            return

        async def send_with_standings(message: "Message") -> None:
            counted = await visit.count(message)
            if message["type"] in _STARTS:
                shown = decision if counted is None else counted
                headers = [*message.get("headers", ()), *_encoded(standings(shown, visit.settings))]
                message = {**message, "headers": headers}
            await send(message)

        scope = {**scope, "limiter.decision": decision, POLICIES: visit.policies(decision)}
        is_silent = visit.is_counted or (decision is None and visit.counter is None)
        await self._app(scope, receive, send if is_silent else send_with_standings)


class _Visit:
    """A request on its way through this door.

    ``is_counted``: whether an outer door has counted the same.  ``counter`` counts the request when its
    answer has a status that counts.  ``settings``: None if there is a mistake in them.
    """

    def __init__(self, scope: "Scope", threads: ThreadPoolExecutor) -> None:
        self.is_counted = False
        self.settings: Settings | None = None
        self.counter: LongRunningGate | None = None
        self._outer: Policies = scope.get(POLICIES, {})
        self._policy: tuple[str, str] | None = None
        self._scope = scope
        self._threads = threads
        self._app_id: str | None = None
        self._get = partial(_variable, scope)

    async def verdict(self, gates: Gates) -> "Verdict":
        scope = self._scope
        try:
            gate = gates.choose({})
            if gate.has_rules:
                gate = gate.meet(_path(scope), scope.get("method", "GET"), self._log)
        except ValueError as error:
            self._log(error)
            return INTERNAL_SERVER_ERROR, None
        self._gate = gate
        self.settings = gate.settings
        if gate.constant:
            return gate.verdict(lambda: None, self._log)
        app_id = None
        try:
            app_id = await self._find(gate)
            verdict = (UNAUTHORIZED, None) if app_id is None else self._recall(app_id)
        except Exception as error:
            return gate.failed(app_id, error, self._log)
        if verdict is not None:
            return gate.enforced(app_id, verdict, self._log)
        return await self._call(gate, app_id)

    async def _find(self, gate: LongRunningGate) -> "str | None":
        if gate.who is None:
            return gate.find(self._scope, self._get, self._scope.get("query_string", b""))
        value = gate.who(self._scope)
        return gate.named(await value if isinstance(value, Awaitable) else value)

    async def count(self, message: "Message") -> "Decision | None":
        """Count the request if the rule counts this answer.  Returns what was decided then."""
        counter, status = self.counter, _status(message)
        if counter is None or not status:
            return None
        self.counter = None
        return (await self._call(counter, self._app_id))[1] if counter.counts(status) else None

    def why(self) -> str:
        """Why it got 401, for the log."""
        return self._gate.why(self._get, self._scope.get("query_string", b""))

    async def refuse(
        self, receive: "Receive", send: "Send", status: str, decision: "Decision | None"
    ) -> None:
        """Answer the request with this status."""
        scope = self._scope
        kind = "http.response"
        if scope["type"] == "websocket":
            await receive()  # websocket.connect, which this answers
            kind = "websocket.http.response"
            if kind not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1008, "reason": status})
                return
        message = body(status, decision, self.settings)
        length = ("Content-Length", str(len(message)))
        headers = _encoded([*fields(status, decision, self.settings), length])
        await send({"type": f"{kind}.start", "status": int(status[:3]), "headers": headers})
        is_head = scope.get("method") == "HEAD"
        await send({"type": f"{kind}.body", "body": b"" if is_head else message})

    def policies(self, decision: "Decision | None") -> "Policies":
        """What was counted so far, and here."""
        return self._outer if self._policy is None else {**self._outer, self._policy: decision}

    def _recall(self, app_id: str) -> "Verdict | None":
        """The verdict if it is certain without a call to the store."""
        if app_id is EXEMPT:
            return OK, None
        policy = self._gate.kind(), app_id
        if policy in self._outer:
            self.is_counted = True
            return OK, self._outer[policy]
        self._app_id = app_id
        self.counter = self._gate.counter
        self._policy = policy
        return self._gate.recall(app_id)

    async def _call(self, gate: LongRunningGate, app_id: "str | None") -> "Verdict":
        if app_id is not None and gate.is_direct(app_id):
            # That is quicker than to ask another thread.
            return gate.verdict(lambda: app_id, self._log, gate.count)
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._threads, gate.verdict, lambda: app_id, self._log)
        except RuntimeError as error:
            return gate.failed(app_id, StoreError.no_thread(error), self._log)
        return await future

    def _log(self, problem: "Exception | str") -> None:
        report_problem(_request(self._scope), problem, lambda reason: write_line(sys.stderr, reason))


def _status(message: "Message") -> str:
    """The status of the answer that this message begins; "" if it begins none."""
    if message["type"] == "websocket.close":
        return "403"  # of a handshake; after one, the status was counted already
    return str(message.get("status", "101")) if message["type"] in _STARTS else ""


def _path(scope: "Scope") -> str:
    """The path as the client asked for it.  Servers differ in whether ``path`` has the root path, too."""
    root, path = scope.get("root_path", ""), scope.get("path", "")
    return path if path.startswith(root) else root + path  # type: ignore[no-any-return]


def _variable(scope: "Scope", name: bytes) -> "bytes | None":
    """Return a CGI variable as a server would make it: a header sent twice has both values."""
    if name == b"REMOTE_ADDR":
        client = scope.get("client")
        return client[0].encode() if client else None
    if name not in _NO_PREFIX:
        if not name.startswith(b"HTTP_"):
            raise ValueError(
                f"key 'env:{name.decode('utf-8', 'replace'):.200}': ASGI has no variables but REMOTE_ADDR"
                " and those of headers (HTTP_...)"
            )
        name = name[5:]
    name = name.replace(b"_", b"-").lower()
    values = [value for header, value in scope["headers"] if header.lower() == name]
    return b", ".join(values) if values else None


def _request(scope: "Scope") -> "dict[bytes, bytes]":
    """Return the variables of the process, and the request as CGI variables, which take precedence."""
    client = scope.get("client")
    return {
        **posix.environ,
        b"REMOTE_ADDR": client[0].encode() if client else b"",
        b"REQUEST_METHOD": scope.get("method", "GET").encode(),
        b"SCRIPT_NAME": scope.get("root_path", "").encode("utf-8", "surrogatepass"),
        b"PATH_INFO": scope.get("path", "").encode("utf-8", "surrogatepass"),
        b"QUERY_STRING": scope.get("query_string", b""),
    }


def _encoded(fields: "list[tuple[str, str]]") -> "list[tuple[bytes, bytes]]":
    return [(name.lower().encode(), value.encode()) for name, value in fields]
