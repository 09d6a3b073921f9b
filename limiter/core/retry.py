"""Try again, a few times, after faults of a network file system that may pass.

When GlusterFS loses one of its bricks, the volume goes on, but a call that is under way may fail: a
listing with EBADFD, a rename with ENOTCONN.  The next call succeeds.  A lasting fault, such as ENOTCONN
on a machine that is cut off, is reported after 5 more tries.  These wait 31 ms in total.
``LIMITER_TIMEOUT`` limits all of it.

This module is loaded only after an error.
"""

import errno
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

PASSING = (getattr(errno, "EBADFD", errno.ENOTCONN), errno.ENOTCONN)
"""The errors that may pass.  Only Linux has EBADFD."""

# Seconds to wait before each further try, and the longest time from the first fault to the last try.
_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016)
_LONGEST = 0.25


def survive(error: OSError, faults: "list[float]") -> None:
    """If it is worthwhile to try again, wait and return.  Otherwise raise the error.

    ``faults``: the times of earlier faults of the same task, in seconds of the monotonic clock.  The
    time of this one is added.
    """
    now = monotonic()
    faults.append(now)
    if error.errno not in PASSING or len(faults) > len(_PAUSES) or now - faults[0] > _LONGEST:
        raise error
    sleep(_PAUSES[len(faults) - 1])


def retry(error: OSError, function: "Callable[..., T]", *arguments: object) -> "T":
    """Call a function again that failed with this error, as long as its faults may pass.

    Returns what it returns, or raises what it raises at last.
    """
    faults: list[float] = []
    while True:
        survive(error, faults)
        try:
            return function(*arguments)
        except OSError as again:
            error = again
