"""Handles every uncaught exception of a process in one place: the first is answered, each is reported."""

import posix
import sys
import threading
from _signal import SIG_BLOCK, SIG_SETMASK, SIGTERM, pthread_sigmask
from _stat import S_ISSOCK

from limiter.report.reporter import Reporter
from limiter.request.deadline import hang_up
from limiter.request.process_end import ANSWER, at_end, write_out_files
from limiter.request.response import header
from limiter.scripts.http_errors import answer_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import NoReturn

    from limiter.scripts.output_buffer import Page

# The exit status of a script that reported its failure itself, so that a supervisor does not report it
# again.
_REPORTED = 0


class Uncaught:
    """From now on, handles the exceptions that Python would print as tracebacks.

    Answers on the page, if there is one, and reports, by default settings until ``reporter`` is set.
    """

    def __init__(self, environ: "Mapping[bytes, bytes]", page: "Page | None") -> None:
        self.reporter = Reporter({name: it for name, it in environ.items() if name[:8] != b"LIMITER_"})
        self._page = page
        self._process = posix.getpid()
        self._is_head = environ.get(b"REQUEST_METHOD") == b"HEAD"
        self._has_failed = False
        self._is_exiting = False
        """Whether Python itself ends the process with the status ``_REPORTED``."""
        sys.excepthook = self._of_main
        sys.unraisablehook = self._of_nobody
        threading.excepthook = self._of_thread
        if self._page is not None:
            at_end(ANSWER, self._end)

    def fail(self, error: BaseException) -> None:
        """Answer and report an exception.  If the client has left, do neither."""
        self._has_failed = True
        if self._page is not None and self._page.is_unwanted:
            return
        # Apache sends SIGTERM when it finds that the client has left.  The report must not be lost.
        mask = pthread_sigmask(SIG_BLOCK, [SIGTERM])
        try:
            status, fields, body = answer_to(error)
            if self._page is None:
                self.reporter.report_error(status, error)
                return
            lines = header([("Status", status), *fields]) + b"\n"
            remark = self._page.replace(lines if self._is_head else lines + body)
            self.reporter.report_error(status, error, remark)
            _read_the_body()
        finally:
            pthread_sigmask(SIG_SETMASK, mask)

    @property
    def _answers(self) -> bool:
        """Whether this process answers, and not its parent."""
        return self._page is not None and posix.getpid() == self._process

    def _of_main(
        self, kind: "type[BaseException]", error: BaseException, traceback: "TracebackType | None"
    ) -> None:
        self.fail(error.with_traceback(traceback))
        if self._answers:
            self._is_exiting = True
            raise SystemExit(_REPORTED)

    def _of_thread(self, arguments: threading.ExceptHookArgs) -> None:
        if issubclass(arguments.exc_type, SystemExit):
            return  # a normal way to end a thread
        self.fail(arguments.exc_value or arguments.exc_type())
        if self._page is not None:
            _leave(_REPORTED if self._answers else 1)

    def _of_nobody(self, unraisable: "sys.UnraisableHookArgs") -> None:
        self.fail(unraisable.exc_value or unraisable.exc_type())

    def _end(self) -> None:
        if self._page is None or not self._answers:
            return
        if not self._has_failed:
            try:
                self._page.finish()
            except Exception as error:
                self.fail(error.with_traceback(None))  # none of the calls is the script's
        if self._is_exiting:
            write_out_files()  # Python may not close all files: something may still hold the exception
        elif self._has_failed:
            _leave(_REPORTED)  # the status with which Python would end the process is unknown


def _leave(status: int) -> "NoReturn":
    """End the process at once."""
    write_out_files()
    hang_up()  # the process lasts longer if one of its threads waits for an unresponsive file system
    posix._exit(status)


def _read_the_body() -> None:
    """Read the request's body to its end.

    mod_cgid gives a script one socket for its input and output.  If that is closed while it has unread
    input, the kernel discards the answer.
    """
    try:
        while S_ISSOCK(posix.fstat(0).st_mode) and posix.read(0, 65536):
            pass
    except OSError:
        pass  # nothing can be read, so no unread input is left
