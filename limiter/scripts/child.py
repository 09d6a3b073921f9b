"""Runs a program as a child whose output is read here, and which does not outlive this process.

The child leads a process group.  So ending the group ends the child and all processes that it started,
unless they left the group.  A second child, the watcher, waits until this process ends for any reason,
even SIGKILL.  The watcher then kills the group.  Python's standard library has no way to have the kernel
do that (PR_SET_PDEATHSIG).

If the program ends by itself, its background processes go on, as under Apache.
"""

import posix
from _signal import SIG_DFL, SIGCHLD, SIGKILL, SIGTERM, set_wakeup_fd, signal

from limiter.report.problems import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TOLD_MOST = 2048


class Child:
    """Calls ``execute`` in a child, to become the program.  If that raises, ``told`` gets the error.

    From now on SIGTERM does not end this process.  SIGTERM and the child's end make ``signals``
    readable: each writes one byte to it, the signal's number.  ``output``, ``errors``, ``told`` and
    ``signals`` are file descriptors to read from.  Raises OSError if a pipe or process cannot be made.
    """

    def __init__(self, execute: "Callable[[], None]") -> None:
        self.signals, woken = posix.pipe()
        posix.set_blocking(woken, False)
        set_wakeup_fd(woken)
        self._signals = {number: signal(number, _note) for number in (SIGCHLD, SIGTERM)}
        self.output, output = posix.pipe()
        self.errors, errors = posix.pipe()
        self.told, told = posix.pipe()
        self.number = posix.fork()
        if not self.number:
            try:
                self._lead()
                posix.dup2(output, 1)
                posix.dup2(errors, 2)
                execute()
            except Exception as error:
                posix.write(told, describe(error).encode("utf-8", "backslashreplace")[:_TOLD_MOST])
            finally:
                posix._exit(127)
        for file in (output, errors, told):
            posix.close(file)
        try:
            # Both processes do this: the group must exist before either of them goes on.
            posix.setpgid(self.number, self.number)
        except OSError:
            pass
        self._ended: posix.waitid_result | None = None
        try:
            self._watcher = self._watch()
        except BaseException:
            self.send(SIGKILL)
            raise

    @property
    def is_over(self) -> bool:
        """Whether the child has ended.  It stays a zombie, so that no other group can get its number."""
        if self._ended is None:
            self._ended = posix.waitid(
                posix.P_PID, self.number, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT
            )
        return self._ended is not None

    @property
    def killer(self) -> int:
        """The signal that killed the child; 0 if none did."""
        if self._ended is None or self._ended.si_code == posix.CLD_EXITED:
            return 0
        return self._ended.si_status

    @property
    def status(self) -> int:
        """The child's exit status; 0 if it has not exited."""
        if self._ended is None or self._ended.si_code != posix.CLD_EXITED:
            return 0
        return self._ended.si_status

    @property
    def program(self) -> str:
        """The name of the program that the child runs, such as an interpreter; empty if unknown."""
        try:
            return posix.readlink(f"/proc/{self.number}/exe").rpartition("/")[2]
        except OSError:
            return ""

    def send(self, number: int) -> None:
        """Send a signal to the child's group."""
        try:
            posix.killpg(self.number, number)
        except ProcessLookupError:
            pass

    def forget(self) -> None:
        """Stop watching the child and its group.  SIGTERM can end this process again."""
        posix.kill(self._watcher, SIGKILL)
        posix.waitpid(self._watcher, 0)
        posix.waitpid(self.number, posix.WNOHANG)
        self._restore()

    def _lead(self) -> None:
        posix.setpgid(0, 0)
        self._restore()

    def _restore(self) -> None:
        set_wakeup_fd(-1)
        for number, handler in self._signals.items():
            signal(number, SIG_DFL if handler is None else handler)

    def _watch(self) -> int:
        here, there = posix.pipe()
        watcher = posix.fork()
        if not watcher:
            try:
                # A signal to the whole group must not end the watcher before it ends the parent.
                set_wakeup_fd(-1)
                posix.close(there)
                posix.read(here, 1)
                self.send(SIGKILL)
            finally:
                posix._exit(0)
        posix.close(here)
        return watcher


def _note(*_: object) -> None:
    """Do nothing: Python itself writes the byte to ``signals``."""
