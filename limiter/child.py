"""A program run as a child, whose output is read here, and which does not outlive this process.

It leads a process group, so that it is ended with all that it has started and that has not left the group.
A second child waits for nothing but the end of this process, whatever ends it: SIGKILL, too.  It then kills
the group, since Python's standard library has no way to ask the kernel for that (PR_SET_PDEATHSIG).

What a program that has ended by itself has left running in the background goes on, as under Apache.
"""

import posix
from _signal import SIG_DFL, SIGCHLD, SIGKILL, SIGTERM, set_wakeup_fd, signal

from limiter.verdict import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TOLD_MOST = 2048


class Child:
    """Runs what ``execute`` becomes; if it raises, ``told`` tells what.  Raises OSError if there is no room.

    From now on SIGTERM does not end this process.  It and the child's end make ``signals`` readable, which
    is told of each by a byte, its number.  ``output``, ``errors``, ``told`` and ``signals`` are file
    descriptors to be read.
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
            # Whoever is first: the group must be there before either goes on.
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
        """Whether it has ended.  It is left a zombie, so that its group's number remains its own."""
        if self._ended is None:
            self._ended = posix.waitid(
                posix.P_PID, self.number, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT
            )
        return self._ended is not None

    @property
    def killer(self) -> int:
        """The signal that it has died of; 0 if it has not."""
        if self._ended is None or self._ended.si_code == posix.CLD_EXITED:
            return 0
        return self._ended.si_status

    @property
    def status(self) -> int:
        """The exit status that it has ended with; 0 if it has not."""
        if self._ended is None or self._ended.si_code != posix.CLD_EXITED:
            return 0
        return self._ended.si_status

    @property
    def program(self) -> str:
        """The name of what it runs, an interpreter perhaps; nothing if that cannot be told."""
        try:
            return posix.readlink(f"/proc/{self.number}/exe").rpartition("/")[2]
        except OSError:
            return ""

    def send(self, number: int) -> None:
        """Send a signal to its group."""
        try:
            posix.killpg(self.number, number)
        except ProcessLookupError:
            pass

    def forget(self) -> None:
        """Let the child and its group be, and SIGTERM end this process again."""
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
                # What ends this process ends its group, perhaps; not this one before it.
                set_wakeup_fd(-1)
                posix.close(there)
                posix.read(here, 1)
                self.send(SIGKILL)
            finally:
                posix._exit(0)
        posix.close(here)
        return watcher


def _note(*_: object) -> None:
    """Nothing: the byte that is written is all there is to do."""
