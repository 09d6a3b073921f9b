"""X-RateLimit-Limit, -Remaining and -Reset: the header fields that most libraries of clients know.

They have room for one limit: the one with the fewest hits remaining, and of these the one that is full for
the longest.  Reset is Unix time in whole seconds, as GitHub's API and Flask-Limiter send it.
"""

from limiter.core.limit import SECOND, clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.core.decision import Decision

X_NAMES = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def x_standings(decision: "Decision") -> "list[tuple[str, str]]":
    """The header fields of X_NAMES."""
    quota = min(decision.quotas, key=lambda it: (it.remaining, -it.reset_after))
    reset = -(-(clock() + int(quota.reset_after * SECOND)) // SECOND)
    return list(zip(X_NAMES, map(str, (quota.limit.quota, quota.remaining, reset))))
