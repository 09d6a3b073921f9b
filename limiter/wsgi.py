"""The WSGI door: limits in front of any WSGI application (PEP 3333), in two lines::

    from limiter.wsgi import RateLimit
    application = RateLimit(application)

The client gets a status and JSON, but no reason.  The reason for a 500 is one line in ``wsgi.errors``.
"""

import posix

from limiter.report import reporter  # noqa: F401  (load it while descriptors are free)
from limiter.report.problems import report_denial, report_problem, write_line
from limiter.request.forwarded_request import original_request
from limiter.request.gates import Gates
from limiter.request.long_running import EXEMPT, LongRunningGate
from limiter.request.one_hit import COUNTED, POLICIES
from limiter.request.paths import text_of
from limiter.request.response import BAD_REQUEST, INTERNAL_SERVER_ERROR, OK, body, fields, standings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from limiter.core.decision import Decision
    from limiter.core.limiter import Limiter
    from limiter.request.gate import Verdict
    from limiter.request.settings import Settings

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


__all__ = ["EXEMPT", "RateLimit", "check", "status"]


class RateLimit:
    """Answers 401, 429 or 500 itself, as the settings say, or calls the application.

    The settings are variables, read at each request.  Variables of the request's environ (Apache's
    SetEnv) take precedence over those of the process.  The body is never read.

    If a ``limiter`` is given, it alone decides, without the settings for the store, the limits, the
    register and the rules.  If a ``key`` is given, it replaces LIMITER_KEY.  It is text in that notation,
    or a function that gets the environ and returns who asks: any text, None for a 401, or EXEMPT.  If
    ``rules`` are given, a text each (docs/rules.md), they replace LIMITER_RULES.

    The application finds the Decision in ``environ["limiter.decision"]``.  It is None if nothing was
    counted, as for an unlimited app_id or in shadow mode.  Raises ValueError for a bad key or rule.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        limiter: "Limiter | None" = None,
        key: "str | Callable[[WSGIEnvironment], str | None] | None" = None,
        rules: "Sequence[str] | None" = None,
    ) -> None:
        self._arguments = app, limiter, key, rules
        self._app = app
        self._gates = Gates(limiter, key, rules)

    def __reduce__(self) -> "tuple[type, tuple[object, ...]]":
        """A copy, or what is pickled, begins with the same arguments and nothing else."""
        return type(self), self._arguments

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        """Answer a request."""
        visit = Visit(environ)
        status, decision = visit.verdict(self._gates, environ)
        if status is not OK:
            return visit.refuse(start_response, status, decision)
        environ["limiter.decision"] = decision
        if visit.is_counted or (decision is None and visit.counter is None):
            return self._app(environ, start_response)

        def start(
            status: str, headers: "list[tuple[str, str]]", exc_info: "ExcInfo | None" = None
        ) -> "Callable[[bytes], object]":
            counted = visit.count(status)
            shown = decision if counted is None else counted
            return start_response(status, [*headers, *standings(shown, visit.settings)], exc_info)

        return self._app(environ, start)


def check(environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
    """Answer whether a request may pass, as check.py: for a proxy that asks before it forwards it.

    It is the request that the proxy names in X-Original-URI or X-Forwarded-Uri, or this one.  The settings
    are as for RateLimit.
    """
    try:
        changed = original_request(environ)
    except ValueError as error:
        report_problem(
            variables(environ), error, lambda reason: write_line(environ["wsgi.errors"], reason)
        )
        message = body(BAD_REQUEST)
        start_response(BAD_REQUEST, [*fields(BAD_REQUEST, None), ("Content-Length", str(len(message)))])
        return [message]
    return _check({**environ, **changed}, start_response)


def _admitted(environ: "WSGIEnvironment", start_response: "StartResponse") -> "list[bytes]":
    message = body(OK)
    start_response(OK, [*fields(OK, None), ("Content-Length", str(len(message)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [message]


_check = RateLimit(_admitted)


def status(environ: "WSGIEnvironment", start_response: "StartResponse") -> "list[bytes]":
    """Show who is near a limit, the stores and the counters: a page, or JSON or OpenMetrics if Accept asks.

    It counts nothing.  Let only administrators reach it.  At ``/metrics`` it shows metrics, whatever Accept says.
    """
    from limiter.status.answer import answer  # nobody else needs it

    def log(error: Exception) -> None:
        report_problem(variables(environ), error, lambda it: write_line(environ["wsgi.errors"], it))

    is_metrics = environ.get("PATH_INFO", "").endswith("/metrics")
    code, headers, message = answer(
        variables(environ), environ.get("HTTP_ACCEPT", ""), log, only_metrics=is_metrics
    )
    start_response(code, [*headers, ("Content-Length", str(len(message)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [message]


class Visit:
    """A request on its way through this door.  Key functions get ``environ``.

    ``is_counted``: whether an outer door has counted the same.  ``counter`` counts the request when its
    answer has a status that counts.  ``settings``: None if there is a mistake in them.
    """

    def __init__(self, environ: "WSGIEnvironment") -> None:
        self.is_counted = False
        self.counter: LongRunningGate | None = None
        self.settings: Settings | None = None
        self.request: object = environ
        self._environ = environ
        self._app_id: str | None = None

    def verdict(self, gates: Gates, variables: "Mapping[str, str]") -> "Verdict":
        """Decide by the settings among these variables, and those of the process.  Raises no Exception."""
        environ = self._environ
        if environ.get("REDIRECT_STATUS", "")[:1] in ("4", "5"):
            return OK, None  # Apache's ErrorDocument, for a request that has been answered
        try:
            gate = gates.choose(variables)
            if gate.has_rules:
                gate = gate.meet(self.path(), environ["REQUEST_METHOD"], self._log)
        except ValueError as error:
            self._log(error)
            return INTERNAL_SERVER_ERROR, None
        self._gate = gate
        self.settings = gate.settings
        verdict = gate.verdict(self._find, self._log, self._decide)
        if self._app_id is not None and not self.is_counted:
            self.counter = gate.counter
        return verdict

    def count(self, status: str) -> "Decision | None":
        """Count the request if the rule counts this status.  Returns what was decided then."""
        counter = self.counter
        if counter is None or not counter.counts(status):
            return None
        self.counter = None
        return counter.verdict(lambda: self._app_id, self._log)[1]

    def _decide(self, app_id: str) -> "Verdict":
        environ = self._environ
        if app_id is EXEMPT:
            return OK, None
        gate, outer = self._gate, environ.get(POLICIES, {})
        counted = environ.get(COUNTED)
        policy = gate.kind(), app_id
        if policy in outer or (counted and counted == gate.policy(app_id)):
            self.is_counted = True
            return OK, outer.get(policy)
        verdict = gate.decide(app_id)
        self._app_id = app_id
        environ[POLICIES] = {**outer, policy: verdict[1]}
        return verdict

    def refuse(
        self, start_response: "StartResponse", status: str, decision: "Decision | None"
    ) -> "list[bytes]":
        """Answer the request with this status."""
        environ = self._environ
        self.report(status)
        message = body(status, decision, self.settings)
        headers = fields(status, decision, self.settings)
        start_response(status, [*headers, ("Content-Length", str(len(message)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [message]

    def report(self, status: str) -> None:
        """Log this answer, if the settings ask for it."""
        environ = self._environ
        level = environ.get("LIMITER_LOG_LEVEL", "").encode() or posix.environ.get(b"LIMITER_LOG_LEVEL")
        report_denial(status, level, lambda: variables(environ), self._why)

    def path(self) -> str:
        """The path, decoded."""
        environ = self._environ
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        return path if path.isascii() else text_of(path.encode("latin-1"))

    def query(self) -> bytes:
        """The query string."""
        query: str = self._environ.get("QUERY_STRING", "")
        return query.encode("latin-1")

    def write(self, reason: str) -> None:
        """Write a line for the administrator."""
        write_line(self._environ["wsgi.errors"], reason)

    def _why(self) -> str:
        """Why it got 401, for the log."""
        return self._gate.why(self._get, self.query())

    def _find(self) -> "str | None":
        return self._gate.find(self.request, self._get, self.query())

    def _get(self, name: bytes) -> "bytes | None":
        value = self._environ.get(name.decode("latin-1"))
        return None if value is None else value.encode("latin-1")

    def _log(self, problem: "Exception | str") -> None:
        report_problem(variables(self._environ), problem, self.write)


def variables(environ: "WSGIEnvironment") -> "dict[bytes, bytes]":
    """Return the variables of process and request as bytes.  Those of the request take precedence."""
    own = [(name, it) for name, it in environ.items() if isinstance(it, str)]
    return {
        **posix.environ,
        **{name.encode("latin-1", "replace"): it.encode("latin-1", "replace") for name, it in own},
    }
