"""The report of every benchmark: a table of figures, and whether the claims about them hold."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure, its unit, and the measurements behind it.

    ``time`` is in microseconds, ``rate`` in requests or hits per second.
    """

    name: str
    figure: float
    of: str
    time: float | None = None
    rate: float | None = None

    def line(self, verdict: str = "") -> str:
        """Return the line, of at most 100 columns, with the verdict on the figure."""
        time = f"{self.time:,.1f} us" if self.time is not None else ""
        rate = f"{self.rate:,.0f}/s" if self.rate is not None else ""
        figure = f"{self.figure:,.2f}"
        return f"{self.name:32}{time:>11}{rate:>10}{figure:>10} {self.of:19}{verdict}".rstrip()


def read_rounds(module: str, description: str | None, default: int, arguments: list[str] | None) -> int:
    """Read from the command line how many measurements of each kind to make."""
    parser = argparse.ArgumentParser(
        prog=f"python3 -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=int, default=default, help="measurements of each kind (default: %(default)s)"
    )
    return max(1, int(parser.parse_args(arguments).rounds))


def report(
    rows: Iterable[Row], at_most: Mapping[str, float], goals: Mapping[str, float] | None = None
) -> int:
    """Print each row as it comes.  Return 0 if all claims hold, else 1.

    ``at_most`` has the claims: the figure with that name is at most this.  ``goals`` are not reached
    everywhere, or not yet: a figure that misses a goal is only marked.
    """
    goals = goals or {}
    failed = []
    for row in rows:
        verdict = ""
        if row.name in at_most:
            verdict = f"at most {at_most[row.name]:g}"
            if row.figure > at_most[row.name]:
                verdict += " FALSE"
                failed.append(row.name)
        if row.name in goals:
            verdict += f", goal {goals[row.name]:g}" + (
                " missed" if row.figure > goals[row.name] else ""
            )
        print(row.line(verdict.removeprefix(", ")), flush=True)
    print(f"\nNot as claimed: {', '.join(failed)}" if failed else "\nAll as claimed.")
    return 1 if failed else 0


def progress(what: str) -> None:
    """Show on a terminal what is being done."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def machine() -> str:
    """Return a description of the machine that was measured."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{time.strftime('%Y-%m-%d')}; {cpu[1] if cpu else platform.machine()},"
        f" {len(os.sched_getaffinity(0))} cores; Linux {platform.release()}"
    )


def file_system(path: str) -> str:
    """Return the type of the file system that a path is on."""
    found = "/", "?"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if f"{path}/".startswith(f"{point.rstrip('/')}/") and point >= found[0]:
            found = point, kind
    return found[1]
