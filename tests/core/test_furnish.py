"""Furnishing is all or nothing, happens once, and leaves nothing behind; and the default store."""

from __future__ import annotations

import errno
import os
import posix
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from limiter.core.furnish import default_root, furnish
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError
from tests.limiting import admitted, before, before_each, entries, failing

LIMITS = "3/minute;70/hour;4/3660 days fixed;5/day burst 6"
FURNITURE = {
    "3-per-60s": ["0000000000.000000-0", "0000000000.000000-1", "0000000000.000000-2"],
    "4-per-60s-fixed": ["0000000000.000000-0"],
}
FURNISHED = sorted(
    ["acme", *(f"acme/{name}" for name in FURNITURE)]
    + [f"acme/{name}/{file}" for name, files in FURNITURE.items() for file in files]
)

# Arriving


def test_an_application_arrives_whole(root: str) -> None:
    """Its slots are empty files for their owner alone.  Otherwise other users could rename them."""
    furnish(Store(root), "acme", FURNITURE)
    assert entries(root) == FURNISHED
    for path in Path(root).rglob("*-[0-9]"):
        status = path.stat()
        assert stat.S_ISREG(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 0)


def test_what_is_there_stays_as_it_is(root: str) -> None:
    """A new limit is added beside limits that have hits already."""
    assert Limiter(root, "3/minute").hit("acme")
    there = entries(root)
    for _ in range(2):
        furnish(Store(root), "acme", FURNITURE)
        added = ["acme/4-per-60s-fixed", "acme/4-per-60s-fixed/0000000000.000000-0"]
        assert entries(root) == sorted([*there, *added])


def test_no_shared_name_is_made_by_mkdir(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two hosts did that at the same time, a replicated directory would break for good."""
    made: list[str] = []
    before_each(monkeypatch, "mkdir", made.append)
    for limits in (LIMITS, f"{LIMITS};9/minute"):
        assert Limiter(root, limits).hit("acme")
    assert made
    assert all(path.startswith(f"{root}/.new-") for path in made)


# Losing


@pytest.mark.parametrize(
    "theirs",
    [LIMITS, "3/minute", "70/hour", "4/3660 days fixed", "9/minute", "9/minute;3/minute;5/day burst 6"],
)
def test_the_loser_of_a_race_takes_what_the_winner_made(
    root: str, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    """Its own directory is removed, what the winner's lacks is added, and both hits count."""
    before(monkeypatch, "rename", lambda *_: Limiter(root, theirs).hit("acme"))
    assert Limiter(root, LIMITS).hit("acme")
    names = {limit.name for limit in parse(theirs)}
    assert set(os.listdir(f"{root}/acme")) == {limit.name for limit in parse(LIMITS)} | names
    assert os.listdir(root) == ["acme"]
    for quota in Limiter(root, LIMITS).peek("acme").quotas:
        assert quota.remaining == quota.limit.quota - 1 - (quota.limit.name in names)


def test_the_loser_of_a_race_for_a_segment(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for the second directory of a large limit."""
    mine, theirs = Limiter(root, "70/hour"), Limiter(root, "70/hour")
    assert admitted(mine, 64) == 64
    before(monkeypatch, "rename", lambda *_: theirs.hit("acme"))
    assert mine.hit("acme")
    assert admitted(mine, 10) == 4
    sizes = {name: len(os.listdir(f"{root}/acme/{name}")) for name in os.listdir(f"{root}/acme")}
    assert sizes == {"70-per-3600s": 64, "70-per-3600s.1": 6}
    assert os.listdir(root) == ["acme"]


@pytest.mark.parametrize(
    "number", [errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK, errno.ENOENT, errno.ESTALE]
)
def test_every_way_to_lose(root: str, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """After any of these errors, the hit looks for the directory again and leaves nothing behind."""
    before(monkeypatch, "rename", failing(number))
    assert Limiter(root, "3/minute").hit("acme")
    assert os.listdir(root) == ["acme"]


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
    assert os.listdir(root) == ["acme"]


# Failing


@pytest.mark.parametrize(("call", "count"), [("mkdir", 3), ("open", 4), ("close", 4), ("rename", 1)])
def test_failing_midway_leaves_nothing_behind(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str, count: int
) -> None:
    """ENOSPC at any call is a StoreError with a path in the store, and the store stays empty."""
    for number in range(1, count + 1):
        with monkeypatch.context() as patch:
            before(patch, call, failing(errno.ENOSPC), at=number)
            with pytest.raises(StoreError) as error:
                furnish(Store(root), "acme", FURNITURE)
        assert error.value.errno == errno.ENOSPC
        assert error.value.path.startswith(f"{root}/")
        assert entries(root) == []


def test_failing_where_even_removing_fails(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first error is reported.  What is left has a name that no hit looks into."""
    with monkeypatch.context() as patch:
        patch.setattr(posix, "open", failing(errno.ENOSPC))
        patch.setattr(posix, "rmdir", failing(errno.EROFS))
        patch.setattr(posix, "unlink", failing(errno.EROFS))
        with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)):
            furnish(Store(root), "acme", FURNITURE)
    assert all(name.startswith(".new-") for name in entries(root))
    assert Limiter(root, "3/minute").hit("acme")


# The default store


@pytest.fixture
def default(tmp_path: Path) -> Path:
    """The path of the default store in a temporary directory."""
    return tmp_path / f"limiter-{os.geteuid()}"


@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "meanwhile"])
def test_the_default_store_is_made_once_and_for_its_owner_alone(
    default: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    """Another process may make it at the same time."""
    if meanwhile:
        before(monkeypatch, "mkdir", posix.mkdir)
    for _ in range(2):
        assert default_root(str(default.parent)) == str(default)
    status = default.lstat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, os.geteuid())


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1700])
def test_a_default_store_that_only_its_owner_can_write_to_is_trusted(default: Path, mode: int) -> None:
    """Others may read it: they see app_ids and times."""
    default.mkdir()
    default.chmod(mode)
    assert default_root(str(default.parent)) == str(default)
    assert stat.S_IMODE(default.stat().st_mode) == mode


def _of_mode(mode: int, path: Path) -> None:
    path.mkdir()
    path.chmod(mode)


def _of_somebody_else(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to somebody else")
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)


PLANTS: dict[str, Callable[[Path], None]] = {
    "a link": lambda path: path.symlink_to(path.parent),
    "a broken link": lambda path: path.symlink_to("nowhere"),
    "a file": Path.touch,
    "a pipe": os.mkfifo,
    "writable by the group": partial(_of_mode, 0o770),
    "writable by all": partial(_of_mode, 0o1777),
    "of somebody else": _of_somebody_else,
}


@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "meanwhile"])
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_a_default_store_that_others_may_have_planted_is_not_trusted(
    default: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None], meanwhile: bool
) -> None:
    """The error names it, and it is not changed.  It may appear between the check and the mkdir."""
    planted: list[os.stat_result] = []

    def plant_and_note(*_: object) -> None:
        plant(default)
        planted.append(default.lstat())

    if meanwhile:
        before(monkeypatch, "mkdir", plant_and_note)
    else:
        plant_and_note()
    with pytest.raises(StoreError, match="it is not trusted") as error:
        default_root(str(default.parent))
    assert (error.value.errno, error.value.path) == (errno.EPERM, str(default))
    after = default.lstat()
    (there,) = planted
    assert (after.st_mode, after.st_uid, after.st_ino) == (there.st_mode, there.st_uid, there.st_ino)
    assert not (default.parent / "nowhere").exists()


def test_a_temporary_directory_that_is_a_file_is_an_error_that_names_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as error:
        default_root(str(tmp_path / "file"))
    path = f"{tmp_path}/file/limiter-{os.geteuid()}"
    assert (error.value.errno, error.value.path) == (errno.ENOTDIR, path)
