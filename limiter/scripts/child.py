"""Runs a program as a child whose output is read here, and which does not outlive this process.

The child leads a process group.  So ending the group ends the child and all processes that it started,
unless they left the group.  A second child, the watcher, waits until this process ends for any reason,
even SIGKILL, and then kills the group.  (Python cannot have the kernel do that: PR_SET_PDEATHSIG.)
"""

import posix
from _signal import SIG_DFL, SIGCHLD, SIGKILL, SIGTERM, set_wakeup_fd, signal

from limiter.report.problems import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ERROR_MOST = 2048
_CAUSES = {"SIGKILL": " (out of memory?  The kernel's log tells)", "SIGXCPU": " (its limit of CPU time)"}


class Child:
    """Calls ``execute`` in a child, to become the program.

    From now on SIGTERM does not end this process.  SIGTERM and the child's end make ``signals``
    readable: each writes one byte to it, the signal's number.  ``output``, ``errors`` and ``signals`` are
    file descriptors to read from.  Raises OSError if a pipe or process cannot be made.
    """

    def __init__(self, execute: "Callable[[], None]") -> None:
        self.failure = ""
        """How the child failed, once it has ended; empty if it did not fail."""
        self.signals, woken = posix.pipe()
        posix.set_blocking(woken, False)
        set_wakeup_fd(woken)
        self._handlers = {number: signal(number, _note) for number in (SIGCHLD, SIGTERM)}
        self.output, output = posix.pipe()
        self.errors, errors = posix.pipe()
        self._start_error, start_error = posix.pipe()
        self._has_ended = False
        self._number = posix.fork()
        if not self._number:
            try:
                posix.setpgid(0, 0)
                self._restore_signals()
                posix.dup2(output, 1)
                posix.dup2(errors, 2)
                execute()
            except Exception as error:
                reason = describe(error).encode("utf-8", "backslashreplace")
                posix.write(start_error, reason[:_ERROR_MOST])
            finally:
                posix._exit(127)
        for file in (output, errors, start_error):
            posix.close(file)
        try:
            # Both processes do this: the group must exist before either of them goes on.
            posix.setpgid(self._number, self._number)
        except OSError:
            pass
        self._watcher = self._watch()

    @property
    def is_over(self) -> bool:
        """Whether the child has ended.  It stays a zombie, so that no other group can get its number."""
        if not self._has_ended:
            options = posix.WEXITED | posix.WNOHANG | posix.WNOWAIT
            result = posix.waitid(posix.P_PID, self._number, options)
            if result is not None:
                self._has_ended = True
                self.failure = self._describe_end(result)
        return self._has_ended

    @property
    def program(self) -> str:
        """The name of the program that the child runs, such as an interpreter; empty if unknown."""
        try:
            return posix.readlink(f"/proc/{self._number}/exe").rpartition("/")[2]
        except OSError:
            return ""

    def send(self, number: int) -> None:
        """Send a signal to the child's group."""
        try:
            posix.killpg(self._number, number)
        except ProcessLookupError:
            pass

    def forget(self) -> None:
        """Stop watching the child and its group.  SIGTERM can end this process again."""
        posix.kill(self._watcher, SIGKILL)
        posix.waitpid(self._watcher, 0)
        posix.waitpid(self._number, posix.WNOHANG)
        self._restore_signals()

    def _restore_signals(self) -> None:
        set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal(number, SIG_DFL if handler is None else handler)

    def _describe_end(self, result: "posix.waitid_result") -> str:
        start_error = posix.read(self._start_error, _ERROR_MOST)
        if start_error:
            return start_error.decode("utf-8", "replace")
        if not result.si_status:
            return ""
        if result.si_code == posix.CLD_EXITED:
            return f"the script ended with exit status {result.si_status}"
        from signal import Signals

        try:
            name = Signals(result.si_status).name
        except ValueError:
            name = f"signal {result.si_status}"
        return f"the script was killed by {name}{_CAUSES.get(name, '')}"

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
