"""The token bucket: its state is an arrival time in one name."""

from limiter.core.limit import SECOND, Limit, is_provisional, make, number_of, time_of


class Burst(Limit):
    """A token bucket: it holds ``quota`` tokens, and ``rate`` tokens flow in evenly per ``period``.

    ``window`` is the time in which it fills.  The state is the theoretical arrival time of the generic
    cell rate algorithm (ITU-T I.371, virtual scheduling), when the bucket will be full again.  It is in
    units of 1/rate of a microsecond.  One token is then ``period`` units, so every rate is exact.
    """

    def __init__(self, rate: int, period: int, capacity: int) -> None:
        self.rate = rate
        self.period = period
        self.quota = capacity
        self.window = -(-period * capacity // rate)
        self.name = f"{rate}-per-{period // SECOND}s-burst-{capacity}"

    def share(self, nodes: int) -> str:
        seconds = nodes * self.period // SECOND
        return f"{self.rate} per {seconds} seconds burst {max(1, self.quota // nodes)}"

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        debt = self._debt(names[-1], now)
        free = names[-1:] if debt + cost * self.period <= self.quota * self.period else []
        # The debt exceeds the capacity if another clock is ahead, or if this clock was.
        used = min(-(-debt // self.period), self.quota)
        return free, used, -(-(debt - (used - 1) * self.period) // self.rate) if used else 0

    def taken(self, name: str, now: int, cost: int, provisional: bool) -> str:
        debt = self._debt(name, now)
        provisional = provisional or (debt > 0 and is_provisional(name))
        return self._at(now * self.rate + debt + cost * self.period, provisional)

    def returned(self, name: str, claim: str, now: int, cost: int) -> "str | None":
        if now >= time_of(claim):
            # The bucket may have been full since the claim.  Then its tokens are new ones.
            return None
        units = time_of(name) * self.rate + number_of(name)
        return self._at(units - cost * self.period, is_provisional(name))

    def expiry(self, now: int) -> int:
        return -(-self.period // self.rate)

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        surplus = self._debt(max(names), now) + (cost - self.quota) * self.period
        return max(0, -(-surplus // self.rate))

    def hits(self, names: "list[str]", now: int) -> "list[int]":
        return []

    def _debt(self, name: str, now: int) -> int:
        """How much the bucket lacks until it is full, in units of 1/rate of a microsecond."""
        time = time_of(name)
        if time > now + self.window + self.period:
            return 0
        return max(0, (time - now) * self.rate + number_of(name))

    def _at(self, units: int, provisional: bool) -> str:
        time, rest = divmod(units, self.rate)
        return make(time, provisional, rest)
