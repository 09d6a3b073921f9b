"""The shutdown step: it handles all uncaught exceptions of a process in one place."""

import posix
import sys
from _signal import SIG_BLOCK, SIG_SETMASK, SIGTERM, pthread_sigmask

from limiter.report.options import VARIABLES
from limiter.report.reporter import Reporter
from limiter.request.process_end import ANSWER, at_end, write_out_files
from limiter.scripts.http_errors import answer_to
from limiter.scripts.spares import Spares

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from types import TracebackType
    from typing import NoReturn

    from limiter.scripts.output_buffer import Page

# Bytes that the step may need after a MemoryError.  Unused address space costs no memory.
_RESERVE = 32 * 1024 * 1024
_MORE_CALLS = 500
# The exit status of a script that reported its failure itself, so that a supervisor does not report it
# again.
_TOLD = 0
# Of st_mode, as in the module stat.
_TYPE = 0o170000
_SOCKET = 0o140000


class Shutdown:
    """Answers on the page, if there is one, and reports, by default settings until ``reporter`` is set."""

    def __init__(self, environ: "Mapping[bytes, bytes]", page: "Page | None") -> None:
        self.reporter = Reporter({name: it for name, it in environ.items() if name not in VARIABLES})
        self._page = page
        self._process = posix.getpid()
        self._has_failed = False
        self._is_told = False
        """Whether Python ends the process with the status ``_TOLD``."""
        self._is_head = environ.get(b"REQUEST_METHOD") == b"HEAD"
        self._spares = Spares()
        try:
            self._reserve = bytes(_RESERVE)
        except MemoryError:
            self._reserve = b""  # then a report of a MemoryError may be shorter

    def take_over(self) -> None:
        """Handle the exceptions that Python would print as tracebacks."""
        import threading

        sys.excepthook = self._of_main
        sys.unraisablehook = self._of_nobody
        threading.excepthook = self._of_thread
        if self._page is not None:
            from limiter.scripts import sys_exit

            at_end(ANSWER, self._end)
            sys_exit.watch(self._of_exit)

    def fail(self, error: BaseException) -> None:
        """Answer and report an exception.  If the client has left, do neither."""
        self._reserve = b""
        self._has_failed = True
        if self._page is not None and self._page.is_unwanted:
            return
        # Apache sends SIGTERM to a script whose output has ended.
        mask = pthread_sigmask(SIG_BLOCK, [SIGTERM])
        # A destructor may run when the recursion limit is almost reached.
        calls = sys.getrecursionlimit()
        sys.setrecursionlimit(calls + _MORE_CALLS)
        try:
            with self._spares:
                self._fail(error)
        finally:
            pthread_sigmask(SIG_SETMASK, mask)
            try:
                sys.setrecursionlimit(calls)
            except RecursionError:
                pass  # the stack is too deep for the old limit

    def _fail(self, error: BaseException) -> None:
        status, fields, body = answer_to(error)
        remark = ""
        if self._page is not None:
            from limiter.request.response import header

            lines = header([("Status", status), *fields]) + b"\n"
            remark = self._page.replace(lines if self._is_head else lines + body)
        self.reporter.report_error(status, error, remark)
        if self._page is not None:
            _leave_the_body()

    @property
    def _answers(self) -> bool:
        """Whether this process answers, and not its parent."""
        return self._page is not None and posix.getpid() == self._process

    def _of_main(
        self, kind: "type[BaseException]", error: BaseException, traceback: "TracebackType | None"
    ) -> None:
        self.fail(error.with_traceback(traceback))
        if (
            self._answers and sys._getframe().f_back is None
        ):  # a program may also call the hook, and go on
            self._is_told = True
            raise SystemExit(_TOLD)

    def _of_exit(self, error: SystemExit) -> object:
        if not self._answers:
            return error.args[0]
        self.fail(error)
        self._is_told = True
        return _TOLD

    def _of_thread(self, arguments: "threading.ExceptHookArgs") -> None:
        if issubclass(arguments.exc_type, SystemExit):
            return  # a normal way to end a thread
        self.fail(arguments.exc_value or arguments.exc_type())
        if self._page is not None:
            _leave(_TOLD if self._answers else 1)

    def _of_nobody(self, unraisable: "sys.UnraisableHookArgs") -> None:
        self.fail(unraisable.exc_value or unraisable.exc_type())

    def _end(self) -> None:
        if not self._answers:
            return
        assert self._page is not None
        try:
            self._page.finish()
        except Exception as error:
            self.fail(error.with_traceback(None))  # none of the calls is the script's
        if self._has_failed:
            if not self._is_told:
                _leave(_TOLD)  # the status with which Python would end the process is unknown
            write_out_files()  # Python may not close all files: something may still hold the exception


def _leave(status: int) -> "NoReturn":
    """End the process at once."""
    write_out_files()
    # The process may last longer, if one of its threads waits for an unresponsive file system.
    posix.closerange(0, 3)
    posix._exit(status)


def _leave_the_body() -> None:
    """Read the request's body to its end.

    mod_cgid gives a script one socket for its input and output.  If that is closed while it has unread
    input, the kernel discards the answer.
    """
    try:
        while posix.fstat(0).st_mode & _TYPE == _SOCKET and posix.read(0, 65536):
            pass
    except OSError:
        pass  # nothing can be read, so no unread input is left
