"""Growth with the clients in a store: 1 to 1,000,000, each furnished as its first hit would.

All stores exist at once, so each round hits in all of them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, cycle
from pathlib import Path
from statistics import median

from benchmarks.growth_series import NAMES, Axis, Point, cpu_batch, interleave, sleeps
from benchmarks.growth_worker import STEP
from benchmarks.in_process import BATCH, DISK, MEMORY, Bare, Player, Run
from benchmarks.report import Row, progress
from tests.places import REPOSITORY, new_root

LIMIT = "10/second"
SIZES = [10**digits for digits in range(7)]
USUAL = 100_000
"""The most clients unless all is to be measured."""

FEWEST_FOR_NEW = 10_000
"""First hits are measured in stores of at least so many clients, since they add clients."""

SAME, RANDOM, NEW = "same client", "any client", "first hit"
PLACES = {DISK: "disk", MEMORY: "tmpfs"}


class NoRoomError(Exception):
    """The file system has no room for so many clients; says why."""


class Crowd(Player):
    """Plays hits of one client, of clients at random, and of new ones, in a store of many."""

    def __init__(self, root: Path, clients: int) -> None:
        """Use the store, which has this many clients."""
        super().__init__(root, LIMIT, remembers=False)
        chosen = random.Random(clients)
        # More than all caches of a processor hold, and chosen before the measurement.
        self._apps = cycle([f"app{chosen.randrange(clients)}" for _ in range(min(clients, 100_000))])
        self._new = map("new{}".format, count())

    def at_random(self) -> None:
        """Play one hit of any client."""
        self._ahead += self._step
        self.hit(next(self._apps))

    def first(self) -> None:
        """Play the first hit of a client."""
        self._ahead += self._step
        self.hit(next(self._new))


def measure(rounds: int, most: int) -> Axis:
    """Measure stores of up to so many clients in each of PLACES."""
    axis = Axis("clients", "A hit in a store of many clients", "clients in the store")
    with ExitStack() as stack:
        runs: dict[tuple[str, str, int], Run] = {}
        for place, kind in PLACES.items():
            bare = Bare(stack.enter_context(store(place)), NAMES)
            runs[kind, "", 0] = cpu_batch(bare.listdir_rename)
            room = Room(place)
            for size in [size for size in SIZES if size <= most]:
                root = stack.enter_context(store(place))
                try:
                    room.require(size)
                    fill(root, size)
                except NoRoomError as why:
                    axis.left_out.append(f"{size:,} clients on {kind}: {why}")
                    break
                room.note(size)
                crowd = Crowd(root, size)
                runs[kind, SAME, size] = cpu_batch(crowd.admitted)
                runs[kind, RANDOM, size] = cpu_batch(crowd.at_random)
                if size >= FEWEST_FOR_NEW:
                    runs[kind, NEW, size] = cpu_batch(crowd.first)
        before = sleeps()
        times = interleave(rounds, runs, "clients")
        hits = (rounds + 1) * BATCH * len(runs)
        axis.further.append(Row("waits for a disk or a lock", sleeps() - before, f"in {hits:,} hits"))
        progress("removing the stores")
    progress("")
    for (kind, what, size), each in times.items():
        if what:
            axis.add(f"{kind}, {what}", size, Point(each, times[kind, "", 0]))
    return axis


@contextmanager
def store(place: str) -> Iterator[Path]:
    """Make a store, and remove it after the block, quickly even if it is large."""
    root = new_root(place)
    try:
        yield root
    finally:
        remove(root)


def remove(root: Path) -> None:
    """Remove it wholly, also if this process is interrupted meanwhile: rm has a session of its own."""
    with subprocess.Popen(["rm", "-rf", str(root)], start_new_session=True) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


class Room:
    """Whether a file system has room for a store, judged by what the stores before it took there."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._now = os.statvfs(place)
        self._inodes = [0.0]
        self._blocks = [0.0]
        """What a client took in each store.  Others write there, too, so the median counts."""

    def note(self, clients: int) -> None:
        """Note what a store of so many clients has taken since the last call."""
        before, self._now = self._now, os.statvfs(self._place)
        self._inodes.append((before.f_favail - self._now.f_favail) / clients)
        self._blocks.append((before.f_bavail - self._now.f_bavail) / clients)

    def require(self, clients: int) -> None:
        """Raise NoRoomError if less than a tenth would then be free: a limiter admits no newcomers there."""
        for what, taken, free, total in (
            ("inodes", self._inodes, self._now.f_favail, self._now.f_files),
            ("blocks", self._blocks, self._now.f_bavail, self._now.f_blocks),
        ):
            needed = int(median(taken) * clients)
            if free - needed < total / 10:
                raise NoRoomError(
                    f"they need {needed:,} {what}, {free:,} are free,"
                    f" and a tenth of {total:,} must stay free"
                )


def fill(root: Path, clients: int) -> None:
    """Furnish so many clients, with a process on each core.  Raises NoRoomError."""
    cores = len(os.sched_getaffinity(0)) if clients > STEP else 1
    bounds = [clients * core // cores for core in range(cores + 1)]
    output, its_output = os.pipe()
    with ExitStack() as stack:
        lines = stack.enter_context(os.fdopen(output))
        workers = []
        for first, end in zip(bounds, bounds[1:]):
            arguments = ["clients", str(root), LIMIT, str(first), str(end)]
            workers.append(stack.enter_context(working(arguments, its_output)))
        os.close(its_output)
        for number, line in enumerate(lines):
            progress(f"{root}: {number * STEP:,} of {clients:,} clients")
            if line.strip():
                raise NoRoomError(line.strip())
        if any(worker.wait() for worker in workers):
            raise RuntimeError(f"A worker failed to furnish {root}")


@contextmanager
def working(arguments: list[str], output: int) -> Iterator[subprocess.Popen[str]]:
    """Start a worker (see growth_worker).  It has ended after the block."""
    command = [sys.executable, "-m", "benchmarks.growth_worker", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, cwd=REPOSITORY, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()
