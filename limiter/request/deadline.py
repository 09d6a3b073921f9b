"""A time-out for a process that handles one request: a store that does not answer in time has failed.

No signal ends a process that waits for a dead network file system.  So an alarm cannot end the wait; a
second thread is needed.  Even then, the process is gone and its files are closed only when the waiting
thread has come back: see ``hang_up``.

``watch_call`` costs a request 2 %.  For a script that goes on there is ``script_deadline``.
"""

import posix
from _thread import allocate_lock, start_new_thread

from limiter.core.store import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVar

    T = TypeVar("T")


def watch_call(
    seconds: float,
    late: "Callable[[StoreError], NoReturn]",
    function: "Callable[..., T]",
    *arguments: object,
) -> "T":
    """What the function returns or raises.

    ``late`` ends the process if the function takes longer than so many seconds.  Raises StoreError if no
    thread can be started.
    """
    running = allocate_lock()
    over = allocate_lock()
    running.acquire()

    def look() -> None:
        if not running.acquire(True, seconds) and over.acquire(False):
            late(StoreError.timed_out(seconds))

    start(look)
    try:
        return function(*arguments)
    finally:
        over.acquire()  # blocks for ever if it was too late
        running.release()


def hang_up() -> None:
    """Close standard input, output and error, which may be one socket.  Their reader sees the end now."""
    posix.closerange(0, 3)


def start(function: "Callable[[], None]") -> None:
    """Run the function in another thread.  Raises StoreError if none can be started."""
    try:
        start_new_thread(function, ())
    except RuntimeError as error:
        raise StoreError.no_thread(error) from error
