"""Sweeping: what is removed and what stays, as which user, and what the command prints."""

from __future__ import annotations

import errno
import os
import posix
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from limiter.core.limit import clock, make, number_of
from limiter.core.limiter import Limiter
from limiter.core.space import is_running_short
from limiter.core.store import Store, StoreError
from limiter.core.sweep import GRACE, Swept, sweep, sweep_store
from tests.faults import PASSING, run
from tests.history import only
from tests.limiting import (
    DAY,
    LATER,
    NOW,
    SECOND,
    admitted,
    before,
    before_each,
    entries,
    failing,
    hit_at,
)
from tests.places import REPOSITORY

UNITS = REPOSITORY / "deploy/systemd"


HOUR = 3600 * SECOND


def sweep_at(root: str, time: int) -> Swept:
    """Sweep what is an hour old at this time."""
    return sweep_store(Store(root), clock=lambda: time)


def _lose_slots(root: str, directory: str, *numbers: int) -> None:
    """Remove slots, as a cleaner of temporary files does."""
    for number in numbers:
        next(Path(root, directory).glob(f"*-{number}")).unlink()


def _hit_with_a_lost_slot(slot: int, root: str) -> None:
    hit_at(root, "3/minute", count=3)
    _lose_slots(root, "acme@3-per-60s", slot)


def _hit_and_reset(root: str) -> None:
    hit_at(root, "3/second")
    Limiter(root, "3/second", clock=lambda: NOW).reset("acme")


def _hits(limits: str, count: int = 1) -> Callable[[str], None]:
    return lambda root: hit_at(root, limits, count=count)


IDLE: dict[str, tuple[Callable[[str], None], int]] = {
    "sliding": (_hits("3/second"), HOUR),
    "fixed": (_hits("2/second fixed"), HOUR),
    "burst": (_hits("5/minute burst 6"), HOUR + 12 * SECOND),  # its arrival time is in the future
    "a policy": (_hits("login=3/second"), HOUR),
    "a window of an hour": (_hits("3/hour"), HOUR + GRACE),
    "a long window": (_hits("3/7 days"), 7 * DAY + GRACE),
    "a long fixed window": (_hits("3/7 days fixed"), 7 * DAY + GRACE),
    "a long bucket": (_hits("3/7 days burst 3"), 7 * DAY + GRACE + 7 * DAY // 3),
    **{f"{quota} slots": (_hits(f"{quota}/minute", quota), HOUR) for quota in (1, 2, 16)},
    **{f"slot {slot} lost": (partial(_hit_with_a_lost_slot, slot), HOUR) for slot in range(3)},
    "reset": (_hit_and_reset, HOUR - 2 * SECOND - 1),
}
"""Directories, and how long after NOW they are idle."""


@pytest.mark.parametrize(("hit", "idle"), IDLE.values(), ids=IDLE.keys())
def test_a_directory_goes_when_it_is_idle_and_not_before(
    any_root: str, hit: Callable[[str], None], idle: int
) -> None:
    hit(any_root)
    there = entries(any_root)
    assert sweep_at(any_root, NOW + idle - 1).removed == 0
    assert entries(any_root) == there
    swept = sweep_at(any_root, NOW + idle)
    assert (swept.directories, swept.removed, swept.leftovers) == (1, 1, 0)
    assert entries(any_root) == []


def test_each_directory_of_an_application_goes_by_itself(root: str) -> None:
    limits = "3/second;3/7 days;2/hour fixed"
    hit_at(root, limits)
    swept = sweep_at(root, NOW + HOUR + GRACE)
    assert (swept.directories, swept.removed) == (3, 2)
    assert {name.partition("/")[0] for name in entries(root)} == {"acme@3-per-604800s"}
    assert admitted(Limiter(root, limits, clock=lambda: NOW + HOUR + GRACE), 3) == 2


def test_all_segments_go_in_one_sweep(root: str) -> None:
    hit_at(root, "300/minute", count=300)
    assert sweep_at(root, NOW + HOUR).removed == 6
    assert entries(root) == []


def test_a_segment_stays_as_long_as_there_is_a_later_one(root: str) -> None:
    """A hit looks at a segment only after those before it."""
    hit_at(root, "18/minute", count=16)
    hit_at(root, "18/minute", now=NOW + 5 * SECOND)
    assert sweep_at(root, NOW + HOUR).removed == 0
    assert sweep_at(root, NOW + HOUR + 5 * SECOND).removed == 2


@pytest.mark.parametrize("limits", ["1/minute", "70/minute", "2/hour fixed", "5/minute burst 6"])
def test_a_directory_with_a_slot_under_two_names_goes(root: str, limits: str) -> None:
    """The first sweep leaves each slot one name, and so wakes it.  A later one removes it."""
    hit_at(root, limits)
    directory = Path(root, f"acme@{only(limits).name}")
    (directory / f"1500000000.000000{max(os.listdir(directory))[17:]}").touch()
    assert not sweep_at(root, NOW + HOUR - SECOND).removed
    assert not sweep_at(root, NOW + DAY).removed
    assert only(limits).is_whole(os.listdir(directory), 0)
    assert sweep_at(root, NOW + 2 * DAY).removed
    assert entries(root) == []


@pytest.mark.parametrize("limits", ["3/minute", "17/minute"])
def test_a_directory_whose_slots_are_lost_but_for_the_mark_goes(root: str, limits: str) -> None:
    """A machine died while it removed the last slot."""
    hit_at(root, limits)
    directory = Path(root, f"acme@{only(limits).name}")
    for path in directory.iterdir():
        if number_of(path.name):
            path.unlink()
        else:
            path.rename(directory / f".gone-{path.name}")
    assert sweep_at(root, NOW + SECOND).removed
    assert entries(root) == []


@pytest.mark.parametrize("limits", ["3/minute", "70/minute"])
def test_a_directory_stays_if_the_listing_lacks_the_slot_that_is_just_being_hit(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str
) -> None:
    """A file system may list so; the slot then looks like one that is lost for good."""
    hit_at(root, limits)
    directory = f"{root}/acme@{only(limits).name}"
    slots = len(os.listdir(directory))
    listdir = posix.listdir

    def torn(path: str) -> list[str]:
        names = listdir(path)
        if path != directory:
            return names
        monkeypatch.undo()
        hit_at(root, limits, now=LATER)
        return sorted({*names} & {*listdir(path)})

    monkeypatch.setattr(posix, "listdir", torn)
    assert not sweep_at(root, LATER).removed
    assert len(os.listdir(directory)) == slots
    assert admitted(Limiter(root, limits, clock=lambda: LATER), 70) == only(limits).quota - 1


def test_a_directory_stays_that_was_in_use_when_a_sweeper_looked_that_then_stalled(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it goes on, what it saw is idle, but there are newer names that it does not know."""
    hit_at(root, "3/minute", now=NOW)
    hit_at(root, "3/minute", now=LATER)
    now = LATER
    listdir = posix.listdir

    def stall(path: str) -> list[str]:
        nonlocal now
        names = listdir(path)
        if path.endswith("s") and now == LATER:
            now = LATER + DAY
            hit_at(root, "3/minute", now=LATER)
        return names

    with monkeypatch.context() as patch:
        patch.setattr(posix, "listdir", stall)
        assert not sweep_store(Store(root), clock=lambda: now).removed
    assert now == LATER + DAY
    assert {number_of(name) for name in os.listdir(f"{root}/acme@3-per-60s")} == {0, 1, 2}


def test_a_sweeper_that_dies_leaves_a_mark_that_the_next_hit_follows(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hit removes the rest, and makes the directory anew."""
    hit_at(root, "3/minute")
    with monkeypatch.context() as patch:
        patch.setattr(posix, "unlink", failing(errno.EIO))
        with pytest.raises(StoreError):
            sweep_at(root, LATER)
    (mark,) = [name for name in entries(root) if ".gone-" in name]
    assert number_of(mark.partition(".gone-")[2]) == 0
    assert admitted(Limiter(root, "3/minute", clock=lambda: LATER), 4) == 3
    assert len(entries(root)) == 4


def test_what_was_taken_is_never_removed(root: str) -> None:
    """A hit that stalled for longer than GRACE has taken a slot beside the mark: the mark is void."""
    hit_at(root, "3/minute")
    directory = Path(root, "acme@3-per-60s")
    for path in directory.iterdir():
        if number_of(path.name) == 0:
            path.rename(directory / f".gone-{path.name}")
        if number_of(path.name) == 1:
            path.rename(directory / make(LATER, False, 1))
    assert not sweep_at(root, LATER).removed
    assert sorted(map(number_of, os.listdir(directory))) == [0, 1, 2]
    assert admitted(Limiter(root, "3/minute", clock=lambda: LATER), 4) == 2


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, None])
def test_nothing_goes_while_a_copy_is_away(
    root: str, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """GlusterFS reports this by EAGAIN.  All other errors of the attribute are ignored."""
    hit_at(root, "3/minute")
    hit_at(root, "4/minute")
    (lowest,) = Path(root, "acme@4-per-60s").glob("*-0")
    lowest.rename(lowest.with_name(f".gone-{lowest.name}"))
    there = entries(root)

    def getxattr(path: str, name: str) -> None:
        assert (path, name) == (root, "replica.split-brain-status")
        failing(number or 0)()

    if number is None:
        monkeypatch.delattr(posix, "getxattr")
    else:
        monkeypatch.setattr(posix, "getxattr", getxattr)
    if number == errno.EAGAIN:
        with pytest.raises(StoreError, match="A copy of the store is away"):
            sweep_at(root, LATER)
    else:
        sweep_at(root, LATER)
    assert entries(root) == (there if number == errno.EAGAIN else [])


@pytest.mark.parametrize(
    "foreign",
    [
        "acme/notes",
        "acme/3-per-1s/1513123440.000000-0",
        "acme@10-per-1s/notes",
        "acme@0-per-1s-burst-5/notes",
        "acme@10-per-1s.7/1513123440.000000-0",
        "acme@3-per-1s/notes",
        "acme@3-per-1s/1513123440.000000-7",
        "acme@3-per-1s/1513123440.000000-00",
        "acme@3-per-1s/.gone-notes",
        "acme@4-per-1s",
        "README",
        "lost+found/notes",
        ".hidden/notes",
    ],
)
def test_what_is_not_the_limiters_stays(root: str, foreign: str) -> None:
    hit_at(root, "3/second")
    path = Path(root, foreign)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    there = entries(root)
    sweep_at(root, LATER)
    assert path.read_text() == "mine"
    if foreign.startswith("acme@3-per-1s"):
        assert entries(root) == there


def _leave_behind(root: str, name: str, seconds: float) -> Path:
    """Leave a directory that was being furnished so many seconds after the epoch."""
    leftover = Path(root, name)
    leftover.mkdir()
    (leftover / "0000000000.000000-0").touch()
    os.utime(leftover, (seconds, seconds))
    return leftover


def test_a_link_out_of_the_store_is_not_followed(root: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    leftover = _leave_behind(root, ".new-0123", 0)
    (leftover / "link").symlink_to(tmp_path)
    os.utime(leftover, (0, 0))
    assert sweep_at(root, NOW).leftovers == 1
    assert entries(root) == []
    assert (tmp_path / "precious").read_text() == "mine"


def test_leftovers_go_after_an_hour(root: str) -> None:
    for name, age in (("old", 3600), ("new", 3599)):
        _leave_behind(root, f".new-{name}", NOW // SECOND - age)
    assert sweep_at(root, NOW).leftovers == 1
    assert os.listdir(root) == [".new-new"]


@pytest.mark.parametrize("call", ["lstat", "rename"])
def test_a_leftover_that_another_sweeper_removes_is_not_counted(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    _leave_behind(root, ".new-0123", 0)
    monkeypatch.setattr(posix, call, failing(errno.ENOENT))
    assert sweep_at(root, NOW).leftovers == 0


def test_a_furnisher_that_was_stopped_for_hours_loses_cleanly(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory is removed before each of its calls in turn; what it furnishes next is whole."""
    calls = 0

    def stop(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == stopped:
            for name in os.listdir(root):
                os.utime(f"{root}/{name}", (0, 0))
            sweep_at(root, clock())

    for name in ("mkdir", "open", "close", "link", "rename"):
        before_each(monkeypatch, name, stop)
    for stopped in range(2, 100):
        calls = 0
        app = f"app{stopped}"
        # It fails if its directory was removed before it was full; otherwise it furnishes another.
        with suppress(StoreError):
            assert Limiter(root, "2/minute;3/hour").hit(app)
        assert not [name for name in os.listdir(root) if name.startswith(".new-")]
        for name, count in (("2-per-60s", 2), ("3-per-3600s", 3)):
            if Path(root, f"{app}@{name}").exists():
                assert len(os.listdir(f"{root}/{app}@{name}")) == count
        if calls < stopped:
            break
    assert stopped > 10


@pytest.mark.parametrize(
    "limits", ["3/second", "3/second fixed", "3/second burst 3", "2/second;3/minute"]
)
@pytest.mark.parametrize("since", [0, 1], ids=["gone", "furnished-anew"])
def test_a_long_running_process_looks_anew_when_its_slots_are_gone(
    root: str, limits: str, since: int
) -> None:
    """It remembers the slots of an application that has been swept since: its renames fail."""
    now = NOW
    limiter = Limiter(root, limits, clock=lambda: now)
    assert limiter.hit("acme")
    now = LATER
    assert sweep_at(root, LATER).removed
    hit_at(root, limits, count=since, now=now)
    quota = min(limit.quota for limit in limiter.limits)
    assert admitted(limiter, quota + 1) == quota - since
    assert not Limiter(root, limits, clock=lambda: now).hit("acme")


def test_the_command_reports_what_it_did(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    hit_at(root, "3/second", "old")
    hit_at(root, "3/second", "new", now=clock())
    _leave_behind(root, ".new-0123", 0)
    assert sweep(root) == 0
    assert capsys.readouterr().out == (
        f"{root}: 1 of 2 directories removed, 1 leftovers of dead processes removed\n"
    )
    assert os.listdir(root) == ["new@3-per-1s"]


@pytest.mark.parametrize("idle", [3600, 36_000])
@pytest.mark.parametrize(
    ("inodes", "blocks", "is_short"),
    [((10, 100), (10, 100), False), ((9, 100), (50, 100), True), ((50, 100), (9, 100), True)],
)
def test_a_tenth_of_the_time_is_enough_if_inodes_or_bytes_run_short(
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    idle: int,
    inodes: tuple[int, int],
    blocks: tuple[int, int],
    is_short: bool,
) -> None:
    hit_at(root, "3/second", now=clock() - (idle // 10 + 60) * SECOND)
    free, every = zip(inodes, blocks)
    status = SimpleNamespace(f_favail=free[0], f_files=every[0], f_bavail=free[1], f_blocks=every[1])
    monkeypatch.setattr(posix, "statvfs", lambda path: status)
    assert is_running_short(root) is is_short
    assert sweep(root, idle) == 0
    assert ("sooner as inodes or bytes run short" in capsys.readouterr().out) is is_short
    assert (entries(root) == []) is is_short


def test_a_sweep_makes_nothing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it works with not one inode free."""
    hit_at(root, "300/minute", count=300)
    for call in ("mkdir", "open", "link"):
        monkeypatch.setattr(posix, call, failing(errno.ENOSPC))
    assert sweep_at(root, LATER).removed == 6
    assert entries(root) == []


def test_a_store_that_is_missing_is_an_error(root: str) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        sweep(f"{root}/missing")


@pytest.mark.parametrize("call", ["listdir", "lstat", "rename", "rmdir", "unlink"])
def test_an_error_of_the_file_system_is_reported_and_no_slot_is_lost(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    hit_at(root, "3/second")
    _leave_behind(root, ".new-0123", 0)
    with monkeypatch.context() as patch:
        patch.setattr(posix, call, failing(errno.EIO))
        with pytest.raises(StoreError) as error:
            sweep_at(root, LATER)
    assert error.value.errno == errno.EIO
    assert error.value.path.startswith(root)
    assert admitted(Limiter(root, "3/second", clock=lambda: LATER), 4) == 3


def test_a_directory_that_fails_keeps_no_other(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replicated file system may have one unreadable directory; the others are swept, in any order."""
    for app in ("a", "broken", "c"):
        hit_at(root, "3/second", app)
    fails = failing(errno.ENOTCONN)
    listdir = posix.listdir
    monkeypatch.setattr(
        posix, "listdir", lambda path: fails() if path.endswith("/broken@3-per-1s") else listdir(path)
    )
    with pytest.raises(StoreError, match="broken"):
        sweep_at(root, LATER)
    assert os.listdir(root) == ["broken@3-per-1s"]


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("call", ["stat", "listdir", "lstat", "rename", "rmdir", "unlink"])
def test_a_fault_that_passes_does_not_end_a_sweep(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """It ended one on a busy GlusterFS, with ENOTCONN; the next sweep came a day later.

    Each call of that name fails in turn, once.
    """
    calls: list[object] = []
    for at in range(1, 100):
        hit_at(root, "3/second")
        _leave_behind(root, ".new-0123", 0)
        calls.clear()
        with monkeypatch.context() as patch:
            before(patch, call, failing(number), at)
            before_each(patch, call, lambda *paths: calls.append(paths))
            assert sweep_at(root, LATER).removed == 1
        assert os.listdir(root) == []
        if len(calls) < at:
            break
    assert at > 1


def test_a_fault_that_passes_before_the_sweep_does_not_end_it(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command first looks how much room there is: that call ended it, unlike all later ones."""
    hit_at(root, "3/second")
    before(monkeypatch, "statvfs", failing(errno.ENOTCONN))
    assert sweep(root) == 0
    assert entries(root) == []


def test_root_sweeps_as_the_owner(root: str) -> None:
    """It does not touch what belongs to other users, though root could."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    hit_at(root, "3/second", "theirs")
    hit_at(root, "3/second", "roots")
    theirs = Path(root, "theirs@3-per-1s")
    for path in (Path(root), theirs, *theirs.iterdir()):
        os.chown(path, 65534, 65534)

    def sweep_theirs() -> None:
        with suppress(StoreError):
            sweep(root)

    run(sweep_theirs)
    assert os.listdir(root) == ["roots@3-per-1s"]


@pytest.mark.one_python
def test_the_units_are_right() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    units = [UNITS / f"access-limiter-sweep.{kind}" for kind in ("service", "timer")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
