"""A time-out for a process that goes on afterwards, as a guarded script does (see ``deadline``).

``call_within`` costs a request 5 %, but returns control.
"""

import posix
from _thread import allocate_lock

from limiter.core.store import StoreError
from limiter.request.deadline import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

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

    start(run)
    if not done.acquire(True, seconds):
        raise _give_up(seconds)
    if raised:
        raise raised[0]
    return returned[0]


def is_stuck() -> bool:
    """Whether a call was given up.  Then this process may still exist after its end."""
    return bool(_stuck)


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
