"""The CGI door: answers a request, or guards a script of one's own, in two lines::

    from limiter.cgi import guard
    guard()

The client gets a status, JSON and no reason; the reason of a 500 is one line on standard error.
"""

import posix
import sys

from limiter import deadline
from limiter.hit import clock
from limiter.hit import hit as hit_once
from limiter.notation import parse
from limiter.request import Key
from limiter.response import INTERNAL_SERVER_ERROR, OK, answer, header, standings
from limiter.settings import Settings
from limiter.store import Store, StoreError
from limiter.verdict import describe, fail, judge, line, tell, tell_denial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from limiter.hit import Decision
    from limiter.verdict import Verdict

_FORM = b"application/x-www-form-urlencoded"
_FORM_MOST = 65536


def check() -> "NoReturn":
    """Answer the request: 200, 401, 429 or 500.  Ends the process.

    The app_id may be in the query string or in a urlencoded form of up to 64 KiB.
    """
    environ = _environ()
    body = Body(environ)
    problems: list[Exception | str] = []

    def call(settings: Settings, decide: "Callable[..., Verdict]", *arguments: object) -> "Verdict":
        def late(error: StoreError) -> "NoReturn":
            # At once: a thread cannot keep a signal from ending the process.
            _end(environ, body, *fail(settings, error, lambda problem: tell(environ, problem, log)))

        return deadline.watch(settings.timeout, late, decide, *arguments)

    _end(environ, body, *_verdict(environ, body, call, problems), _report_of(environ, problems))


def guard() -> "Decision | None":
    """Return if the hit is admitted; else answer 401, 429 or 500 and end the process.

    Call it before anything is printed: it writes the fields that tell where the limits stand, and the
    script's own headers follow.  A script that goes on has its request's body as it came; under mod_cgid
    it had better read it, or its answer may be lost (see ``Body.drain``).  Returns the decision, or None
    if the store failed and LIMITER_ON_ERROR says to admit.
    """
    return admit(_environ())


def admit(environ: "Mapping[bytes, bytes]") -> "Decision | None":
    """Do what ``guard`` does, by these settings and this request."""
    problems: list[Exception | str] = []

    def call(settings: Settings, decide: "Callable[..., Verdict]", *arguments: object) -> "Verdict":
        return deadline.call(settings.timeout, decide, *arguments)

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
    """Answer that status, whatever the limits, then ``report`` why, and end the process."""
    _end(environ, Body(environ), status, None, report)


def log(reason: str) -> None:
    """Write one line on standard error."""
    try:
        posix.write(2, line(reason).encode())
    except OSError:
        pass  # there is nobody left to tell


class Body:
    """The body of the request, on standard input, of which no more is read than the server announced."""

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        length = environ.get(b"CONTENT_LENGTH", b"")
        media_type = environ.get(b"CONTENT_TYPE", b"").partition(b";")[0].strip().lower()
        self._left = int(length) if length.isdigit() and len(length) < 19 else 0
        self._is_form = media_type == _FORM and self._left <= _FORM_MOST
        # Its length is then unknown, and the server closes the input behind it.
        self._is_chunked = b"HTTP_TRANSFER_ENCODING" in environ and not self._left

    def form(self) -> bytes:
        """All of it, if it is a form that is not too long and has not been cut off; else nothing."""
        body = b""
        while self._is_form and self._left:
            part = self._read()
            if not part:
                return b""
            body += part
        return body

    def drain(self) -> None:
        """Read what is left.

        Apache's mod_cgid gives a script one socket for its input and output; when it is closed with input
        unread in it, the kernel takes back the answer.
        """
        try:
            while (self._left or self._is_chunked) and self._read():
                pass
        except OSError:
            pass  # nothing can be read, so nothing is in the way

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
    """The status to answer, and the decision if there is one.  ``problems`` get what is to be told.  Never raises."""
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
    """The environment as it is now: a script that has imported os may have changed it there."""
    os = sys.modules.get("os")
    return os.environb if os else posix.environ


def _report_of(
    environ: "Mapping[bytes, bytes]", problems: "list[Exception | str]"
) -> "Callable[[], None] | None":
    """What tells of these problems with the request; None if there are none."""
    if not problems:
        return None

    def report() -> None:
        for problem in problems:
            tell(environ, problem, log)

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
            tell_denial(environ, status)
        body.drain()
    deadline.hang_up()
    # Nothing is left to be flushed or closed, and an orderly end would cost a tenth of the whole.
    posix._exit(0)


def _outlive_the_client() -> None:
    """Go on when it has its answer and leaves: then Apache ends the process."""
    from _signal import SIG_IGN, SIGTERM, signal

    try:
        signal(SIGTERM, SIG_IGN)
    except ValueError:
        pass  # only the main thread may


def write(data: bytes) -> bool:
    """Write on standard output.  If nobody reads it any more, say so, and return False."""
    try:
        while data:
            data = data[posix.write(1, data) :]
    except OSError as error:
        log(describe(error))
        return False
    return True
