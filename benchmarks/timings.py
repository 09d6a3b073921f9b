"""The times of hits of each contender, and of the bare calls that no limiter can avoid, in interleaved rounds."""

from __future__ import annotations

import os
import posix
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from benchmarks.contenders import CONTENDERS
from benchmarks.contest import Hit
from benchmarks.record import Figure
from benchmarks.redis_server import Redis
from benchmarks.report import progress
from tests.places import temporary

_KEYS = 20
_HITS = 10
_DENIED = 40
_MEMORY = "/dev/shm"
_BARE = "a listing and a rename, tmpfs"


@dataclass
class Times:
    """The times of one contender, in microseconds: a median for each round.

    ``wrong``: how many of these hits were denied with room, or admitted without.
    """

    first: list[float] = field(default_factory=list)
    admitted: list[float] = field(default_factory=list)
    denied: list[float] = field(default_factory=list)
    wrong: int = 0

    def add(self, hit: Hit, number: int) -> None:
        """Measure one more round."""
        keys = [f"r{number}-{nth}" for nth in range(_KEYS)]
        self.first.append(self._each(hit, keys, True))
        self._each(hit, keys, True)
        self.admitted.append(median([self._each(hit, keys, True) for _ in range(5)]))
        full = [f"full-{number}"]
        self._each(hit, full * _HITS, True)
        self.denied.append(self._each(hit, full * _DENIED, False))

    def _each(self, hit: Hit, keys: Sequence[str], expected: bool) -> float:
        begin = time.perf_counter()
        got = [hit(key) for key in keys]
        end = time.perf_counter()
        self.wrong += got.count(not expected)
        return (end - begin) / len(keys) * 1e6


def bare_calls(stack: ExitStack) -> Iterator[tuple[str, Callable[[], object]]]:
    """What no limiter on these stores can avoid: the calls themselves."""
    place = stack.enter_context(temporary(_MEMORY))
    for nth in range(_HITS):
        (place / f"{10**15 + nth}-{nth}").touch()
    names = sorted(os.listdir(place))
    prefix, count = f"{place}/", [10**15 + _HITS]

    def rename() -> None:
        count[0] += 1
        new = f"{count[0]}-0"
        posix.rename(prefix + names[0], prefix + new)
        names[0] = new

    def both() -> None:
        posix.listdir(prefix)
        rename()

    yield _BARE, both
    yield "a listing of 10 names, tmpfs", lambda: posix.listdir(prefix)
    yield "a rename, tmpfs", rename
    yield "a look at the clock", time.time_ns
    if shutil.which("redis-server"):
        server = Redis(stack.enter_context(temporary(_MEMORY)))
        stack.callback(server.kill)
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))

        def ping() -> None:
            connection.sendall(b"PING\r\n")
            connection.recv(64)

        yield "a round trip to Redis (PING)", ping


def measure(names: Sequence[str], rounds: int) -> tuple[dict[str, Times], dict[str, list[float]]]:
    """The times of these contenders and of the bare calls, in interleaved rounds."""
    with ExitStack() as stack:
        calls = dict(bare_calls(stack))
        bare: dict[str, list[float]] = {name: [] for name in calls}
        hits = {name: stack.enter_context(CONTENDERS[name].new()).open(_HITS, 60) for name in names}
        times = {name: Times() for name in names}
        for number in range(rounds + 1):
            progress(f"round {number} of {rounds}")
            for name, call in calls.items():
                begin = time.perf_counter()
                for _ in range(100):
                    call()
                bare[name].append((time.perf_counter() - begin) * 1e4)
            for name in names:
                times[name].add(hits[name], number)
        progress("")
    # The first round pays for all that is slow only once.
    for it in times.values():
        del it.first[0], it.admitted[0], it.denied[0]
    return times, {name: values[1:] for name, values in bare.items()}


def figures(times: dict[str, Times], bare: dict[str, list[float]]) -> dict[str, Figure]:
    """The figures for the record, as ratios to a listing and a rename."""
    least = bare[_BARE]
    found = {name: Figure.of(values, least) for name, values in bare.items()}
    for name, it in times.items():
        for what in ("admitted", "denied", "first"):
            found[f"{name}: {what}"] = Figure.of(getattr(it, what), least)
    return found
