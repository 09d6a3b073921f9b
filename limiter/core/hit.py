"""One hit: look at all its limits, then claim what it needs of each, or deny it and write nothing.

A hit claims only if every limit has room.  If it then loses a race, it gives back what it has claimed.
Whoever finds all slots of a directory free takes the lowest-numbered first: a sweeper takes the same one.
After a passing fault of the store (``limiter.core.retry``) a hit looks again, and tries another slot:
nobody knows whether the failed rename was done.
"""

from limiter.core.decision import Decision, View, deny
from limiter.core.limit import Limit
from limiter.core.store import ROUNDS, Store, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Clock = Callable[[], int]
    Claim = tuple[View, str, str, str]
    """A view, a directory, the old name in it and the new one."""

    Limits = Sequence[Limit]

# A claim gets a new stamp if it took longer than 1/_STALL of the window and _STALL_LEAST microseconds.
_STALL, _STALL_LEAST = 20, 10_000


def hit(
    store: Store, limits: "Limits", app: str, cost: int, clock: "Clock", newcomers: str = ""
) -> "tuple[Decision, list[View]]":
    """Look at the limits and decide.  Returns the decision, and the views as they are after the hit.

    ``app`` is an app_id and ``cost`` is at least 1.  ``clock`` returns microseconds since the epoch.
    ``newcomers``: how many new clients the store admits, in the notation; "" is no bound.  A cost above a
    limit is denied without a call to the store.  Raises StoreError, and ValueError for bad newcomers.
    """
    if any([cost > limit.quota for limit in limits]):
        views = [View(limit, {}, {}) for limit in limits]
        return Decision(False, float("inf"), views, 0, 0), views
    attempt = Attempt(store, limits, app, cost, clock, newcomers)
    for _ in range(ROUNDS):
        try:
            views = []
            for limit in limits:
                views.append(attempt.look(limit))
                if attempt.refused is not None:
                    return attempt.refused, []
            if any([view.short for view in views]):
                return deny(views, views[-1].now, cost), views
            if attempt.claim(views):
                return Decision(True, 0.0, views, views[-1].now, cost, attempt.notes), views
        except StoreError as error:
            _survive(error, attempt.faults)
    raise StoreError.contention(f"{store.root}/{app}")


class Attempt:
    """The looks and claims of one hit.  Its parameters are those of ``hit``.

    ``faults``: the times of its passing faults so far (``limiter.core.retry``); ``notes``: those of the
    decision; ``refused``: the denial, if there is no room for a directory.
    """

    def __init__(
        self, store: Store, limits: "Limits", app: str, cost: int, clock: "Clock", newcomers: str = ""
    ) -> None:
        self.store = store
        self.limits = limits
        self.app = app
        self.cost = cost
        self.clock = clock
        self.newcomers = newcomers
        self.faults: list[float] = []
        self.notes: list[str] = []
        self.refused: Decision | None = None

    def look(self, limit: Limit) -> View:
        """List the segments until there is enough room or none is left.  Missing ones are furnished."""
        view = View(limit, {}, {})
        for segment in range(limit.segments):
            directory = f"{self.app}@{limit.directory(segment)}"
            names = self.store.names(directory)
            if not names and not view.short:
                break
            names.sort()
            if not limit.is_whole(names, segment):
                from limiter.core.repair import complete  # very few hits need it

                names = complete(self, view, segment, directory, names)
                if not names:
                    return view
            view.listed[directory] = names
            if not view.add(directory, self.clock(), self.cost):
                return view
        view.is_all = True
        # The first segments may have gained room while the last were listed.  Look at all for one time.
        return view if limit.segments == 1 else view.at(view.now, self.cost)

    def count(self, limits: str, app: str) -> Decision:
        """Count something else in the same store, whatever room there is."""
        from limiter.core.notation import parse

        return hit(self.store, parse(limits), app, 1, self.clock)[0]

    def claim(self, views: "Sequence[View]") -> bool:
        """Claim what the hit needs in each view.  False: a race was lost, and nothing is claimed."""
        claims: list[Claim] = []
        lost: list[Claim] = []
        views = sorted(views, key=_order) if len(views) > 1 else views
        try:
            for view in views:
                if not self._claim_in(view, view is views[-1], claims, lost):
                    self._give_back(claims)
                    return False
        except StoreError:
            try:
                self._give_back(claims)
            except StoreError:
                pass  # report the first error
            raise
        for view, directory, name, new in claims + lost:
            names = [*view.listed[directory]]
            if name in names:  # else another thread has replaced it: they share what they remember
                names[names.index(name)] = new
                names.sort()
                view.listed[directory] = names
        for view, directory, _, new in claims:
            view.claimed.append(new)
            if view.missing.get(directory):
                from limiter.core.repair import mend

                mend(self, view, directory, new)
        return True

    def _claim_in(self, view: View, is_last: bool, claims: "list[Claim]", lost: "list[Claim]") -> bool:
        """Claim what the hit needs in this view.  Adds what it has claimed, and what others have."""
        needed = view.limit.claims(self.cost)
        for directory, names in view.free:
            for name in names:
                try:
                    new = self._take(view, directory, name, needed > 1 or not is_last)
                except StoreError as error:
                    _survive(error, self.faults)
                    new = None
                if new:
                    view.idle.discard(directory)
                    claims.append((view, directory, name, new))
                    needed -= 1
                    if not needed:
                        return True
                elif directory in view.idle:
                    return False  # another hit woke it, or a sweeper has it: look again
                else:
                    # Another hit took it since the look, or this one did.  Do not try it again.
                    new = view.limit.taken(name, view.now, self.cost, False)
                    lost.append((view, directory, name, new))
        return False

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

    def _give_back(self, claims: "list[Claim]") -> None:
        from limiter.core.give_back import give_back  # few hits need it

        give_back(self.store, claims, self.cost, self.clock, self.faults)


def _order(view: View) -> "tuple[bool, int]":
    """The order in which to claim: first what can always be given back, then shorter windows.

    A hit that dies between two claims has used up the first.  A shorter window forgets it sooner.
    """
    return not view.limit.is_returnable, view.limit.window


def _survive(error: StoreError, faults: "list[float]") -> None:
    from limiter.core.retry import survive  # very few hits need it

    survive(error, faults)
