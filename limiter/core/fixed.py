"""The calendar window: its state is a counter in one name."""

from limiter.core.limit import SECOND, Limit, is_provisional, make, number_of, time_of


class Fixed(Limit):
    """At most ``quota`` hits in each calendar window, counted from the epoch (UTC)."""

    def __init__(self, quota: int, window: int) -> None:
        self.quota = quota
        self.window = window
        self.name = f"{quota}-per-{window // SECOND}s-fixed"

    def share(self, nodes: int) -> str:
        return f"{super().share(nodes)} fixed"

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        time, used = self._state(names[-1], now)
        free = names[-1:] if used + cost <= self.quota else []
        return free, used, self._end(time) - now if used else 0

    def taken(self, name: str, now: int, cost: int, provisional: bool) -> str:
        time, used = self._state(name, now)
        return make(time, provisional or (used > 0 and is_provisional(name)), used + cost)

    def returned(self, name: str, claim: str, now: int, cost: int) -> "str | None":
        time = time_of(name)
        if time // self.window != time_of(claim) // self.window:
            return None
        return make(time, is_provisional(name), number_of(name) - cost)

    def expiry(self, now: int) -> int:
        return self._end(now) - now

    def wait(self, names: "list[str]", now: int, cost: int) -> int:
        time, used = self._state(max(names), now)
        return self._end(time) - now if used + cost > self.quota else 0

    def hits(self, names: "list[str]", now: int) -> "list[int]":
        return [time_of(names[-1])] if self._state(names[-1], now)[1] else []

    def _state(self, name: str, now: int) -> "tuple[int, int]":
        """The time to count at, and the hits so far in its window.

        The time is never before the last hit, unless that is more than a window ahead of ``now``.
        """
        last = time_of(name)
        if last > now + self.window:
            return now, 0
        time = max(last, now)
        return time, number_of(name) if last // self.window == time // self.window else 0

    def _end(self, time: int) -> int:
        return (time // self.window + 1) * self.window
