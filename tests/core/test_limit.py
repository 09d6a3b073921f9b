"""The arithmetic of all three kinds, compared with models that keep every hit."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limiter.core.limit import SECOND, Limit, is_held, is_name, make, number_of, stamp, time_of
from limiter.core.notation import parse

NOW = 1_513_123_456_123_456
times = st.integers(0, 9_999_999_999_999_999)


@given(times, st.booleans(), st.integers(0, 10**15))
def test_names_keep_what_they_are_made_of(time: int, held: bool, number: int) -> None:
    """A name gives back its parts, and has the documented form."""
    name = make(time, held, number)
    assert (time_of(name), is_held(name), number_of(name)) == (time, held, number)
    assert is_name(name)
    assert name == f"{time // SECOND:010}.{time % SECOND:06}{'~' if held else '-'}{number}"


@given(times, times)
def test_names_compare_as_their_times(one: int, other: int) -> None:
    """A stamp has a fixed width, so text order is time order."""
    assert (stamp(one) < stamp(other)) == (one < other)


@pytest.mark.parametrize(
    "entry",
    ["", ".nfs000000012", "README", "1513123456.123456", "1513123456.123456-", "1513123456.123456-x",
     "1513123456:123456-3", "1513123456.12345-63", "1513123456.123456_3", "1513123456.12345\u0661-3",
     "x513123456.123456-3"],
)  # fmt: skip
def test_other_entries_are_no_names(entry: str) -> None:
    """Files that a file system or a person leaves in a directory are not slots."""
    assert not is_name(entry)


class Model:
    """A limit that is played with names, as the store would keep them, and a list of all its hits."""

    def __init__(self, text: str) -> None:
        (self.limit,) = parse(text)
        self.names = sorted(name for s in range(self.limit.segments) for name in self.limit.fresh(s))
        self.hits: list[int] = []

    def hit(self, now: int, cost: int) -> bool:
        """Play one hit; return whether it is admitted."""
        wait = self.limit.wait(self.names, now, cost)
        free, used, first = self.limit.look(self.names, now, cost)
        admitted = len(free) >= self.limit.claims(cost)
        assert admitted == (wait == 0)
        assert (used == 0) == (first == 0)
        if admitted:
            for name in free[: self.limit.claims(cost)]:
                self.names.remove(name)
                self.names.append(self.limit.taken(name, now, cost, False))
            self.names.sort()
            self.hits += [now] * cost
        else:
            assert not self.limit.look(self.names, now + wait - 1, cost)[0][
                self.limit.claims(cost) - 1 :
            ]
            assert len(self.limit.look(self.names, now + wait, cost)[0]) >= self.limit.claims(cost)
        return admitted


steps = st.lists(st.tuples(st.integers(0, 700_000), st.integers(1, 3)), max_size=60)


@given(st.integers(3, 8), st.integers(1, 3), steps)
def test_sliding_is_exact(quota: int, seconds: int, steps: list[tuple[int, int]]) -> None:
    """A hit is admitted if and only if the window that ends now then holds at most the quota."""
    model, now = Model(f"{quota}/{seconds} seconds"), NOW
    for step, cost in steps:
        now += step
        in_window = len(model.hits) - bisect_right(model.hits, now - seconds * SECOND)
        assert model.limit.look(model.names, now, cost)[1] == in_window
        assert model.limit.hits(model.names, now) == model.hits[len(model.hits) - in_window :]
        assert model.hit(now, cost) == (in_window + cost <= quota)


@given(st.integers(3, 8), st.integers(1, 3), steps)
def test_fixed_is_exact(quota: int, seconds: int, steps: list[tuple[int, int]]) -> None:
    """A hit is admitted if and only if the calendar window then holds at most the quota."""
    model, now = Model(f"{quota}/{seconds} seconds fixed"), NOW
    for step, cost in steps:
        now += step
        begin = now - now % (seconds * SECOND)
        in_window = sum(hit >= begin for hit in model.hits)
        assert model.limit.look(model.names, now, cost)[1] == in_window
        assert model.limit.hits(model.names, now) == ([model.hits[-1]] if in_window else [])
        assert model.hit(now, cost) == (in_window + cost <= quota)
        assert model.limit.expiry(now) == begin + seconds * SECOND - now


@given(st.integers(1, 3_000_000), st.integers(1, 3), st.integers(3, 8), steps)
def test_burst_is_exact(rate: int, seconds: int, capacity: int, steps: list[tuple[int, int]]) -> None:
    """A hit is admitted if and only if the bucket, computed in fractions, holds that many tokens."""
    model, now, tokens = Model(f"{rate}/{seconds} seconds burst {capacity}"), NOW, Fraction(capacity)
    for step, cost in steps:
        now += step
        tokens = min(Fraction(capacity), tokens + Fraction(step * rate, seconds * SECOND))
        assert model.limit.quota - model.limit.look(model.names, now, cost)[1] == tokens // 1
        assert model.limit.hits(model.names, now) == []
        admitted = model.hit(now, cost)
        assert admitted == (tokens >= cost)
        tokens -= cost if admitted else 0


ALL_KINDS = [
    "3/2 seconds",
    "3/2 seconds fixed",
    "3/2 seconds burst 3",
    "3/2 seconds burst 12",
    "70/second",
]


@pytest.mark.parametrize("text", ALL_KINDS)
@given(st.integers(1, 10**13), st.integers(0, 10**4))
def test_c1_a_clock_set_back_locks_nobody_out_for_longer_than_two_windows(
    text: str, back: int, step: int
) -> None:
    """However far the clock is set back, and whenever the next hit comes, it need not wait longer."""
    model, now = Model(text), NOW
    period = getattr(model.limit, "period", model.limit.window)
    while model.hit(now, 1):
        now += step
    wait = model.limit.wait(model.names, now - back, 1)
    assert wait <= 2 * period
    assert model.hit(now - back + wait, 1)


def test_a_free_slot_is_free_at_any_time() -> None:
    """This also holds on a machine whose clock says 1970."""
    (limit,) = parse("3/hour")
    assert limit.look(limit.fresh(0), 0, 1)[0] == limit.fresh(0)


@pytest.mark.parametrize("text", ["5/minute fixed", "5/minute burst 5"])
@given(st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(1, 2))
def test_a_returned_claim_leaves_what_was_built_on_it(text: str, later: list[int], cost: int) -> None:
    """Claims that others have made meanwhile stay counted, and only those."""
    assume(cost + sum(later) <= 5)
    (limit,) = parse(text)
    now = NOW - NOW % limit.window
    name = claim = limit.taken(limit.fresh(0)[0], now, cost, True)
    for other in later:
        name = limit.taken(name, now, other, False)
        assert is_held(name), "the claim underneath is still held"
    undone = limit.returned(name, claim, now, cost)
    assert undone is not None
    assert limit.look([undone], now, 1)[1] == sum(later)


@pytest.mark.parametrize("text", ["5/minute fixed", "5/minute burst 5"])
def test_a_claim_that_is_no_longer_counted_is_not_returned(text: str) -> None:
    """In the next window nothing is left to undo, and undoing would admit too many."""
    (limit,) = parse(text)
    claim = limit.taken(limit.fresh(0)[0], NOW, 1, True)
    later = NOW + limit.window
    name = limit.taken(claim, later, 1, False)
    assert not is_held(name)
    assert limit.returned(name, claim, later, 1) is None


def test_a_sliding_claim_is_returned_by_its_name_alone() -> None:
    """No other claim builds on a slot."""
    (limit,) = parse("5/minute")
    claim = limit.taken(limit.fresh(0)[0], NOW, 1, True)
    assert limit.returned(claim, claim, NOW, 1) is None


@pytest.mark.parametrize("text", ALL_KINDS)
def test_forgotten_names_are_fresh_ones(text: str) -> None:
    """A reset leaves the names that furnishing makes."""
    (limit,) = parse(text)
    for segment in range(limit.segments):
        fresh = limit.fresh(segment)
        assert len(fresh) == limit.size(segment)
        assert [limit.forgotten(limit.taken(name, NOW, 1, True)) for name in fresh] == fresh


def test_segments_share_one_numbering() -> None:
    """1000 slots are 15 segments of 64 and one of 40."""
    (limit,) = parse("1000/hour")
    assert limit.segments == 16
    assert [limit.size(segment) for segment in range(16)] == [64] * 15 + [40]
    assert [limit.directory(segment) for segment in (0, 1, 15)] == [
        "1000-per-3600s",
        "1000-per-3600s.1",
        "1000-per-3600s.15",
    ]
    names = [name for segment in range(16) for name in limit.fresh(segment)]
    assert [number_of(name) for name in names] == list(range(1000))


def test_the_base_leaves_the_arithmetic_to_the_kinds() -> None:
    """A new kind that lacks a method raises an error."""
    limit = Limit()
    for call in (
        lambda: limit.look([], 0, 1),
        lambda: limit.taken("", 0, 1, False),
        lambda: limit.wait([], 0, 1),
        lambda: limit.hits([], 0),
    ):
        with pytest.raises(NotImplementedError):
            call()
