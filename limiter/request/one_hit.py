"""One request, one hit: an inner door finds what an outer one counted for the same policy.

Two doors may stand in the way of one request: Apache's map and the guard, or ``RateLimit(RateLimit(app))``.
Each names what it counts: the store, the limits, the register, the mode, and who asks.  If the inner door
would count the same, it counts nothing, and adds no header fields.
"""

from limiter.core.notation import parse
from limiter.request.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from limiter.core.decision import Decision
    from limiter.core.limiter import Limiter
    from limiter.request.settings import Settings

    Policies = dict[tuple[str, str], "Decision | None"]

COUNTED = "LIMITER_COUNTED"
"""The variable in which Apache's map names what it counted.  A client's header would be HTTP_X."""

POLICIES = "limiter.policies"
"""Where a WSGI environ or an ASGI scope has what was counted, by ``kind`` and app_id, with its decision."""

_DIGITS = 16


def kind(settings: "Settings", given: "Limiter | None" = None) -> str:
    """What a door counts with these settings, or with a given Limiter, whoever asks.

    Raises ValueError for bad limits.
    """
    roots, apps = settings.root, settings.apps
    if given is not None:
        roots, apps, limits = (given.root,), "", given.limits
    elif apps and not settings.rule_limits:
        limits = ()  # the register has them
    else:
        limits = parse(settings.limit)
    count = sorted(settings.rule.count) if settings.rule is not None else []
    names = [limit.name for limit in limits]
    # Clients in other languages make the same text.
    lines = ":".join(roots), apps, ";".join(names), str(settings.nodes), settings.mode, ",".join(count)
    return "\n".join(lines)


def policy(kind: str, app_id: str) -> str:
    """The name of what is counted for this app_id: 16 hexadecimal digits, which tell nothing about it."""
    return sha256(f"{kind}\n{app_id}".encode("utf-8", "surrogateescape"))[:_DIGITS]


def once(bounded: "Callable[..., Any]", settings: "Settings", counted: bytes) -> "Callable[..., Any]":
    """``bounded`` for a Gate of one request, for which an outer door has counted this."""
    from limiter.request.response import OK

    def bounded_once(seconds: float, function: "Callable[..., Any]", app_id: str) -> "Any":
        if policy(kind(settings), app_id).encode() == counted:
            return OK, None
        return bounded(seconds, function, app_id)

    return bounded_once
