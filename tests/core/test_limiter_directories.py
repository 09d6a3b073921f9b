"""The Limiter and its directories: segments, foreign entries in them, and incorrect listings."""

from __future__ import annotations

import errno
import os
import posix
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.core.limit import number_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import StoreError
from tests.history import only
from tests.limiting import NOW, SECOND, Calls, Clock, admitted, before_each, entries, tree

OLDER, OLDEST = f"{NOW // SECOND - 1}.000000-", "0000000000.000001-"

# Segments


def test_a_segment_comes_when_the_one_before_is_full(root: str, clock: Clock) -> None:
    """The first 16 hits use a directory of 16 slots, the 17th makes one of 48, the 65th one of 36."""
    limiter = Limiter(root, "100/minute", clock=clock)
    times = []
    for number in range(100):
        assert limiter.hit("acme")
        times.append(clock.now)
        clock.now += 7
        assert len(os.listdir(root)) == 1 + (number >= 16) + (number >= 64)
    for name, numbers in (("", range(16)), (".1", range(16, 64)), (".2", range(64, 100))):
        assert sorted(map(number_of, os.listdir(f"{root}/acme@100-per-60s{name}"))) == list(numbers)
    assert limiter.hits("acme") == [times], "in the order of time, in whichever segment"


def test_a_light_user_of_a_large_limit_costs_no_more(root: str, clock: Clock, calls: Calls) -> None:
    """Each of the first hits of 1000/hour makes the same calls as that of 16/hour."""
    for number in range(16):
        large = calls.of(lambda: Limiter(root, "1000/hour", clock=clock).hit("large"))
        small = calls.of(lambda: Limiter(root, "16/hour", clock=clock).hit("small"))
        assert large == small
        assert large == ["listdir", "rename"] or not number


# What else may be in a directory, or seem to be missing from it


@pytest.mark.parametrize("text", ["5/minute", "70/minute", "5/minute fixed", "5/minute burst 5"])
def test_foreign_entries_are_neither_counted_nor_touched(root: str, clock: Clock, text: str) -> None:
    """Also names that are nearly a slot's: of another directory's number, or one with a leading zero."""
    assert Limiter(root, text, clock=clock).hit("acme")
    (directory,) = Path(root).iterdir()
    names = [".nfs000000012", "README", "zzz", f"{OLDEST}00", f"{OLDEST}04", ".gone-README", ".gone-"]
    if only(text).is_returnable:
        names += [f"{OLDEST}70", f"{OLDEST}99999", f".gone-{OLDEST}70"]
    foreign = [directory / name for name in names]
    for path in foreign:
        path.write_text("foreign")
    limiter = Limiter(root, text, clock=clock)
    quota = limiter.limits[0].quota
    assert limiter.peek("acme").remaining == quota - 1
    assert admitted(limiter, quota + 3) == quota - 1
    limiter.reset("acme")
    assert admitted(limiter, quota + 3) == quota
    assert {path.read_text() for path in foreign} == {"foreign"}


def test_a_directory_that_holds_only_something_else_is_an_error(root: str, clock: Clock) -> None:
    """No process may make slots in it, so a person must remove it; nothing is written."""
    directory = Path(root, "acme@5-per-60s")
    directory.mkdir()
    (directory / "README").write_text("")
    limiter = Limiter(root, "5/minute", clock=clock)
    there = set(tree(root))
    with pytest.raises(StoreError, match=r"directory has no slots \(remove it: ") as error:
        limiter.hit("acme")
    assert (error.value.errno, error.value.path) == (errno.ENOENT, str(directory))
    assert set(tree(root)) == there
    (directory / "README").unlink()
    assert admitted(limiter, 7) == 5


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("5/minute", "acme@5-per-60s"),
        ("5/minute;9/hour fixed", "acme@9-per-3600s-fixed"),
        ("70/minute", "acme@70-per-60s"),
        ("70/minute", "acme@70-per-60s.1"),
        ("70/minute", "acme@70-per-60s.2"),
        ("5/minute burst 5", "acme@5-per-60s-burst-5"),
    ],
)
def test_an_empty_directory_is_as_good_as_none(root: str, clock: Clock, text: str, there: str) -> None:
    """A copy that leaves out empty files makes such directories; a full one replaces it."""
    Path(root, there).mkdir()
    limiter = Limiter(root, text, clock=clock)
    quota = limiter.limits[0].quota
    assert limiter.peek("acme").remaining == quota
    assert admitted(limiter, quota + 2) == quota
    directories = [
        limit.directory(segment) for limit in limiter.limits for segment in range(limit.segments)
    ]
    assert sorted(os.listdir(root)) == sorted(f"acme@{name}" for name in directories)


# Listings that are torn

Tear = Callable[[list[str]], list[str]]


def _tear(patch: pytest.MonkeyPatch, tear: Tear, times: int, where: str) -> list[str]:
    """Spoil the first ``times`` listings of that directory; return the paths that were listed."""
    listdir = posix.listdir
    listed: list[str] = []

    def torn(path: str) -> list[str]:
        listed.append(path)
        found = sorted(listdir(path))
        mine = path.endswith(where)
        return tear(found) if mine and sum(name.endswith(where) for name in listed) <= times else found

    patch.setattr(posix, "listdir", torn)
    return listed


TEARS: dict[str, tuple[str, Tear]] = {
    "misses the free one": ("5/minute", lambda found: found[1:]),
    "misses one taken": ("5/minute", lambda found: found[:-1]),
    "misses all": ("5/minute", lambda found: []),
    "shows one twice": ("5/minute", lambda found: [*found, OLDER + found[-1][18:]]),
    "shows one twice, misses another": ("5/minute", lambda found: [*found[1:], OLDEST + found[-1][18:]]),
    "shows a single file twice": ("5/minute fixed", lambda found: [f"{OLDER}1", *found]),
}


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(("text", "tear"), TEARS.values(), ids=TEARS.keys())
def test_a_torn_listing_costs_nobody_a_hit(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, text: str, tear: Tear, times: int
) -> None:
    """It is listed again: the one free slot is found, and no taken slot counts as free."""
    assert admitted(Limiter(root, text, clock=clock), 4) == 4
    for is_admitted in (True, False):
        there = entries(root)
        with monkeypatch.context() as patch:
            _tear(patch, tear, times, only(text).name)
            assert Limiter(root, text, clock=clock).hit("acme").allowed is is_admitted
        assert len(entries(root)) == len(there)
    assert entries(root) == there, "a denied hit writes nothing"


def test_a_slot_that_stays_missing_does_not_keep_a_hit(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of listings is bounded; then the hit uses the names that it has seen."""
    assert admitted(Limiter(root, "5/minute", clock=clock), 4) == 4
    with monkeypatch.context() as patch:
        listed = _tear(patch, lambda found: found[1:], 1000, "5-per-60s")
        assert not Limiter(root, "5/minute", clock=clock).hit("acme")
    assert 2 <= len(listed) <= 5
    assert Limiter(root, "5/minute", clock=clock).hit("acme")


def test_an_application_that_is_missed_is_not_furnished_over(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renaming onto a directory that is not empty fails, even if a listing showed nothing."""
    limits = "5/minute;9/hour fixed"
    assert admitted(Limiter(root, limits, clock=clock), 4) == 4
    there = set(entries(root))
    with monkeypatch.context() as patch:
        for limit in parse(limits):
            _tear(patch, lambda found: [], 1, limit.name)
        assert Limiter(root, limits, clock=clock).hit("acme")
    assert len(there - set(entries(root))) == 2
    assert len(entries(root)) == len(there)
    assert not Limiter(root, limits, clock=clock).hit("acme")


def test_a_slot_lost_to_another_process_is_not_tried_again(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, it was tried at every hit until the next look."""
    one, other = Limiter(root, "40/hour"), Limiter(root, "40/hour")
    tried: list[str] = []
    one.hit("acme")
    assert admitted(other, 20) == 20
    before_each(monkeypatch, "rename", lambda old, _: tried.append(old))
    assert admitted(one, 20) == 19
    assert len(tried) == len(set(tried))
