"""One hit: look at all its limits, then claim what it needs of each, or deny it and write nothing.

A hit claims only if every limit has room.  If it loses a race after it has claimed some of its slots, it
gives these back.  Some faults of the store pass (``limiter.core.retry``).  Then the hit looks again, and
tries another slot: nobody knows whether the failed rename was done.
"""

from limiter.core.limit import Limit, is_name
from limiter.core.store import Store, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUNDS = 1000
"""A hit gives up after so many looks.  If other hits took all slots each time, it is no normal race."""

# A claim gets a new stamp if it took longer than 1/_STALL of the window and _STALL_LEAST microseconds.
_STALL = 20
_STALL_LEAST = 10_000


class Quota:
    """Where one limit stands.

    ``remaining``: the hits left, 0 to ``limit.quota``; ``reset_after``: the seconds, as a float, until
    there are more, or 0.0 if nothing is used.  Segments after the first with room count as unused.
    """

    __slots__ = ("limit", "remaining", "reset_after")

    def __init__(self, limit: Limit, remaining: int, reset_after: float) -> None:
        self.limit = limit
        self.remaining = remaining
        self.reset_after = reset_after


class View:
    """What one look at one limit of an application shows.

    ``listed``: the directories seen, and the sorted names in each (threads may share it: a list in it is
    replaced, never changed); ``now``: the time of the look; ``free``: each (directory, name) that the hit
    may claim; ``short``: whether these are too few; ``used``: the hits counted; ``next``: microseconds
    until the first of these is no longer counted; ``claimed``: the names that the hit wrote.
    """

    __slots__ = ("claimed", "free", "limit", "listed", "next", "now", "short", "used")

    def __init__(self, limit: Limit, listed: "dict[str, list[str]]") -> None:
        self.limit = limit
        self.listed = listed
        self.now = self.used = self.next = 0
        self.short = True
        self.free: list[tuple[str, str]] = []
        self.claimed: list[str] = []

    def add(self, directory: str, now: int, cost: int) -> bool:
        """Look at one more listed directory.  Returns whether there is still too little room."""
        free, used, first = self.limit.look(self.listed[directory], now, cost)
        if used and (not self.used or first < self.next):
            self.next = first
        self.now = now
        self.used += used
        if free:
            self.free += [(directory, name) for name in free]
            self.short = len(self.free) < self.limit.claims(cost)
        return self.short

    def at(self, now: int, cost: int) -> "View":
        """The same directories at another time, up to the first that gives the hit enough room."""
        view = View(self.limit, self.listed)
        for directory in self.listed:
            if not view.add(directory, now, cost):
                break
        return view

    def names(self) -> "list[str]":
        """The names in all listed directories."""
        return [name for names in self.listed.values() for name in names]

    def wait(self, cost: int) -> int:
        """Microseconds until a hit of this cost is admitted if no other hit comes; 0: now."""
        return self.limit.wait(self.names(), self.now, cost) if self.listed else 0

    def quota(self, now: int, cost: int) -> Quota:
        """Where the limit stands at ``now``, if one hit of this cost was admitted since this look."""
        reset = self.next if self.used or not cost else self.limit.expiry(self.now)
        remaining = self.limit.quota - self.used - cost
        return Quota(self.limit, max(0, remaining), max(0, self.now + reset - now) / 1e6)


class Decision:
    """The answer to a hit.  It is true if the hit is allowed.

    ``retry_after``: the seconds, as a float, until the same hit is allowed if no other hit comes before.
    It is 0.0 if the hit is allowed, and infinite if the cost is above a limit.
    """

    __slots__ = ("_cost", "_now", "_views", "allowed", "retry_after")

    def __init__(
        self, allowed: bool, retry_after: float, views: "Sequence[View]", now: int, cost: int
    ) -> None:
        self.allowed = allowed
        self.retry_after = retry_after
        # The quotas are computed from these, and only if they are read.
        self._views = views
        self._now = now
        self._cost = cost

    def __bool__(self) -> bool:
        return self.allowed

    def __repr__(self) -> str:
        standing = f"limit={self.limit}, remaining={self.remaining}, retry_after={self.retry_after}"
        return f"Decision(allowed={self.allowed}, {standing})"

    @property
    def quotas(self) -> "list[Quota]":
        """Where every limit stands after this hit, in the order in which the limits were given."""
        return [view.quota(self._now, self._cost) for view in self._views]

    @property
    def limit(self) -> int:
        """The quota of the limit that has the fewest hits remaining."""
        return min(self.quotas, key=lambda quota: quota.remaining).limit.quota

    @property
    def remaining(self) -> int:
        """The hits still allowed after this one: the fewest of all limits."""
        return min([quota.remaining for quota in self.quotas])


def hit(
    store: Store, limits: "Sequence[Limit]", app: str, cost: int, clock: "Callable[[], int]"
) -> "tuple[Decision, list[View]]":
    """Look at the limits and decide.  Returns the decision, and the views as they are after the hit.

    ``app`` is an app_id and ``cost`` is at least 1.  ``clock`` returns microseconds since the epoch.
    A cost above a limit is denied without a call to the store.  Raises StoreError.
    """
    if any([cost > limit.quota for limit in limits]):
        views = [View(limit, {}) for limit in limits]
        return Decision(False, float("inf"), views, 0, 0), views
    attempt = Attempt(store, limits, app, cost, clock)
    for _ in range(ROUNDS):
        try:
            views = [attempt.look(limit) for limit in limits]
            if any([view.short for view in views]):
                return deny(views, views[-1].now, cost), views
            if attempt.claim(views):
                return Decision(True, 0.0, views, views[-1].now, cost), views
        except StoreError as error:
            _survive(error, attempt.faults)
    raise StoreError.contention(ROUNDS, f"{store.root}/{app}")


def deny(views: "Sequence[View]", now: int, cost: int) -> Decision:
    """The denial at ``now`` of a hit for which some of these views have too little room."""
    end = now + 1
    for view in views:
        if view.short:
            # A hit of cost 1 waits for the first slot, which is known without a sort of all names.
            end = max(end, view.now + (view.next if cost == 1 else view.wait(cost)))
    return Decision(False, (end - now) / 1e6, views, now, 0)


class Attempt:
    """The looks and claims of one hit.  Its parameters are those of ``hit``.

    ``faults``: the times of its passing faults so far (``limiter.core.retry``).
    """

    def __init__(
        self, store: Store, limits: "Sequence[Limit]", app: str, cost: int, clock: "Callable[[], int]"
    ) -> None:
        self.store = store
        self.limits = limits
        self.app = app
        self.cost = cost
        self.clock = clock
        self.faults: list[float] = []

    def look(self, limit: Limit) -> View:
        """List the segments until there is enough room or none is left.  Missing ones are furnished."""
        view = View(limit, {})
        for segment in range(limit.segments):
            directory = f"{self.app}/{limit.directory(segment)}"
            names = self.store.names(directory)
            names.sort()
            if len(names) != limit.size(segment) or names[0] < "0":
                from limiter.core.repair import complete  # very few hits need it

                together = self.limits if segment == 0 else [limit]
                names = complete(self.store, self.app, together, limit, segment, names, self.clock())
            view.listed[directory] = names
            if not view.add(directory, self.clock(), self.cost):
                return view
        # The first segments may have gained room while the last were listed.  Look at all for one time.
        return view if limit.segments == 1 else view.at(view.now, self.cost)

    def claim(self, views: "Sequence[View]") -> bool:
        """Claim what the hit needs in each view.  False: a race was lost, and nothing is claimed."""
        claims: list[tuple[View, str, str, str]] = []
        lost: list[tuple[View, str, str, str]] = []
        views = sorted(views, key=_order) if len(views) > 1 else views
        try:
            for view in views:
                needed = view.limit.claims(self.cost)
                # Hits that compete look at different moments, so they start at different slots.
                start = view.now % len(view.free)
                for directory, name in view.free[start:] + view.free[:start]:
                    provisional = needed > 1 or view is not views[-1]
                    try:
                        new = self._take(view, directory, name, provisional)
                    except StoreError as error:
                        _survive(error, self.faults)
                        new = None
                    if not new:
                        # Another hit took it since the look, or this one did.  Do not try it again.
                        new = view.limit.taken(name, view.now, self.cost, False)
                        lost.append((view, directory, name, new))
                        continue
                    claims.append((view, directory, name, new))
                    needed -= 1
                    if not needed:
                        break
                if needed:
                    self._give_back(claims)
                    return False
        except StoreError:
            try:
                self._give_back(claims)
            except StoreError:
                pass  # report the first error
            raise
        for view, directory, name, new in claims + lost:
            names = view.listed[directory]
            view.listed[directory] = sorted([new if other == name else other for other in names])
        for view, _, _, new in claims:
            view.claimed.append(new)
        return True

    def _take(self, view: View, directory: str, name: str, provisional: bool) -> "str | None":
        """Claim one name.  Returns its new name, or None if another hit claimed it first."""
        now = max(view.now, self.clock())
        new = view.limit.taken(name, now, self.cost, provisional)
        if not self.store.rename(directory, name, new):
            return None
        late = self.clock()
        if late - now > _STALL_LEAST and late - now > view.limit.window // _STALL:
            # The hit is admitted only now.  With the earlier stamp it would be forgotten too soon.
            again = view.limit.taken(name, late, self.cost, provisional)
            if self.store.rename(directory, new, again):
                return again
        return new

    def _give_back(self, claims: "list[tuple[View, str, str, str]]") -> None:
        for view, directory, old, new in reversed(claims):
            try:
                if self.store.rename(directory, new, old):
                    continue
                for _ in range(ROUNDS):
                    name = max(filter(is_name, self.store.names(directory)), default="")
                    undone = view.limit.returned(name, new, self.clock(), self.cost) if name else None
                    if undone is None or self.store.rename(directory, name, undone):
                        break
            except StoreError as error:
                # The claim may have been given back.  To repeat that would admit one hit too many.
                _survive(error, self.faults)


def _order(view: View) -> "tuple[bool, int]":
    """The order in which to claim: first what can always be given back, then shorter windows.

    A hit that dies between two claims has used up the first.  A shorter window forgets it sooner.
    """
    return not view.limit.is_returnable, view.limit.window


def _survive(error: StoreError, faults: "list[float]") -> None:
    from limiter.core.retry import survive  # very few hits need it

    survive(error, faults)
