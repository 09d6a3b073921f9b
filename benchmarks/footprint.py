"""What a client costs: memory of the process that counts its hits, and bytes and inodes of the store."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.limiters import Contender
from benchmarks.own_process import own_process

_HITS = 10
_WARM = 50


@dataclass(frozen=True)
class Footprint:
    """What one client costs, on average: ``memory`` and ``size`` in bytes."""

    memory: float
    size: float
    inodes: float

    def __str__(self) -> str:
        parts = [f"{self.memory:,.0f} bytes in each process"]
        if self.size:
            parts.append(f"{self.size:,.0f} bytes in the store")
        if self.inodes >= 1:
            parts.append(f"{self.inodes:,.0f} inodes")
        return ", ".join(parts)


def footprint(made: Contender, clients: int) -> Footprint:
    """Measure so many new clients, in a new process: by how much it grows, and its store."""

    def make() -> Callable[[range], int]:
        hit = made.open(_HITS, 60)

        def grow(numbers: range) -> int:
            before = _own_memory()
            for number in numbers:
                hit(f"client-{number}")
            return _own_memory() - before

        return grow

    with own_process(make) as grow:
        grow(range(_WARM))  # pays for what is needed only once
        before = made.usage()
        memory = grow(range(_WARM, _WARM + clients))
        size, inodes = [now - then for now, then in zip(made.usage(), before)]
    return Footprint(memory / clients, size / clients, inodes / clients)


def _own_memory() -> int:
    """The bytes of memory that this process has for itself, and shares with no other."""
    gc.collect()
    found = re.search(r"Private_Dirty: +([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text())
    if found is None:
        raise RuntimeError("/proc/self/smaps_rollup: expected a line Private_Dirty")
    return int(found[1]) * 1024
