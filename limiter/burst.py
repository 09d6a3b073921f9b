"""The token bucket: an arrival time in one name."""

from limiter.limit import SECOND, Limit, is_held, make, number_of, time_of


class Burst(Limit):
    """A token bucket: ``rate`` tokens flow in per ``period``, evenly; it holds ``quota`` of them.

    ``window`` is the time in which it fills.  Its state is the generic cell rate algorithm's one
    number, the theoretical arrival time: the moment at which the bucket will be full again (ITU-T
    I.371, virtual scheduling).  It is exact for every rate, since it is counted in units of 1/rate
    of a microsecond: one token is then ``period`` units.
    """

    def __init__(self, rate: int, period: int, capacity: int) -> None:
        self.rate = rate
        self.period = period
        self.quota = capacity
        self.window = -(-period * capacity // rate)
        self.name = f"{rate}-per-{period // SECOND}s-burst-{capacity}"

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        debt = self._debt(names[-1], now)
        free = names[-1:] if debt + cost * self.period <= self.quota * self.period else []
        # The debt is above the capacity where another clock, or this one before, was ahead.
        used = min(-(-debt // self.period), self.quota)
        return free, used, -(-(debt - (used - 1) * self.period) // self.rate) if used else 0

    def taken(self, name: str, now: int, cost: int, held: bool) -> str:
        debt = self._debt(name, now)
        held = held or (debt > 0 and is_held(name))
        return self._at(now * self.rate + debt + cost * self.period, held)

    def returned(self, name: str, claim: str, now: int, cost: int) -> "str | None":
        if now >= time_of(claim):
            # The bucket may have been full since, and its tokens would then be new ones.
            return None
        units = time_of(name) * self.rate + number_of(name)
        return self._at(units - cost * self.period, is_held(name))

    def expiry(self, now: int) -> int:
        return -(-self.period // self.rate)

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        surplus = self._debt(max(names), now) + (cost - self.quota) * self.period
        return max(0, -(-surplus // self.rate))

    def hits(self, names: "list[str]", now: int) -> "list[int]":
        return []

    def _debt(self, name: str, now: int) -> int:
        """How far the bucket is from full, in units."""
        time = time_of(name)
        if time > now + self.window + self.period:
            return 0
        return max(0, (time - now) * self.rate + number_of(name))

    def _at(self, units: int, held: bool) -> str:
        time, rest = divmod(units, self.rate)
        return make(time, held, rest)
