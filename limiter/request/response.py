"""The answer: status, header fields and body, and all of these as a CGI response (RFC 3875, 6).

The fields for the limits follow DRAFT.  They are structured field lists (RFC 9651)::

    RateLimit-Policy: "10-per-1s";q=10;w=1      each limit: its hits, its window in seconds
    RateLimit: "10-per-1s";r=3;t=1              hits remaining; seconds until there are more

Seconds are whole, rounded up, and at least 1.  Where a function takes ``settings``, these may ask for other
fields and another body.  None: nobody knows them, because there is a mistake in them.
"""

from limiter.core.decision import Decision, Quota
from limiter.core.limit import SECOND, Limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.request.settings import Settings

DRAFT = "draft-ietf-httpapi-ratelimit-headers-11"

MESSAGE = "application/json; charset=utf-8"
PROBLEM = "application/problem+json"
"""The types of a body (RFC 8259; RFC 9457, 3)."""

OK = "200 OK"
BAD_REQUEST = "400 Bad Request"
UNAUTHORIZED = "401 Unauthorized"
NOT_FOUND = "404 Not Found"
TOO_MANY_REQUESTS = "429 Too Many Requests"
INTERNAL_SERVER_ERROR = "500 Internal Server Error"


def standings(
    decision: "Decision | None", settings: "Settings | None" = None
) -> "list[tuple[str, str]]":
    """The header fields that report where the limits stand; none without a decision."""
    if decision is None:
        return []
    form = "draft" if settings is None else settings.headers
    fields = _standings(decision) if form in ("draft", "both") else []
    if form in ("x-ratelimit", "both"):
        from limiter.request.x_ratelimit import x_standings

        fields += x_standings(decision)
    return fields


def _standings(decision: Decision) -> "list[tuple[str, str]]":
    policies = []
    standings = []
    for name, quota, window, remaining, seconds in map(numbers, decision.quotas):
        policies.append(f'"{name}";q={quota};w={window}')
        standings.append(f'"{name}";r={remaining};t={seconds}')
    return [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(standings))]


def numbers(quota: Quota) -> "tuple[str, int, int, int, int]":
    """The name of a limit, its hits and window, the hits remaining, and the seconds until there are more."""
    limit, name = quota.limit, quota.limit.policy or quota.limit.name
    return name, limit.quota, _window(limit), quota.remaining, _seconds(quota.reset_after)


def fields(
    status: str, decision: "Decision | None", settings: "Settings | None" = None
) -> "list[tuple[str, str]]":
    """All header fields of an answer that the limiter itself gives."""
    lines = standings(decision, settings)
    if status is UNAUTHORIZED:
        lines.append(("WWW-Authenticate", 'AppId realm="limiter"'))
    elif status is TOO_MANY_REQUESTS and decision is not None:
        lines.append(("Retry-After", str(retry_after(decision, settings))))
    is_problem = settings is not None and settings.problem == "1" and status is not OK
    lines.append(("Content-Type", PROBLEM if is_problem else MESSAGE))
    lines.append(("Cache-Control", "no-store"))
    return lines


def body(status: str, decision: "Decision | None" = None, settings: "Settings | None" = None) -> bytes:
    """The JSON body for a status: ``{"message": "Too Many Requests"}``, or a problem."""
    if settings is not None and settings.problem == "1" and status is not OK:
        from limiter.request.problem_details import problem

        return problem(status, decision)
    return f'{{"message": "{status[4:]}"}}'.encode()


def answer(
    status: str, decision: "Decision | None", head: bool, settings: "Settings | None" = None
) -> bytes:
    """A whole CGI response.  ``head``: leave out the body, as a HEAD request requires."""
    lines = header([("Status", status), *fields(status, decision, settings)])
    return lines + (b"\n" if head else b"\n" + body(status, decision, settings))


def header(fields: "list[tuple[str, str]]") -> bytes:
    """Header fields as a CGI script writes them, each with a newline at its end."""
    return "".join([f"{name}: {value}\n" for name, value in fields]).encode()


def retry_after(decision: Decision, settings: "Settings | None" = None) -> int:
    """The seconds after which the client may try again."""
    if decision.retry_after == float("inf"):
        # The hit will never be allowed.  But the field must hold a number, and the limit may change.
        return max([_window(quota.limit) for quota in decision.quotas])
    seconds = _seconds(decision.retry_after)
    if settings is not None and settings.jitter:
        from limiter.request.jitter import jitter

        seconds += jitter(decision, settings.jitter)
    return seconds


def _window(limit: Limit) -> int:
    return -(-limit.window // SECOND)


def _seconds(seconds: float) -> int:
    return max(1, int(-(-seconds // 1)))
