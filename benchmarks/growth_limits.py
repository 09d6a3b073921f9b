"""Growth with the slots of a limit, 1 to 10,000, and with the number of limits at once, 1 to 8."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.growth_series import NAMES, Axis, Point, cpu_batch, interleave
from benchmarks.in_process import MEMORY, Bare, Player, Run
from limiter.core.furnish import fresh, furnish
from limiter.core.limit import Sliding, clock, make
from limiter.core.notation import parse
from tests.places import new_root, temporary

SLOTS = (1, 10, 30, 100, 300, 1000, 3000, 10_000)
LIMITS = tuple(range(1, 9))

ADMITTED, DENIED = "admitted", "denied"
LIGHT, BUSY = "1 hit an hour", "as fast as the limit"
FIXED, BURST = "fixed", "burst"
LONG, LONG_DENIED = "long-running admitted", "long-running denied"


class Steady(Player):
    """Plays hits at an even speed, so many in each window, as if it had always done so.

    Its clock moves only with the hits.  So a full limit stays full, and a limit as busy as it was.
    """

    def __init__(self, root: Path, limits: str, in_window: int, remembers: bool = False) -> None:
        self._start = clock()
        occupy(root, limits, in_window, self._start)
        super().__init__(root, limits, remembers)
        self._step = self._window // in_window

    def _clock(self) -> int:
        """A clock that stands still.  It costs as much as the real clock plus this call."""
        clock()
        return self._start + self._ahead


def occupy(root: Path, limits: str, hits: int, now: int) -> None:
    """Furnish the sliding limits of acme as they are after so many hits in the window until now."""
    for limit in parse(limits):
        if not isinstance(limit, Sliding):
            continue
        ages = [limit.window * nth // hits for nth in range(hits)]
        random.Random(hits).shuffle(ages)  # in what order slots are free depends on how hits came
        for segment in range(limit.segments):
            numbers = limit.numbers(segment)
            names = fresh(limit, segment, now)
            taken = [make(now - ages[number], False, number) for number in numbers if number < hits]
            furnish(str(root), f"acme@{limit.directory(segment)}", taken + names[len(taken) :])
            if hits < numbers.stop:
                break  # hits make the next directory only when all slots of this one are taken


def measure_slots(rounds: int) -> Axis:
    """Measure limits of so many hits an hour."""
    axis = Axis("slots", "A hit of a limit with many slots", "hits an hour that the limit admits")
    with temporary(MEMORY) as place:
        runs: dict[tuple[str, int], Run] = {}
        for number in SLOTS:
            limits = f"{number}/hour"
            runs[LIGHT, number] = hits_of(place, limits, 1)
            runs[BUSY, number] = hits_of(place, limits, number)
            runs[DENIED, number] = hits_of(place, limits, number, denied=True)
            runs[FIXED, number] = hits_of(place, f"{limits} fixed", 1)
            runs[BURST, number] = hits_of(place, f"{limits} burst {number}", 1)
            runs[LONG, number] = hits_of(place, limits, 1, remembers=True)
            runs[LONG_DENIED, number] = hits_of(place, limits, number, remembers=True, denied=True)
        return play(rounds, axis, place, runs)


def measure_limits(rounds: int) -> Axis:
    """Measure so many limits at once, of ten hits each."""
    axis = Axis(
        "limits",
        "A hit that counts against several limits",
        "limits at once, of 10 hits each",
        is_log=False,
    )
    with temporary(MEMORY) as place:
        runs: dict[tuple[str, int], Run] = {}
        for number in LIMITS:
            limits = ";".join(f"10/{hours} hours" for hours in range(1, number + 1))
            runs[ADMITTED, number] = hits_of(place, limits, 1)
            runs[DENIED, number] = hits_of(place, limits, 10, denied=True)
            runs[LONG, number] = hits_of(place, limits, 1, remembers=True)
            runs[LONG_DENIED, number] = hits_of(place, limits, 10, remembers=True, denied=True)
        return play(rounds, axis, place, runs)


def hits_of(
    place: Path, limits: str, in_window: int, remembers: bool = False, denied: bool = False
) -> Run:
    """Return a batch of hits in one more store: so many in each window, or denied after so many."""
    player = Steady(new_root(str(place)), limits, in_window, remembers)
    return cpu_batch(player.hit if denied else player.admitted)


def play(rounds: int, axis: Axis, place: Path, runs: dict[tuple[str, int], Run]) -> Axis:
    """Play the rounds, each with the bare calls, and add the points."""
    bare = ("", 0)
    times = interleave(rounds, {bare: cpu_batch(Bare(place, NAMES).listdir_rename), **runs}, axis.name)
    for (name, size), each in times.items():
        if name:
            axis.add(name, size, Point(each, times[bare]))
    return axis
