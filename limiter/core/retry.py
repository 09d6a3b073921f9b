"""Try again, a few times, after faults of a network file system that may pass.

When GlusterFS loses one of its bricks, a call that is under way may fail: a listing with EBADFD, a rename
with ENOTCONN.  The next call succeeds.  A lasting fault is reported after 5 more tries.  These wait 31 ms
in total, and ``LIMITER_TIMEOUT`` limits all of it.  This module is loaded only after an error.
"""

import errno
from time import monotonic, sleep

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
