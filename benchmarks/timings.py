"""The times of hits of each contender, and of the bare calls that no limiter can avoid, in interleaved rounds."""

from __future__ import annotations

import os
import posix
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from benchmarks.contenders import CONTENDERS
from benchmarks.contest import Hit
from benchmarks.own_process import own_process
from benchmarks.record import Figure
from benchmarks.redis_server import Redis
from benchmarks.report import progress
from tests.places import temporary

KINDS = ("admitted", "denied", "first")
"""The kinds of hits that are timed: the names of attributes of ``Times``."""

_KEYS = 20
_HITS = 10
_DENIED = 40
_CALLS = 100
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

    def add(self, found: _Round) -> None:
        """Add what one more round found."""
        for kind, times in zip((self.first, self.admitted, self.denied), found):
            kind.append(times)
        self.wrong += found[3]


_Round = tuple[float, float, float, int]
"""The times of a first, an admitted and a denied hit, and how many hits were decided wrongly."""


def one_round(hit: Hit, number: int) -> _Round:
    """Measure one round.  Each has keys of its own."""
    wrong = 0

    def each(keys: Sequence[str], expected: bool) -> float:
        nonlocal wrong
        begin = time.perf_counter()
        got = [hit(key) for key in keys]
        end = time.perf_counter()
        wrong += got.count(not expected)
        return (end - begin) / len(keys) * 1e6

    keys = [f"r{number}-{nth}" for nth in range(_KEYS)]
    first = each(keys, True)
    each(keys, True)
    admitted = median([each(keys, True) for _ in range(5)])
    full = [f"full-{number}"]
    each(full * _HITS, True)
    return first, admitted, each(full * _DENIED, False), wrong


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
    """The times of these contenders and of the bare calls, in interleaved rounds.

    Each contender has a process of its own: the threads of one do not slow the others.
    """
    with ExitStack() as stack:

        def start(name: str) -> Callable[[int], _Round]:
            made = stack.enter_context(CONTENDERS[name].new())

            def make() -> Callable[[int], _Round]:
                return partial(one_round, made.open(_HITS, 60))

            return stack.enter_context(own_process(make))

        contenders = {name: start(name) for name in names}
        calls = dict(bare_calls(stack))
        bare: dict[str, list[float]] = {name: [] for name in calls}
        times = {name: Times() for name in names}
        for number in range(rounds + 1):
            progress(f"round {number} of {rounds}")
            for name, call in calls.items():
                taken = _time_of(call)
                if number:  # the first round pays for all that is slow only once
                    bare[name].append(taken)
            for name, contender in contenders.items():
                found = contender(number)
                if number:
                    times[name].add(found)
        progress("")
    return times, bare


def _time_of(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - begin) / _CALLS * 1e6


def figures(times: Mapping[str, Times], bare: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """The figures for the record, as ratios to a listing and a rename."""
    least = bare[_BARE]
    found = {name: Figure.of(values, least) for name, values in bare.items()}
    for name, it in times.items():
        for kind in KINDS:
            found[f"{name}: {kind}"] = Figure.of(getattr(it, kind), least)
    return found


def beside(times: Mapping[str, Times], name: str) -> dict[str, dict[str, Figure]]:
    """The figures of each contender and kind of hit, as ratios to those of the contender with this name."""
    return {
        other: {kind: Figure.of(getattr(it, kind), getattr(times[name], kind)) for kind in KINDS}
        for other, it in times.items()
    }
