"""The limiter of a long-running process: it counts hits, and remembers what it saw.

Stamps only grow.  So a limit that is full stays full until its oldest hit is one window old.  Until
then a hit is denied from memory, without a system call.  A slot that is remembered as free may be
claimed without a listing: the rename decides.
"""

import posix

from limiter.core.decision import Decision, View, deny
from limiter.core.directories import contents
from limiter.core.furnish import must_exist
from limiter.core.hit import Attempt, hit
from limiter.core.limit import Limit, clock, is_provisional
from limiter.core.notation import parse
from limiter.core.store import ROUNDS, Store, StoreError, is_app, patiently

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

NEWCOMERS = "20/second burst 1000"
"""How many new clients a store takes in, if nothing else is said."""

# Deny from memory for at most so many microseconds.  Then every process sees a reset or removed slots.
_TRUST = 1_000_000
# An application itself weighs as much as ten names.
_WEIGHT = 10


class Budget:
    """How much Limiters may remember together: ``names``, by default less than 30 MB."""

    def __init__(self, names: int = 200_000) -> None:
        self._names = self._left = names
        self._memories: list[dict[str, _Memory]] = []

    def open(self) -> "dict[str, _Memory]":
        """A new memory that is cleared when all together are full."""
        memory: dict[str, _Memory] = {}
        self._memories.append(memory)
        return memory

    def spend(self, names: int) -> None:
        """Make room for so many names more: if there is none, all is forgotten."""
        self._left -= names
        if self._left < 0:
            self.forget()
            self._left -= names

    def forget(self) -> None:
        """Forget all.  The next hits look at the store."""
        for memory in self._memories:
            memory.clear()
        self._left = self._names


class Limiter:
    """Admits at most so many hits for each application.  This is exact for any number of processes.

    ``root`` is the store, an existing directory.  ``limits`` is text (docs/limits.md), or Limit objects; all
    limits must admit a hit.  ``newcomers``: how many new clients the store takes in, in the same notation
    (default: NEWCOMERS), or "" for any number.  ``clock`` returns microseconds since the epoch.  ``budget``
    is for Limiters that share one memory.  Threads may share a Limiter, and it can still be used after a
    fork.  Most programs make one and keep it.  Raises ValueError for a bad limit.
    """

    def __init__(
        self,
        root: "str | PathLike[str]",
        limits: "str | Sequence[Limit]" = "10/second",
        *,
        newcomers: "str | None" = None,
        clock: "Callable[[], int]" = clock,
        budget: "Budget | None" = None,
    ) -> None:
        path = posix.fspath(root)
        self.root = path if path.startswith("/") else f"{posix.getcwd()}/{path}"
        self._store = Store(self.root)
        self.limits = parse(limits) if isinstance(limits, str) else [*limits]
        self._newcomers = NEWCOMERS if newcomers is None else newcomers
        if newcomers:
            parse(newcomers)
        self._clock = clock
        self._budget = budget or Budget()
        self._memory = self._budget.open()
        self._weight = sum([limit.claims(limit.quota) for limit in self.limits]) + _WEIGHT

    def hit(self, app_id: str, cost: int = 1) -> Decision:
        """Count a hit against all limits, or deny it and count nothing.

        ``cost`` is how many hits it counts as.  Raises ValueError for a bad app_id or cost, and StoreError
        if the store fails.  It is then unknown whether the hit was counted.
        """
        denial = self.recall(app_id, cost)
        if denial is not None:
            return denial
        memory = self._memory.get(app_id)
        if memory is not None:
            now = self._clock()
            views = [view.at(now, cost) for view in memory.views]
            if not any([view.short for view in views]):
                attempt = Attempt(self._store, self.limits, app_id, cost, self._clock)
                if attempt.claim(views):
                    memory.settle(views)
                    return Decision(True, 0.0, views, now, cost, attempt.notes)
        decision, views = hit(self._store, self.limits, app_id, cost, self._clock, self._newcomers)
        if not views:
            return decision  # a newcomer for whom there is no room
        if memory is None:
            self._budget.spend(self._weight)
        self._memory[app_id] = _Memory(views, cost, memory)
        return decision

    def recall(self, app_id: str, cost: int = 1) -> "Decision | None":
        """The denial of such a hit if memory is certain of it, without a call to the store; or None.

        Raises ValueError as ``hit`` does.
        """
        _check(app_id, cost)
        memory = self._memory.get(app_id)
        if memory is not None:
            now = self._clock()
            if memory.denies(now, cost):
                return deny(memory.views, now, cost)
        return None

    def peek(self, app_id: str, cost: int = 1) -> Decision:
        """The decision that a hit would get now.  Counts and writes nothing.  Raises as ``hit`` does."""
        _check(app_id, cost)
        views = self.views(app_id)
        is_too_much = any([cost > limit.quota for limit in self.limits])
        wait = float("inf") if is_too_much else max([view.wait(cost) for view in views]) / 1e6
        notes = [
            f"{self._store.root}/{directory}: {len(numbers)} slots are missing; hits make them again"
            for view in views
            for directory, numbers in view.missing.items()
        ]
        return Decision(not wait, wait, views, views[-1].now, 0, notes)

    def hits(self, app_id: str) -> "list[list[int]]":
        """For each limit, the times of the hits that it counts now, in microseconds, oldest first.

        A fixed limit knows only its last hit, a burst limit knows none.  Raises as ``peek`` does.
        """
        views = self.views(app_id)
        return [view.limit.hits(sorted(view.names()), view.now) if view.listed else [] for view in views]

    def reset(self, app_id: str) -> None:
        """Forget the hits of an application.  Other processes may deny from memory for one second more."""
        _check(app_id, 1)
        for limit in self.limits:
            patiently(self._forget, app_id, limit)
        self._memory.pop(app_id, None)

    def _forget(self, app_id: str, limit: Limit) -> None:
        """Rename every name to its fresh one.  Looks again if other hits claimed some meanwhile.

        A directory in which no hit counts stays as it is: a sweeper may be removing it.
        """
        for _ in range(ROUNDS):
            lost = 0
            view = self._list(app_id, limit)
            for directory, names in view.listed.items():
                for name in names if limit.look(names, view.now, 1)[1] else ():
                    fresh = limit.forgotten(name, self._clock())
                    lost += not self._store.rename(directory, name, fresh)
            if not lost:
                return
        raise StoreError.contention(f"{self._store.root}/{app_id}")

    def views(self, app_id: str) -> "list[View]":
        """A view of each limit, with all directories that it has now.  Writes nothing.  Raises as ``peek`` does."""
        _check(app_id, 1)
        return [patiently(self._list, app_id, limit) for limit in self.limits]

    def _list(self, app_id: str, limit: Limit) -> View:
        view = View(limit, {}, {})
        for segment in range(limit.segments):
            directory = f"{app_id}@{limit.directory(segment)}"
            names = self._store.names(directory)
            if not names:
                break
            slots = {limit.slot(name): name for name in contents(names, limit, segment)[0]}
            if slots:
                view.listed[directory] = sorted(slots.values())
            missing = [number for number in limit.numbers(segment) if number not in slots]
            if missing:
                view.missing[directory] = missing
        if not view.listed:
            must_exist(self._store.root)
        view.is_all = True
        view.now = self._clock()
        for directory in view.listed:
            view.add(directory, view.now, 1)
        return view


class _Memory:
    """What a Limiter remembers of one application: the last views, and the cost of their hit.

    ``_settled``: the provisional names that this Limiter itself wrote and will not give back.
    """

    __slots__ = ("_settled", "_until", "cost", "views")

    def __init__(self, views: "list[View]", cost: int, before: "_Memory | None") -> None:
        self.views = views
        self.cost = cost
        self._until = -1
        self._settled: set[str] = before._settled if before is not None else set()
        self.settle(views)

    def settle(self, views: "list[View]") -> None:
        """Note that the hit that claimed these names has all that it needs."""
        if len(views) == 1 and len(views[0].claimed) < 2:
            return
        for view in views:
            self._settled.update([name for name in view.claimed if is_provisional(name)])
        count = sum([len(names) for view in views for names in view.listed.values()])
        if len(self._settled) > 2 * count:
            self._settled.intersection_update([name for view in views for name in view.names()])

    def denies(self, now: int, cost: int) -> bool:
        """Whether it is certain, without a look at the store, that such a hit must be denied."""
        if cost != self.cost or now < self.views[-1].now:
            return False
        if self._until < 0:
            self._until = 0
            for view in [view for view in self.views if view.short and view.listed]:
                # A provisional name may still be given back.  A settled one will not.
                provisional = [name for name in view.names() if is_provisional(name)]
                if self._settled.issuperset(provisional):
                    self._until = max(self._until, view.now + min(_TRUST, view.wait(self.cost)))
        return now < self._until


def _check(app_id: str, cost: int) -> None:
    if not isinstance(app_id, str) or not is_app(app_id):
        expected = "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or a digit"
        raise ValueError(f"app_id {app_id!r:.200}: expected {expected}")
    if type(cost) is not int or cost < 1:
        raise ValueError(f"cost {cost!r:.200}: expected a whole number of at least 1")
