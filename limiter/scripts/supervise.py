"""Supervised scripts: the guard runs a script as its child, and answers and reports if it fails.

docs/apache.md says what a failure is, and what the client gets.  Time does not count for the time-out
while the request's body still arrives, or while the client takes no more output.

As under Apache, the response ends when no process has standard output open any more.  So a background
process that has it open is part of the script.  The script's process group is ended, with SIGTERM and
one second later SIGKILL, if the script fails, if the client leaves, or if Apache ends the guard.
"""

import posix
import select
from _signal import SIGABRT, SIGKILL, SIGTERM
from _stat import S_ISFIFO, S_ISSOCK
from time import monotonic

from limiter.cgi import body_of, write
from limiter.request.deadline import hang_up
from limiter.request.response import INTERNAL_SERVER_ERROR, answer
from limiter.scripts.cgi_header import Beginning
from limiter.scripts.child import Child
from limiter.scripts.standard_error import AT_ONCE, StandardError, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

_FOR_EVER = float("inf")
# Apache waits three seconds between SIGTERM and SIGKILL (apr_thread_proc.c).
_GRACE = 1.0
_PIPE = 65536
_HANDED_OVER = select.EPOLLHUP | select.EPOLLRDHUP | select.EPOLLERR
_CLIENT_LEFT = select.POLLERR | select.POLLHUP | select.POLLNVAL


def supervise(
    environ: "Mapping[bytes, bytes]",
    seconds: float,
    execute: "Callable[[], None]",
    count: "Callable[[str], None]",
) -> "NoReturn":
    """Run and watch the program that ``execute`` becomes, then end this process.

    ``seconds``: how long it may write nothing.  ``count`` gets the status of the answer, just before that
    is passed on.  Raises OSError if it cannot be started.
    """
    child = Child(execute)
    script = _Script(child, seconds, count)
    script.watch()
    failure = None if script.is_unwanted else script.failure()
    if failure or script.is_unwanted:
        # A process that is stuck in the kernel ends later.
        child.send(SIGKILL)
    _close_piped_body()
    is_answered = bool(failure) and not script.beginning.has_passed
    if failure and is_answered:
        count(failure[0])
        write(answer(failure[0], None, environ.get(b"REQUEST_METHOD") == b"HEAD"))
    if failure:
        from limiter.report.reporter import reporter_of

        words = script.errors.last_words()
        reporter_of(environ).report(*failure, place_of(words), words)
    child.forget()
    if not failure and not script.is_unwanted:
        if not script.beginning.has_passed:
            count(script.beginning.status)
        write(script.beginning.release())
    script.errors.forward_all()
    if is_answered:
        body = body_of(environ)
        if body is not None:
            body.drain()
    hang_up()
    posix._exit(0)


class _Script:
    """The script from its start to its end.

    The loop waits only in ``poll``.  So the script's output, its standard error, Apache and Apache's log
    cannot block each other.
    """

    def __init__(self, child: Child, seconds: float, count: "Callable[[str], None]") -> None:
        self.beginning = Beginning()
        self.errors = StandardError()
        self.is_unwanted = False
        """Whether nobody waits for an answer: the client has left, or Apache ended the guard."""
        self._child = child
        self._seconds = seconds
        self._count = count
        self._open = {child.signals, child.output, child.errors}
        self._arrivals = _arrivals()
        # When the last event came that restarts the time-out.
        self._since = monotonic()
        self._passing = b""
        self._is_ending = False
        self._failure: tuple[str, str] | None = None

    def watch(self) -> None:
        """Return when the script is over, or does not end although it was killed."""
        while not self._is_over():
            for file, event in self._poll():
                self._handle(file, event)
            if monotonic() < self._since + self._patience():
                continue
            if self._is_ending:
                break
            self._lose_patience()
        # Read what the script left in the pipe.  Background processes may still write to it.
        if self._child.errors in self._open and _is_ready(self._child.errors):
            self._read(self._child.errors)

    def failure(self) -> "tuple[str, str] | None":
        """Return the status to answer with, and the reason; None if the script did not fail."""
        status, reason = self._failure or (INTERNAL_SERVER_ERROR, self._flaw())
        if not reason:
            return None
        if self.beginning.has_passed:
            reason += " (its response had begun, and is cut off)"
        return status, reason

    def _flaw(self) -> str:
        """Return why a script that was not ended for a failure has failed; empty if it has not."""
        if self._child.failure and not self._is_ending:
            return self._child.failure
        return self.beginning.flaw and f"the script ended {self.beginning.flaw}"

    def _is_over(self) -> bool:
        if self._passing or not self._child.is_over:
            return False
        if self._child.output not in self._open:
            return True
        if not self._child.failure:
            return False
        self._child.send(SIGKILL)
        return not _is_ready(self._child.output)

    def _patience(self) -> float:
        """Return how many seconds may pass until the next event."""
        if self._is_ending or self._child.output not in self._open:
            return _GRACE
        return _FOR_EVER if self._passing else self._seconds

    def _lose_patience(self) -> None:
        self._since = monotonic()
        if self._child.output not in self._open:
            self._end()  # as Apache does
        elif self._arrivals is None or _is_ready(0):
            self._failure = (
                "504 Gateway Timeout",
                f"the script wrote nothing for {self._seconds:g} seconds",
            )
            # At SIGABRT, Python reports where it is.
            self._end(SIGABRT if self._child.program.startswith("python") else SIGTERM)

    def _end(self, number: int = SIGTERM) -> None:
        self._is_ending = True
        self._since = monotonic()
        # From now on, no input or output gives the script more time.
        self._passing = b""
        self._arrivals = None
        self._open.discard(self._child.output)
        self._child.send(number)

    def _poll(self) -> "list[tuple[int, int]]":
        poll = select.poll()
        for file in self._open:
            if file != self._child.output or not self._passing:
                poll.register(file, select.POLLIN)
        if not self.is_unwanted:
            poll.register(1, select.POLLOUT if self._passing else 0)
        if self.errors.waiting:
            poll.register(2, select.POLLOUT)
        if self._arrivals is not None:
            poll.register(self._arrivals, select.POLLIN)
        left = self._since + self._patience() - monotonic()
        return poll.poll(None if left == _FOR_EVER else max(0, int(left * 1000) + 1))

    def _handle(self, file: int, event: int) -> None:
        if file == 1:
            self._pass_on(event)
        elif file == 2:
            self.errors.forward()
        elif file in self._open:
            self._read(file)
        elif self._arrivals is not None and file == self._arrivals.fileno():
            self._since = monotonic()
            if any([event & _HANDED_OVER for _, event in self._arrivals.poll(0)]):
                self._arrivals = None

    def _pass_on(self, event: int) -> None:
        try:
            if event & _CLIENT_LEFT:
                raise BrokenPipeError
            self._passing = self._passing[posix.write(1, self._passing[:AT_ONCE]) :]
            self._since = monotonic()
        except OSError:
            self.is_unwanted = True
            self._end()

    def _read(self, file: int) -> None:
        part = posix.read(file, _PIPE)
        if file == self._child.output:
            self._since = monotonic()
        if not part:
            self._open.discard(file)
        elif file == self._child.output:
            self._take_output(part)
        elif file == self._child.errors:
            self.errors.take(part)
        elif SIGTERM in part:  # the bytes are numbers of signals
            self.is_unwanted = True
            self._end()

    def _take_output(self, part: bytes) -> None:
        had_passed = self.beginning.has_passed
        try:
            self._passing = self.beginning.take(part)
        except ValueError as error:
            self._failure = INTERNAL_SERVER_ERROR, f"the script's output is no response: {error}"
            self._end()
        if self.beginning.has_passed and not had_passed:
            self._count(self.beginning.status)
            self._since = monotonic()  # the script did not let us wait for the store


def _arrivals() -> "select.epoll | None":
    """Return an epoll that reports each part of the request's body as it arrives, even unread.

    None if the whole body is there already.
    """
    mode = posix.fstat(0).st_mode
    if not S_ISFIFO(mode) and not S_ISSOCK(mode):
        return None
    epoll = select.epoll()
    epoll.register(0, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
    return epoll


def _close_piped_body() -> None:
    """Close a piped request body, so that mod_cgi sees that nobody reads it.

    While mod_cgi writes the body, it reads nothing.  The socket of mod_cgid cannot show this, but its
    scripts have standard error elsewhere.
    """
    if S_ISFIFO(posix.fstat(0).st_mode):
        posix.dup2(posix.open("/dev/null", posix.O_RDONLY), 0)


def _is_ready(file: int) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))
