"""The shutdown step: the one place where all uncaught exceptions of a process end."""

import posix
import sys
from _signal import SIG_BLOCK, SIG_SETMASK, SIGTERM, pthread_sigmask

from limiter.ending import ANSWER, at_end, write_out_files
from limiter.httperror import answer_to
from limiter.reporter import NAMES, Reporter
from limiter.spares import Spares

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from types import TracebackType
    from typing import NoReturn

    from limiter.page import Page

# Address space, which is no memory until it is used: what the step may need after a MemoryError.
_RESERVE = 32 * 1024 * 1024
_MORE_CALLS = 500
# How a script ends that has failed, and has told so: whoever supervises it need not tell again.
_TOLD = 0
# Of st_mode, as in the module stat.
_TYPE = 0o170000
_SOCKET = 0o140000


class Shutdown:
    """Answers, on the page if there is one, and reports, by the defaults until a ``reporter`` is set."""

    def __init__(self, environ: "Mapping[bytes, bytes]", page: "Page | None") -> None:
        self.reporter = Reporter(
            {name: it for name, it in environ.items() if name.decode("latin-1") not in NAMES}
        )
        self._page = page
        self._process = posix.getpid()
        self._has_failed = False
        self._is_told = False
        """Whether Python ends the process with the status that says so."""
        self._is_head = environ.get(b"REQUEST_METHOD") == b"HEAD"
        self._spares = Spares()
        try:
            self._reserve = bytes(_RESERVE)
        except MemoryError:
            self._reserve = b""  # then a MemoryError may be told in fewer words

    def take_over(self) -> None:
        """Take what Python would print as tracebacks."""
        import threading

        sys.excepthook = self._of_main
        sys.unraisablehook = self._of_nobody
        threading.excepthook = self._of_thread
        if self._page is not None:
            from limiter import exits

            at_end(ANSWER, self._end)
            exits.watch(self._of_exit)

    def fail(self, error: BaseException) -> None:
        """Answer and report that exception; if the client has left, nothing is to be told any more."""
        self._reserve = b""
        self._has_failed = True
        if self._page is not None and self._page.is_unwanted:
            return
        # That is what Apache sends to a script whose output has ended.
        mask = pthread_sigmask(SIG_BLOCK, [SIGTERM])
        # A destructor may be called where hardly any call is left.
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
                pass  # it is called so deep that the old limit would be too low

    def _fail(self, error: BaseException) -> None:
        status, fields, body = answer_to(error)
        remark = ""
        if self._page is not None:
            from limiter.response import header

            lines = header([("Status", status), *fields]) + b"\n"
            remark = self._page.replace(lines if self._is_head else lines + body)
        self.reporter.report_error(status, error, remark)
        if self._page is not None:
            _leave_the_body()

    @property
    def _answers(self) -> bool:
        """Whether it is this process that answers, and no child of the one that does."""
        return self._page is not None and posix.getpid() == self._process

    def _of_main(
        self, kind: "type[BaseException]", error: BaseException, traceback: "TracebackType | None"
    ) -> None:
        self.fail(error.with_traceback(traceback))
        if self._answers and sys._getframe().f_back is None:  # a program may call it, too, and go on
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
            return  # that is how a thread may end
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
            self.fail(error.with_traceback(None))  # no call of the script's own
        if self._has_failed:
            if not self._is_told:
                _leave(_TOLD)  # nobody knows with which status Python ends the process
            write_out_files()  # what Python now clears away is not all, for somebody still has the exception


def _leave(status: int) -> "NoReturn":
    """End the process here and now."""
    write_out_files()
    # The process itself may last longer, if it has a thread in a file system that is silent.
    posix.closerange(0, 3)
    posix._exit(status)


def _leave_the_body() -> None:
    """Read the request's body to its end.

    mod_cgid gives a script one socket for its input and output; when it is closed with input unread in it, the
    kernel takes back the answer.
    """
    try:
        while posix.fstat(0).st_mode & _TYPE == _SOCKET and posix.read(0, 65536):
            pass
    except OSError:
        pass  # nothing can be read, so nothing is in the way
