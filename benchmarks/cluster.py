"""What hits cost on GlusterFS.  Run ``python3 -m benchmarks.cluster`` in the repository, as root.

It makes the cluster of the tests, three machines of namespaces with one store in three copies, and
measures on one of them.

A hit is compared with its listing and its rename, and the first hit of a client with a hit, both in one
run.  The table goes to standard output.  The exit status is 1 if a claim does not hold here.  Takes a
minute.  Needs the packages glusterfs-server and glusterfs-client, and pytest.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.in_process import Bare, Player, batch, compare
from benchmarks.report import Row, machine, read_rounds, report
from limiter.core.hit import hit
from limiter.core.limit import clock
from limiter.core.limiter import NEWCOMERS
from limiter.core.notation import parse
from limiter.core.store import Store
from tests.laboratories.cluster.laboratory import STORE, Cluster
from tests.laboratories.machines import running

ROUNDS = 10
LIMITS = ("10/second", "100/minute")
AT_MOST = {
    **{f"{limits} admitted": 1.15 for limits in LIMITS},
    **{f"{limits}: first hit": 10 for limits in LIMITS},
}
"""The claims: the figure with this name is at most this."""


def measure(rounds: int, store: Path) -> Iterator[Row]:
    """Measure in this directory."""
    for limits in LIMITS:
        with tempfile.TemporaryDirectory(dir=store) as root:
            player, bare = Light(Path(root), limits, remembers=False), Bare(Path(root), 16)
            ((each, ratio),) = compare(rounds, batch(bare.listdir_rename), batch(player.admitted))
            yield Row(f"{limits} admitted", ratio, "x listdir + rename", each)
            ((each, ratio),) = compare(rounds, batch(player.admitted), batch(newcomer(root, limits)))
            yield Row(f"{limits}: first hit", ratio, "x admitted", each)


class Light(Player):
    """Plays hits of a client that comes once in a window."""

    def __init__(self, root: Path, limits: str, remembers: bool) -> None:
        super().__init__(root, limits, remembers)
        self._step = self._window


def newcomer(root: str, limits: str) -> Callable[[], object]:
    """A hit of one more client, which is counted as a newcomer and furnished."""
    store, parsed, numbers = Store(root), parse(limits), count()
    return lambda: hit(store, parsed, f"new{next(numbers)}", 1, clock, NEWCOMERS)


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and return the exit status."""
    rounds = read_rounds("benchmarks.cluster", __doc__, ROUNDS, arguments)
    with running(partial(Cluster, "3")) as cluster:
        store = cluster.machines[0].path(STORE)
        print(f"{machine()}; GlusterFS, replica 3\n")
        return report(measure(rounds, store), AT_MOST)


if __name__ == "__main__":
    sys.exit(main())
