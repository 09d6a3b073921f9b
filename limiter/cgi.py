"""The CGI door: it answers a request itself, or guards your own script in two lines::

    from limiter.cgi import guard
    guard()

The client gets a status and JSON, but no reason.  The reason for a 500 is one line on standard error.
"""

import posix
import sys

from limiter.report.problems import describe, line, report_denial, report_problem
from limiter.request.deadline import hang_up, watch_call
from limiter.request.gate import Gate
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, answer, header, standings
from limiter.request.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from limiter.core.decision import Decision
    from limiter.core.store import StoreError
    from limiter.request.body import Body
    from limiter.request.gate import Verdict
    from limiter.request.ruled_gate import Counter


def check() -> "NoReturn":
    """Answer the request with 200, 401, 429 or 500, and end the process.

    The app_id may be in the query string or in a urlencoded form of up to 64 KiB.
    """

    def bounded(seconds: float, function: "Callable[..., Verdict]", app_id: str) -> "Verdict":
        def late(error: "StoreError") -> "NoReturn":
            # Log first: this thread cannot prevent a signal from ending the process after the answer.
            gate = _gate(environ, bounded)
            verdict = gate.failed(app_id, error, lambda problem: report_problem(environ, problem, log))
            _end(environ, body, verdict, [], gate.settings)

        return watch_call(seconds, late, function, app_id)

    environ = _environ()
    body = body_of(environ)
    _end(environ, body, *_verdict(environ, bounded, body))


def guard() -> "Decision | None":
    """Return if the hit is admitted.  Otherwise answer 401, 429 or 500, and end the process.

    Call it before anything is printed: it writes the RateLimit header fields, and the script's own
    headers follow.  The request's body is left unread.  Under mod_cgid the script should read it, or the
    answer may be lost (``limiter.request.body``).  Returns the decision, or None if the store failed and
    LIMITER_ON_ERROR says to admit.
    """
    return admit(_environ())


def admit(
    environ: "Mapping[bytes, bytes]", counters: "list[Counter] | None" = None
) -> "Decision | None":
    """Do what ``guard`` does, with the settings and the request in ``environ``.

    ``counters`` is for who sees the status of the answer (``limiter.request.ruled_gate``).
    """
    from limiter.request.script_deadline import call_within  # check.py does not need it

    if environ.get(b"REDIRECT_STATUS", b"")[:1] in (b"4", b"5"):
        return None  # Apache's ErrorDocument, for a request that has been answered
    (status, decision), problems, settings = _verdict(environ, call_within, None, counters)
    if status is not OK:
        _end(environ, body_of(environ), (status, decision), problems, settings)
    for problem in problems:
        report_problem(environ, problem, log)
    if not write(header(standings(decision, settings))):
        posix._exit(0)
    return decision


def refuse(
    environ: "Mapping[bytes, bytes]", status: str, problem: "Exception | str | None" = None
) -> "NoReturn":
    """Answer with that status without checking a limit, then report the problem, and end the process."""
    settings = None
    try:
        settings = Settings(environ)
    except ValueError:
        pass  # the answer is the same without them
    _end(environ, body_of(environ), (status, None), [] if problem is None else [problem], settings)


def log(reason: str) -> None:
    """Write one line on standard error."""
    try:
        posix.write(2, line(reason).encode())
    except OSError:
        pass  # there is nowhere left to report it


def _verdict(
    environ: "Mapping[bytes, bytes]",
    bounded: "Callable[..., Verdict]",
    body: "Body | None" = None,
    counters: "list[Counter] | None" = None,
) -> "tuple[Verdict, list[Exception | str], Settings | None]":
    """Return the verdict on the request, the problems to report, and the settings.  Never raises.

    The settings are None if there is a mistake in them.
    """
    try:
        gate = _gate(environ, bounded, counters)
    except ValueError as error:
        return (INTERNAL_SERVER_ERROR, None), [error], None
    problems: list[Exception | str] = []

    def find() -> "str | None":
        texts = [environ.get(b"QUERY_STRING", b"")]
        if body is not None:
            texts.append(body.form())
        return gate.key.find(environ.get, *texts)

    return gate.verdict(find, problems.append), problems, gate.settings


def _gate(
    environ: "Mapping[bytes, bytes]",
    bounded: "Callable[..., Verdict]",
    counters: "list[Counter] | None" = None,
) -> Gate:
    """Return the gate for this request.  Raises ValueError for a mistake in the settings or rules."""
    settings = Settings(environ)
    if settings.rules or b"LIMITER_COUNTED" in environ:
        from limiter.request.ruled_gate import gate_for

        return gate_for(settings, environ, bounded, counters)
    return Gate(settings, bounded)


def body_of(environ: "Mapping[bytes, bytes]") -> "Body | None":
    """Return the body of the request; None if it has none."""
    if environ.get(b"CONTENT_LENGTH", b"0") in (b"", b"0") and b"HTTP_TRANSFER_ENCODING" not in environ:
        return None
    from limiter.request.body import Body  # most requests have none

    return Body(environ)


def _environ() -> "Mapping[bytes, bytes]":
    """Return the current environment.  A script that imported os may have changed it there."""
    os = sys.modules.get("os")
    return os.environb if os else posix.environ


def _end(
    environ: "Mapping[bytes, bytes]",
    body: "Body | None",
    verdict: "Verdict",
    problems: "list[Exception | str]",
    settings: "Settings | None",
) -> "NoReturn":
    """Answer, then report the problems, and end the process."""
    status = verdict[0]

    def why() -> str:
        from limiter.request.reasons import reason_of_cgi

        return reason_of_cgi(environ, *((b"", "") if body is None else (body.text, body.fault)))

    if problems:
        _outlive_the_client()
    is_taken = write(answer(*verdict, environ.get(b"REQUEST_METHOD") == b"HEAD", settings))
    for problem in problems:
        report_problem(environ, problem, log)
    if is_taken:
        report_denial(status, environ.get(b"LIMITER_LOG_LEVEL"), lambda: environ, why)
        if body is not None:
            body.drain()
    hang_up()
    # Nothing is left to flush or close.  An orderly exit would take a tenth of the whole time.
    posix._exit(0)


def _outlive_the_client() -> None:
    """Ignore SIGTERM: Apache sends it when the client has its answer and leaves."""
    from _signal import SIG_IGN, SIGTERM, signal

    try:
        signal(SIGTERM, SIG_IGN)
    except ValueError:
        pass  # only the main thread may do this


def write(data: bytes) -> bool:
    """Write to standard output.  If that fails (nobody reads it), log the error and return False."""
    try:
        while data:
            data = data[posix.write(1, data) :]
    except OSError as error:
        log(describe(error))
        return False
    return True
