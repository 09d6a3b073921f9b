"""The arithmetic of a limit.  It is exact, and it knows nothing about files or HTTP.

A limit keeps its whole state in *names* such as ``1513123456.123456-3`` (docs/store-format.md).  Each
kind answers the same questions from the names in a directory and the present time.  Times are integers:
microseconds since the epoch.  Names sort in the order of their times.
"""

from time import time_ns

TYPE_CHECKING = False

SECOND = 1_000_000
SEGMENT = 64
"""The most slots in one directory: few enough that one getdents call returns them all."""

_FEW = 16  # slots in the first directory: few, as a client that is seen once must cost little
_SETTLED = "-"
_PROVISIONAL = "~"
_FORM = "0000000000.000000-"
_AS_FORM = {**dict.fromkeys(b"123456789", "0"), ord(_PROVISIONAL): _SETTLED}


def clock() -> int:
    """The time of day in microseconds since the epoch."""
    return time_ns() // 1000


def stamp(time: int) -> str:
    """A time in microseconds as text of fixed width; 0 <= time < 10**16."""
    digits = str(time).zfill(16)  # a third faster than formatting seconds and microseconds
    return f"{digits[:10]}.{digits[10:]}"


def time_of(name: str) -> int:
    """The time, in microseconds, in a name."""
    return int(name[:10] + name[11:17])


def number_of(name: str) -> int:
    """The number in a name."""
    return int(name[18:])


def is_provisional(name: str) -> bool:
    """Whether this name is provisional: the hit that wrote it may still give it back."""
    return name[17] == _PROVISIONAL


def is_name(text: str) -> bool:
    """Whether a directory entry has exactly the form of a name.  Other entries are not slots."""
    return (
        len(text) > 18
        and text[10] == "."
        and text[17] in _SETTLED + _PROVISIONAL
        and (text[:10] + text[11:17] + text[18:]).isdigit()
        and (text[18] != "0" or len(text) == 19)
        and text.isascii()
    )


def make(time: int, provisional: bool, number: int) -> str:
    """The name that has these parts."""
    return f"{stamp(time)}{_PROVISIONAL if provisional else _SETTLED}{number}"


class Limit:
    """At most ``quota`` hits per ``window`` microseconds.  The kind defines the exact meaning.

    These attributes are public and the same for all kinds: ``quota`` (hits), ``window``
    (microseconds), ``name`` (of the directory), ``policy`` (its own name, or ""), ``segments`` (the
    directories that it may grow to), ``is_returnable`` (whether a claim can always be given back; if
    not, other hits may build upon its name).

    ``names`` are the sorted names of one directory, at least one, unless a method says otherwise.
    ``now`` is the time.  ``cost`` is how many hits to count at once, 1 to ``quota``.
    """

    quota: int
    window: int
    name: str
    policy: str = ""
    segments: int = 1
    is_returnable: bool = False

    if TYPE_CHECKING:  # what each kind defines itself

        def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
            """The names that a hit of this cost may claim (too few: it is denied), and the hits counted.

            Then the microseconds until the first of these is no longer counted, 0 if there is none.
            """

        def taken(self, name: str, now: int, cost: int, provisional: bool) -> str:
            """The new name of a free name; ``provisional`` if the claim may still be given back."""

        def wait(self, names: "list[str]", now: int, cost: int) -> int:
            """Microseconds until a hit of this cost is admitted if no other hit comes; 0: now.

            ``names`` are those of all directories, in any order.
            """

        def hits(self, names: "list[str]", now: int) -> "list[int]":
            """The times of the hits counted at ``now``, as far as the names show them, oldest first."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def directory(self, segment: int) -> str:
        """The name of a segment's directory: ``10-per-1s``, ``10-per-1s.1`` ..."""
        return f"{self.name}.{segment}" if segment else self.name

    def numbers(self, segment: int) -> range:
        """The numbers of the slots of this directory.  A single name has any number."""
        return range(1)

    def is_whole(self, names: "list[str]", segment: int) -> bool:
        """Whether these are exactly the names of this directory's slots, one for each."""
        return len(names) == 1 and is_name(names[0])

    def slot(self, name: str) -> int:
        """The number of the slot that this name is of."""
        return 0

    def share(self, nodes: int) -> str:
        """One node's share of the limit, in the notation (see ``limiter.request.node_share``)."""
        seconds = self.window // SECOND
        if 0 < self.quota < nodes:
            return f"1 per {seconds * -(-nodes // self.quota)} seconds"
        return f"{self.quota // nodes} per {seconds} seconds"

    def claims(self, cost: int) -> int:
        """How many names a hit of this cost must rename."""
        return 1

    def returned(self, name: str, claim: str, now: int, cost: int) -> "str | None":
        """The name that undoes ``claim``, on which others have built ``name``.  None: nothing to undo."""
        return None

    def released(self, name: str) -> str:
        """The new name of a free name that was claimed and is given back."""
        return name

    def forgotten(self, name: str, now: int) -> str:
        """The new name of a name that makes the limit forget all its hits."""
        return make(max(0, now - 2 * self.window - 1), False, self.slot(name))

    def expiry(self, now: int) -> int:
        """Microseconds until a hit counted at ``now`` is no longer counted, if it is the only one."""
        return self.window


class Sliding(Limit):
    """No window of this length holds more than ``quota`` hits, wherever it begins.

    Each of the ``quota`` slots can be taken once per window.  ``quota`` is 0 to 10,000.
    """

    is_returnable = True

    def __init__(self, quota: int, window: int) -> None:
        self.quota = quota
        self.window = window
        self.name = f"{quota}-per-{window // SECOND}s"
        self._forms: dict[int, tuple[str, set[str]]] = {}
        # 16 slots, 48 more, and then 64 in each.
        self.segments = -(-quota // SEGMENT) + (quota > _FEW)

    def numbers(self, segment: int) -> range:
        first = _FEW if segment == 1 else SEGMENT * max(segment - 1, 0)
        end = SEGMENT * segment if segment else _FEW
        return range(first, min(end, self.quota))

    def is_whole(self, names: "list[str]", segment: int) -> bool:
        form = self._forms.get(segment)
        if form is None:
            numbers = self.numbers(segment)
            form = _FORM * len(numbers), set(map(str, numbers))
            self._forms[segment] = form
        # All stamps at once: to check them one by one takes three times as long.
        stamps = "".join([name[:18] for name in names]).translate(_AS_FORM)
        return stamps == form[0] and {name[18:] for name in names} == form[1]

    def slot(self, name: str) -> int:
        return number_of(name)

    def claims(self, cost: int) -> int:
        return cost

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        oldest = time_of(names[0])
        is_ahead = time_of(names[-1]) > now + self.window
        if oldest > max(now - self.window, 0) and not is_ahead:
            return [], len(names), oldest + self.window - now
        first = _below(names, self._first_busy(now))
        end = _below(names, self._end_of_busy(now)) if is_ahead else len(names)
        if first == end:
            return names, 0, 0
        return names[:first] + names[end:], end - first, time_of(names[first]) + self.window - now

    def taken(self, name: str, now: int, cost: int, provisional: bool) -> str:
        return stamp(now) + (_PROVISIONAL if provisional else _SETTLED) + name[18:]

    def released(self, name: str) -> str:
        return make(time_of(name) + 1, False, number_of(name))

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        busy = self._busy(sorted(names), now)
        lacking = cost - (self.quota - len(busy))
        return time_of(busy[lacking - 1]) + self.window - now if lacking > 0 else 0

    def hits(self, names: "list[str]", now: int) -> "list[int]":
        return [time_of(name) for name in self._busy(names, now)]

    def _busy(self, names: "list[str]", now: int) -> "list[str]":
        first, end = self._first_busy(now), self._end_of_busy(now)
        return [name for name in names if first <= name < end]

    def _first_busy(self, now: int) -> str:
        """The least stamp of a taken slot.  One exactly one window old is free, and 0 always is."""
        first = now - self.window + 1
        return stamp(first if first > 0 else 1)

    def _end_of_busy(self, now: int) -> str:
        """The least stamp above those of taken slots.  One exactly a window ahead is taken."""
        return stamp(now + self.window + 1)


def _below(names: "list[str]", name: str) -> int:
    """How many of the sorted names are smaller: bisect_left, without an import of its module."""
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        if names[middle] < name:
            low = middle + 1
        else:
            high = middle
    return low
