"""A time-out for a long-running process: an unresponsive store delays a few requests, and then none.

No signal ends a process that waits for a dead network file system.  So an alarm cannot end the wait.
Other threads therefore make the calls, and the caller can give up.  Then the store is left alone for a
while: docs/errors.md, "An unresponsive store".
"""

import atexit
import posix
from _queue import SimpleQueue  # gevent replaces that of the module queue
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from time import monotonic, sleep
from weakref import WeakSet

from limiter.core.store import StoreError
from limiter.request.native_thread import green_lock, original

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, TypeVar

    from limiter.request.native_thread import Lock

    T = TypeVar("T")
    Task = tuple[Callable[..., Any], tuple[object, ...]]

allocate_lock = original("_thread", "allocate_lock")
get_native_id = original("_thread", "get_native_id")
start_new_thread = original("_thread", "start_new_thread")

# How long the store is left alone, in seconds: at first, and at most.  Each further time-out doubles it.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# The store is not called while so many threads are stuck in it.
_STUCK_MOST = 16
# How long to wait for idle threads to end when the interpreter ends, in seconds.
_ENDING_MOST = 1.0


class Breaker:
    """Calls functions that use the store, and waits at most ``timeout`` seconds for each.

    Each trial that times out doubles the pause.  Any result or error that comes back, even late, ends
    it.  While 16 calls are stuck, no call is let through.  Threads may share a Breaker, and it works after
    a fork.  Its own threads end with it, and never keep the interpreter from exiting.
    """

    def __init__(self, timeout: float, *, clock: "Callable[[], float]" = monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._start_afresh()
        _breakers.add(self)

    def call(self, function: "Callable[..., T]", *arguments: object) -> "T":
        """Run the function in another thread.  Returns or raises what it does.

        Raises StoreError (ETIMEDOUT) if the function is not back in time.  It goes on, so it is unknown
        whether a hit was counted.  While the store is left alone, raises the same error at once.  Raises
        StoreError (EAGAIN) if no thread can be started.
        """
        if self._process != posix.getpid():
            self._start_afresh()
        thread = self._thread if self._answers() else self._thread_for_trial
        call = _Call(self, thread(), (function, arguments))
        call.thread.begin(call)
        try:
            is_back = call.back.acquire(True, self._timeout)
        except BaseException:  # the handler of a signal has raised
            self._give_up(call)
            raise
        if not is_back and self._give_up(call):
            raise StoreError.timed_out(self._timeout)
        if call.raised:
            raise call.raised.pop()
        return call.returned.pop()  # type: ignore[no-any-return]

    def come_back(self, call: "_Call") -> None:
        """Take the thread of this call back, and wake the caller if it still waits."""
        self.idle.append(call.thread)
        del call.thread
        with self._lock:
            self._pause = 0.0
            if call.is_stuck:
                self._stuck -= 1
                call.raised.clear()  # its traceback refers to the call
            else:
                call.back.release()

    def _start_afresh(self) -> None:
        """Begin, also in a forked child, which has none of its parent's threads."""
        self.idle: list[_Thread] = []
        self.new_lock = green_lock() or _acquired_lock
        self._lock = allocate_lock()
        # Use the following only with the lock, except for a first look.
        self._stuck = 0
        self._pause = 0.0  # 0 if the store answers
        self._end_of_pause = 0.0
        self._process = posix.getpid()

    def _answers(self) -> bool:
        return not self._pause and self._stuck < _STUCK_MOST

    def _thread(self) -> "_Thread":
        try:
            return self.idle.pop()
        except IndexError:
            pass
        try:
            return _Thread()
        except RuntimeError as error:
            raise StoreError.no_thread(error) from error

    def _thread_for_trial(self) -> "_Thread":
        with self._lock:
            if self._answers():
                return self._thread()
            now = self._clock()
            if self._stuck >= _STUCK_MOST:
                until = f"while {self._stuck} calls are stuck in it"
            elif now < self._end_of_pause:
                until = f"for another {self._end_of_pause - now:.1f} s"
            else:
                thread = self._thread()
                # Assume that this call will time out.  If it does not, come_back ends the pause.
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                self._end_of_pause = now + self._timeout + self._pause
                return thread
        late = StoreError.timed_out(self._timeout)
        raise StoreError(late.errno, f"{late.strerror}, and is not called again {until}")

    def _give_up(self, call: "_Call") -> bool:
        """Stop waiting for the call.  False: it came back at the last moment."""
        with self._lock:
            if call.back.acquire(False):
                return False
            call.is_stuck = True
            self._stuck += 1
            if not self._pause:
                self._pause = _FIRST_PAUSE
                self._end_of_pause = self._clock() + self._pause
        return True


def _acquired_lock() -> "Lock":
    lock: Lock = allocate_lock()
    lock.acquire()
    return lock


class _Call:
    """One call, the thread that makes it, and what it has returned or raised."""

    def __init__(self, breaker: Breaker, thread: "_Thread", task: "Task") -> None:
        self.thread = thread
        self.back = breaker.new_lock()
        self.is_stuck = False
        self.returned: list[Any] = []
        self.raised: list[BaseException] = []
        self._breaker = breaker
        self._tasks = [task]

    def make(self) -> None:
        """Make the call, in its thread.  When its caller wakes, nothing refers to the arguments."""
        self._make(*self._tasks.pop())
        self._breaker.come_back(self)

    def _make(self, function: "Callable[..., Any]", arguments: "tuple[object, ...]") -> None:
        try:
            self.returned.append(function(*arguments))
        except BaseException as error:
            self.raised.append(error)


class _Thread:
    """A thread that makes one call after another.  It ends when nothing refers to this object any more.

    So no thread is lost, whatever interrupts a caller.  ``leaving``: the threads that must end and that
    the system may still have.
    """

    leaving: "ClassVar[set[_Loop]]" = set()  # noqa: RUF012 (it does not see the quoted ClassVar)

    def __init__(self) -> None:
        for loop in [*self.leaving]:
            if not loop.is_alive():
                self.leaving.discard(loop)
        self._loop = _Loop()
        # Signals are for the server.  Its handler must not run in a thread that it does not know.
        mask = pthread_sigmask(SIG_BLOCK, valid_signals())
        try:
            start_new_thread(self._loop.run, ())
        finally:
            pthread_sigmask(SIG_SETMASK, mask)

    def begin(self, call: _Call) -> None:
        self._loop.calls.put(call)

    def __del__(self) -> None:
        self.leaving.add(self._loop)
        self._loop.calls.put(None)


class _Loop:
    """What runs in a thread.  It ends when it gets None instead of a call."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._native_id = 0

    def run(self) -> None:
        self._native_id = get_native_id()
        for call in iter(self.calls.get, None):
            call.make()
            del call  # while it waits for the next

    def is_alive(self) -> bool:
        """Whether the system still has this thread, as far as /proc shows it."""
        try:
            posix.stat(f"/proc/self/task/{self._native_id}")
        except OSError:
            return False
        return True


_breakers: "WeakSet[Breaker]" = WeakSet()


def _end_idle_threads() -> None:
    """End the threads before the interpreter ends.

    An interpreter must do this if it is one of several in a process, as under mod_wsgi.  Waits until the
    system has none of the threads any more, because the process may unload Python next.
    """
    for breaker in [*_breakers]:
        breaker.idle.clear()
    deadline = monotonic() + _ENDING_MOST
    while any([loop.is_alive() for loop in [*_Thread.leaving]]) and monotonic() < deadline:
        sleep(0.001)


atexit.register(_end_idle_threads)
