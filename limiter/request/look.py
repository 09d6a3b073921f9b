"""A look instead of a hit: whether a hit would be admitted now.  Counts and writes nothing.

For rules with ``count=``: such a request is counted only when the status of its answer is known.
"""

from limiter.core.decision import Decision, View
from limiter.core.limiter import Limiter
from limiter.core.newcomers import room
from limiter.core.store import Store

_PAUSE = 60.0  # seconds until a store may take in new clients again


def look(limiter: Limiter, app_id: str, newcomers: str) -> Decision:
    """The decision that a hit would get now.

    A new client that the store would not take in is denied: its hit could not be counted afterwards.
    Raises StoreError, and ValueError for bad newcomers.
    """
    decision = limiter.peek(app_id)
    decision.notes = ()  # they are for the hit to report
    if decision and newcomers and _is_new(limiter, app_id) and room(limiter.root, newcomers) < 1:
        views = [View(limit, {}, {}) for limit in limiter.limits]
        for view in views:
            view.used, view.next = view.limit.quota, int(_PAUSE * 1e6)
        return Decision(False, _PAUSE, views, 0, 0)
    return decision


def _is_new(limiter: Limiter, app_id: str) -> bool:
    store = Store(limiter.root)
    return not all([store.names(f"{app_id}@{limit.directory(0)}") for limit in limiter.limits])
