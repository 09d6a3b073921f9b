"""Furnishing is all or nothing, happens once, leaves nothing behind, and costs two inodes."""

from __future__ import annotations

import errno
import os
import posix
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.core.furnish import furnish
from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import StoreError
from tests.disks import small_disk
from tests.history import only
from tests.limiting import admitted, before, before_each, entries, failing, used

LIMITS = "3/minute;70/hour;4/3660 days fixed;5/day burst 6"
DIRECTORY = "acme@3-per-60s"
NAMES = ["1513123456.123456-0", "1513123456.123456-1", "1513123456.123456-2"]
FURNISHED = sorted([DIRECTORY, *(f"{DIRECTORY}/{name}" for name in NAMES)])


def directories(limits: str, app: str = "acme") -> list[str]:
    """Return the directories that the first hit of these limits makes."""
    return sorted(f"{app}@{limit.name}" for limit in parse(limits))


# Arriving


def test_a_directory_arrives_whole(root: str) -> None:
    """Its slots are empty files."""
    assert furnish(root, DIRECTORY, NAMES)
    assert entries(root) == FURNISHED
    for name in NAMES:
        status = Path(root, DIRECTORY, name).stat()
        assert stat.S_ISREG(status.st_mode)
        assert status.st_size == 0


def test_a_directory_that_is_there_stays_as_it_is(root: str) -> None:
    assert furnish(root, DIRECTORY, NAMES)
    assert not furnish(root, DIRECTORY, ["1513123499.123456-0"])
    assert entries(root) == FURNISHED


def test_an_empty_directory_is_filled(root: str) -> None:
    """A machine may have died while it removed the last slot."""
    os.mkdir(f"{root}/{DIRECTORY}")
    assert furnish(root, DIRECTORY, NAMES)
    assert entries(root) == FURNISHED


def test_no_shared_name_is_made_by_mkdir(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two hosts did that at the same time, a replicated directory would break for good."""
    made: list[str] = []
    before_each(monkeypatch, "mkdir", lambda path, *_: made.append(path))
    for limits in (LIMITS, f"{LIMITS};9/minute"):
        assert Limiter(root, limits).hit("acme")
    assert len(made) == 5
    assert all(path.startswith(f"{root}/.new-") for path in made)


# What it costs

MANY = ["10/second", "100/minute", "10000/day", "7/hour fixed", "9/second burst 20", LIMITS]


@pytest.mark.parametrize("limits", MANY)
def test_a_new_client_costs_two_inodes_a_limit(any_root: str, limits: str) -> None:
    """The directory, and one file of which all slots are hard links."""
    assert Limiter(any_root, limits).hit("acme")
    inodes = {path.stat().st_ino for path in Path(any_root).rglob("*")}
    assert len(inodes) == 2 * len(parse(limits))


@pytest.mark.parametrize(("kind", "more"), [("ext4", 0), ("xfs", 0), ("tmpfs", 15)])
def test_a_new_client_leaves_no_other_inode_in_use(kind: str, more: int) -> None:
    """Only tmpfs counts each hard link as an inode, though it is none.  There are at most 15."""
    with small_disk(kind=kind) as disk:
        for number, limit in enumerate(["10/second", "100/minute", "10000/day"]):
            used = disk.used
            assert Limiter(disk.path, limit).hit("acme")
            assert disk.used - used == 2 + (more and [9, 15, 15][number])


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("links", [0, 1], ids=["none", "two for each file"])
def test_where_hard_links_fail_slots_are_files(
    root: str, monkeypatch: pytest.MonkeyPatch, number: int, links: int
) -> None:
    """The file system has none, or too few for one file.  Nobody notices."""
    link, fail = posix.link, failing(number)

    def few(first: str, path: str) -> None:
        (fail if os.stat(first).st_nlink > links else link)(first, path)

    monkeypatch.setattr(posix, "link", few)
    assert admitted(Limiter(root, "20/minute"), 30) == 20
    slots = [path.stat().st_ino for path in Path(root).glob("*/*")]
    assert len(slots) == 20
    assert len(set(slots)) == 20 - 2 * links, "one link less in each of two directories"


def test_a_link_that_was_made_although_it_failed_is_made_once(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may report an error after it has done the work.  The hit begins anew."""
    link, failed = posix.link, list[str]()

    def lose_the_answer(first: str, path: str) -> None:
        link(first, path)
        if not failed:
            failed.append(path)
            failing(errno.ENOTCONN)()

    monkeypatch.setattr(posix, "link", lose_the_answer)
    assert admitted(Limiter(root, "3/minute"), 4) == 3
    assert os.listdir(root) == [DIRECTORY]


# Losing


@pytest.mark.parametrize(
    "theirs",
    [LIMITS, "3/minute", "70/hour", "4/3660 days fixed", "9/minute", "9/minute;3/minute;5/day burst 6"],
)
def test_the_loser_of_a_race_takes_what_the_winner_made(
    root: str, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    """Its own directory is removed, what the winner did not make is added, and both hits count."""
    before(monkeypatch, "rename", lambda *_: Limiter(root, theirs).hit("acme"))
    assert Limiter(root, LIMITS).hit("acme")
    assert sorted(os.listdir(root)) == sorted({*directories(LIMITS), *directories(theirs)})
    names = {limit.name for limit in parse(theirs)}
    for quota in Limiter(root, LIMITS).peek("acme").quotas:
        assert quota.remaining == quota.limit.quota - 1 - (quota.limit.name in names)


def test_the_loser_of_a_race_for_a_segment(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for the further directories of a large limit."""
    mine, theirs = Limiter(root, "70/hour"), Limiter(root, "70/hour")
    for full, left in ((16, 48), (64, 6)):
        assert mine.hit("acme", full)
        with monkeypatch.context() as patch:
            before(patch, "rename", lambda *_: theirs.hit("acme"))
            assert mine.hit("acme")
        assert used(root, "70/hour", clock()) == [full + 2]
        assert len(os.listdir(f"{root}/acme@{only('70/hour').directory(1 + full // 64)}")) == left
        assert not [name for name in os.listdir(root) if name.startswith(".new-")]
        mine.reset("acme")
    assert admitted(mine, 80) == 70


@pytest.mark.parametrize(
    "number", [errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK, errno.ENOENT, errno.ESTALE]
)
def test_every_way_to_lose(root: str, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """After any of these errors, the hit looks for the directory again and leaves nothing behind."""
    before(monkeypatch, "rename", failing(number))
    assert Limiter(root, "3/minute").hit("acme")
    assert os.listdir(root) == [DIRECTORY]


def test_a_rename_that_succeeds_but_leaves_the_old_name_has_lost(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GlusterFS: only a copy without the winner's directory did the rename (test_cluster_furnish)."""
    rename = posix.rename
    lost: list[str] = []

    def lose(old: str, new: str) -> None:
        if "/.new-" in old and not lost:
            lost.append(old)
            assert Limiter(root, "3/minute").hit("acme")
        else:
            rename(old, new)

    monkeypatch.setattr(posix, "rename", lose)
    assert admitted(Limiter(root, "3/minute"), 3) == 2
    assert lost
    assert os.listdir(root) == [DIRECTORY]


# Failing


def _without_links(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(posix, "link", failing(errno.EPERM))


def _with_other_modes(patch: pytest.MonkeyPatch) -> None:
    """As a file system may give them."""
    stat = posix.stat

    def another(path: str) -> os.stat_result:
        status = stat(path)
        mode = status.st_mode if path.endswith("/.") else status.st_mode ^ 0o100
        return os.stat_result((mode, *status[1:]))

    patch.setattr(posix, "stat", another)


CALLS: list[tuple[str, int, Callable[[pytest.MonkeyPatch], None]]] = [
    *[(name, 1, lambda _: None) for name in ("rmdir", "mkdir", "open", "close", "rename", "lstat")],
    *[
        ("chmod", 2, _with_other_modes),
        ("stat", 3, lambda _: None),
        ("open", 3, _without_links),
        ("close", 3, _without_links),
    ],
]


@pytest.mark.parametrize(("call", "count", "prepare"), CALLS)
def test_failing_midway_leaves_nothing_behind(
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    count: int,
    prepare: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """ENOSPC at any call is a StoreError with a path in the store, and the store stays empty."""
    prepare(monkeypatch)
    for number in range(1, count + 1):
        with monkeypatch.context() as patch:
            before(patch, call, failing(errno.ENOSPC), at=number)
            with pytest.raises(StoreError) as error:
                furnish(root, DIRECTORY, NAMES)
        assert error.value.errno == errno.ENOSPC
        assert error.value.path.startswith(f"{root}/")
        # The last call comes when the directory has arrived.
        assert entries(root) == (FURNISHED if call == "lstat" else [])


def test_a_store_with_no_room_for_a_directory_has_failed(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMLINK: some file systems bound how many directories one directory holds.  Nobody was faster."""
    monkeypatch.setattr(posix, "mkdir", failing(errno.EMLINK))
    with pytest.raises(StoreError) as error:
        Limiter(root, "3/minute").hit("acme")
    assert error.value.errno == errno.EMLINK


def test_failing_where_even_removing_fails(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first error is reported.  What is left has a name that no hit looks into."""
    with monkeypatch.context() as patch:
        patch.setattr(posix, "open", failing(errno.ENOSPC))
        before(patch, "rmdir", failing(errno.EROFS), at=2)
        patch.setattr(posix, "unlink", failing(errno.EROFS))
        with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)):
            furnish(root, DIRECTORY, NAMES)
    (left,) = entries(root)
    assert left.startswith(".new-")
    assert Limiter(root, "3/minute").hit("acme")


def test_a_store_that_does_not_exist_is_not_made(root: str) -> None:
    with pytest.raises(StoreError, match="The store does not exist") as error:
        furnish(f"{root}/missing", DIRECTORY, NAMES)
    assert error.value.path == f"{root}/missing"
    assert entries(root) == []
