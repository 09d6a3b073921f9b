"""Directories that have lost slots, to a cleaner of temporary files or a partial restore: they are mended."""

from __future__ import annotations

import errno
import os
import posix
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limiter.core.limit import make, number_of
from limiter.core.limiter import Limiter
from tests.history import Admitted, History, judge_s1, only
from tests.limiting import NOW, SECOND, Clock, admitted, before, failing, hit_at, tree
from tests.places import temporary

LIMIT = "10/minute"
LOST = f"acme@{only(LIMIT).name}"


def numbers(root: str, directory: str = LOST) -> list[int]:
    """Return the numbers of the slots in a directory, each as often as it is there."""
    return sorted(map(number_of, os.listdir(f"{root}/{directory}")))


def lose(root: str, lost: Callable[[str], bool], directory: str = LOST) -> None:
    """Remove these slots."""
    for path in Path(root, directory).iterdir():
        if lost(path.name):
            path.unlink()


def lose_all_but(root: str, *kept: int, directory: str = LOST) -> None:
    """Remove all slots but those with these numbers."""
    lose(root, lambda name: number_of(name) not in kept, directory)


def furnished(root: str, taken: int = 0, text: str = LIMIT) -> None:
    """Make the directory of a client of whom ``taken`` hits count at NOW."""
    hit_at(root, text, now=NOW - 3600 * SECOND)
    hit_at(root, text, count=taken, now=NOW)


def hit_now(clock: Clock) -> Admitted:
    """Return the record of a hit that is admitted at this time."""
    return Admitted(clock.now, clock.now, clock.now, clock.now, "")


# What happened


def test_a_cleaner_that_removed_8_of_10_slots_leaves_no_limit_of_2(root: str, clock: Clock) -> None:
    """The hit that takes the lowest slot makes the others again, as taken just now, and says so."""
    furnished(root)
    lose_all_but(root, 4, 7)
    clock.now += 7
    decision = Limiter(root, LIMIT, clock=clock).hit("acme")
    assert decision
    (note,) = decision.notes
    assert note.startswith(f"{root}/{LOST}: 8 of 10 slots were missing")
    taken = {make(clock.now, False, number) for number in range(10) if number != 7}
    assert taken < {*os.listdir(f"{root}/{LOST}")}
    assert numbers(root) == list(range(10))
    assert len({path.stat().st_ino for path in Path(root, LOST).iterdir()}) == 1, "links of one file"
    again = Limiter(root, LIMIT, clock=clock)
    assert admitted(again, 9) == 1
    assert not again.hit("acme").notes
    clock.now += 60 * SECOND - 1
    assert admitted(again, 9) == 0
    clock.now += 1
    assert admitted(again, 12) == 10


def test_hits_that_remain_when_8_of_10_slots_were_removed(root: str, clock: Clock) -> None:
    """Missing slots count as used, before they are mended and after."""
    furnished(root)
    lose_all_but(root, 4, 7)
    limiter = Limiter(root, LIMIT, clock=clock)
    peeked = limiter.peek("acme")
    assert peeked.remaining == 2
    assert [note.partition(":")[2] for note in peeked.notes] == [
        " 8 slots are missing; hits make them again"
    ]
    for remaining in (1, 0):
        (quota,) = limiter.hit("acme").quotas
        assert (quota.remaining, quota.reset_after) == (remaining, 60.0)
        assert Limiter(root, LIMIT, clock=clock).peek("acme").remaining == remaining
    denied = limiter.hit("acme")
    assert (denied.allowed, denied.remaining, denied.retry_after) == (False, 0, 60.0)


def test_slots_that_were_removed_when_the_limit_was_full_come_back_a_window_later(
    root: str, clock: Clock
) -> None:
    """Until then nothing is written: a hit that is denied mends nothing."""
    furnished(root, taken=10)
    lose_all_but(root, 4, 7)
    clock.now += SECOND
    there = tree(root)
    for limiter in (Limiter(root, LIMIT, clock=clock), Limiter(root, LIMIT, clock=clock)):
        denied = limiter.hit("acme")
        assert (denied.allowed, denied.remaining, denied.retry_after) == (False, 0, 59.0)
    assert tree(root) == there
    clock.now += 59 * SECOND
    assert admitted(limiter, 12) == 2
    assert numbers(root) == list(range(10))
    clock.now += 60 * SECOND
    assert admitted(limiter, 12) == 10


def test_a_readme_among_9_of_10_slots_stays_and_is_no_slot(root: str, clock: Clock) -> None:
    """It stood in for the tenth slot, and the next hit renamed it away."""
    furnished(root)
    lose_all_but(root, *range(1, 10))
    readme = Path(root, LOST, "README")
    readme.write_text("Do not touch")
    limiter = Limiter(root, LIMIT, clock=clock)
    assert limiter.peek("acme").remaining == 9
    assert admitted(limiter, 12) == 9
    assert readme.read_text() == "Do not touch"
    assert sorted(number_of(name) for name in os.listdir(readme.parent) if name != "README") == [
        *range(10)
    ]
    clock.now += 60 * SECOND
    assert admitted(limiter, 12) == 10
    limiter.reset("acme")
    assert admitted(limiter, 12) == 10
    assert readme.read_text() == "Do not touch"


@pytest.mark.parametrize(
    "foreign",
    [
        f"{NOW // SECOND - 90}.000000-{end}"
        for end in ("07", "10", "77", "+7", " 7", "7~", "7.bak", "\u0667")
    ]
    + [f"{NOW // SECOND - 90}.00000x-7", f".gone-{NOW // SECOND - 90}.000000-07"],
)
def test_a_name_that_is_nearly_that_of_a_lost_slot_is_not_taken_for_it(
    root: str, clock: Clock, foreign: str
) -> None:
    furnished(root)
    lose(root, lambda name: number_of(name) == 7)
    Path(root, LOST, foreign).write_text("foreign")
    limiter = Limiter(root, LIMIT, clock=clock)
    assert limiter.peek("acme").remaining == 9
    assert admitted(limiter, 12) == 9
    assert Path(root, LOST, foreign).read_text() == "foreign"
    slots = [name for name in os.listdir(f"{root}/{LOST}") if name != foreign]
    assert sorted(map(number_of, slots)) == list(range(10))


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_slots_of_any_directory_of_a_large_limit_come_back(
    root: str, clock: Clock, segment: int
) -> None:
    text, directory = "80/minute", f"acme@{only('80/minute').directory(segment)}"
    hit_at(root, text, count=80, now=NOW - 3600 * SECOND)
    slots = only(text).numbers(segment)
    lose_all_but(root, slots[4], slots[7], directory=directory)
    limiter = Limiter(root, text, clock=clock)
    left = 80 - len(slots) + 2
    assert limiter.peek("acme").remaining == left
    assert admitted(limiter, 82) == left
    assert numbers(root, directory) == list(slots)
    clock.now += 60 * SECOND
    assert admitted(limiter, 82) == 80


# Who mends


def test_only_who_takes_the_lowest_slot_mends(root: str, clock: Clock) -> None:
    """Also a long-running process that has not looked again.  It says so then."""
    furnished(root, taken=1)
    lose(root, lambda name: number_of(name) in (1, 2, 3))
    limiter = Limiter(root, LIMIT, clock=clock)
    clock.now += SECOND
    clock.now += (1 - clock.now) % 6  # of the 6 free slots, it takes the second
    assert not limiter.hit("acme").notes
    assert numbers(root) == [0, *range(4, 10)]
    assert limiter.peek("acme").remaining == 5
    clock.now = NOW + 60 * SECOND
    clock.now += (5 - clock.now) % 6  # the last, which is the one that was taken at NOW
    decision = limiter.hit("acme")
    assert decision.remaining == 5
    (note,) = decision.notes
    assert note.startswith(f"{root}/{LOST}: 3 of 10 slots were missing")
    assert numbers(root) == list(range(10))
    assert admitted(limiter, 12) == 5


def test_a_hit_that_cannot_mend_is_admitted_and_says_why(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The missing slots still count as used.  The next hit that takes the lowest slot mends."""
    furnished(root)
    lose_all_but(root, 4, 7)
    limiter = Limiter(root, LIMIT, clock=clock)
    there = numbers(root)
    with monkeypatch.context() as patch:
        patch.setattr(posix, "link", failing(errno.ENOSPC))
        patch.setattr(posix, "open", failing(errno.ENOSPC))
        decision = limiter.hit("acme")
    assert decision
    assert decision.remaining == 1
    (note,) = decision.notes
    assert note.startswith(f"{root}/{LOST}: 8 slots are missing, and not made again: ")
    assert os.strerror(errno.ENOSPC) in note
    assert numbers(root) == there
    assert limiter.hit("acme").remaining == 0
    clock.now += 60 * SECOND
    assert admitted(limiter, 12) == 2
    assert numbers(root) == list(range(10))


def test_a_hit_that_stalls_for_half_a_window_while_it_mends_leaves_it_to_another(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may take its slot soon, and mend, too."""
    furnished(root)
    lose_all_but(root, 4, 7)
    there = numbers(root)
    before(monkeypatch, "link", lambda *_: clock.move(30 * SECOND + 1), at=8)
    decision = Limiter(root, LIMIT, clock=clock).hit("acme")
    assert decision
    assert not decision.notes
    assert decision.remaining == 1
    assert numbers(root) == there


# Never two of one slot


def _is_right(root: str, hits: list[Admitted]) -> None:
    """S1 holds, and each slot is there once."""
    judge_s1(only(LIMIT), History(hits))
    assert numbers(root) == list(range(10))


@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (4, 7), (0, 5, 9), (8, 9)])
def test_two_hits_that_both_find_slots_missing_make_none_twice(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, taken: int, kept: tuple[int, ...]
) -> None:
    """The second hit comes before each call of the first.  Then both play on for a window and more."""
    for name in ("listdir", "rename", "link"):
        for at in range(1, 40):
            with temporary(root) as path, monkeypatch.context() as patch:
                made: list[object] = []
                clock.now = NOW
                furnished(str(path), taken)
                lose_all_but(str(path), *kept)
                clock.now += 1
                hits = [Admitted(NOW, NOW, NOW, NOW, "")] * taken
                one, other = (Limiter(path, LIMIT, clock=clock) for _ in range(2))

                def play(
                    limiter: Limiter, made: list[object] = made, hits: list[Admitted] = hits
                ) -> None:
                    made.append(None)
                    clock.now += 1
                    while limiter.hit("acme"):
                        hits.append(hit_now(clock))
                        clock.now += 1

                before(patch, name, lambda *_, other=other, play=play: play(other), at)
                play(one)
                patch.undo()
                there = numbers(str(path))
                assert len({*there}) == len(there)
                for _ in range(3):
                    clock.now += 20 * SECOND
                    for limiter in (one, other):
                        play(limiter)
                _is_right(str(path), hits)
                if len(made) < 8:
                    break  # the first hit made fewer calls


def test_a_cleaner_that_takes_the_slot_of_who_mends_lets_nobody_make_a_slot_twice(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new slot is a link of that one.  So the first who mends can make no more, and the second can."""
    for at in range(1, 9):
        with temporary(root) as path, monkeypatch.context() as patch:
            furnished(str(path))
            lose_all_but(str(path), 4, 7)

            def spoil(*_: object, path: Path = path) -> None:
                clock.now += 1
                lose(str(path), lambda name: number_of(name) == 4)
                assert Limiter(path, LIMIT, clock=clock).hit("acme")

            before(patch, "link", spoil, at)
            decision = Limiter(path, LIMIT, clock=clock).hit("acme")
            assert decision
            assert "not made again" in decision.notes[0]
            there = numbers(str(path))
            assert len({*there}) == len(there)
            assert admitted(Limiter(path, LIMIT, clock=clock), 12) == 0
            for _ in range(2):
                clock.now += 60 * SECOND
                assert admitted(Limiter(path, LIMIT, clock=clock), 12) <= 10
            assert numbers(str(path)) == list(range(10))


def test_a_hit_that_could_not_make_all_slots_leaves_the_rest_to_who_takes_the_new_lowest(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From memory it takes what was the lowest, at the very time at which another mends."""
    for at in range(1, 6):
        with temporary(root) as path, monkeypatch.context() as patch:
            clock.now = NOW
            furnished(str(path))
            lose_all_but(str(path), 4, 7)
            one, other = (Limiter(path, LIMIT, clock=clock) for _ in range(2))
            with monkeypatch.context() as full:
                before(full, "link", failing(errno.EIO), at=4)
                before(full, "open", failing(errno.EIO))
                decision = one.hit("acme")
            assert decision.remaining == 1
            assert "not made again" in decision.notes[0]
            assert numbers(str(path)) == [0, 1, 2, 4, 7]
            clock.now += 60 * SECOND

            def meet(*_: object, one: Limiter = one) -> None:
                clock.now += 1
                assert admitted(one, 2)

            before(patch, "link", meet, at)
            assert other.hit("acme")
            there = numbers(str(path))
            assert len({*there}) == len(there)
            assert admitted(Limiter(path, LIMIT, clock=clock), 12) + 2 <= 10


def test_a_slot_that_no_listing_shows_counts_once_when_it_appears(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not lost at all, and is under two names now: the newest counts, until one is left."""
    hit_at(root, "3/minute", count=3, now=NOW - 3600 * SECOND)
    directory = Path(root, "acme@3-per-60s")
    next(directory.glob("*-2")).rename(directory / make(NOW - SECOND, False, 2))
    listdir = posix.listdir
    with monkeypatch.context() as patch:
        patch.setattr(posix, "listdir", lambda path: [it for it in listdir(path) if it[18:] != "2"])
        assert Limiter(root, "3/minute", clock=clock).hit("acme")
    assert numbers(root, directory.name) == [0, 1, 2, 2]
    limiter = Limiter(root, "3/minute", clock=clock)
    assert admitted(limiter, 3) == 1
    clock.now += 60 * SECOND - 1
    assert admitted(limiter, 3) == 0
    clock.now += SECOND
    assert admitted(Limiter(root, "3/minute", clock=clock), 4) == 3
    assert numbers(root, directory.name) == [0, 1, 2]


STEPS = st.tuples(
    st.integers(0, 2),
    st.sampled_from([1, 3, 12]),
    st.sampled_from([1, 1, 3]),
    st.sets(st.integers(0, 9), max_size=9),
    st.sampled_from([0, 0, 20 * SECOND, 31 * SECOND, 60 * SECOND]),
)


@settings(max_examples=100)
@given(st.lists(STEPS, min_size=3, max_size=12))
def test_s1_holds_whatever_slots_are_lost_and_when(
    steps: list[tuple[int, int, int, set[int], int]],
) -> None:
    """Three processes with a memory each hit, and a cleaner never takes the last slot."""
    clock = Clock()
    hits: list[Admitted] = []
    with temporary("/dev/shm") as path:
        root = str(path)
        furnished(root)
        limiters = [Limiter(root, LIMIT, clock=clock) for _ in range(3)]
        for who, count, cost, lost, pause in steps:
            for _ in range(count):
                if limiters[who].hit("acme", cost):
                    hits += [hit_now(clock)] * cost
                clock.now += 1
            if not lost.issuperset(numbers(root)):
                lose(root, lambda name, lost=lost: number_of(name) in lost)  # type: ignore[misc]
            clock.now += pause
        judge_s1(only(LIMIT), History(hits))
        there = numbers(root)
        assert len({*there}) == len(there), "no slot is there twice"
