"""The windows of ``limits`` as names: each compared with a model that keeps a list of all hits."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.contrib.windows import FirstHit, Log, Weighted
from limiter.core.limit import SECOND, Limit, is_name, make

START = 1_700_000_000_000_000
FRESH = make(START - 100 * SECOND, False, 0)
STEPS = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 5)), max_size=60)
"""Microseconds until the next hit, and its cost."""


def play(limit: Limit, steps: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, bool]]:
    """Let hits come.  Returns the time, the cost, the hits that counted before, and whether it was admitted."""
    name, now, seen = FRESH, START, []
    for wait, cost in steps:
        now += wait
        free, used, next_ = limit.look([name], now, cost)
        assert (next_ > 0) == (used > 0)
        if used:
            assert limit.look([name], now + next_, 1)[1] < used  # fewer count then, and not sooner
            assert limit.look([name], now + next_ - 1, 1)[1] == used
        due = limit.wait([name], now, cost)
        assert (due == 0) == bool(free)
        if not free:
            assert limit.look([name], now + due, cost)[0]
            assert not limit.look([name], now + due - 1, cost)[0]
        seen.append((now, cost, used, bool(free)))
        if free:
            new = limit.taken(name, now, cost, False)
            assert new != name
            assert is_name(new)
            assert len(new) <= 255
            name = new
    return seen


@given(STEPS)
def test_first_hit_counts_from_the_first_hit_of_a_window(steps: list[tuple[int, int]]) -> None:
    end = count = 0
    for now, cost, used, is_admitted in play(FirstHit(2 * SECOND), steps):
        if now >= end:
            end, count = now + 2 * SECOND, 0
        assert (used, is_admitted) == (count, True)
        count += cost


@given(STEPS)
def test_weighted_is_the_formula(steps: list[tuple[int, int]]) -> None:
    window, quota = 2 * SECOND, 7
    start, current, previous = START, 0, 0
    for now, cost, used, is_admitted in play(Weighted(quota, window), steps):
        passed = (now - start) // window
        if passed:
            start, previous, current = start + passed * window, current if passed == 1 else 0, 0
        if not previous and not current:
            start = now
        assert used == previous * (start + window - now) // window + current
        assert is_admitted == (used + cost <= quota)
        current += cost * is_admitted


def moving(steps: Sequence[tuple[int, int, int, bool]], window: int) -> int:
    """The most hits admitted within one window."""
    admitted = [(now, cost) for now, cost, _, is_admitted in steps if is_admitted]
    return max(
        (sum(cost for at, cost in admitted if first <= at < first + window) for first, _ in admitted),
        default=0,
    )


@given(STEPS)
def test_a_log_admits_no_more_than_an_exact_window(steps: list[tuple[int, int]]) -> None:
    steps = [(wait, cost * 3_000) for wait, cost in steps]
    assert moving(play(Log(20_000, 2 * SECOND), steps), 2 * SECOND) <= 20_000


@pytest.mark.parametrize("seed", range(5))
def test_a_log_admits_nearly_all_that_an_exact_window_does(seed: int) -> None:
    """Of floods with many more times than a name can hold; the exact one is played beside it."""
    dice = Random(seed)
    quota, window = 1_000_000, 2 * SECOND
    steps = [(dice.randrange(window // 100), dice.randrange(1, 20_000)) for _ in range(2_000)]
    by_log = sum(cost for _, cost, _, is_admitted in play(Log(quota, window), steps) if is_admitted)
    held: list[tuple[int, int]] = []
    exactly, now = 0, START
    for wait, cost in steps:
        now += wait
        held = [(at, it) for at, it in held if at > now - window]
        if sum(it for _, it in held) + cost <= quota:
            held.append((now, cost))
            exactly += cost
    assert 0.9 * exactly <= by_log <= 1.001 * exactly


def test_a_clock_that_was_far_ahead_blocks_nobody_for_ever() -> None:
    ahead = START + 10**9 * SECOND
    for limit in (FirstHit(60 * SECOND), Weighted(5, 60 * SECOND), Log(20_000, 60 * SECOND)):
        name = limit.taken(FRESH, ahead, 5, False)
        assert limit.look([name], START, 5)[:2] == ([name], 0)
