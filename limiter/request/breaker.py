"""A time-out for a long-running process: an unresponsive store delays a few requests, and then none.

No signal ends a process that waits for a dead network file system.  So an alarm cannot end the wait.
Other threads therefore make the calls, and the caller can give up.  After that the store is left alone
for a while.  Every further call fails at once, except one at a time.  This one finds out whether the
store answers again.
"""

import atexit
import errno
import posix
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from _thread import allocate_lock, get_native_id, start_new_thread
from time import monotonic, sleep
from weakref import WeakSet

from limiter.core.store import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, TypeVar

    T = TypeVar("T")

# How long the store is left alone, in seconds: at first, and at most.  Each further time-out doubles it.
_FIRST_WHILE = 1.0
_LONGEST_WHILE = 60.0
# The store is not called while so many threads are stuck in it.
_STUCK_MOST = 16
# How long to wait for idle threads to end when the interpreter ends, in seconds.
_ENDING_MOST = 1.0


class Breaker:
    """Calls functions that use the store, and waits at most ``timeout`` seconds for each.

    After a call has timed out, the store is not called for one second.  Then one call at a time is let
    through.  Each of these that times out doubles the pause, up to a minute.  Any result or error that
    comes back, in time or late, shows that the store answers.  Then all calls are let through again at
    once.  While 16 calls are stuck, no call is let through.  So more can be stuck only if they were
    already under way.

    Threads may share a Breaker.  It can be used after a fork; the child starts afresh.  It keeps its
    threads, as many as there were calls at the same time.  They end with it, and never keep the
    interpreter from exiting.  ``clock`` returns seconds that never go back.
    """

    def __init__(self, timeout: float, *, clock: "Callable[[], float]" = monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._pool = _Pool(timeout, clock)

    def call(self, function: "Callable[..., T]", *arguments: object) -> "T":
        """Run the function in another thread.  Returns or raises what it does.

        Raises StoreError (ETIMEDOUT) if the function is not back in time.  It goes on, but its result is
        dropped.  So it is then unknown whether a hit was counted.  While the store is left alone, raises
        the same error at once, and does not call the function.  Raises StoreError (EAGAIN) if no thread
        can be started.
        """
        pool = self._pool
        if pool.process != posix.getpid():
            pool = self._pool = _Pool(self._timeout, self._clock)
        return pool.call(function, arguments)  # type: ignore[no-any-return]

    def __del__(self) -> None:
        self._pool.close()


class _Pool:
    """The threads of one process, and what they know of the store."""

    def __init__(self, timeout: float, clock: "Callable[[], float]") -> None:
        self.process = posix.getpid()
        self._timeout = timeout
        self._clock = clock
        self._idle: list[_Thread] = []
        self._is_closed = False
        self._lock = allocate_lock()
        # Use the following only with the lock, except for a first look.
        self._stuck = 0
        self._while = 0.0  # 0 if the store answers
        self._end_of_while = 0.0
        self._probe: _Thread | None = None
        _pools.add(self)

    def call(self, function: "Callable[..., Any]", arguments: "tuple[object, ...]") -> "Any":
        thread = self._thread() if self._speaks() else self._probing_thread()
        thread.task = function, arguments
        thread.begin.release()
        try:
            is_back = thread.end.acquire(True, self._timeout)
        except BaseException:  # the handler of a signal has raised
            if not self._give_up(thread):
                self._keep(thread)
            raise
        if not is_back and self._give_up(thread):
            raise StoreError.timed_out(self._timeout)
        result, error = thread.result, thread.error
        self._keep(thread)
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # it refers to this frame, so this frame must not refer to it

    def come_back(self, thread: "_Thread") -> None:
        """Hand the thread's result to its caller, if the caller still waits for it."""
        with self._lock:
            self._while = 0.0
            self._probe = None
            if not thread.is_stuck:
                thread.end.release()
                return
            thread.is_stuck = False
            self._stuck -= 1
        self._keep(thread)
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Let the threads end.  Stuck threads end when they come back.

        Does not use the lock: the garbage collector calls this, and this same thread may hold the lock.
        """
        self._is_closed = True
        while self._idle:
            try:
                self._idle.pop().leave()
            except IndexError:
                pass  # another thread does the same

    def _speaks(self) -> bool:
        return not self._while and self._stuck < _STUCK_MOST

    def _thread(self) -> "_Thread":
        try:
            return self._idle.pop()
        except IndexError:
            pass
        try:
            return _Thread(self)
        except RuntimeError as error:
            raise StoreError.no_thread(error) from error

    def _probing_thread(self) -> "_Thread":
        with self._lock:
            if self._speaks():
                return self._thread()
            left = self._end_of_while - self._clock()
            if self._stuck >= _STUCK_MOST:
                until = f"while {self._stuck} calls are stuck in it"
            elif left > 0:
                until = f"for another {left:.1f} s"
            elif self._probe is not None:
                until = "before the call that asks it now is back"
            else:
                self._probe = self._thread()
                return self._probe
        why = f"The store did not answer within {self._timeout:g} s (LIMITER_TIMEOUT), and is not called again {until}"
        raise StoreError(errno.ETIMEDOUT, why)

    def _give_up(self, thread: "_Thread") -> bool:
        """Stop waiting for the thread.  False: it came back at the last moment."""
        with self._lock:
            if thread.end.acquire(False):
                return False
            thread.is_stuck = True
            self._stuck += 1
            if not self._while:
                self._while = _FIRST_WHILE
            elif thread is self._probe:
                self._while = min(2 * self._while, _LONGEST_WHILE)
                self._probe = None
            else:
                return True  # it began before the store was left alone, so it shows nothing new
            self._end_of_while = self._clock() + self._while
        return True

    def _keep(self, thread: "_Thread") -> None:
        thread.result = thread.error = None
        self._idle.append(thread)


class _Thread:
    """A thread that makes one call after another.  ``begin`` and ``end`` are released for each.

    It ends if ``begin`` is released and there is no task.  ``leaving``: the threads that must end and
    that the system may still have.
    """

    leaving: "ClassVar[list[_Thread]]" = []  # noqa: RUF012 (it does not see the quoted ClassVar)

    def __init__(self, pool: _Pool) -> None:
        for thread in [*self.leaving]:
            if not thread.is_alive():
                try:
                    self.leaving.remove(thread)
                except ValueError:
                    pass  # another thread does the same
        self._pool = pool
        self.begin = allocate_lock()
        self.begin.acquire()
        self.end = allocate_lock()
        self.end.acquire()
        self.task: tuple[Callable[..., Any], tuple[object, ...]] | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_stuck = False
        self._native_id = 0
        # Signals are for the server.  Its handler must not run in a thread that it does not know.
        mask = pthread_sigmask(SIG_BLOCK, valid_signals())
        try:
            start_new_thread(self._run, ())
        finally:
            pthread_sigmask(SIG_SETMASK, mask)

    def leave(self) -> None:
        """Let the thread end.  It must be waiting for a call."""
        self.leaving.append(self)
        self.begin.release()

    def is_alive(self) -> bool:
        """Whether the system still has this thread, as far as /proc shows it."""
        try:
            posix.stat(f"/proc/self/task/{self._native_id}")
        except OSError:
            return False
        return True

    def _run(self) -> None:
        self._native_id = get_native_id()
        while True:
            self.begin.acquire()
            if self.task is None:
                return
            self._make_call(*self.task)
            self._pool.come_back(self)

    def _make_call(self, function: "Callable[..., Any]", arguments: "tuple[object, ...]") -> None:
        self.task = None
        try:
            self.result = function(*arguments)
        except BaseException as error:
            self.error = error


# A child has none of its parent's threads.
posix.register_at_fork(after_in_child=_Thread.leaving.clear)

_pools: "WeakSet[_Pool]" = WeakSet()


def _end_idle_threads() -> None:
    """End the threads before the interpreter ends.

    An interpreter must do this if it is one of several in a process, as under mod_wsgi.  Waits until the
    system has none of the threads any more, because the process may unload Python next.
    """
    for pool in [*_pools]:
        pool.close()
    deadline = monotonic() + _ENDING_MOST
    while any([thread.is_alive() for thread in _Thread.leaving]) and monotonic() < deadline:
        sleep(0.001)


atexit.register(_end_idle_threads)
