"""The WSGI door: limits in front of any WSGI application (PEP 3333), in two lines::

    from limiter.wsgi import RateLimit
    application = RateLimit(application)

The client gets a status and JSON, but no reason.  The reason for a 500 is one line in ``wsgi.errors``.
"""

import posix

from limiter.report import reporter  # noqa: F401  (load it while descriptors are free)
from limiter.report.problems import report_denial, report_problem, write_line
from limiter.request.long_running import Gates
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, body, fields, standings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from limiter.core.decision import Decision
    from limiter.core.limiter import Limiter
    from limiter.request.gate import Verdict

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class RateLimit:
    """Answers 401, 429 or 500 itself, as the settings say, or calls the application.

    The settings are variables, read at each request.  Variables of the request's environ (Apache's
    SetEnv) take precedence over those of the process.  The body is never read.

    If a ``limiter`` is given, it alone decides, without the settings for the store, the limits and the
    register.  If a ``key`` is given, it replaces LIMITER_KEY.  It is text in that notation, or a function
    that gets the environ and returns who asks: any text, or None for a 401.

    The application finds the Decision in ``environ["limiter.decision"]``.  It is None if nothing was
    counted, as for an unlimited app_id or in shadow mode.  Raises ValueError for a bad key.
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
        status, decision = self._verdict(environ)
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

    def _verdict(self, environ: "WSGIEnvironment") -> "Verdict":
        def log(problem: "Exception | str") -> None:
            report_problem(
                variables(environ), problem, lambda reason: write_line(environ["wsgi.errors"], reason)
            )

        def get(name: bytes) -> "bytes | None":
            value = environ.get(name.decode("latin-1"))
            return None if value is None else value.encode("latin-1")

        def find() -> "str | None":
            return gate.find(environ, get, environ.get("QUERY_STRING", "").encode("latin-1"))

        try:
            gate = self._gates.choose(environ)
        except ValueError as error:
            log(error)
            return INTERNAL_SERVER_ERROR, None
        return gate.verdict(find, log)


def variables(environ: "WSGIEnvironment") -> "dict[bytes, bytes]":
    """Return the variables of process and request as bytes.  Those of the request take precedence."""
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
    level = environ.get("LIMITER_LOG_LEVEL", "").encode() or posix.environ.get(b"LIMITER_LOG_LEVEL")
    report_denial(status, level, lambda: variables(environ))
    message = body(status)
    start_response(status, [*fields(status, decision), ("Content-Length", str(len(message)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [message]
