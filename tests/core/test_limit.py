"""The arithmetic of all three kinds, compared with models that keep every hit."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limiter.core.limit import SECOND, is_name, is_provisional, make, number_of, stamp, time_of
from tests.history import only

NOW = 1_513_123_456_123_456
times = st.integers(0, 9_999_999_999_999_999)


@given(times, st.booleans(), st.integers(0, 10**15))
def test_a_name_has_the_documented_form_and_its_parts(time: int, provisional: bool, number: int) -> None:
    name = make(time, provisional, number)
    assert (time_of(name), is_provisional(name), number_of(name)) == (time, provisional, number)
    assert is_name(name)
    assert name == f"{time // SECOND:010}.{time % SECOND:06}{'~' if provisional else '-'}{number}"


@given(times, times)
def test_names_compare_as_their_times(one: int, other: int) -> None:
    assert (stamp(one) < stamp(other)) == (one < other)


@pytest.mark.parametrize(
    "entry",
    ["", ".nfs000000012", "README", "1513123456.123456", "1513123456.123456-", "1513123456.123456-x",
     "1513123456:123456-3", "1513123456.12345-63", "1513123456.123456_3", "1513123456.12345\u0661-3",
     "x513123456.123456-3"],
)  # fmt: skip
def test_other_entries_are_no_names(entry: str) -> None:
    assert not is_name(entry)


class Model:
    """A limit that is played with names, as the store would keep them, and a list of all its hits."""

    def __init__(self, text: str) -> None:
        self.limit = only(text)
        self.names = sorted(name for s in range(self.limit.segments) for name in self.limit.fresh(s))
        self.hits: list[int] = []

    def hit(self, now: int, cost: int) -> bool:
        """Play one hit; return whether it is admitted."""
        needed = self.limit.claims(cost)
        wait = self.limit.wait(self.names, now, cost)
        free, used, first = self.limit.look(self.names, now, cost)
        admitted = len(free) >= needed
        assert admitted == (wait == 0)
        assert (used == 0) == (first == 0)
        if admitted:
            for name in free[:needed]:
                self.names.remove(name)
                self.names.append(self.limit.taken(name, now, cost, False))
            self.names.sort()
            self.hits += [now] * cost
        else:
            assert len(self.limit.look(self.names, now + wait - 1, cost)[0]) < needed
            assert len(self.limit.look(self.names, now + wait, cost)[0]) >= needed
        return admitted

    def used(self, now: int, cost: int) -> int:
        """Return how many hits the limit counts."""
        return self.limit.look(self.names, now, cost)[1]


steps = st.lists(st.tuples(st.integers(0, 700_000), st.integers(1, 3)), max_size=60)


@pytest.mark.parametrize("kind", ["", " fixed"])
@given(st.integers(3, 8), st.integers(1, 3), steps)
def test_a_window_is_exact(kind: str, quota: int, seconds: int, steps: list[tuple[int, int]]) -> None:
    """A hit is admitted if and only if the window then holds at most the quota.

    A sliding window ends now.  A fixed one begins at a multiple of its length.
    """
    model, now, window = Model(f"{quota}/{seconds} seconds{kind}"), NOW, seconds * SECOND
    for step, cost in steps:
        now += step
        last_before = now - now % window - 1 if kind else now - window
        in_window = model.hits[bisect_right(model.hits, last_before) :]
        assert model.used(now, cost) == len(in_window)
        assert model.limit.hits(model.names, now) == (in_window[-1:] if kind else in_window)
        assert model.hit(now, cost) == (len(in_window) + cost <= quota)
        assert model.limit.expiry(now) == (last_before + 1 + window - now if kind else window)


@given(st.integers(1, 3_000_000), st.integers(1, 3), st.integers(3, 8), steps)
def test_a_burst_is_exact(rate: int, seconds: int, capacity: int, steps: list[tuple[int, int]]) -> None:
    """A hit is admitted if and only if the bucket, computed in fractions, holds that many tokens."""
    model, now, tokens = Model(f"{rate}/{seconds} seconds burst {capacity}"), NOW, Fraction(capacity)
    for step, cost in steps:
        now += step
        tokens = min(Fraction(capacity), tokens + Fraction(step * rate, seconds * SECOND))
        assert model.limit.quota - model.used(now, cost) == tokens // 1
        assert model.limit.hits(model.names, now) == []
        admitted = model.hit(now, cost)
        assert admitted == (tokens >= cost)
        tokens -= cost if admitted else 0


def test_a_free_slot_is_free_even_if_the_clock_says_1970() -> None:
    limit = only("3/hour")
    assert limit.look(limit.fresh(0), 0, 1)[0] == limit.fresh(0)


@pytest.mark.parametrize("text", ["5/minute fixed", "5/minute burst 5"])
@given(st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(1, 2))
def test_a_returned_claim_leaves_what_was_built_on_it(text: str, later: list[int], cost: int) -> None:
    """Claims that others have made meanwhile stay counted, and only those."""
    assume(cost + sum(later) <= 5)
    limit = only(text)
    now = NOW - NOW % limit.window
    name = claim = limit.taken(limit.fresh(0)[0], now, cost, True)
    for other in later:
        name = limit.taken(name, now, other, False)
        assert is_provisional(name), "the claim underneath is still provisional"
    undone = limit.returned(name, claim, now, cost)
    assert undone is not None
    assert limit.look([undone], now, 1)[1] == sum(later)


@pytest.mark.parametrize(
    ("text", "later"), [("5/minute fixed", 60), ("5/minute burst 5", 60), ("5/minute", 0)]
)
def test_a_claim_is_not_returned_where_nothing_is_left_to_undo(text: str, later: int) -> None:
    """In the next window, to undo it would admit too many.  No other claim builds on a slot."""
    limit = only(text)
    claim = limit.taken(limit.fresh(0)[0], NOW, 1, True)
    now = NOW + later * SECOND
    name = limit.taken(claim, now, 1, False)
    assert not is_provisional(name)
    assert limit.returned(name, claim, now, 1) is None


@pytest.mark.parametrize(
    ("text", "segment", "numbers"),
    [
        ("3/minute", 0, [0, 1, 3]),
        ("3/minute", 0, [0, 1, 1]),
        ("3/minute", 0, [0, 1, 2, 2]),
        ("70/minute", 1, [63]),
        ("70/minute", 1, [70]),
        ("3/minute fixed", 0, [1, 2]),
    ],
)
def test_a_limit_does_not_own_these_slots(text: str, segment: int, numbers: list[int]) -> None:
    names = [make(time, False, number) for time, number in enumerate(numbers)]
    assert not only(text).owns(names, segment)
    assert not only(text).owns(["README"], segment)
