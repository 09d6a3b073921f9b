"""The laws while a sweeper removes all that is idle, and after one was killed at any call."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import BrokenBarrierError

import pytest

from limiter.core import sweep as sweeping
from limiter.core.limit import Limit, clock
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store
from limiter.core.sweep import GRACE, sweep_store
from tests.core.broken_sweep import claim_any, clear_all, remove_at_once
from tests.faults import kill, play
from tests.history import History, Recorder, at_once, judge_l1, judge_s1, only
from tests.limiting import LATER, admitted, entries, hit_at

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
        leftover = Path(path, ".new-dead")
        leftover.mkdir()
        (leftover / "slot").touch()
        os.utime(leftover, (0, 0))
        ended = play(partial(sweep_store, Store(path), clock=lambda: LATER), number, kill)
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
        assert not [name for name in entries(store) if "/." in name]


@pytest.mark.one_python
@pytest.mark.parametrize(("limits", "before"), KILLED)
def test_after_sigkill_the_next_sweep_removes_all_the_same(root: str, limits: str, before: int) -> None:
    for store in _swept_until_killed(root, limits, before):
        for path in Path(store).glob(".new-*"):
            os.utime(path, (0, 0))
        sweep_store(Store(store), clock=lambda: LATER)
        assert entries(store) == []


HITTERS = 4
ROUNDS = 400
REMOVED = 40

_fork = multiprocessing.get_context("fork")


class Play:
    """Hitters and a sweeper on one application, at the same time, by one fast clock.

    Each hitter hits until it is denied, moves the clock on instead of waiting, and so on, for many rounds,
    and until the directory was removed many times.
    """

    def __init__(self, root: str, text: str) -> None:
        self._root = root
        self._text = text
        self._window = only(text).window
        self._barrier = _fork.Barrier(HITTERS)
        self._moved, self._rounds, self._removed, self._is_over = (_fork.Value("q") for _ in range(4))

    def record(self, go_on: Callable[[Play], None]) -> History:
        """Return what all hitters did."""

        def work(act: Callable[[Callable[[Play], None]], History]) -> History:
            try:
                return act(go_on)
            except BrokenBarrierError:
                return History()  # another one reports why
            except Exception:
                self._is_over.value = 1
                self._barrier.abort()
                raise

        return at_once([partial(work, self._sweep), *[partial(work, self._hit)] * HITTERS])

    def move_together(self) -> None:
        """Go on while no hit is under way: by less than a window, or until all is idle."""
        if not self._barrier.wait():
            idle = GRACE + self._window * random.randint(1, 2)
            self._move(random.choice((idle, random.randrange(self._window))))
        self._barrier.wait()

    def move_alone(self) -> None:
        """Go on while other hits are under way, and stall for that long."""
        self._move(random.randrange(3 * self._window))

    def _move(self, microseconds: int) -> None:
        with self._moved:
            self._moved.value += microseconds
        with self._rounds:
            self._rounds.value += 1
        if self._rounds.value >= ROUNDS and self._removed.value >= REMOVED:
            self._is_over.value = 1

    def _clock(self) -> int:
        return clock() + int(self._moved.value)

    def _hit(self, go_on: Callable[[Play], None]) -> History:
        random.seed(os.getpid())
        recorder = Recorder(self._root, self._text, self._clock)
        while not self._is_over.value:
            while recorder.hit("acme"):
                pass
            go_on(self)
        return recorder.history

    def _sweep(self, go_on: Callable[[Play], None]) -> History:
        while not self._is_over.value:
            if go_on is Play.move_alone and not random.randrange(10):
                self._move(2 * self._window)
            self._removed.value += sweep_store(Store(self._root), 0, self._clock).removed
        return History()


TEXTS = ["10/second", "40/second", "3/second fixed", "1/second", "20/second burst 20"]


@pytest.mark.one_python
@pytest.mark.parametrize("text", TEXTS)
def test_s1_and_l1_hold_while_a_sweeper_removes_what_is_idle(any_root: str, text: str) -> None:
    """They hold exactly, although the directory is removed and comes back all the time."""
    history = Play(any_root, text).record(Play.move_together)
    judge_s1(only(text), history)
    judge_l1(only(text), history)


@pytest.mark.one_python
@pytest.mark.parametrize("text", TEXTS)
def test_s1_holds_whatever_stalls_while_it_is_swept(
    any_root: str, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Without GRACE, a hit that has looked may claim a slot of a directory that is being removed."""
    monkeypatch.setattr(sweeping, "GRACE", 0)
    judge_s1(only(text), Play(any_root, text).record(Play.move_alone))


def _judge_again_and_again(root: str, law: Callable[[Limit, History], None]) -> None:
    """Whether the processes meet at the right moment is chance, but in one of these they do."""
    for _ in range(30):
        law(only("10/second"), Play(root, "10/second").record(Play.move_together))


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("sabotaged", "instead", "law"),
    [
        ("decision.View.add", claim_any, judge_l1),
        ("sweep._remove", remove_at_once, judge_s1),
        ("sweep.clear", clear_all, judge_l1),
    ],
)
def test_a_broken_sweep_breaks_the_laws(
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    sabotaged: str,
    instead: object,
    law: Callable[[Limit, History], None],
) -> None:
    monkeypatch.setattr(f"limiter.core.{sabotaged}", instead)
    with pytest.raises(AssertionError):
        _judge_again_and_again(root, law)
