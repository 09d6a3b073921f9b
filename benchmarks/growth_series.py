"""What one benchmark of growth measures: points, series of them, and one axis with its picture."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TypeVar

from benchmarks.in_process import BATCH, Run
from benchmarks.report import Row, progress

Key = TypeVar("Key")

BARE = "listdir + rename"
"""The bare calls of an admitted hit, on a directory with NAMES names."""

NAMES = 10


@dataclass(frozen=True)
class Point:
    """The measurements at one size: one in each round, in microseconds, and the bare calls beside it.

    ``rates``: in each round the hits per second of all processes together, if there are several.
    """

    times: list[float]
    bare: list[float]
    rates: list[float] = field(default_factory=list)

    @property
    def time(self) -> float:
        """The median time."""
        return median(self.times)

    @property
    def ratio(self) -> float:
        """The median of the ratios to the bare calls."""
        return median(self._ratios())

    @property
    def rate(self) -> float | None:
        """The median rate."""
        return median(self.rates) if self.rates else None

    def row(self, name: str) -> Row:
        """Return its line in the table, with the quartiles of the ratio."""
        return Row(name, self.ratio, spread("x bare", self._ratios()), self.time, self.rate)

    def _ratios(self) -> list[float]:
        return [time / bare for time, bare in zip(self.times, self.bare)]


Series = dict[int, Point]
"""A point at each size, in ascending order."""

Lines = dict[str, tuple[list[float], list[float]]]
"""What is drawn of each series: its sizes, and a figure at each."""


@dataclass
class Axis:
    """What grows, and how the cost of a hit follows.

    ``what``: of the figures; ``left_out``: sizes not measured, and why; ``further``: other figures.
    """

    name: str
    title: str
    x_label: str
    what: str = "CPU of a hit"
    is_log: bool = True
    series: dict[str, Series] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    further: list[Row] = field(default_factory=list)

    def add(self, name: str, size: int, point: Point) -> None:
        """Add a point to the series of this name."""
        self.series.setdefault(name, {})[size] = point

    def rows(self) -> Iterator[Row]:
        """Yield a line for each point."""
        for name, series in self.series.items():
            for size, point in series.items():
                yield point.row(f"{name}: {size:,}")
        yield from self.further

    def growth(self, name: str, small: int, large: int) -> list[float]:
        """What a hit costs at the large size, as a ratio to the small one, in each round.

        Empty if one of them was not measured.
        """
        series = self.series.get(name, {})
        if small not in series or large not in series:
            return []
        return [much / little for much, little in zip(series[large].times, series[small].times)]

    def ratios(self) -> Lines:
        """What is drawn: the ratios to the bare calls at each size."""
        return self._lines(lambda point: point.ratio)

    def rates(self) -> Lines:
        """The same with the rates; empty if there are none."""
        return self._lines(lambda point: point.rate)

    def label(self) -> str:
        """What the figures are, and how long the bare calls took on the file systems measured."""
        points = [point for series in self.series.values() for point in series.values()]
        medians = sorted({round(median(point.bare)) for point in points})
        times = " and ".join(f"{time:,} us" for time in medians)
        return f"{self.what}, x {BARE} ({times})" if times else self.what

    def _lines(self, figure: Callable[[Point], float | None]) -> Lines:
        lines = {}
        for name, series in self.series.items():
            figures = {float(size): figure(point) for size, point in series.items()}
            known = {size: value for size, value in figures.items() if value is not None}
            if known:
                lines[name] = list(known), list(known.values())
        return lines


def spread(of: str, values: list[float]) -> str:
    """Return the unit of a figure, with the quartiles of its values."""
    if len(values) > 1:
        low, _, high = quantiles(values, n=4, method="inclusive")
        of += f" {low:.2f}-{high:.2f}"
    return of


def cpu_batch(work: Callable[[], object]) -> Run:
    """Return a function that runs a batch of ``work`` and returns the CPU time of one.

    On a busy machine, how long a batch takes says more about the others.  ``sleeps`` counts what this misses.
    """

    def run() -> float:
        start = time.thread_time_ns()
        for _ in range(BATCH):
            work()
        return (time.thread_time_ns() - start) / BATCH / 1000

    return run


def sleeps() -> int:
    """Return how often this process has waited: for a disk, a lock or another process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def interleave(rounds: int, runs: Mapping[Key, Run], what: str) -> dict[Key, list[float]]:
    """Return the times of each run, one for each round.  All run once in each round."""
    for run in runs.values():
        run()  # pays for all that is slow only once
    times: dict[Key, list[float]] = {key: [] for key in runs}
    for number in range(rounds):
        progress(f"{what}: round {number + 1} of {rounds}")
        for key, run in runs.items():
            times[key].append(run())
    progress("")
    return times
