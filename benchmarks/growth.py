"""How the cost of a hit grows.  Run ``python3 -m benchmarks growth`` in the repository.

It grows one thing at a time: clients in the store (1 to 100,000; to 1,000,000 with ``--all``), slots of a
limit (1 to 10,000), limits at once (1 to 8), processes that hit one key (1 to 64), and with ``--all`` the
nodes of a cluster (1 to 3, on GlusterFS, as root).

Each figure is a ratio to the bare calls of an admitted hit, measured in the same round: a listing of a
directory with ten names, and a rename in it.  A line has the median time of a hit, the hits per second of
all processes together where there are several, the median of the ratios, and their quartiles.  The time is
CPU time, since a machine is rarely idle; for nodes it is how long a hit takes.

The table goes to standard output, progress to standard error.  The exit status is 1 if a claim does not
hold here.  Takes about five minutes, and with ``--all`` twenty.  Needs Linux, and matplotlib for the
pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import growth_clients as clients
from benchmarks import growth_cluster as cluster
from benchmarks import growth_limits as limits
from benchmarks import growth_processes as processes
from benchmarks.growth_series import Axis, spread
from benchmarks.report import Row, file_system, machine, report

ROUNDS = 40
SLOW = 10
"""Rounds with many processes take so much longer that there are only so many times fewer."""


@dataclass(frozen=True)
class Claim:
    """A hit at the large size costs at most this many times one at the small size."""

    axis: str
    series: str
    small: int
    large: int
    at_most: float

    @property
    def name(self) -> str:
        """What the line of the table begins with."""
        return f"{self.series}, {_short(self.small)} to {_short(self.large)}"


CLAIMS = (
    *[
        Claim("clients", f"{place}, {who}", small, large, most)
        for place in clients.PLACES.values()
        # Clients that were not hit lately cost more on ext4: their directories join its journal anew.
        for who, small, most in ((clients.SAME, 1000, 1.2), (clients.RANDOM, 10_000, 1.5))
        for large in (clients.USUAL, max(clients.SIZES))
    ],
    # A client that keeps within a limit pays for 16 slots at most, a fixed or burst limit has one.
    Claim("slots", limits.LIGHT, 100, 10_000, 1.2),
    Claim("slots", limits.LONG, 100, 10_000, 1.2),
    Claim("slots", limits.LONG_DENIED, 1, 10_000, 1.5),
    Claim("slots", limits.FIXED, 1, 10_000, 1.2),
    Claim("slots", limits.BURST, 1, 10_000, 1.2),
    # Each limit costs its own calls, and no more.
    Claim("limits", limits.ADMITTED, 1, 8, 9),
    Claim("limits", limits.DENIED, 1, 8, 9),
    # Processes in each other's way look again.
    Claim("processes", processes.ONE, 1, 64, 2),
    Claim("processes", processes.OVER, 1, 64, 2),
)


def measure(rounds: int, everything: bool) -> Iterator[Axis]:
    """Yield each axis as soon as it is measured."""
    slow = max(1, rounds // SLOW)
    yield clients.measure(rounds, max(clients.SIZES) if everything else clients.USUAL)
    yield limits.measure_slots(rounds)
    yield limits.measure_limits(rounds)
    yield processes.measure(slow)
    if everything:
        yield cluster.measure(slow)


def rows(axis: Axis) -> Iterator[Row]:
    """Print what is below, and yield its lines: the points, and the figures of the claims."""
    print(f"\n{axis.title} ({axis.x_label}): {axis.label()}")
    yield from axis.rows()
    for claim in CLAIMS:
        ratios = axis.growth(claim.series, claim.small, claim.large) if claim.axis == axis.name else []
        if ratios:
            yield Row(claim.name, median(ratios), spread(f"x {claim.small:,}", ratios))
    for reason in axis.left_out:
        print(f"Left out: {reason}")


def draw(axis: Axis, directory: Path) -> None:
    """Draw the ratios, and the rates if there are any."""
    from benchmarks import plot

    path, size = f"{directory}/growth-{axis.name}", axis.x_label
    plot.lines(path, axis.title, size, axis.label(), axis.ratios(), log_x=axis.is_log, log_y=axis.is_log)
    if rates := axis.rates():
        label = "hits per second together"
        plot.lines(f"{path}-rate", axis.title, size, label, rates, log_x=axis.is_log, log_y=axis.is_log)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and draw if asked to.  Return 0 if all claims hold, else 1."""
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--all", action="store_true", help="also 1,000,000 clients, and nodes")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="measurements of each kind (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="DIRECTORY", type=Path, help="draw the pictures there")
    options = parser.parse_args(arguments)
    kinds = ", ".join(f"{name} ({file_system(place)})" for place, name in clients.PLACES.items())
    print(f"{machine()}\nStores: {kinds}")

    def measured() -> Iterator[Row]:
        for axis in measure(max(1, options.rounds), options.all):
            yield from rows(axis)
            if options.output and axis.series:
                draw(axis, options.output)

    return report(measured(), {**{it.name: it.at_most for it in CLAIMS}, processes.BEYOND: 0})


def _short(number: int) -> str:
    """The number, with k for thousands and M for millions."""
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if number >= unit:
            return f"{number // unit}{name}"
    return str(number)


if __name__ == "__main__":
    sys.exit(main())
