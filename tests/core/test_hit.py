"""Concurrent hits: every possible order of their system calls is forced."""

from __future__ import annotations

import os
import posix
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from limiter.core.hit import Decision, hit
from limiter.core.limit import Sliding, is_held, make, number_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError
from tests.turns import play, wait

NOW = 1_513_123_456_123_456


class TurnStore(Store):
    """A store that waits for its turn before each call."""

    def names(self, directory: str) -> list[str]:
        """List the names when it is its turn."""
        wait()
        return super().names(directory)

    def rename(self, directory: str, old: str, new: str) -> bool:
        """Rename when it is its turn."""
        wait()
        return super().rename(directory, old, new)


def _play(
    root: str, limits: str, costs: Sequence[int], order: Sequence[int]
) -> tuple[list[bool], list[int]]:
    """Play concurrent hits: first the calls in this order, then in any order.

    Return who was admitted, and the choices at each turn (one number a turn: how many hits were ready).
    """

    def one(me: int) -> bool:
        # Clocks that differ by a microsecond make the hits' stamps different.
        return bool(hit(TurnStore(root), parse(limits), "acme", costs[me], lambda: NOW + me)[0])

    hits = [partial(one, me) for me in range(len(costs))]
    answers, choices = play(hits, lambda turn, _: order[turn] if turn < len(order) else 0)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return [bool(answer) for answer in answers], choices


def _orders(run: list[int], choices: list[int]) -> list[int] | None:
    """Return the next order after ``run``, counting like an odometer; None if all have been played."""
    run = run + [0] * (len(choices) - len(run))
    for place in reversed(range(len(choices))):
        if run[place] + 1 < choices[place]:
            return [*run[:place], run[place] + 1]
    return None


def _every_order(
    root: str,
    limits: str,
    before: int,
    costs: Sequence[int],
    spoil: Callable[[str], None] = lambda store: None,
) -> Iterator[tuple[str, list[bool]]]:
    """Play all orders, each in its own store with ``before`` hits, changed by ``spoil``."""
    order: list[int] | None = []
    number = 0
    while order is not None:
        store = f"{root}/{number}"
        os.mkdir(store)
        limiter = Limiter(store, limits, clock=lambda: NOW - 1)
        limiter.hit("acme")
        limiter.reset("acme")
        for _ in range(before):
            assert limiter.hit("acme")
        spoil(store)
        answers, choices = _play(store, limits, costs, order)
        yield store, answers
        order = _orders(order, choices)
        number += 1


def _used(store: str, limits: str) -> list[int]:
    quotas = Limiter(store, limits, clock=lambda: NOW + 9).peek("acme").quotas
    return [quota.limit.quota - quota.remaining for quota in quotas]


@pytest.mark.parametrize(
    ("limits", "before", "hits"),
    [
        ("2/minute", 0, 2),
        ("2/minute", 1, 3),
        ("1/minute", 0, 3),
        ("2/minute fixed", 0, 2),
        ("2/minute fixed", 1, 2),
        ("2/minute burst 2", 1, 2),
        ("2/minute fixed", 0, 3),
    ],
)
def test_every_order_of_single_claims(root: str, limits: str, before: int, hits: int) -> None:
    """S1 and L1 in every interleaving: exactly as many hits are admitted as there is room for."""
    quota = parse(limits)[0].quota
    orders = 0
    for store, answers in _every_order(root, limits, before, [1] * hits):
        assert sum(answers) == min(hits, quota - before)
        assert _used(store, limits) == [before + sum(answers)]
        orders += 1
    assert orders > 3


@pytest.mark.parametrize(
    ("limits", "before", "costs"),
    [
        ("2/minute;2/hour", 1, [1, 1]),
        ("3/minute;2/hour", 1, [1, 1]),
        ("1/minute;2/hour", 0, [1, 1]),
        ("2/hour;1/minute", 0, [1, 1]),
        ("3/minute", 0, [2, 2]),
        ("3/minute", 0, [2, 1]),
        ("2/minute fixed;2/hour fixed", 1, [1, 1]),
        ("2/minute burst 2;1/hour fixed", 0, [1, 1]),
        ("1/minute;2/hour burst 2", 0, [1, 1]),
    ],
)
def test_every_order_of_several_claims(root: str, limits: str, before: int, costs: list[int]) -> None:
    """S1 in every interleaving; and a denied hit leaves all limits as they were.

    L1 holds, too, except while another hit holds a claim that it then gives back.
    """
    admitted_most = 0
    for store, answers in _every_order(root, limits, before, costs):
        taken = sum(cost for cost, allowed in zip(costs, answers) if allowed)
        assert _used(store, limits) == [before + taken] * len(parse(limits))
        assert all(quota >= before + taken for quota in (limit.quota for limit in parse(limits)))
        admitted_most = max(admitted_most, sum(answers))
    assert admitted_most >= 1


def _leave_an_older_name(store: str) -> None:
    """Give one slot two names, both free.  A machine that dies within a rename can leave this."""
    (directory,) = Path(store).glob("acme/*")
    fresh = min(os.listdir(directory))
    (directory / make(NOW - 100_000_000, False, number_of(fresh))).touch()


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("limits", "hits"),
    [("1/minute", 2), ("2/minute", 2), ("1/minute fixed", 2), ("1/minute burst 1", 2)],
)
def test_every_order_over_a_slot_with_two_names(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str, hits: int
) -> None:
    """It counts once, and has only one name afterwards."""
    unlink = posix.unlink

    def unlink_in_turn(path: str) -> None:
        wait()
        unlink(path)

    monkeypatch.setattr(posix, "unlink", unlink_in_turn)
    quota = parse(limits)[0].quota
    for store, answers in _every_order(root, limits, 0, [1] * hits, _leave_an_older_name):
        assert sum(answers) == min(hits, quota)
        assert _used(store, limits) == [sum(answers)]
        (directory,) = Path(store).glob("acme/*")
        assert len(os.listdir(directory)) == (quota if directory.name == f"{quota}-per-60s" else 1)


def test_an_older_name_stays_as_long_as_the_newest_counts(root: str) -> None:
    """The rename that made the newest name may still be in progress."""
    store = Store(root)
    assert _hit(store, "1/minute", now=NOW - 1)
    directory = f"{root}/acme/1-per-60s"
    older = make(NOW - 200_000_000, False, 0)
    Path(directory, older).touch()
    assert not _hit(store, "1/minute")
    assert sorted(os.listdir(directory)) == [older, make(NOW - 1, False, 0)]
    later = NOW + 60_000_000
    assert _hit(store, "1/minute", now=later)
    assert os.listdir(directory) == [make(later, False, 0)]


def test_an_older_name_stays_if_the_newest_is_an_illusion(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no hit can rename the newest, and without the older name the slot would be lost."""
    store = Store(root)
    for number in range(2):
        assert _hit(store, "2/minute", now=NOW - 300_000_000 + number)
    older, other = sorted(os.listdir(f"{root}/acme/2-per-60s"))
    illusion = make(NOW - 100_000_000, False, number_of(older))
    names = Store.names
    with monkeypatch.context() as patch:
        patch.setattr(Store, "names", lambda *arguments: [*names(*arguments), illusion])
        assert _hit(store, "2/minute")
    assert sorted(os.listdir(f"{root}/acme/2-per-60s")) == [older, make(NOW, False, number_of(other))]


def test_interleaving_is_seen_to_fail(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limiter that ignores whether its rename succeeded admits too many in some order."""
    rename = Store.rename
    monkeypatch.setattr(Store, "rename", lambda *arguments: rename(*arguments) or True)
    with pytest.raises(AssertionError):
        test_every_order_of_single_claims(root, "1/minute", 0, 2)


def test_what_is_not_given_back_is_seen(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests detect a hit that keeps its claims after it lost a race."""
    monkeypatch.setattr("limiter.core.hit._give_back", lambda *arguments: None)
    with pytest.raises(AssertionError):
        test_every_order_of_several_claims(root, "3/minute;2/hour", 1, [1, 1])


class LaggingStore(Store):
    """A store on which others act just before a rename."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.before_rename: list[object] = []
        self.renames: list[tuple[str, str]] = []

    def rename(self, directory: str, old: str, new: str) -> bool:
        """Rename, but first let the next action happen."""
        if self.before_rename:
            self.before_rename.pop(0)()  # type: ignore[operator]
        self.renames.append((old, new))
        return super().rename(directory, old, new)


def _hit(store: Store, limits: str, cost: int = 1, now: int = NOW) -> Decision:
    return hit(store, parse(limits), "acme", cost, lambda: now)[0]


def test_a_stalled_claim_is_stamped_anew(root: str) -> None:
    """A rename that took longer than a twentieth of the window counts from its end."""
    now = NOW
    store = LaggingStore(root)
    _hit(store, "2/second", now=NOW - 5_000_000)

    def stall() -> None:
        nonlocal now
        now += 50_001

    store.renames.clear()
    store.before_rename = [stall]
    assert hit(store, parse("2/second"), "acme", 1, lambda: now)[0]
    (_, first), (again, last) = store.renames
    assert first == again
    assert first.startswith("1513123456.123456-")
    assert last.startswith("1513123456.173457-")
    store.renames.clear()
    store.before_rename = [lambda: None]
    assert hit(store, parse("2/second"), "acme", 1, lambda: now)[0]
    assert len(store.renames) == 1, "one that did not stall is left as it is"


def test_in_a_short_window_a_claim_is_not_a_stall(root: str) -> None:
    """Otherwise every hit of a bucket that fills in 50 microseconds would be renamed twice."""
    now = NOW
    store = LaggingStore(root)

    def take_a_while() -> None:
        nonlocal now
        now += 10_000

    _hit(store, "20000/second burst 1", now=NOW - 1_000_000)
    store.renames.clear()
    store.before_rename = [take_a_while]
    assert hit(store, parse("20000/second burst 1"), "acme", 1, lambda: now)[0]
    assert len(store.renames) == 1


def test_a_claim_stalled_for_a_window_is_not_stamped_on_another_hit(root: str) -> None:
    """Its slot became free meanwhile and was taken again: both hits count by their own stamps."""
    now = NOW
    store = LaggingStore(root)
    _hit(store, "1/second", now=NOW - 5_000_000)

    def stall() -> None:
        nonlocal now
        now += 2_000_000

    def take_over() -> None:
        assert _hit(Store(root), "1/second", now=now)

    store.before_rename = [stall, take_over]
    assert hit(store, parse("1/second"), "acme", 1, lambda: now)[0]
    assert os.listdir(f"{root}/acme/1-per-1s") == ["1513123458.123456-0"]


@pytest.mark.parametrize("limits", ["3/minute fixed;2/hour fixed", "3/minute burst 3;2/hour burst 2"])
def test_giving_back_what_others_have_built_upon(root: str, limits: str) -> None:
    """The first counter has moved on when the second denies: only this hit's share is subtracted."""
    store = LaggingStore(root)
    assert _hit(store, limits, now=NOW - 1)
    first = limits.partition(";")[0]

    def spoil() -> None:
        assert _hit(Store(root), limits.partition(";")[2], now=NOW)
        assert _hit(Store(root), first, now=NOW)

    store.before_rename = [lambda: None, spoil]
    assert not _hit(store, limits)
    assert _used(root, limits) == [2, 2]


def test_a_claim_given_back_leaves_no_certainty(root: str) -> None:
    """The name of the slot shows a provisional claim; after giving back, it is the old name."""
    store = LaggingStore(root)
    assert _hit(store, "2/minute;2/hour")
    before = {name: sorted(os.listdir(f"{root}/acme/{name}")) for name in ("2-per-60s", "2-per-3600s")}
    seen: list[bool] = []

    def spoil() -> None:
        seen.extend(
            is_held(name) for name in os.listdir(f"{root}/acme/2-per-60s") if str(NOW)[:10] in name
        )
        assert _hit(Store(root), "2/hour")

    store.before_rename = [lambda: None, spoil]
    assert not _hit(store, "2/minute;2/hour", now=NOW)
    assert any(seen)
    assert sorted(os.listdir(f"{root}/acme/2-per-60s")) == before["2-per-60s"]


def test_losing_for_ever_is_an_error(root: str) -> None:
    """A file system that lists names but denies that they exist is an error, not a lost race."""

    class Mirage(Store):
        def rename(self, directory: str, old: str, new: str) -> bool:
            return False

    _hit(Store(root), "2/second")
    with pytest.raises(StoreError, match="Other hits were faster, 1000 times") as error:
        _hit(Mirage(root), "2/second")
    assert error.value.path == f"{root}/acme"


def test_an_error_half_way_gives_back(root: str) -> None:
    """If the second limit fails, the first is as it was, and the error is raised."""

    class Failing(Store):
        def rename(self, directory: str, old: str, new: str) -> bool:
            if directory.endswith("3600s"):
                raise StoreError(28, "No space left on device", directory)
            return super().rename(directory, old, new)

    assert _hit(Store(root), "2/minute;2/hour")
    with pytest.raises(StoreError, match="No space left"):
        _hit(Failing(root), "2/minute;2/hour")
    assert _used(root, "2/minute;2/hour") == [1, 1]


def test_contenders_begin_at_different_slots(root: str) -> None:
    """Hits at different moments try different slots first, so that few of them collide."""
    assert _hit(Store(root), "10/minute")
    Limiter(root, "10/minute").reset("acme")
    first = set()
    for offset in range(9):
        store = LaggingStore(root)
        _hit(store, "10/minute", now=NOW + offset)
        first.add(store.renames[0][0])
        Limiter(root, "10/minute").reset("acme")
    assert len(first) == 9
    assert isinstance(parse("10/minute")[0], Sliding)
