"""A time-out for a process that handles one request: a store that is silent for too long has failed.

A process that waits for a dead network file system dies by no signal, so no alarm can end the wait: it
takes a second thread.  Even so a process is gone, and its files are closed, only when the thread that
waits has come back: see ``hang_up``.

``watch`` costs a request 2 % and ``call`` 5 %, but only ``call`` gives back control.
"""

import posix
from _thread import allocate_lock, start_new_thread

from limiter.store import StoreError, silent, unasked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVar

    T = TypeVar("T")

# The calls that were given up.
_stuck: "list[StoreError]" = []


def call(seconds: float, function: "Callable[..., T]", *arguments: object) -> "T":
    """What the function returns or raises; StoreError if that takes longer than so many seconds, or if there
    is no thread for it.
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


def watch(
    seconds: float,
    late: "Callable[[StoreError], NoReturn]",
    function: "Callable[..., T]",
    *arguments: object,
) -> "T":
    """What the function returns or raises; if that takes too long, ``late`` ends the process instead."""
    running = allocate_lock()
    over = allocate_lock()
    running.acquire()

    def look() -> None:
        if not running.acquire(True, seconds) and over.acquire(False):
            late(silent(seconds))

    _start(look)
    try:
        return function(*arguments)
    finally:
        over.acquire()  # for ever, if it was too late
        running.release()


def is_stuck() -> bool:
    """Whether a call has been given up, so that this process may outlive its end."""
    return bool(_stuck)


def hang_up() -> None:
    """Close standard input, output and error, so that whoever reads them sees the end now.

    All three, for they may be one socket.
    """
    posix.closerange(0, 3)


def _start(function: "Callable[[], None]") -> None:
    try:
        start_new_thread(function, ())
    except RuntimeError as error:
        raise unasked(error) from error


def _give_up(seconds: float) -> StoreError:
    if not _stuck:
        from limiter.ending import HANG_UP, at_end

        at_end(HANG_UP, _flush_and_hang_up)
    _stuck.append(silent(seconds))
    return _stuck[-1]


def _flush_and_hang_up() -> None:
    import sys

    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except (OSError, ValueError):
            pass  # nobody reads it any more, or the script has closed it
    # Python flushes them once more at the very end, and would complain of a closed one.
    nowhere = posix.open("/dev/null", posix.O_RDWR)
    for number in range(3):
        posix.dup2(nowhere, number)
