"""Carry hits over when the limits of a client change, so that a change never gives it more.

Each limit has its own directory, so a new limit would begin with nothing taken.
"""

from collections import Counter

from limiter.core.fixed import Fixed
from limiter.core.furnish import fresh
from limiter.core.hit import Attempt, hit
from limiter.core.limit import Limit, Sliding, clock, time_of
from limiter.core.limiter import Limiter
from limiter.core.store import ROUNDS, Store, StoreError, patiently

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Hits = Counter[int]  # how many there were at each time


def carry(root: str, app: str, old: str, new: str, clock: "Callable[[], int]" = clock) -> None:
    """Count in the new limits the hits that the old limits still show, never fewer.

    Both are limits in the notation.  A fixed limit shows only its last hit, so all its hits count as of
    that time.  A burst limit shows none, so its hits count as of now.  A new burst limit gets as full as
    if it had been there at these times.  What a new limit has counted already is not counted again.
    Raises ValueError and StoreError.
    """
    before = Limiter(root, old, newcomers="", clock=clock)
    after = Limiter(root, new, newcomers="", clock=clock)
    now = clock()
    # Every hit counted in each of the old limits.  The times that a sliding limit shows are exact.
    limit, hits = max(_shown(before, app, now), key=lambda it: (_sum(it[1]), isinstance(it[0], Sliding)))
    kept = {limit.name for limit in before.limits}
    for other, counted in _shown(after, app, now):
        if other.name in kept:
            continue
        if isinstance(limit, Sliding) and isinstance(other, Sliding):
            missing = hits - counted
        else:
            # What both have counted are the earliest hits.
            missing = _latest(hits, _sum(hits) - _still_shown(limit, counted, now))
        missing = _relevant(other, missing, now)
        if isinstance(other, Sliding):
            _claim(Store(root), other, app, missing, other.quota - _sum(counted), clock)
        elif missing:
            _replace(Attempt(Store(root), [other], app, 1, clock), other, missing, now)


def _shown(limiter: Limiter, app: str, now: int) -> "list[tuple[Limit, Hits]]":
    """The limits, each with the hits that it counts now."""
    shown = []
    for quota, times in zip(limiter.peek(app).quotas, limiter.hits(app)):
        hits = Counter(times)
        hits[times[-1] if times else now] += quota.limit.quota - quota.remaining - len(times)
        shown.append((quota.limit, +hits))
    return shown


def _sum(hits: "Hits") -> int:
    return sum(hits.values())


def _latest(hits: "Hits", most: int) -> "Hits":
    latest: Hits = Counter()
    for time in sorted(hits, reverse=True):
        latest[time] = min(hits[time], most)
        most -= latest[time]
    return +latest


def _relevant(limit: Limit, hits: "Hits", now: int) -> "Hits":
    """Those hits that may still count in this limit."""
    since = now // limit.window * limit.window if isinstance(limit, Fixed) else now - limit.window + 1
    return Counter({time: count for time, count in hits.items() if time >= since})


def _still_shown(limit: Limit, hits: "Hits", now: int) -> int:
    """How many hits this limit would count now if it had counted these and no others."""
    hits = _relevant(limit, hits, now)
    if isinstance(limit, Sliding):
        return min(limit.quota, _sum(hits))
    return limit.look([_named(limit, fresh(limit, 0, 0)[0], hits, now)], now, 1)[1]


def _named(limit: Limit, name: str, hits: "Hits", now: int) -> str:
    """What the single name of a limit becomes by these hits, as far as it has room for them."""
    for time in sorted(hits):
        at = min(now, max(time, time_of(name) - limit.window))  # far before the name, it would be void
        count = min(hits[time], limit.quota - limit.look([name], at, 1)[1])
        if count > 0:
            name = limit.taken(name, at, count, False)
    return name


def _replace(attempt: Attempt, limit: Limit, hits: "Hits", now: int) -> None:
    """Count hits in a limit that has a single name."""
    for _ in range(ROUNDS):
        for directory, names in patiently(attempt.look, limit).listed.items():
            new = _named(limit, names[-1], hits, now)
            if new == names[-1] or attempt.store.rename(directory, names[-1], new):
                return
    raise StoreError.contention(f"{attempt.store.root}/{attempt.app}")


def _claim(
    store: Store, limit: Limit, app: str, hits: "Hits", left: int, clock: "Callable[[], int]"
) -> None:
    """Count hits in a sliding limit, the latest if there are more than it has slots left."""
    times = sorted(hits.elements(), reverse=True)
    cost = min(len(times), left)
    while cost > 0:
        decision, views = hit(store, [limit], app, cost, clock)
        if not decision:
            cost = min(cost - 1, decision.remaining)  # others have taken some
            continue
        # Nobody else can claim these slots for a window.
        for directory, names in views[0].listed.items():
            for name in set(names).intersection(views[0].claimed):
                patiently(store.rename, directory, name, limit.taken(name, times.pop(0), 1, False))
        return
