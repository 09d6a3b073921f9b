"""The windows of the library ``limits``, each a cell: its whole state is one name, so a rename counts a hit.

``limits.storage.MemoryStorage`` and ``RedisStorage`` (limits 5.8) say what each must answer.
"""

from limiter.core.cell import CELL, Cell
from limiter.core.limit import SECOND, make, number_of, time_of

UNBOUNDED = 10**17
"""The quota of a window that counts whatever comes."""

_DIGITS = 12  # of the hits in the previous window
_COUNT = 10**_DIGITS
_GRID = 9_000  # parts of a window, the unit of a log's times: four digits
_AGE_DIGITS = 4
_STATE_MOST = 236  # digits: a name has at most 255 bytes, of which 18 are the stamp


class FirstHit(Cell):
    """Counts all hits in a window that begins with its first hit.  It denies nothing.

    The stamp is the end of the window, the number the hits in it.  So ``get`` needs not know how long it is.
    """

    quota = UNBOUNDED

    def __init__(self, window: int) -> None:
        super().__init__(f"{CELL}first-hit")
        self.window = window

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        end, used = self._state(names[-1], now)
        return names[-1:], used, end - now if used else 0

    def taken(self, name: str, now: int, cost: int, provisional: bool) -> str:
        end, used = self._state(name, now)
        return make(end, False, min(used + cost, UNBOUNDED))

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        return 0

    def _state(self, name: str, now: int) -> "tuple[int, int]":
        """The end of the window, and the hits so far in it.  One that a wrong clock has made is forgotten."""
        end = time_of(name)
        return (end, number_of(name)) if now < end <= now + 2 * self.window else (now + self.window, 0)


class Weighted(Cell):
    """The sliding window counter: floor(previous * share left of it) + current + cost is at most ``quota``.

    The first window begins with the first hit, and each other one with the end of the last.  The stamp is the
    end of the next window, when nothing counts any more.  The number has both counts: current * 10**12 +
    previous.  So no hit falls between two counters.
    """

    def __init__(self, quota: int, window: int) -> None:
        super().__init__(f"{CELL}weighted-{window // SECOND}s")
        self.quota = min(quota, _COUNT - 1)
        self.window = window

    def state(self, name: str, now: int) -> "tuple[int, int, int]":
        """The start of the current window, the hits in it, and those in the window before."""
        start = time_of(name) - 2 * self.window
        current, previous = divmod(number_of(name), _COUNT)
        passed = (now - start) // self.window
        if passed > 1 or start > now + self.window:
            return now, 0, 0
        if passed == 1:
            return start + self.window, 0, current
        return start, current, previous

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        start, current, previous = self.state(names[-1], now)
        left = start + self.window - now
        still = previous * left // self.window
        used = still + current
        free = names[-1:] if used + cost <= self.quota else []
        if still:
            return free, used, self._until(previous, left, still - 1)
        return free, used, left + 1 if used else 0

    def taken(self, name: str, now: int, cost: int, provisional: bool) -> str:
        start, current, previous = self.state(name, now)
        return make(start + 2 * self.window, False, (current + cost) * _COUNT + previous)

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        start, current, previous = self.state(max(names), now)
        left = start + self.window - now
        room = self.quota - cost
        if previous * left // self.window + current <= room:
            return 0
        if current <= room:
            return self._until(previous, left, room - current)
        return left + self._until(current, self.window, room)

    def expiry(self, now: int) -> int:
        return self.window + 1

    def _until(self, count: int, left: int, most: int) -> int:
        """Microseconds until this count, of which this time is left, weighs at most ``most``."""
        # Strictly less than most + 1: count * (left - wait) < (most + 1) * window.
        return max(0, left - -(-(most + 1) * self.window // count) + 1)


class Log(Cell):
    """The moving window for more hits than there could be slots: a list of times, and the hits at each.

    Times are rounded up to a part of the window, and if the name is full, the two entries that lose least
    become one with the later time.  So it may admit fewer than ``quota`` in a window, and never more.

    The stamp is the last time and a window.  The number is a 1, and for each entry from the last to the
    first its age, in those parts, and its hits, with fixed widths.
    """

    def __init__(self, quota: int, window: int) -> None:
        super().__init__(f"{CELL}log-{quota}-per-{window // SECOND}s")
        self.quota = quota
        self.window = window
        self._part = -(-window // _GRID)
        self._digits = len(str(quota))
        self._width = _AGE_DIGITS + self._digits
        self._most = (_STATE_MOST - 1) // self._width
        if self._most < 2:
            raise ValueError(f"limit {quota}: expected at most 100 digits")

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        entries = self._entries(names[-1], now)
        used = sum([hits for _, hits in entries])
        free = names[-1:] if used + cost <= self.quota else []
        return free, used, entries[-1][0] * self._part + self.window - now if used else 0

    def taken(self, name: str, now: int, cost: int, provisional: bool) -> str:
        entries = self._entries(name, now)
        last = max(now, entries[0][0] * self._part - self._part + 1 if entries else 0)
        part = -(-last // self._part)
        if entries and entries[0][0] == part:
            cost += entries.pop(0)[1]
        entries.insert(0, (part, cost))
        while len(entries) > self._most:
            self._merge(entries)
        fields = [f"{part - at:0{_AGE_DIGITS}}{hits:0{self._digits}}" for at, hits in entries]
        return make(last + self.window, False, int("1" + "".join(fields)))

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        entries = self._entries(max(names), now)
        lacking = sum([hits for _, hits in entries]) + cost - self.quota
        for at, hits in reversed(entries):
            if lacking <= 0:
                return 0
            lacking -= hits
            if lacking <= 0:
                return at * self._part + self.window - now
        return 0

    def _entries(self, name: str, now: int) -> "list[tuple[int, int]]":
        """The entries that count at ``now``, the last first: each its time, in parts, and its hits."""
        last = time_of(name) - self.window
        digits = str(number_of(name))[1:]
        if last > now + self.window or len(digits) % self._width:
            return []
        part = -(-last // self._part)
        entries = []
        for begin in range(0, len(digits), self._width):
            age, hits = (
                digits[begin : begin + _AGE_DIGITS],
                digits[begin + _AGE_DIGITS : begin + self._width],
            )
            at = part - int(age)
            if at * self._part + self.window > now:
                entries.append((at, int(hits)))
        return entries

    def _merge(self, entries: "list[tuple[int, int]]") -> None:
        """Make one entry of two neighbours, with the later time: those that lose least."""
        losses = [
            (entries[nth - 1][0] - entries[nth][0]) * entries[nth][1] for nth in range(1, len(entries))
        ]
        nth = losses.index(min(losses)) + 1
        at, hits = entries[nth - 1]
        entries[nth - 1 : nth + 1] = [(at, hits + entries[nth][1])]
