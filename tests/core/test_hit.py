"""Concurrent hits: every possible order of their system calls is forced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limiter.core.hit import hit
from limiter.core.limit import is_provisional, make, number_of, time_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store
from tests.history import only
from tests.limiting import SECOND, Clock, before, before_each, used
from tests.turns import Scene

NOW = 1_513_123_456_123_456


def _hit(root: str, limits: str, now: int = NOW) -> bool:
    return bool(hit(Store(root), parse(limits), "acme", 1, lambda: now)[0])


@pytest.mark.parametrize(
    ("limits", "before", "costs"),
    [
        ("2/minute", 0, [1, 1]),
        ("2/minute", 1, [1, 1, 1]),
        ("1/minute", 0, [1, 1, 1]),
        ("2/minute fixed", 0, [1, 1]),
        ("2/minute fixed", 1, [1, 1]),
        ("2/minute burst 2", 1, [1, 1]),
        ("2/minute fixed", 0, [1, 1, 1]),
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
def test_every_order_of_hits(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str, before: int, costs: list[int]
) -> None:
    """S1 and L1 in every interleaving; and a denied hit leaves all limits as they were.

    With several claims, L1 holds except while another hit has a provisional claim that it then gives back.
    """
    scene = Scene(root, monkeypatch, limits, costs, before=before)
    scene.play_every_order()
    assert scene.orders > 3
    assert any("+" in allowed for allowed in scene.allowed)


def _leave_an_older_name(store: str) -> None:
    """Give one slot two names, both free.  A machine that dies within a rename can leave this."""
    (directory,) = Path(store).iterdir()
    name = max(os.listdir(directory))
    (directory / make(time_of(name) + SECOND, False, number_of(name))).touch()


@pytest.mark.one_python
@pytest.mark.parametrize("limits", ["1/minute", "2/minute", "1/minute fixed", "1/minute burst 1"])
def test_every_order_over_a_slot_with_two_names(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str
) -> None:
    """It counts once."""
    scene = Scene(root, monkeypatch, limits, [1, 1], leave=_leave_an_older_name)
    scene.play_every_order(switches=5)
    assert scene.orders > 300


def test_an_older_name_stays_as_long_as_the_newest_counts(root: str) -> None:
    """The rename that made the newest name may still be in progress."""
    assert _hit(root, "1/minute", now=NOW - 1)
    directory = f"{root}/acme@1-per-60s"
    older = make(NOW - 200 * SECOND, False, 0)
    Path(directory, older).touch()
    assert not _hit(root, "1/minute")
    assert sorted(os.listdir(directory)) == [older, make(NOW - 1, False, 0)]
    later = NOW + 60 * SECOND
    assert _hit(root, "1/minute", now=later)
    assert os.listdir(directory) == [make(later, False, 0)]


def test_an_older_name_stays_if_the_newest_is_an_illusion(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no hit can rename the newest, and without the older name the slot would be lost."""
    for number in range(2):
        assert _hit(root, "2/minute", now=NOW - 300 * SECOND + number)
    other, older = sorted(os.listdir(f"{root}/acme@2-per-60s"))
    illusion = make(NOW - 100 * SECOND, False, number_of(older))
    names = Store.names
    with monkeypatch.context() as patch:
        patch.setattr(Store, "names", lambda *arguments: [*names(*arguments), illusion])
        assert _hit(root, "2/minute")
    assert sorted(os.listdir(f"{root}/acme@2-per-60s")) == [older, make(NOW, False, number_of(other))]


@pytest.mark.parametrize(
    ("method", "instead", "limits", "before"),
    [
        # It takes a slot for its own that another hit claimed first.
        ("store.Store.rename", lambda *it, rename=Store.rename: rename(*it) or True, "1/minute", 0),
        # It keeps its claim of the one limit although it has lost the other.
        ("hit.Attempt._give_back", lambda *_: None, "3/minute;2/hour", 1),
    ],
)
def test_a_hit_that_ignores_a_lost_race_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch, method: str, instead: object, limits: str, before: int
) -> None:
    monkeypatch.setattr(f"limiter.core.{method}", instead)
    with pytest.raises(AssertionError):
        test_every_order_of_hits(root, monkeypatch, limits, before, [1, 1])


def _renames(patch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list to which each rename will add its old name and its new one."""
    made: list[list[str]] = []
    before_each(patch, "rename", lambda *paths: made.append([*map(os.path.basename, paths)]))
    return made


@pytest.mark.parametrize(
    ("limits", "stall", "is_stamped_anew"),
    [
        ("2/second", 50_000, False),
        ("2/second", 50_001, True),  # longer than a twentieth of the window
        ("20000/second burst 1", 10_000, False),  # or each hit of a short window would be renamed twice
    ],
)
def test_a_stalled_claim_counts_from_its_end(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str, stall: int, is_stamped_anew: bool
) -> None:
    clock = Clock(NOW)
    assert _hit(root, limits, now=NOW - 5 * SECOND)
    before(monkeypatch, "rename", lambda *_: clock.move(stall))
    renames = _renames(monkeypatch)
    assert hit(Store(root), parse(limits), "acme", 1, clock)[0]
    limit, (old, first) = only(limits), renames[0]
    assert first == limit.taken(old, NOW, 1, False)
    again = [[first, limit.taken(old, NOW + stall, 1, False)]]
    assert renames[1:] == (again if is_stamped_anew else [])


def test_a_claim_stalled_for_a_window_is_not_stamped_on_another_hit(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot became free meanwhile and was taken again: both hits count by their own stamps."""
    clock = Clock(NOW)
    assert _hit(root, "1/second", now=NOW - 5 * SECOND)
    before(monkeypatch, "rename", lambda *_: clock.move(2 * SECOND))
    before(monkeypatch, "rename", lambda *_: _hit(root, "1/second", now=clock.now), at=2)
    assert hit(Store(root), parse("1/second"), "acme", 1, clock)[0]
    assert os.listdir(f"{root}/acme@1-per-1s") == [make(NOW + 2 * SECOND, False, 0)]


@pytest.mark.parametrize("limits", ["3/minute fixed;2/hour fixed", "3/minute burst 3;2/hour burst 2"])
def test_giving_back_what_others_have_built_upon(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str
) -> None:
    """The first counter has moved on when the second denies: only this hit's share is subtracted."""
    first, _, second = limits.partition(";")
    assert _hit(root, limits, now=NOW - 1)
    before(monkeypatch, "rename", lambda *_: _hit(root, second) and _hit(root, first), at=2)
    assert not _hit(root, limits)
    assert used(root, limits, NOW) == [2, 2]


def test_a_claim_is_provisional_until_it_is_given_back(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the slot is free, but has none of its earlier names, and is not idle."""
    assert _hit(root, "2/minute;2/hour", now=NOW - SECOND)
    directory = f"{root}/acme@2-per-60s"
    there = sorted(os.listdir(directory))
    meanwhile: list[str] = []

    def spoil(*_: object) -> None:
        meanwhile.extend(os.listdir(directory))
        assert _hit(root, "2/hour")

    before(monkeypatch, "rename", spoil, at=2)
    assert not _hit(root, "2/minute;2/hour")
    assert [is_provisional(name) for name in meanwhile if name not in there] == [True]
    free = make(NOW - 60 * SECOND - 1, False, number_of(there[0]))
    assert sorted(os.listdir(directory)) == [free, there[1]]


def test_contenders_begin_at_different_slots(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits at different moments try different slots first, so that few of them collide."""
    first = set()
    for offset in range(9):
        Limiter(root, "10/minute", clock=lambda: NOW).reset("acme")
        assert _hit(root, "10/minute")
        with monkeypatch.context() as patch:
            renames = _renames(patch)
            assert _hit(root, "10/minute", now=NOW + offset)
        first.add(number_of(renames[0][0]))
    assert len(first) == 9


@pytest.mark.parametrize("offset", range(3))
def test_whoever_finds_all_slots_free_takes_the_lowest_numbered(root: str, offset: int) -> None:
    """A sweeper takes the same one, so that only one of them gets the directory."""
    for _ in range(3):
        assert _hit(root, "3/minute", now=NOW - 100 * SECOND)
    assert _hit(root, "3/minute", now=NOW + offset)
    (taken,) = [name for name in os.listdir(f"{root}/acme@3-per-60s") if time_of(name) == NOW + offset]
    assert number_of(taken) == 0


def test_whoever_has_lost_an_idle_directory_claims_no_other_slot_of_it(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks again: a sweeper may have the directory."""
    assert _hit(root, "3/minute", now=NOW - 100 * SECOND)
    before(monkeypatch, "rename", lambda *_: _hit(root, "3/minute", now=NOW - 1))
    renames = _renames(monkeypatch)
    listings: list[str] = []
    before_each(monkeypatch, "listdir", listings.append)
    assert _hit(root, "3/minute")
    assert [number_of(old) for old, _ in renames[:2]] == [0, 0]
    assert len(listings) == 3
