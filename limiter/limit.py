"""The arithmetic of a limit: pure, exact, and ignorant of files, clocks and HTTP.

A limit keeps its whole state in *names*.  Each kind answers the same questions from the names
that a directory holds and the present time: which of them may a hit claim by renaming it, to
what, and if none, how long must it wait?  Times are integers: microseconds since the epoch.

A name is ``SECONDS.MICROSECONDS`` (10 and 6 digits), a separator, and a number::

    1513123456.123456-3

Because the stamp has a fixed width, names compare as their times do.  The separator is ``-``,
or ``~`` while the hit that wrote it may still give it back (see ``Limiter``); it stays ``~``
until the next claim.  What stamp and number mean is each kind's own affair:

========  ==========================================  ===================================
kind      stamp                                       number
========  ==========================================  ===================================
Sliding   when this slot was last taken               the slot, from 0
Fixed     the last hit                                hits so far in that calendar window
Burst     the theoretical arrival time, rounded down  its rest, in 1/quota of a microsecond
========  ==========================================  ===================================

A stamp more than one window ahead of what a right clock could have written shows that the clock
has been set back since: such a name counts as free, so nobody is locked out for long.
"""

SECOND = 1_000_000
SEGMENT = 64
"""Slots in one directory: few enough that one getdents call returns them all."""

_SETTLED = "-"
_HELD = "~"


def stamp(time: int) -> str:
    """The fixed-width text of a time in microseconds, 0 <= time < 10**16."""
    digits = str(time).zfill(16)  # a third faster than formatting seconds and microseconds
    return f"{digits[:10]}.{digits[10:]}"


def time_of(name: str) -> int:
    """The time, in microseconds, in a name."""
    return int(name[:10] + name[11:17])


def number_of(name: str) -> int:
    """The number in a name."""
    return int(name[18:])


def is_held(name: str) -> bool:
    """Whether the hit that wrote this name might yet give it back."""
    return name[17] == _HELD


def is_name(text: str) -> bool:
    """Whether a directory entry has the form of a name at all (others are nobody's slot)."""
    return (
        len(text) > 18
        and text[10] == "."
        and text[17] in _SETTLED + _HELD
        and (text[:10] + text[11:17] + text[18:]).isdigit()
        and text.isascii()
    )


def make(time: int, held: bool, number: int) -> str:
    """A name from its parts."""
    return f"{stamp(time)}{_HELD if held else _SETTLED}{number}"


class Limit:
    """At most ``quota`` hits per ``window`` microseconds; the kind says how that is meant.

    Public and the same for all kinds: ``quota`` (hits), ``window`` (microseconds), ``name`` (of
    the directory, and of the policy in HTTP), ``segments`` (directories it may grow to).

    ``names`` are those of one directory, sorted and at least one, unless said otherwise; ``now`` is
    the time, ``cost`` the hits to count at once, 1 to ``quota``.
    """

    quota: int
    window: int
    name: str
    segments: int = 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def directory(self, segment: int) -> str:
        """The name of a segment's directory: ``10-per-1s``, ``10-per-1s.1`` ..."""
        return f"{self.name}.{segment}" if segment else self.name

    def size(self, segment: int) -> int:
        """How many names that directory always holds."""
        return 1

    def fresh(self, segment: int) -> "list[str]":
        """The names with which that directory is furnished: nothing taken."""
        return [make(0, False, 0)]

    def claims(self, cost: int) -> int:
        """How many names such a hit must rename."""
        return 1

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        """What the names say: those that such a hit may claim, the hits counted, and the microseconds
        until the first of these no longer is (0 if there is none).

        A single-file kind has one name to claim, or none, and then denies.
        """
        raise NotImplementedError

    def taken(self, name: str, now: int, cost: int, held: bool) -> str:
        """What to rename a free name to; ``held`` if the claim may yet be given back."""
        raise NotImplementedError

    def returned(self, name: str, claim: str, now: int, cost: int) -> "str | None":
        """What to rename ``name``, built by others upon ``claim``, to so that the claim is undone.

        None: there is nothing to undo.
        """
        return None

    def forgotten(self, name: str) -> str:
        """What to rename a name to so that all its hits are forgotten."""
        return make(0, False, 0)

    def expiry(self, now: int) -> int:
        """Microseconds until a hit counted at ``now``, and none before it, no longer is."""
        return self.window

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        """Microseconds until such a hit is admitted if nobody else comes; 0: at once.

        ``names`` are those of all directories, in any order.
        """
        raise NotImplementedError

    def hits(self, names: "list[str]", now: int) -> "list[int]":
        """The times of the hits counted at ``now`` that the names still tell, oldest first."""
        raise NotImplementedError


class Sliding(Limit):
    """No window of that length, wherever it begins, holds more than ``quota`` hits.

    Each of the ``quota`` slots can be taken once a window.  ``quota`` is 0 to 10,000.
    """

    def __init__(self, quota: int, window: int) -> None:
        self.quota = quota
        self.window = window
        self.name = f"{quota}-per-{window // SECOND}s"
        self.segments = -(-quota // SEGMENT)

    def size(self, segment: int) -> int:
        size = self.quota - segment * SEGMENT
        return size if size < SEGMENT else SEGMENT

    def fresh(self, segment: int) -> "list[str]":
        first = segment * SEGMENT
        return [make(0, False, slot) for slot in range(first, first + self.size(segment))]

    def claims(self, cost: int) -> int:
        return cost

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        oldest = time_of(names[0])
        if oldest > max(now - self.window, 0) and time_of(names[-1]) <= now + self.window:
            return [], len(names), oldest + self.window - now
        since, until = self._busy_range(now)
        first = _below(names, since)
        end = len(names) if names[-1] < until else _below(names, until)
        if first == end:
            return names, 0, 0
        return names[:first] + names[end:], end - first, time_of(names[first]) + self.window - now

    def taken(self, name: str, now: int, cost: int, held: bool) -> str:
        return stamp(now) + (_HELD if held else _SETTLED) + name[18:]

    def forgotten(self, name: str) -> str:
        return make(0, False, number_of(name))

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        busy = self._busy(sorted(names), now)
        lacking = cost - (self.quota - len(busy))
        return time_of(busy[lacking - 1]) + self.window - now if lacking > 0 else 0

    def hits(self, names: "list[str]", now: int) -> "list[int]":
        return [time_of(name) for name in self._busy(names, now)]

    def _busy(self, names: "list[str]", now: int) -> "list[str]":
        first, end = self._busy_range(now)
        return [name for name in names if first <= name < end]

    def _busy_range(self, now: int) -> "tuple[str, str]":
        """The stamps from which and before which a slot is taken.

        One exactly a window old is free, one a window ahead is not, and 0 is free at any time.
        """
        first = now - self.window + 1
        return stamp(first if first > 0 else 1), stamp(now + self.window + 1)


def _below(names: "list[str]", name: str) -> int:
    """How many of the sorted names are smaller: bisect_left, without the module's import."""
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        if names[middle] < name:
            low = middle + 1
        else:
            high = middle
    return low
