"""Jitter: clients of a fixed window do not all come back in the moment when the next one begins."""

from posix import urandom

from limiter.core.decision import Decision
from limiter.core.fixed import Fixed


def jitter(decision: Decision, most: int) -> int:
    """Seconds to add to Retry-After of a denial, 0 to ``most`` at random; 0 if no fixed window is full."""
    if not any([isinstance(it.limit, Fixed) and not it.remaining for it in decision.quotas]):
        return 0
    return int.from_bytes(urandom(8), "big") % (most + 1)
