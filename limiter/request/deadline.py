"""A time-out for a process that handles one request: a store that does not answer in time has failed.

No signal ends a process that waits for a dead network file system.  So an alarm cannot end the wait; a
second thread is needed.  Even then, the process is gone and its files are closed only when the waiting
thread has come back: see ``hang_up``.

``watch_call`` costs a request 2 % and ``call_within`` costs 5 %.  Only ``call_within`` returns control.
"""

import posix
from _thread import allocate_lock, start_new_thread

from limiter.core.store import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVar

    T = TypeVar("T")

# The errors of the calls that were given up.
_stuck: "list[StoreError]" = []


def call_within(seconds: float, function: "Callable[..., T]", *arguments: object) -> "T":
    """What the function returns or raises.

    Raises StoreError if the function takes longer than so many seconds, or if no thread can be started.
    """
    returned: list[T] = []
    raised: list[BaseException] = []
    done = allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            returned.append(function(*arguments))
        except BaseException as error:
            raised.append(error)
        done.release()

    _start(run)
    if not done.acquire(True, seconds):
        raise _give_up(seconds)
    if raised:
        raise raised[0]
    return returned[0]


def watch_call(
    seconds: float,
    late: "Callable[[StoreError], NoReturn]",
    function: "Callable[..., T]",
    *arguments: object,
) -> "T":
    """As ``call_within``, but ``late`` ends the process if the function takes longer."""
    running = allocate_lock()
    over = allocate_lock()
    running.acquire()

    def look() -> None:
        if not running.acquire(True, seconds) and over.acquire(False):
            late(StoreError.timed_out(seconds))

    _start(look)
    try:
        return function(*arguments)
    finally:
        over.acquire()  # blocks for ever if it was too late
        running.release()


def is_stuck() -> bool:
    """Whether a call was given up.  Then this process may still exist after its end."""
    return bool(_stuck)


def hang_up() -> None:
    """Close standard input, output and error, which may be one socket.  Their reader sees the end now."""
    posix.closerange(0, 3)


def _start(function: "Callable[[], None]") -> None:
    try:
        start_new_thread(function, ())
    except RuntimeError as error:
        raise StoreError.no_thread(error) from error


def _give_up(seconds: float) -> StoreError:
    from limiter.request.process_end import HANG_UP, at_end

    at_end(HANG_UP, _flush_and_hang_up)
    _stuck.append(StoreError.timed_out(seconds))
    return _stuck[-1]


def _flush_and_hang_up() -> None:
    import sys

    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except (OSError, ValueError):
            pass  # nobody reads it any more, or the script has closed it
    # Python flushes them again at the very end, and would report a closed one.
    nowhere = posix.open("/dev/null", posix.O_RDWR)
    for number in range(3):
        posix.dup2(nowhere, number)
