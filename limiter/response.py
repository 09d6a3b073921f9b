"""What is answered: CGI responses (RFC 3875, 6) as bytes, ready to be written at once.

The fields on the limits are those of draft-ietf-httpapi-ratelimit-headers-10, structured field lists
(RFC 9651)::

    RateLimit-Policy: "10-per-1s";q=10;w=1      each limit: its hits, its window in seconds
    RateLimit: "10-per-1s";r=3;t=1              hits remaining; seconds until there are more

Seconds are whole, rounded up, and at least 1.
"""

from limiter.hit import Decision
from limiter.limit import SECOND

OK = "200 OK"
UNAUTHORIZED = "401 Unauthorized"
TOO_MANY_REQUESTS = "429 Too Many Requests"
INTERNAL_SERVER_ERROR = "500 Internal Server Error"


def fields(decision: Decision) -> bytes:
    """The header fields that tell where the limits stand, each with its end of line."""
    policies = []
    standings = []
    for quota in decision.quotas:
        limit = quota.limit
        window = -(-limit.window // SECOND)
        policies.append(f'"{limit.name}";q={limit.quota};w={window}')
        standings.append(f'"{limit.name}";r={quota.remaining};t={_seconds(quota.reset_after)}')
    return f"RateLimit-Policy: {', '.join(policies)}\nRateLimit: {', '.join(standings)}\n".encode()


def body(status: str) -> bytes:
    """The JSON that goes with a status: ``{"message": "Too Many Requests"}``."""
    return f'{{"message": "{status[4:]}"}}'.encode()


def answer(status: str, decision: "Decision | None", head: bool) -> bytes:
    """A whole response; ``head`` leaves out the body, as HEAD asks."""
    lines = fields(decision) if decision is not None else b""
    if status is UNAUTHORIZED:
        lines = b'WWW-Authenticate: AppId realm="limiter"\n'
    elif status is TOO_MANY_REQUESTS and decision is not None:
        lines += b"Retry-After: %d\n" % _retry_after(decision)
    return b"Status: %b\n%bContent-Type: %b\nCache-Control: no-store\n\n%b" % (
        status.encode(),
        lines,
        b"application/json; charset=utf-8",
        b"" if head else body(status),
    )


def _retry_after(decision: Decision) -> int:
    if decision.retry_after == float("inf"):
        # Never; but the field must hold a number, and the limit may be changed.
        return max([-(-quota.limit.window // SECOND) for quota in decision.quotas])
    return _seconds(decision.retry_after)


def _seconds(seconds: float) -> int:
    return max(1, int(-(-seconds // 1)))
