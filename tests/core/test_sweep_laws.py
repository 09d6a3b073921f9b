"""The laws while a sweeper removes everything a window old, and after one was killed at any call."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest

from limiter.core.burst import Burst
from limiter.core.limit import Limit
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.repair import give_back
from limiter.core.store import Store
from limiter.core.sweep import DAY, sweep_store
from tests.faults import kill, play
from tests.history import History, Recorder, faster, judge_l1, judge_s1, only
from tests.limiting import SECOND, entries
from tests.sweeping import LATER, hit_at

KILLED = [
    ("1/second", 1),
    ("3/second", 3),
    ("66/second", 66),
    ("3/second fixed", 2),
    ("3/second burst 4", 1),
    ("3/second;4/minute", 1),
]


def _swept_until_killed(store: str, limits: str, before: int) -> Iterator[str]:
    """Yield stores, each left by a sweeper that was killed at a different call."""
    for number in itertools.count():
        path = f"{store}/{number}"
        os.mkdir(path)
        hit_at(path, limits, count=before)
        ended = play(partial(sweep_store, Store(path), DAY, lambda: LATER), number, kill)
        if not ended.killed:
            assert not ended.struck
            assert number > 5
            return
        yield path


@pytest.mark.one_python
@pytest.mark.parametrize(("limits", "before"), KILLED)
def test_after_sigkill_the_next_hits_find_every_slot(root: str, limits: str, before: int) -> None:
    """S1 and L1: exactly the quota is admitted, and nothing needs repair."""
    for store in _swept_until_killed(root, limits, before):
        after = Limiter(store, limits, clock=lambda: LATER)
        admitted = 0
        while after.hit("acme"):
            admitted += 1
        assert admitted == min(limit.quota for limit in parse(limits))
        assert not [name for name in entries(f"{store}/acme") if "/." in name]


@pytest.mark.one_python
@pytest.mark.parametrize(("limits", "before"), KILLED)
def test_after_sigkill_the_next_sweeps_remove_all_the_same(root: str, limits: str, before: int) -> None:
    for store in _swept_until_killed(root, limits, before):
        for path in Path(store).glob(".new-*"):
            os.utime(path, (0, 0))
        sweep_store(Store(store), DAY, lambda: LATER)
        assert entries(store) == []


def test_a_hit_killed_while_it_gives_back_leaves_it_to_the_next(root: str) -> None:
    """The hit is killed at each of its calls in turn."""
    for number in range(1000):
        store = f"{root}/{number}"
        os.mkdir(store)
        hit_at(store, "3/second")
        directory = f"{store}/acme/3-per-1s"
        for name in os.listdir(directory):
            os.rename(f"{directory}/{name}", f"{directory}/.slot-dead-{name}")
        Path(directory, ".sweep-dead").touch()
        victim = Limiter(store, "3/second", clock=lambda: LATER)
        ended = play(partial(victim.hit, "acme"), number, kill)
        after = Limiter(store, "3/second", clock=lambda: LATER)
        admitted = 0
        while after.hit("acme"):
            admitted += 1
        counted = 3 - admitted
        assert counted <= 1
        assert counted or ended.killed
        if not ended.killed:
            break
    assert number > 5


def test_giving_back_what_is_not_there_is_nothing(root: str) -> None:
    hit_at(root, "3/second")
    before = entries(root)
    give_back(Store(root), "acme/3-per-1s")
    give_back(Store(root), "acme/none")
    assert entries(root) == before


SPEED = 40
"""How much faster than real time their clocks run: a window of one second takes a fortieth."""
HITTERS = 4
MICROSECONDS = SECOND * SPEED // 2

_fork = multiprocessing.get_context("fork")


def _idle_after(limit: Limit) -> float:
    """Return the seconds until a full limit is one window old; a bucket must fill first."""
    return (2 if isinstance(limit, Burst) else 1) * limit.window / SECOND


def _hit_for_a_while(root: str, text: str, clock: Callable[[], int]) -> History:
    """Again and again, hit until denied, then let the slots grow old."""
    rename = Store.rename
    recorder = Recorder(root, text, clock)
    recording = Store.rename

    def without_what_is_given_back(store: Store, directory: str, old: str, new: str) -> bool:
        return (rename if "." in old[0] + new[0] else recording)(store, directory, old, new)

    Store.rename = without_what_is_given_back  # type: ignore[assignment, method-assign]
    generator = random.Random(os.getpid())
    end = clock() + MICROSECONDS
    while clock() < end or not recorder.history.denied:
        while recorder.hit("acme"):
            pass
        time.sleep(generator.uniform(0.9, 1.8) * _idle_after(only(text)) / SPEED)
    return recorder.history


def _sweep_for_a_while(root: str, _: str, clock: Callable[[], int]) -> int:
    """Keep sweeping everything that is one window old; return how many applications were removed."""
    removed = 0
    end = clock() + MICROSECONDS
    while clock() < end or not removed:
        removed += sweep_store(Store(root), 0, clock).removed
    return removed


def _work(work: Callable[..., History | int], results: Queue[Any], *arguments: object) -> None:
    try:
        results.put(work(*arguments))
    except Exception as error:
        results.put(error)


@pytest.mark.one_python
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("text", ["10/second", "3/second fixed", "1/second", "20/second burst 20"])
def test_the_laws_hold_while_a_sweeper_removes_what_is_a_window_old(any_root: str, text: str) -> None:
    """S1 and L1 hold exactly, although the application is removed and comes back all the time."""
    results: Queue[Any] = _fork.Queue()
    # Start the clock anew: an hour ahead, a directory being furnished would look like a leftover.
    arguments = (results, any_root, text, faster(SPEED))
    works: list[Callable[..., History | int]] = [*[_hit_for_a_while] * HITTERS, _sweep_for_a_while]
    workers = [_fork.Process(target=_work, args=(work, *arguments)) for work in works]
    for worker in workers:
        worker.start()
    parts = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    together, removed = History(), 0
    for part in parts:
        if isinstance(part, Exception):
            raise part
        if isinstance(part, int):
            removed += part
        else:
            together.admitted += part.admitted
            together.denied += part.denied
    judge_s1(only(text), together)
    judge_l1(only(text), together)
    assert removed
