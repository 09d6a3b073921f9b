"""The laws while a sweeper removes everything a window old, and after one was killed at any call."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from limiter.core.burst import Burst
from limiter.core.limit import Limit, clock
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store
from limiter.core.sweep import DAY, sweep_store
from tests.faults import kill, play
from tests.history import History, Recorder, judge_l1, judge_s1, only
from tests.limiting import LATER, SECOND, admitted, entries, hit_at

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
        quota = min(limit.quota for limit in parse(limits))
        assert admitted(Limiter(store, limits, clock=lambda: LATER), quota + 1) == quota
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
        counted = 3 - admitted(Limiter(store, "3/second", clock=lambda: LATER), 4)
        assert counted <= 1
        assert counted or ended.killed
        if not ended.killed:
            break
    assert number > 5


SPEED = 40
"""How much faster than real time their clocks run: a window of one second takes a fortieth."""
HITTERS = 4
MICROSECONDS = SECOND * SPEED // 2


def _fast(began: int) -> int:
    return began + (clock() - began) * SPEED


def _idle_after(limit: Limit) -> float:
    """Return the seconds until a full limit is one window old; a bucket must fill first."""
    return (2 if isinstance(limit, Burst) else 1) * limit.window / SECOND


def _hit_for_a_while(root: str, text: str, now: Callable[[], int]) -> History:
    """Again and again, hit until denied, then let the slots grow old."""
    rename = Store.rename
    recorder = Recorder(root, text, now)
    recording = Store.rename

    def without_what_is_given_back(store: Store, directory: str, old: str, new: str) -> bool:
        return (rename if "." in old[0] + new[0] else recording)(store, directory, old, new)

    Store.rename = without_what_is_given_back  # type: ignore[assignment, method-assign]
    generator = random.Random(os.getpid())
    end = now() + MICROSECONDS
    while now() < end or not recorder.history.denied:
        while recorder.hit("acme"):
            pass
        time.sleep(generator.uniform(0.9, 1.8) * _idle_after(only(text)) / SPEED)
    return recorder.history


def _sweep_for_a_while(root: str, now: Callable[[], int]) -> int:
    """Keep sweeping everything that is one window old; return how many applications were removed."""
    removed = 0
    end = now() + MICROSECONDS
    while now() < end or not removed:
        removed += sweep_store(Store(root), 0, now).removed
    return removed


@pytest.mark.one_python
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("text", ["10/second", "3/second fixed", "1/second", "20/second burst 20"])
def test_the_laws_hold_while_a_sweeper_removes_what_is_a_window_old(any_root: str, text: str) -> None:
    """S1 and L1 hold exactly, although the application is removed and comes back all the time."""
    # Start the clock anew: an hour ahead, a directory being furnished would look like a leftover.
    now = partial(_fast, clock())
    with ProcessPoolExecutor(HITTERS + 1, multiprocessing.get_context("fork")) as pool:
        removed = pool.submit(_sweep_for_a_while, any_root, now)
        histories = [pool.submit(_hit_for_a_while, any_root, text, now) for _ in range(HITTERS)]
        together = History()
        for history in histories:
            together.admitted += history.result(600).admitted
            together.denied += history.result().denied
    assert removed.result()
    judge_s1(only(text), together)
    judge_l1(only(text), together)
