"""The CGI door: it answers a request itself, or guards your own script in two lines::

    from limiter.cgi import guard
    guard()

The client gets a status and JSON, but no reason.  The reason for a 500 is one line on standard error.
"""

import posix
import sys

from limiter.core.hit import hit as hit_once
from limiter.core.limit import clock
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError
from limiter.report.problems import describe, line, report_denial, report_problem
from limiter.request.deadline import call_within, hang_up, watch_call
from limiter.request.key import Key
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, answer, header, standings
from limiter.request.settings import Settings
from limiter.request.verdict import fail, judge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from limiter.core.hit import Decision
    from limiter.request.verdict import Verdict

_FORM = b"application/x-www-form-urlencoded"
_FORM_MOST = 65536


def check() -> "NoReturn":
    """Answer the request with 200, 401, 429 or 500, and end the process.

    The app_id may be in the query string or in a urlencoded form of up to 64 KiB.
    """
    environ = _environ()
    body = Body(environ)
    problems: list[Exception | str] = []

    def call(settings: Settings, decide: "Callable[..., Verdict]", *arguments: object) -> "Verdict":
        def late(error: StoreError) -> "NoReturn":
            # Answer first: this thread cannot prevent a signal from ending the process.
            _end(
                environ,
                body,
                *fail(settings, error, lambda problem: report_problem(environ, problem, log)),
            )

        return watch_call(settings.timeout, late, decide, *arguments)

    _end(environ, body, *_verdict(environ, body, call, problems), _report_of(environ, problems))


def guard() -> "Decision | None":
    """Return if the hit is admitted.  Otherwise answer 401, 429 or 500, and end the process.

    Call it before anything is printed: it writes the RateLimit header fields, and the script's own
    headers follow.  The request's body is left unread.  Under mod_cgid the script should read it, or the
    answer may be lost (see ``Body.drain``).  Returns the decision, or None if the store failed and
    LIMITER_ON_ERROR says to admit.
    """
    return admit(_environ())


def admit(environ: "Mapping[bytes, bytes]") -> "Decision | None":
    """Do what ``guard`` does, with the settings and the request in ``environ``."""
    problems: list[Exception | str] = []

    def call(settings: Settings, decide: "Callable[..., Verdict]", *arguments: object) -> "Verdict":
        return call_within(settings.timeout, decide, *arguments)

    status, decision = _verdict(environ, None, call, problems)
    report = _report_of(environ, problems)
    if status is not OK:
        _end(environ, Body(environ), status, decision, report)
    if report:
        report()
    if not write(header(standings(decision))):
        posix._exit(0)
    return decision


def refuse(
    environ: "Mapping[bytes, bytes]", status: str, report: "Callable[[], None] | None" = None
) -> "NoReturn":
    """Answer with that status without checking a limit, then call ``report``, and end the process."""
    _end(environ, Body(environ), status, None, report)


def log(reason: str) -> None:
    """Write one line on standard error."""
    try:
        posix.write(2, line(reason).encode())
    except OSError:
        pass  # there is nowhere left to report it


class Body:
    """The request's body, on standard input.  It reads at most the length that the server announced."""

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        length = environ.get(b"CONTENT_LENGTH", b"")
        media_type = environ.get(b"CONTENT_TYPE", b"").partition(b";")[0].strip().lower()
        self._left = int(length) if length.isdigit() and len(length) < 19 else 0
        self._is_form = media_type == _FORM and self._left <= _FORM_MOST
        # A chunked body has no known length, and the server closes the input after it.
        self._is_chunked = b"HTTP_TRANSFER_ENCODING" in environ and not self._left

    def form(self) -> bytes:
        """Return the whole body if it is a complete form of at most 64 KiB; else nothing."""
        body = b""
        while self._is_form and self._left:
            part = self._read()
            if not part:
                return b""
            body += part
        return body

    def drain(self) -> None:
        """Read what is left of the body.

        Apache's mod_cgid gives a script one socket for its input and output.  If that is closed while it
        has unread input, the kernel discards the answer.
        """
        try:
            while (self._left or self._is_chunked) and self._read():
                pass
        except OSError:
            pass  # nothing can be read, so no unread input is left

    def _read(self) -> bytes:
        part = posix.read(0, 65536 if self._is_chunked else min(self._left, 65536))
        self._left -= 0 if self._is_chunked else len(part)
        return part


def _verdict(
    environ: "Mapping[bytes, bytes]",
    body: "Body | None",
    call: "Callable[..., Verdict]",
    problems: "list[Exception | str]",
) -> "Verdict":
    """Return the status to answer with, and the decision if there is one.

    Problems to report are added to ``problems``.  Never raises.
    """
    try:
        settings = Settings(environ)
        key = Key(settings.key, settings.proxies)
    except ValueError as error:
        problems.append(error)
        return INTERNAL_SERVER_ERROR, None

    def find() -> "str | None":
        texts = [environ.get(b"QUERY_STRING", b"")]
        if body is not None:
            texts.append(body.form())
        return key.find(environ.get, *texts)

    def hit(limits: str, app_id: str) -> "Decision":
        store = Store(settings.root(app_id))
        decision, _ = hit_once(store, parse(settings.share(limits)), app_id, 1, clock)
        return decision

    def bounded(decide: "Callable[..., Verdict]", *arguments: object) -> "Verdict":
        return call(settings, decide, *arguments)

    return judge(settings, find, hit, bounded, problems.append)


def _environ() -> "Mapping[bytes, bytes]":
    """Return the current environment.  A script that imported os may have changed it there."""
    os = sys.modules.get("os")
    return os.environb if os else posix.environ


def _report_of(
    environ: "Mapping[bytes, bytes]", problems: "list[Exception | str]"
) -> "Callable[[], None] | None":
    """Return a function that reports these problems with the request; None if there are none."""
    if not problems:
        return None

    def report() -> None:
        for problem in problems:
            report_problem(environ, problem, log)

    return report


def _end(
    environ: "Mapping[bytes, bytes]",
    body: Body,
    status: str,
    decision: "Decision | None",
    report: "Callable[[], None] | None" = None,
) -> "NoReturn":
    if report:
        _outlive_the_client()
    is_taken = write(answer(status, decision, environ.get(b"REQUEST_METHOD") == b"HEAD"))
    if report:
        report()
    if is_taken:
        if status[0] == "4" and environ.get(b"LIMITER_LOG_LEVEL") == b"warning":
            report_denial(environ, status)
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
