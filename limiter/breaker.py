"""A time-out for a process that stays: a store that falls silent holds up a few requests, and then none.

A process that waits for a dead network file system dies by no signal, so no alarm can end the wait.
Calls are therefore made by other threads, and who waits for one can give up.  After that the store is
left alone for a while: every further call fails at once, but for one at a time that finds out whether
the store speaks again.
"""

import atexit
import errno
import posix
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from _thread import allocate_lock, get_native_id, start_new_thread
from time import monotonic, sleep
from weakref import WeakSet

from limiter.store import StoreError, silent, unasked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, TypeVar

    T = TypeVar("T")

# How long the store is left alone, in seconds: at first, doubled by each further silence, at most.
_FIRST_WHILE = 1.0
_LONGEST_WHILE = 60.0
# The store is not asked while so many threads are stuck in it.
_STUCK_MOST = 16
# How long to wait, in seconds, for idle threads to end when the interpreter does.
_ENDING_MOST = 1.0


class Breaker:
    """Calls of functions that ask the store, each for at most ``timeout`` seconds.

    Once a call has timed out, the store is not asked for a second; then one call at a time is let
    through, and each that times out doubles that while, up to a minute.  Whatever comes back, be it a result or
    an error, in time or late, shows that the store speaks: calls are let through again at once.  None is
    while 16 are stuck, so there are never more stuck but for those already under way.

    Threads may share a Breaker.  It can be used on after a fork; the child starts afresh.  It keeps its
    threads, as many as there ever were calls at once; they end with it, and never keep the interpreter
    from exiting.  ``clock`` returns seconds that never go back.
    """

    def __init__(self, timeout: float, *, clock: "Callable[[], float]" = monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._pool = _Pool(timeout, clock)

    def call(self, function: "Callable[..., T]", *arguments: object) -> "T":
        """What the function returns or raises, having run in another thread.

        Raises StoreError (ETIMEDOUT) if it is not back in time: it goes on, and what it returns in the
        end is dropped, so it is then unknown whether a hit was counted.  Also raises that, at once and without
        calling the function, while the store is left alone.
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
        # From here on only with the lock, but for a first look.
        self._stuck = 0
        self._while = 0.0  # 0 if the store speaks
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
            raise silent(self._timeout)
        result, error = thread.result, thread.error
        self._keep(thread)
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # it refers to this frame, and must not be referred to by it

    def come_back(self, thread: "_Thread") -> None:
        """Hand what the thread has got to its caller, if that still waits for it."""
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
        """Let the threads end, those that are stuck when they come back.

        Without the lock: the garbage collector calls this, and this very thread may hold it.
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
            raise unasked(error) from error

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
        why = f"The store was silent for {self._timeout:g} s (LIMITER_TIMEOUT), and is not asked again {until}"
        raise StoreError(errno.ETIMEDOUT, why)

    def _give_up(self, thread: "_Thread") -> bool:
        """Leave the thread to itself; False if it has come back at the last moment."""
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
                return True  # it began before the store was left alone, and says nothing new
            self._end_of_while = self._clock() + self._while
        return True

    def _keep(self, thread: "_Thread") -> None:
        thread.result = thread.error = None
        self._idle.append(thread)


class _Thread:
    """A thread that makes one call after another: ``begin`` and ``end`` are released for each.

    One that is to begin and has no task ends.  ``leaving``: those told to end, as long as the system may have them.
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
        # A signal is for the server, whose handler must not run in a thread that it does not know.
        mask = pthread_sigmask(SIG_BLOCK, valid_signals())
        try:
            start_new_thread(self._run, ())
        finally:
            pthread_sigmask(SIG_SETMASK, mask)

    def leave(self) -> None:
        """Let it end, as it waits for a call."""
        self.leaving.append(self)
        self.begin.release()

    def is_alive(self) -> bool:
        """Whether the system still has this thread, as far as it can be seen."""
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
    """End the threads before the interpreter does: one of several in a process, as under mod_wsgi, must.

    Until the system has none of them any more: it may unload Python next.
    """
    for pool in [*_pools]:
        pool.close()
    deadline = monotonic() + _ENDING_MOST
    while any([thread.is_alive() for thread in _Thread.leaving]) and monotonic() < deadline:
        sleep(0.001)


atexit.register(_end_idle_threads)
