"""The arithmetic of all three kinds, compared with models that keep every hit."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limiter.core.furnish import fresh
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
     "x513123456.123456-3", "1513123456.123456-07", "1513123456.123456-00", "1513123456.123456--7",
     "1513123456.123456-3~", "1513123456.123456-+3", "1513123456.123456-3\n"],
)  # fmt: skip
def test_other_entries_are_no_names(entry: str) -> None:
    assert not is_name(entry)


class Model:
    """A limit that is played with names, as the store would keep them, and a list of all its hits."""

    def __init__(self, text: str) -> None:
        self.limit = only(text)
        segments = range(self.limit.segments)
        self.names = sorted(name for segment in segments for name in fresh(self.limit, segment, NOW))
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
    for furnished in (0, NOW):
        names = fresh(limit, 0, furnished)
        assert limit.look(names, 0, 1)[0] == names


@pytest.mark.parametrize("text", ["5/minute fixed", "5/minute burst 5"])
@given(st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(1, 2))
def test_a_returned_claim_leaves_what_was_built_on_it(text: str, later: list[int], cost: int) -> None:
    """Claims that others have made meanwhile stay counted, and only those."""
    assume(cost + sum(later) <= 5)
    limit = only(text)
    now = NOW - NOW % limit.window
    name = claim = limit.taken(fresh(limit, 0, NOW)[0], now, cost, True)
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
    claim = limit.taken(fresh(limit, 0, NOW)[0], NOW, 1, True)
    now = NOW + later * SECOND
    name = limit.taken(claim, now, 1, False)
    assert not is_provisional(name)
    assert limit.returned(name, claim, now, 1) is None


# The slots of a sliding limit


@given(st.integers(0, 10_000))
def test_the_directories_of_a_limit_share_out_its_slots(quota: int) -> None:
    """16 for a client that is seen once, then 48, then 64 each; every slot is in one of them."""
    limit = only(f"{quota}/minute")
    numbers = [limit.numbers(segment) for segment in range(limit.segments)]
    assert [number for part in numbers for number in part] == list(range(quota))
    assert all(numbers), "none is empty"
    assert [part.start for part in numbers] == [0, 16, *range(64, quota, 64)][: len(numbers)]


@pytest.mark.parametrize("text", ["70/hour", "70/hour fixed", "70/hour burst 70"])
def test_a_fresh_name_was_not_taken_for_two_windows_and_is_like_no_earlier_one(text: str) -> None:
    limit = only(text)
    for segment in range(limit.segments):
        names = fresh(limit, segment, NOW)
        assert limit.is_whole(names, segment)
        assert {time_of(name) for name in names} == {NOW - 2 * limit.window - 1}
        assert not {*names} & {*fresh(limit, segment, NOW + 1)}
        forgotten = [limit.forgotten(limit.taken(name, NOW, 1, False), NOW) for name in names]
        assert forgotten == names


def test_a_slot_that_is_given_back_gets_no_name_that_it_has_had() -> None:
    """It is free as before.  Who still knows the old name cannot claim it."""
    limit = only("3/minute")
    for name in fresh(limit, 0, NOW):
        given_back = limit.released(name)
        assert time_of(given_back) == time_of(name) + 1
        assert (number_of(given_back), is_provisional(given_back)) == (number_of(name), False)


FEW = [make(NOW + number, number == 2, number) for number in range(5)]
MANY = [make(NOW, False, number) for number in range(16, 64)]


def test_a_directory_with_each_slot_once_is_whole() -> None:
    assert only("5/minute").is_whole(FEW, 0)
    assert only("70/minute").is_whole(MANY, 1)


@pytest.mark.parametrize(
    ("text", "segment", "names"),
    [
        ("5/minute", 0, FEW[1:]),
        ("5/minute", 0, [*FEW, make(NOW, False, 5)]),
        ("5/minute", 0, [*FEW[:4], make(NOW, False, 5)]),
        ("5/minute", 0, [*FEW[:4], make(NOW, False, 3)]),
        ("5/minute", 0, [*FEW, make(0, False, 3)]),
        ("5/minute", 0, [*FEW[:4], "1513123456.123456-04"]),
        ("5/minute", 0, [*FEW[:4], "1513123456_123456-4"]),
        ("5/minute", 0, [*FEW[:4], "1513123456.123456_4"]),
        ("5/minute", 0, [*FEW[:4], "151312345x.123456-4"]),
        ("5/minute", 0, [*FEW[:4], "1513123456.12-456-4"]),
        ("5/minute", 0, [*FEW[:4], "15131.3456.123456-4"]),
        ("5/minute", 0, [*FEW[:4], "151312345\u0661.123456-4"]),
        ("5/minute", 0, [*FEW[:4], "README"]),
        ("5/minute", 0, [*FEW, "README"]),
        ("70/minute", 0, FEW),
        ("70/minute", 1, [*MANY[1:], make(NOW, False, 15)]),
        ("70/minute", 1, [*MANY[:-1], make(NOW, False, 64)]),
        ("5/minute fixed", 0, FEW[:2]),
        ("5/minute fixed", 0, ["README"]),
        ("5/minute burst 5", 0, ["1513123456.123456-04"]),
    ],
)
def test_no_other_names_make_a_directory_whole(text: str, segment: int, names: list[str]) -> None:
    """A slot is lost, of another directory, or under two names, or a name has not exactly its form."""
    assert not only(text).is_whole(names, segment)
