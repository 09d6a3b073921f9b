"""The WSGI door: limits in front of any WSGI application (PEP 3333), in two lines::

    from limiter.wsgi import RateLimit
    application = RateLimit(application)

The client gets a status, JSON and no reason; the reason of a 500 is one line in ``wsgi.errors``.
"""

import posix

from limiter.gate import Gates, write_line
from limiter.response import INTERNAL_SERVER_ERROR, OK, body, fields, standings
from limiter.verdict import tell, tell_denial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from limiter.hit import Decision
    from limiter.limiter import Limiter
    from limiter.verdict import Verdict

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class RateLimit:
    """Answers 401, 429 or 500 itself, as the settings say, or lets the application answer.

    The settings are the variables of the request's environ (Apache's SetEnv) over those of the process,
    as they are at each request.  A ``limiter`` given decides alone, whatever they say of the store, the
    limits and the register.  A ``key`` given replaces LIMITER_KEY: text in its notation, or a function that
    gets the environ and returns who asks, any text (``limiter.identity``), or None: 401.  Of the request
    only the query string and the headers are read, never the body.

    The application finds the Decision in ``environ["limiter.decision"]``: None if nothing was counted, as for
    the unlimited, in shadow mode, or if the store failed and LIMITER_ON_ERROR says to admit.  The fields that tell
    where the limits stand join its own.  Raises ValueError for a bad key.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        limiter: "Limiter | None" = None,
        key: "str | Callable[[WSGIEnvironment], str | None] | None" = None,
    ) -> None:
        self._app = app
        self._gates = Gates(limiter, key)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        """Answer a request."""
        status, decision = self._judge(environ)
        if status is not OK:
            return _refuse(environ, start_response, status, decision)
        environ["limiter.decision"] = decision
        if decision is None:
            return self._app(environ, start_response)

        def start(
            status: str, headers: "list[tuple[str, str]]", exc_info: "ExcInfo | None" = None
        ) -> "Callable[[bytes], object]":
            return start_response(status, [*headers, *standings(decision)], exc_info)

        return self._app(environ, start)

    def _judge(self, environ: "WSGIEnvironment") -> "Verdict":
        def log(problem: "Exception | str") -> None:
            tell(variables(environ), problem, lambda reason: write_line(environ["wsgi.errors"], reason))

        def get(name: bytes) -> "bytes | None":
            value = environ.get(name.decode("latin-1"))
            return None if value is None else value.encode("latin-1")

        def find() -> "str | None":
            query = environ.get("QUERY_STRING", "").encode("latin-1")
            return self._gates.find(gate, environ, get, query)

        try:
            gate = self._gates.choose(environ)
        except ValueError as error:
            log(error)
            return INTERNAL_SERVER_ERROR, None
        return gate.judge(find, log)


def variables(environ: "WSGIEnvironment") -> "dict[bytes, bytes]":
    """The variables of the request over those of the process, as bytes."""
    own = [(name, it) for name, it in environ.items() if isinstance(it, str)]
    return {
        **posix.environ,
        **{name.encode("latin-1", "replace"): it.encode("latin-1", "replace") for name, it in own},
    }


def _refuse(
    environ: "WSGIEnvironment",
    start_response: "StartResponse",
    status: str,
    decision: "Decision | None",
) -> "list[bytes]":
    level = environ.get("LIMITER_LOG_LEVEL") or posix.environ.get(b"LIMITER_LOG_LEVEL")
    if level in ("warning", b"warning") and status[0] == "4":
        tell_denial(variables(environ), status)
    message = body(status)
    start_response(status, [*fields(status, decision), ("Content-Length", str(len(message)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [message]
