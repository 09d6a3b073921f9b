"""Furnishing is all or nothing, happens once, and leaves nothing behind; and the default store."""

from __future__ import annotations

import errno
import multiprocessing
import os
import posix
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.core.furnish import default_root, furnish
from limiter.core.limit import number_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError

LIMITS = "3/minute;70/hour;4/3660 days fixed;5/day burst 6"
FURNITURE = {
    "3-per-60s": ["0000000000.000000-0", "0000000000.000000-1", "0000000000.000000-2"],
    "4-per-60s-fixed": ["0000000000.000000-0"],
}
APPS = 200
PROCESSES = 8


def names(root: str) -> list[str]:
    """Return every file and directory of a store."""
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*"))


def as_furnished(app: str) -> list[str]:
    """Return what a store holds for an application with FURNITURE."""
    directories = [f"{app}/{name}" for name in FURNITURE]
    files = [f"{app}/{name}/{file}" for name, files in FURNITURE.items() for file in files]
    return sorted([app, *directories, *files])


# Arriving


def test_an_application_arrives_whole(root: str) -> None:
    """Furnishing makes its directory with all limits and slots, and nothing else."""
    furnish(Store(root), "acme", FURNITURE)
    assert names(root) == as_furnished("acme")


def test_slots_are_empty_files_for_their_owner_alone(root: str) -> None:
    """Otherwise other users could rename slots; and a slot holds no data."""
    furnish(Store(root), "acme", FURNITURE)
    for path in Path(root).rglob("*-[0-9]"):
        status = path.stat()
        assert stat.S_ISREG(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 0)


def test_what_is_there_stays_as_it_is(root: str) -> None:
    """A new limit is added beside limits that have hits already."""
    assert Limiter(root, "3/minute").hit("acme")
    before = names(root)
    furnish(Store(root), "acme", FURNITURE)
    added = [name for name in names(root) if name not in before]
    assert added == ["acme/4-per-60s-fixed", "acme/4-per-60s-fixed/0000000000.000000-0"]
    assert set(before) < set(names(root))
    furnish(Store(root), "acme", FURNITURE)
    assert names(root) == sorted([*before, *added])


def test_a_hit_furnishes_all_its_limits(root: str) -> None:
    """The first hit makes the first segment of each limit."""
    assert Limiter(root, LIMITS).hit("acme")
    found = {
        path.name: sorted(map(number_of, os.listdir(path))) for path in Path(root, "acme").iterdir()
    }
    burst = found.pop("5-per-86400s-burst-6")
    assert len(burst) == 1
    assert found == {
        "3-per-60s": [0, 1, 2],
        "70-per-3600s": list(range(64)),
        "4-per-316224000s-fixed": [1],
    }
    assert os.listdir(root) == ["acme"]


def test_a_denied_hit_furnishes_nothing(root: str) -> None:
    """An application that is never admitted needs no slots."""
    assert not Limiter(root, "0/minute;3/minute").hit("acme")
    assert names(root) == []


def test_no_shared_name_is_made_by_mkdir(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two hosts did that at the same time, a replicated directory would break for good."""
    made = []
    mkdir = posix.mkdir

    def noting(path: str) -> None:
        made.append(path)
        mkdir(path)

    monkeypatch.setattr(posix, "mkdir", noting)
    for limits in (LIMITS, f"{LIMITS};9/minute"):
        assert Limiter(root, limits).hit("acme")
    assert made
    assert all(path.startswith(f"{root}/.new-") for path in made)


# Losing


def _before_rename(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call ``act`` just before the first directory is renamed into place."""
    rename = posix.rename
    done: list[bool] = []

    def late(old: str, new: str) -> None:
        if "/.new-" in old and not done:
            done.append(True)
            act()
        rename(old, new)

    patch.setattr(posix, "rename", late)


@pytest.mark.parametrize(
    "theirs",
    [LIMITS, "3/minute", "70/hour", "4/3660 days fixed", "9/minute", "9/minute;3/minute;5/day burst 6"],
)
def test_the_loser_of_a_race_takes_what_the_winner_made(
    root: str, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    """Its own directory is removed, what the winner's lacks is added, and both hits count."""
    _before_rename(monkeypatch, lambda: Limiter(root, theirs).hit("acme"))
    mine = Limiter(root, LIMITS)
    assert mine.hit("acme")
    directories = {limit.name for limit in (*parse(LIMITS), *parse(theirs))}
    assert set(os.listdir(f"{root}/acme")) == directories
    assert os.listdir(root) == ["acme"]
    for quota in Limiter(root, LIMITS).peek("acme").quotas:
        both = quota.limit.name in {limit.name for limit in parse(theirs)}
        assert quota.remaining == quota.limit.quota - 1 - both


def test_the_loser_of_a_race_for_a_segment(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for the second directory of a large limit."""
    mine, theirs = Limiter(root, "70/hour"), Limiter(root, "70/hour")
    assert sum(mine.hit("acme").allowed for _ in range(64)) == 64
    _before_rename(monkeypatch, lambda: theirs.hit("acme"))
    assert mine.hit("acme")
    assert sum(mine.hit("acme").allowed for _ in range(10)) == 4
    assert sorted(os.listdir(f"{root}/acme")) == ["70-per-3600s", "70-per-3600s.1"]
    assert len(os.listdir(f"{root}/acme/70-per-3600s.1")) == 6
    assert os.listdir(root) == ["acme"]


@pytest.mark.parametrize(
    "number", [errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK, errno.ENOENT, errno.ESTALE]
)
def test_every_way_to_lose(root: str, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """After any of these errors, the hit looks for the directory again and leaves nothing behind."""
    rename = posix.rename
    lost: list[str] = []

    def lose(old: str, new: str) -> None:
        if "/.new-" in old and not lost:
            lost.append(old)
            raise OSError(number, os.strerror(number))
        rename(old, new)

    monkeypatch.setattr(posix, "rename", lose)
    assert Limiter(root, "3/minute").hit("acme")
    assert lost
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
    mine = Limiter(root, "3/minute")
    assert [mine.hit("acme").allowed for _ in range(3)] == [True, True, False]
    assert lost
    assert os.listdir(root) == ["acme"]


# Failing


CALLS = ("mkdir", "open", "close", "rename")


@pytest.mark.parametrize("call", CALLS)
def test_failing_midway_leaves_nothing_behind(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """ENOSPC at any call is a StoreError with a path in the store, and the store stays empty."""
    original = getattr(posix, call)
    count = failing_at = 0

    def fail(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count == failing_at:
            if call == "close":
                original(*arguments)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    monkeypatch.setattr(posix, call, fail)
    calls = {"mkdir": 1 + len(FURNITURE), "open": 4, "close": 4, "rename": 1}[call]
    for number in range(1, calls + 1):
        count, failing_at = 0, number
        with pytest.raises(StoreError) as error:
            furnish(Store(root), "acme", FURNITURE)
        assert error.value.errno == errno.ENOSPC
        assert error.value.path.startswith(f"{root}/")
        assert names(root) == []
    count, failing_at = 0, calls + 1
    furnish(Store(root), "acme", FURNITURE)
    assert count == calls
    assert names(root) == as_furnished("acme")


def test_failing_where_even_removing_fails(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first error is reported.  What is left has a name that no hit looks into."""

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(posix, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        patch.setattr(posix, "rmdir", fail)
        patch.setattr(posix, "unlink", fail)
        with pytest.raises(StoreError, match="full"):
            furnish(Store(root), "acme", FURNITURE)
    assert all(name.startswith(".new-") for name in names(root))
    assert Limiter(root, "3/minute").hit("acme")


def test_a_missing_store_is_not_made(tmp_path: Path) -> None:
    """If a mount is gone, a private store must not take its place."""
    root = str(tmp_path / "missing")
    with pytest.raises(StoreError, match="The store does not exist") as error:
        furnish(Store(root), "acme", FURNITURE)
    assert (error.value.errno, error.value.path) == (errno.ENOENT, root)
    assert list(tmp_path.iterdir()) == []


# Many at once


def _furnish_all(root: str) -> None:
    for number in range(APPS):
        if not Limiter(root, "9/hour;8/3660 days fixed").hit(f"app{number}"):
            os._exit(1)


@pytest.mark.one_python
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_many_processes_furnish_the_same_applications(any_root: str) -> None:
    """Each application has exactly its slots, and each process has taken one of them."""
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_furnish_all, args=(any_root,)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    assert sorted(os.listdir(any_root)) == sorted(f"app{number}" for number in range(APPS))
    for number in range(APPS):
        app = f"{any_root}/app{number}"
        assert sorted(os.listdir(app)) == ["8-per-316224000s-fixed", "9-per-3600s"]
        slots = sorted(os.listdir(f"{app}/9-per-3600s"))
        assert sorted(map(number_of, slots)) == list(range(9))
        assert [slot.startswith("0000000000.") for slot in slots] == [True] + [False] * 8
        assert list(map(number_of, os.listdir(f"{app}/8-per-316224000s-fixed"))) == [8]


# The default store


def test_the_default_store_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """The next process uses the same one."""
    path = default_root(str(tmp_path))
    assert path == f"{tmp_path}/limiter-{os.geteuid()}"
    status = os.lstat(path)
    assert stat.S_ISDIR(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == os.geteuid()
    assert Limiter(path, "3/minute").hit("acme")
    assert default_root(str(tmp_path)) == path
    assert os.listdir(path) == ["acme"]


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1700])
def test_a_default_store_that_only_its_owner_can_write_is_trusted(tmp_path: Path, mode: int) -> None:
    """Others may read it: they see app_ids and times."""
    path = tmp_path / f"limiter-{os.geteuid()}"
    path.mkdir()
    path.chmod(mode)
    assert default_root(str(tmp_path)) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def _a_link(path: Path) -> None:
    (path.parent / "own").mkdir(mode=0o700)
    path.symlink_to("own")


def _a_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _a_file(path: Path) -> None:
    path.write_text("")


def _a_pipe(path: Path) -> None:
    os.mkfifo(path)


def _writable_by_the_group(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def _writable_by_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o1777)


def _of_somebody_else(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to somebody else")
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize(
    "plant",
    [
        _a_link,
        _a_broken_link,
        _a_file,
        _a_pipe,
        _writable_by_the_group,
        _writable_by_all,
        _of_somebody_else,
    ],
)
def test_a_default_store_that_others_may_have_planted(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    """It is refused, the error names it, and it is not changed."""
    path = tmp_path / f"limiter-{os.geteuid()}"
    plant(path)
    before = os.lstat(path)
    with pytest.raises(StoreError, match="not trusted") as error:
        default_root(str(tmp_path))
    assert (error.value.errno, error.value.path) == (errno.EPERM, str(path))
    after = os.lstat(path)
    assert (after.st_mode, after.st_uid, after.st_ino) == (before.st_mode, before.st_uid, before.st_ino)
    assert not (tmp_path / "nowhere").exists()


def test_a_default_store_that_another_process_makes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later process uses it, if it can be trusted."""
    mkdir = posix.mkdir

    def late(path: str, mode: int) -> None:
        mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(posix, "mkdir", late)
    assert default_root(str(tmp_path)) == f"{tmp_path}/limiter-{os.geteuid()}"


def test_a_link_planted_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link appears between the check and the mkdir."""

    def plant(path: str, mode: int) -> None:
        os.symlink("elsewhere", path)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(posix, "mkdir", plant)
    with pytest.raises(StoreError, match="not trusted"):
        default_root(str(tmp_path))


@pytest.mark.parametrize(("there", "number"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR)])
def test_a_temporary_directory_that_is_none(tmp_path: Path, there: str, number: int) -> None:
    """The error names the store that could not be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as error:
        default_root(str(tmp_path / there))
    assert (error.value.errno, error.value.path) == (
        number,
        f"{tmp_path}/{there}/limiter-{os.geteuid()}",
    )
