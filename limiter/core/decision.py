"""The decision on a hit, and the views of its limits that it rests on.  Calls no file system."""

from limiter.core.limit import Limit, stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Names = dict[str, list[str]]
    Notes = Sequence[str]
    Views = Sequence["View"]

_MINUTE = 60_000_000


class Quota:
    """Where one limit stands.

    ``remaining``: the hits left, 0 to ``limit.quota``, or fewer if that is not known; ``reset_after``: the
    seconds, as a float, until there are more, or 0.0 if nothing is used.
    """

    def __init__(self, limit: Limit, remaining: int, reset_after: float) -> None:
        self.limit = limit
        self.remaining = remaining
        self.reset_after = reset_after


class View:
    """What one look at one limit of an application shows.

    ``listed``: the sorted names in each directory seen (threads may share it: a list in it is replaced,
    never changed); ``missing``: the numbers of its lost slots; ``is_all``: whether there is no other
    directory; ``now``: the time of the look; ``used``: the hits counted; ``next``: microseconds until the
    first no longer counts; ``free``: each directory with the names that the hit may claim there, in order;
    ``short``: whether these are too few; ``idle``: the directories in which all are free; ``claimed``: those written.
    """

    __slots__ = (
        *(
            "_found",
            "_oldest",
            "_seen",
            "claimed",
            "free",
            "idle",
            "is_all",
            "limit",
            "listed",
            "missing",
        ),
        *("next", "now", "short", "used"),
    )

    def __init__(self, limit: Limit, listed: "Names", missing: "dict[str, list[int]]") -> None:
        self.limit = limit
        self.listed = listed
        self.missing = missing
        self.now = self.used = self.next = self._found = self._seen = 0
        self.short = True
        self.is_all = limit.segments < 2
        self.free: list[tuple[str, list[str]]] = []
        self.idle: set[str] = set()
        self.claimed: list[str] = []
        self._oldest = ""

    def add(self, directory: str, now: int, cost: int) -> bool:
        """Look at one more listed directory.  Returns whether to look at the next."""
        names = self.listed[directory]
        free, used, first = self.limit.look(names, now, cost)
        if used and (not self.used or first < self.next):
            self.next = first
        self.now = now
        self.used += used
        self._seen += 1
        self._oldest = min(self._oldest or names[0], names[0])
        if free and self.short:
            if used:
                # Hits that compete look at different moments, so they start at different slots.
                start = now % len(free)
                free = free[start:] + free[:start]
            else:
                self.idle.add(directory)
                free = sorted(free, key=self.limit.slot)
            self.free.append((directory, free))
            self._found += len(free)
            self.short = self._found < self.limit.claims(cost)
        return self.short or (self.limit.window >= _MINUTE and self.unknown() > 0)

    def at(self, now: int, cost: int) -> "View":
        """The same directories at another time, as far as a hit would look."""
        view = View(self.limit, self.listed, self.missing)
        for directory in self.listed:
            if not view.add(directory, now, cost):
                return view
        view.is_all = self.is_all
        return view

    def names(self) -> "list[str]":
        """The names in all listed directories."""
        return [name for names in self.listed.values() for name in names]

    def lost(self) -> int:
        """How many slots are missing in the directories seen."""
        return sum(map(len, self.missing.values()))

    def unknown(self) -> int:
        """How many hits may count in directories that were not looked at.

        A hit goes on to the next directory only if all slots so far were taken within one window.  So if
        one of them was not taken for two windows, no hit counts there.
        """
        if self.is_all or self._oldest <= stamp(max(self.now - 2 * self.limit.window, 0)):
            return 0
        return sum([len(self.limit.numbers(it)) for it in range(self._seen, self.limit.segments)])

    def wait(self, cost: int) -> int:
        """Microseconds until a hit of this cost is admitted if no other hit comes; 0: now."""
        cost = min(cost + self.lost(), self.limit.quota)
        return self.limit.wait(self.names(), self.now, cost) if self.listed else 0

    def quota(self, now: int, cost: int) -> Quota:
        """Where the limit stands at ``now``, if one hit of this cost was admitted since this look."""
        reset = self.next if self.used or not cost else self.limit.expiry(self.now)
        remaining = self.limit.quota - self.used - self.lost() - self.unknown() - cost
        return Quota(self.limit, max(0, remaining), max(0, self.now + reset - now) / 1e6)


class Decision:
    """The answer to a hit.  It is true if the hit is allowed.

    ``retry_after``: the seconds, as a float, until the same hit is allowed if no other hit comes before.
    It is 0.0 if the hit is allowed, and infinite if the cost is above a limit.  ``notes``: what an
    administrator should know about the store, a text each.
    """

    def __init__(
        self, allowed: bool, retry_after: float, views: "Views", now: int, cost: int, notes: "Notes" = ()
    ) -> None:
        self.allowed = allowed
        self.retry_after = retry_after
        self.notes = notes
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

    def is_near(self, part: int) -> bool:
        """Whether a limit has less than 1/``part`` of its hits left, as far as the look has seen."""
        for view in self._views:
            quota = view.limit.quota
            if (quota - view.used - self._cost) * part < quota:
                return True
        return False

    @property
    def limit(self) -> int:
        """The quota of the limit that has the fewest hits remaining."""
        return min(self.quotas, key=lambda quota: quota.remaining).limit.quota

    @property
    def remaining(self) -> int:
        """The hits still allowed after this one: the fewest of all limits."""
        return min([quota.remaining for quota in self.quotas])


def deny(views: "Views", now: int, cost: int) -> Decision:
    """The denial at ``now`` of a hit for which some of these views have too little room."""
    end = now + 1
    for view in views:
        if view.short:
            # A hit of cost 1 waits for the first slot, which is known without a sort of all names.
            end = max(end, view.now + (view.next if cost == 1 else view.wait(cost)))
    return Decision(False, (end - now) / 1e6, views, now, 0)
