"""Passing faults of a network file system: what failed is tried again, a few times.

When GlusterFS loses one of its bricks, a call that is under way may fail although the volume goes on: a listing
with EBADFD, a rename with ENOTCONN.  The next call succeeds.  A lasting fault, such as ENOTCONN on a machine that
is cut off, is reported after 5 more tries, which together wait 31 ms.  ``LIMITER_TIMEOUT`` limits all of it.

Loaded only after an error.
"""

import errno
from time import monotonic, sleep

from limiter.store import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

PASSING = (getattr(errno, "EBADFD", errno.ENOTCONN), errno.ENOTCONN)
"""The errors that may pass.  Only Linux has EBADFD."""

# Seconds to wait before each further try; and after the first fault no try begins later than that.
_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016)
_LONGEST = 0.25


def survive(error: StoreError, faults: "list[float]") -> None:
    """Wait, then return if it is worth while to try again; else raise the error.

    ``faults``: when faults were survived for the same purpose before, in seconds of the monotonic clock.  This one
    is added.
    """
    now = monotonic()
    faults.append(now)
    if error.errno not in PASSING or len(faults) > len(_PAUSES) or now - faults[0] > _LONGEST:
        raise error
    sleep(_PAUSES[len(faults) - 1])


def retry(error: StoreError, function: "Callable[..., T]", *arguments: object) -> "T":
    """What the function returns, called again as long as the fault passes; it failed with that error before.

    Raises StoreError.
    """
    faults: list[float] = []
    while True:
        survive(error, faults)
        try:
            return function(*arguments)
        except StoreError as again:
            error = again
