"""Histories of hits: real processes record them, and the laws are checked afterwards.

A check uses the names that a hit wrote and the clock that it read, never the time of its answer.
"""

from __future__ import annotations

import multiprocessing
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from limiter.core.burst import Burst
from limiter.core.fixed import Fixed
from limiter.core.hit import Attempt
from limiter.core.limit import Limit, clock, number_of, time_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store

Numbers = npt.NDArray[np.int64]

_fork = multiprocessing.get_context("fork")


@dataclass
class Admitted:
    """An admitted hit: its first and its last stamp, and the last name of its slot.

    The stamps differ if the hit was stamped again after a stall.  ``begun`` and ``time`` are what its
    clock said before the first and the last claim.
    """

    first: int
    last: int
    begun: int
    time: int
    name: str


@dataclass
class History:
    """What happened to one limit: the admitted hits, and the times of the denied ones."""

    admitted: list[Admitted] = field(default_factory=list)
    denied: array[int] = field(default_factory=lambda: array("q"))


class Recorder:
    """Plays hits against a Limiter of one limit, and records them.  It needs its own process.

    It records what a hit claims, not what it repairs or what a sweep has left to it.
    """

    def __init__(self, root: str, limits: str, clock: Callable[[], int] = clock) -> None:
        self.history = History()
        self._time = clock
        self._renames: list[str] = []
        self._now = 0
        self._begun = 0
        self._claimed_at = 0
        self._is_claiming = False
        self.limiter = Limiter(root, limits, newcomers="", clock=self._clock)
        original, take = Store.rename, Attempt._take

        def rename(store: Store, directory: str, old: str, new: str) -> bool:
            claimed_at = self._now
            if not original(store, directory, old, new):
                return False
            if not self._is_claiming:
                return True
            if not self._renames:
                self._begun = claimed_at
            self._claimed_at = claimed_at
            self._renames.append(new)
            return True

        def claim(*arguments: Any) -> str | None:
            self._is_claiming = True
            try:
                return take(*arguments)
            finally:
                self._is_claiming = False

        Store.rename = rename  # type: ignore[assignment, method-assign]
        Attempt._take = claim  # type: ignore[assignment, method-assign]

    def _clock(self) -> int:
        self._now = self._time()
        return self._now

    def hit(self, app: str) -> bool:
        """Play one hit."""
        self._renames.clear()
        allowed = bool(self.limiter.hit(app))
        if allowed:
            first, last = self._renames[0], self._renames[-1]
            hit = Admitted(time_of(first), time_of(last), self._begun, self._claimed_at, last)
            self.history.admitted.append(hit)
        else:
            self.history.denied.append(self._now)
        return allowed


def record(
    root: str,
    limits: str,
    microseconds: int,
    processes: int = 8,
    sabotage: Callable[[], None] = lambda: None,
    speed: int = 1,
) -> History:
    """Let processes hit one application as fast as they can; return all that they did.

    They stop when ``microseconds`` have passed and each has been denied at least once.  ``sabotage``
    runs in each process first: a law is tested only if a broken limiter breaks it.  Their clock runs
    ``speed`` times as fast as real time, and also measures ``microseconds``.
    """
    barrier = _fork.Barrier(processes)
    began = clock()

    def fast() -> int:
        return began + (clock() - began) * speed

    def work() -> History:
        sabotage()
        recorder = Recorder(root, limits, fast)
        barrier.wait()
        end = fast() + microseconds
        while fast() < end or not recorder.history.denied:
            recorder.hit("acme")
        return recorder.history

    return at_once([work] * processes)


def at_once(actions: Sequence[Callable[[], History]]) -> History:
    """Run each of these in a process of its own, all at once; return all that they did.

    Raises the first exception that one of them raises.
    """
    results: Queue[History | Exception] = _fork.Queue()

    def act(action: Callable[[], History]) -> None:
        try:
            results.put(action())
        except Exception as error:
            results.put(error)

    workers = [_fork.Process(target=act, args=(action,)) for action in actions]
    for worker in workers:
        worker.start()
    parts = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    together = History()
    for part in parts:
        if isinstance(part, Exception):
            raise part
        together.admitted += part.admitted
        together.denied += part.denied
    return together


def judge_s1(limit: Limit, history: History) -> None:
    """Law S1: no window holds more than the quota; no tolerance."""
    if isinstance(limit, Burst):
        _judge_bucket(limit, history)
        return
    stamps = sorted(hit.last for hit in history.admitted)
    if isinstance(limit, Fixed):
        windows = [stamp // limit.window for stamp in stamps]
        most = max(windows.count(window) for window in set(windows))
        assert most <= limit.quota, f"{most} hits in one calendar window"
        return
    for first, beyond in zip(stamps, stamps[limit.quota :]):
        assert beyond - first >= limit.window, f"{limit.quota + 1} hits within {beyond - first} us"


def _judge_bucket(limit: Burst, history: History) -> None:
    """No interval exceeds a full bucket and what flows in: (j - i + 1) <= B + rate * (tj - ti)."""
    times = sorted(hit.time for hit in history.admitted)
    # Check hit j against the least (i - 1) - rate * ti so far, in tokens times period.
    least = None
    for index, time in enumerate(times):
        level = index * limit.period - time * limit.rate
        least = level if least is None else min(least, level)
        assert level - least + limit.period <= limit.quota * limit.period, "more than the bucket held"


def judge_l1(limit: Limit, history: History) -> None:
    """Law L1: for each denial, the quota was used up in the window that ends then."""
    if isinstance(limit, Burst):
        _judge_empty_bucket(limit, history)
        return
    denied = np.asarray(history.denied)
    # A hit that was stamped again held its slot from its first stamp on.
    begins = np.array([hit.first for hit in history.admitted])
    ends = np.array([hit.last for hit in history.admitted])
    if isinstance(limit, Fixed):
        for window in np.unique(denied // limit.window):
            here = np.sort(begins[ends // limit.window == window])
            times = denied[denied // limit.window == window]
            _each_full(limit, times, np.searchsorted(here, times, "right"))
    else:
        begun = np.searchsorted(np.sort(begins), denied, "right")
        ended = np.searchsorted(np.sort(ends), denied - limit.window, "right")
        _each_full(limit, denied, begun - ended)


def _each_full(limit: Limit, times: Numbers, counted: Numbers) -> None:
    wrong = np.flatnonzero(counted < limit.quota)
    assert not len(wrong), f"denied at {times[wrong[0]]} with {counted[wrong[0]]} hits in its window"


def _judge_empty_bucket(limit: Burst, history: History) -> None:
    hits = sorted(history.admitted, key=lambda hit: hit.begun)
    # Names sort like arrival times: the greatest name so far is always the bucket's state.
    names = list(accumulate((hit.name for hit in hits), max))
    latest = np.searchsorted([hit.begun for hit in hits], history.denied, "right") - 1
    arrival = np.array([time_of(name) for name in names])[latest]
    rest = np.array([number_of(name) for name in names])[latest]
    debt = (arrival - np.asarray(history.denied)) * limit.rate + rest
    wrong = np.flatnonzero(debt + limit.period <= limit.quota * limit.period)
    assert not len(wrong), f"denied at {history.denied[wrong[0]]} with a token left"


def only(text: str) -> Limit:
    """Return the one limit that a text names."""
    (limit,) = parse(text)
    return limit
