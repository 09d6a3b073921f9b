"""The body of an answer as problem details (RFC 9457), with the types of ``response.DRAFT``, section 5.

The titles are those that the draft asks IANA to register (section 10.2).  An answer without a type of its
own has ``about:blank``, which means what its status means.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.core.decision import Decision

_TYPES = "https://iana.org/assignments/http-problem-types#"
_BLANK = '"type": "about:blank", "title": "{}"'
_EXCEEDED = f'"type": "{_TYPES}quota-exceeded", "title": "Quota Exceeded", "violated-policies": [{{}}]'
_REDUCED = f'"type": "{_TYPES}temporary-reduced-capacity", "title": "Temporary Reduced Capacity"'


class StoreFailed(str):
    """A status that is given because the store failed: only the type says so."""


def members(status: str, decision: "Decision | None") -> str:
    """The type and title of a problem, and the policies that are exceeded: members of a JSON object."""
    if decision is not None:
        violated = [quota.limit for quota in decision.quotas if not quota.remaining]
        return _EXCEEDED.format(", ".join([f'"{limit.policy or limit.name}"' for limit in violated]))
    return _REDUCED if isinstance(status, StoreFailed) else _BLANK.format(status[4:])


def problem(status: str, decision: "Decision | None") -> bytes:
    """The body for a status, and for the denial if it is 429."""
    return f'{{{members(status, decision)}, "status": {status[:3]}}}'.encode()
