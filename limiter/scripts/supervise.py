"""Supervised scripts: the guard answers for a script that fails early, and reports every failure once.

With ``LIMITER_SUPERVISE=1`` the guard does not become the script.  It runs the script as its child, and
passes the output on as it arrives.  Only the header is held back, until the body begins.  If the script
itself answers with a Status of 5xx, that answer is held back until its end or 64 KiB.  A script fails if
it

- cannot be executed,
- is killed by a signal, or ends with an exit status other than 0,
- ends without a complete header, or writes an invalid one,
- writes nothing for ``LIMITER_SCRIPT_TIMEOUT`` seconds (default: 30).  Time does not count while the
  request's body still arrives, or while the client takes no more output.  Apache's own ``Timeout`` must
  be longer.

If nothing was passed on yet, the client gets 500 as JSON, or 504 after a time-out.  Otherwise the
response is truncated, and nothing is added.  ``limiter.report.reporter`` reports both.

The script reads standard input directly.  What it writes to standard error is passed on unchanged,
except the last 8 KiB, which are held back until the script ends.  If the script failed, the end of them
is reported as the stack of the failure.  Python scripts run with ``PYTHONFAULTHANDLER=1``: if one
crashes, or is ended by a time-out (with SIGABRT), it reports where it is.

As under Apache, the response ends when no process has standard output open any more.  So a background
process that has it open is part of the script: the time-out applies to it too.  The script's process
group is ended if the script fails, if the client leaves, or if Apache ends the guard with SIGTERM.  It
is ended with SIGTERM and, one second later, SIGKILL.  It also ends if the guard itself ends
(``limiter.scripts.child``).
"""

import posix
import select
from _signal import SIGABRT, SIGKILL, SIGTERM
from time import monotonic

from limiter.cgi import refuse
from limiter.request.deadline import hang_up
from limiter.request.response import INTERNAL_SERVER_ERROR
from limiter.request.settings import seconds_of
from limiter.scripts.cgi_header import Beginning
from limiter.scripts.child import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

GATEWAY_TIMEOUT = "504 Gateway Timeout"

_FOR_EVER = float("inf")
# Apache waits three seconds between SIGTERM and SIGKILL (apr_thread_proc.c).
_GRACE = 1.0
# If poll says that a pipe is writable, so many bytes can be written without waiting: PIPE_BUF.
_AT_ONCE = 4096
_PIPE = 65536
_HANDED_OVER = select.EPOLLHUP | select.EPOLLRDHUP | select.EPOLLERR
# Of st_mode, as in the module stat.
_TYPE = 0o170000
_PIPED = 0o010000
_SOCKET = 0o140000
_HELD_BACK = 8192
_LAST_WORDS = 2048
# Bytes of standard error that may wait.  Apache does not read it while it writes the request's body.
_WAITING_MOST = 1 << 20


class Supervisor:
    """Runs and supervises one script.  Raises ValueError for a mistake in LIMITER_SCRIPT_TIMEOUT."""

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        self._environ = environ
        self._seconds = seconds_of(environ, "LIMITER_SCRIPT_TIMEOUT", 30.0)

    def run(self, execute: "Callable[[], None]") -> "NoReturn":
        """Run the program that ``execute`` becomes, then end this process.

        Raises OSError if it cannot be started.
        """
        child = Child(execute)
        run = _Run(child, self._seconds)
        run.watch()
        failure = None if run.is_unwanted else run.failure()
        if failure or run.is_unwanted:
            # A process that is stuck in the kernel ends later.
            child.send(SIGKILL)

        def finish() -> None:
            if failure:
                from limiter.report.reporter import reporter_of

                words = run.errors.last_words()
                reporter_of(self._environ).report(*failure, _where(words), words)
            child.forget()
            if not failure and not run.is_unwanted:
                _write(run.beginning.release())
            run.errors.forward_all()

        _leave_the_body()
        if failure and not run.beginning.has_passed:
            refuse(self._environ, failure[0], finish)
        finish()
        hang_up()
        posix._exit(0)


class _Run:
    """The script from its start to its end.

    The loop waits only in ``poll``.  So the script's output, its standard error, Apache and Apache's log
    cannot block each other.
    """

    def __init__(self, child: "Child", seconds: float) -> None:
        self.beginning = Beginning()
        self.errors = _Errors()
        self.is_unwanted = False
        """Whether nobody waits for an answer: the client has left, or Apache ended the guard."""
        self._child = child
        self._seconds = seconds
        # When the last event came that restarts the time-out.
        self._since = monotonic()
        self._passing = b""
        self._told = b""
        self._failure: tuple[str, str] | None = None
        self._is_ending = False
        self._is_given_up = False
        self._arrivals = _arrivals()
        self._readers: dict[int, Callable[[bytes], None]] = {
            child.signals: self._take_signals,
            child.output: self._take_output,
            child.errors: self.errors.take,
            child.told: self._take_told,
        }

    def watch(self) -> None:
        """Return when the script is over."""
        while not self._is_over():
            for file, event in self._poll():
                self._handle(file, event)
            if monotonic() >= self._since + self._patience():
                self._lose_patience()
        # Read what the script left in the pipes.  Background processes may still write to them.
        for file in (self._child.told, self._child.errors):
            if file in self._readers and _is_ready(file):
                self._readers[file](posix.read(file, _PIPE))

    def failure(self) -> "tuple[str, str] | None":
        """Return the status to answer with, and the reason; None if the script did not fail."""
        failure = self._failure or self._verdict()
        if failure and self.beginning.has_passed:
            return failure[0], f"{failure[1]} (its response had begun, and is cut off)"
        return failure

    def _verdict(self) -> "tuple[str, str] | None":
        child = self._child
        if self._told:
            return INTERNAL_SERVER_ERROR, self._told.decode("utf-8", "replace")
        if child.killer and not self._is_ending:
            return INTERNAL_SERVER_ERROR, _death(child.killer)
        if child.status and not self._is_ending:
            return INTERNAL_SERVER_ERROR, f"the script ended with exit status {child.status}"
        if not self.beginning:
            return INTERNAL_SERVER_ERROR, "the script ended without any output"
        if not self.beginning.is_complete:
            return INTERNAL_SERVER_ERROR, "the script ended before the end of its header"
        return None

    def _is_over(self) -> bool:
        if self._is_given_up:
            return True
        if self._passing or not self._child.is_over:
            return False
        if self._child.output not in self._readers:
            return True
        if not self._child.killer and not self._child.status:
            return False
        self._child.send(SIGKILL)
        return not _is_ready(self._child.output)

    def _patience(self) -> float:
        """Return how many seconds may pass until the next event."""
        if self._is_ending or self._child.output not in self._readers:
            return _GRACE
        return _FOR_EVER if self._passing else self._seconds

    def _lose_patience(self) -> None:
        self._since = monotonic()
        if self._is_ending:
            self._is_given_up = True
        elif self._child.output not in self._readers:
            self._end()  # as Apache does
        elif self._arrivals is None or _is_ready(0):
            # At SIGABRT, Python reports where it is.
            number = SIGABRT if self._child.program.startswith("python") else SIGTERM
            self._fail(
                GATEWAY_TIMEOUT, f"the script wrote nothing for {self._seconds:g} seconds", number
            )

    def _fail(self, status: str, reason: str, number: int = SIGTERM) -> None:
        self._failure = status, reason
        self._end(number)

    def _end(self, number: int = SIGTERM) -> None:
        self._is_ending = True
        self._since = monotonic()
        # From now on, no input or output gives the script more time.
        self._passing = b""
        self._arrivals = None
        self._readers.pop(self._child.output, None)
        self._child.send(number)

    def _poll(self) -> "list[tuple[int, int]]":
        poll = select.poll()
        for file in self._readers:
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
        elif file in self._readers:
            is_output = file == self._child.output
            part = posix.read(file, self.beginning.room if is_output else _PIPE)
            if is_output:
                self._since = monotonic()
            if part:
                self._readers[file](part)
            else:
                del self._readers[file]
        elif self._arrivals is not None and file == self._arrivals.fileno():
            self._since = monotonic()
            if any([event & _HANDED_OVER for _, event in self._arrivals.poll(0)]):
                self._arrivals = None

    def _pass_on(self, event: int) -> None:
        try:
            if event & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                raise BrokenPipeError
            self._passing = self._passing[posix.write(1, self._passing[:_AT_ONCE]) :]
            self._since = monotonic()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        if not self.is_unwanted:
            self.is_unwanted = True
            self._end()

    def _take_signals(self, numbers: bytes) -> None:
        if SIGTERM in numbers:
            self._leave()

    def _take_output(self, part: bytes) -> None:
        try:
            self._passing = self.beginning.take(part)
        except ValueError as error:
            self._fail(INTERNAL_SERVER_ERROR, f"the script's output is no response: {error}")

    def _take_told(self, part: bytes) -> None:
        self._told += part


class _Errors:
    """The script's standard error."""

    def __init__(self) -> None:
        self.waiting = b""
        """Bytes that still have to be written to Apache's log."""
        self._held = b""

    def take(self, part: bytes) -> None:
        """Take a part, and hold back the last 8 KiB."""
        self._held += part
        cut = len(self._held) - _HELD_BACK
        if cut > 0:
            self._pass_on(_end_of_line(self._held, cut))

    def forward(self) -> None:
        """Write what standard error takes at once, in whole lines: mod_cgi logs each read as one line."""
        part = self.waiting[:_AT_ONCE]
        part = part[: part.rfind(b"\n") + 1] or part
        try:
            self.waiting = self.waiting[posix.write(2, part) :]
        except OSError:
            self.waiting = b""  # there is nowhere left to report it

    def last_words(self) -> str:
        """Return the end of what is held back.  The rest is passed on, and nothing is held back any more.

        A dump from Python has the innermost call first, so it is returned from its beginning.
        """
        cut = self._held.rfind(b"Fatal Python error: ")
        if cut < 0:
            cut = len(self._held) - _LAST_WORDS
            cut = _end_of_line(self._held, cut) if cut > 0 else 0
        self._pass_on(cut)
        words, self._held = self._held, b""
        return words.decode("utf-8", "backslashreplace")

    def forward_all(self) -> None:
        """Write everything that is left."""
        self._pass_on(len(self._held))
        while self.waiting:
            self.forward()

    def _pass_on(self, cut: int) -> None:
        part, self._held = self._held[:cut], self._held[cut:]
        # Losing some lines is better than blocking the script for ever.
        self.waiting = (self.waiting + part)[-_WAITING_MOST:]


def _where(stack: str) -> str:
    """Return the place in the script, ``file:line``, that its last words name; "" if they name none."""
    import re

    places = re.findall(r'^  File "(.+)", line (\d+) in ', stack, re.M)[:1]  # Python's dump
    places += re.findall(r'^ *File "(.+)", line (\d+)', stack, re.M)[-1:]  # its traceback
    places += re.findall(r"^(?:\S+: )?(/.+?):(\d+):in ", stack, re.M)[:1]  # Ruby
    places += re.findall(r" (?:at|in) (/.+?)(?: line | on line |:)(\d+)", stack)[-1:]  # Perl, PHP
    return ":".join(places[0]) if places else ""


_CAUSES = {"SIGKILL": " (out of memory?  The kernel's log tells)", "SIGXCPU": " (its limit of CPU time)"}


def _death(number: int) -> str:
    from signal import Signals

    try:
        name = Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the script was killed by {name}{_CAUSES.get(name, '')}"


def _arrivals() -> "select.epoll | None":
    """Return an epoll that reports each part of the request's body as it arrives, even unread.

    None if the whole body is there already.
    """
    if posix.fstat(0).st_mode & _TYPE not in (_PIPED, _SOCKET):
        return None
    epoll = select.epoll()
    epoll.register(0, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
    return epoll


def _leave_the_body() -> None:
    """Close a piped request body, so that mod_cgi sees that nobody reads it.

    While mod_cgi writes the body, it reads nothing.  The socket of mod_cgid cannot show this, but its
    scripts have standard error elsewhere.
    """
    if posix.fstat(0).st_mode & _TYPE == _PIPED:
        posix.dup2(posix.open("/dev/null", posix.O_RDONLY), 0)


def _is_ready(file: int) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))


def _end_of_line(text: bytes, cut: int) -> int:
    """Return where the line with the byte before ``cut`` ends; ``cut`` itself if it has no end."""
    return text.find(b"\n", cut - 1) + 1 or cut


def _write(data: bytes) -> None:
    try:
        while data:
            data = data[posix.write(1, data) :]
    except OSError:
        pass  # the client has left
