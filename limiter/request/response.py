"""The answer: status, header fields and body, and all of these as a CGI response (RFC 3875, 6).

The fields for the limits follow draft-ietf-httpapi-ratelimit-headers-10.  They are structured field
lists (RFC 9651)::

    RateLimit-Policy: "10-per-1s";q=10;w=1      each limit: its hits, its window in seconds
    RateLimit: "10-per-1s";r=3;t=1              hits remaining; seconds until there are more

Seconds are whole, rounded up, and at least 1.
"""

from limiter.core.decision import Decision
from limiter.core.limit import SECOND, Limit

OK = "200 OK"
BAD_REQUEST = "400 Bad Request"
UNAUTHORIZED = "401 Unauthorized"
NOT_FOUND = "404 Not Found"
TOO_MANY_REQUESTS = "429 Too Many Requests"
INTERNAL_SERVER_ERROR = "500 Internal Server Error"


def standings(decision: "Decision | None") -> "list[tuple[str, str]]":
    """The header fields that report where the limits stand; none without a decision."""
    if decision is None:
        return []
    policies = []
    standings = []
    for quota in decision.quotas:
        limit = quota.limit
        name = limit.policy or limit.name
        policies.append(f'"{name}";q={limit.quota};w={_window(limit)}')
        standings.append(f'"{name}";r={quota.remaining};t={_seconds(quota.reset_after)}')
    return [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(standings))]


def fields(status: str, decision: "Decision | None") -> "list[tuple[str, str]]":
    """All header fields of an answer that the limiter itself gives."""
    lines = standings(decision)
    if status is UNAUTHORIZED:
        lines.append(("WWW-Authenticate", 'AppId realm="limiter"'))
    elif status is TOO_MANY_REQUESTS and decision is not None:
        lines.append(("Retry-After", str(_retry_after(decision))))
    lines.append(("Content-Type", "application/json; charset=utf-8"))
    lines.append(("Cache-Control", "no-store"))
    return lines


def body(status: str) -> bytes:
    """The JSON body for a status: ``{"message": "Too Many Requests"}``."""
    return f'{{"message": "{status[4:]}"}}'.encode()


def answer(status: str, decision: "Decision | None", head: bool) -> bytes:
    """A whole CGI response.  ``head``: leave out the body, as a HEAD request requires."""
    lines = header([("Status", status), *fields(status, decision)])
    return lines + (b"\n" if head else b"\n" + body(status))


def header(fields: "list[tuple[str, str]]") -> bytes:
    """Header fields as a CGI script writes them, each with a newline at its end."""
    return "".join([f"{name}: {value}\n" for name, value in fields]).encode()


def _retry_after(decision: Decision) -> int:
    if decision.retry_after == float("inf"):
        # The hit will never be allowed.  But the field must hold a number, and the limit may change.
        return max([_window(quota.limit) for quota in decision.quotas])
    return _seconds(decision.retry_after)


def _window(limit: Limit) -> int:
    return -(-limit.window // SECOND)


def _seconds(seconds: float) -> int:
    return max(1, int(-(-seconds // 1)))
