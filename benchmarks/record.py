"""The record of a benchmark: its figures as JSON, and what two records say about a change.

Times depend on the machine.  So records are compared by ratios to bare calls, which were measured in the same
rounds.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks.report import machine
from tests.places import REPOSITORY

_WORSE = 1.1
"""A ratio that is so many times the old one is worse, unless the quartiles of the two overlap."""


@dataclass(frozen=True)
class Figure:
    """A cost: its time in microseconds, and its ratio to the bare calls of its round.

    All are medians of the rounds, ``low`` and ``high`` the quartiles of the ratio.
    """

    time: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, times: Sequence[float], bare: Sequence[float]) -> Figure:
        """The figure of these measurements, and of the bare calls in the same rounds."""
        ratios = [time / least for time, least in zip(times, bare)]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return cls(median(times), median(ratios), low, high)


def is_ours(name: str) -> bool:
    """Whether a figure is one of this limiter, not of a peer."""
    return name.startswith("this")


def commit() -> str:
    """The commit of this repository, with a + if there are changes; "" outside of a repository."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=12", "--dirty=+"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return str(found.stdout.strip())


def write(file: Path, figures: Mapping[str, Figure]) -> None:
    """Write these figures, with the machine and the commit."""
    record = {
        "machine": machine(),
        "commit": commit(),
        "figures": {name: asdict(it) for name, it in figures.items()},
    }
    file.write_text(json.dumps(record, indent=1) + "\n")


def read(file: Path) -> tuple[str, dict[str, Figure]]:
    """The commit and the figures of a record.  Raises ValueError if it is none."""
    try:
        record = json.loads(file.read_text())
        return record["commit"], {name: Figure(**it) for name, it in record["figures"].items()}
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file}: expected a record of `python3 -m benchmarks`: {error}") from error


def compare(old: Path, new: Path) -> int:
    """Print each figure of both records.  Returns 1 if one of this limiter is worse, else 0.

    Raises ValueError.
    """
    (before, olds), (after, news) = read(old), read(new)
    print(f"{before or 'old'} -> {after or 'new'}, as ratios to bare calls of the same rounds\n")
    worse = []
    for name in [name for name in olds if name in news]:
        was, now = olds[name], news[name]
        change = now.ratio / was.ratio
        verdict = ""
        if change > _WORSE and now.low > was.high:
            verdict = "WORSE"
            if is_ours(name):
                worse.append(name)
        elif change < 1 / _WORSE and now.high < was.low:
            verdict = "better"
        print(f"{name:44}{was.ratio:9.2f}{now.ratio:9.2f}   x {change:4.2f}  {verdict}".rstrip())
    for name in sorted(set(olds) ^ set(news)):
        print(f"{name:44} only in the {'old' if name in olds else 'new'} record")
    print(f"\nWorse: {', '.join(worse)}" if worse else "\nNothing is worse.")
    return 1 if worse else 0
