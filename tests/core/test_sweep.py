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

import pytest

from limiter.core import sweep as sweeping
from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.core.store import Store, StoreError
from limiter.core.sweep import Swept, sweep
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


def sweep_at(root: str, time: int) -> Swept:
    """Sweep what is a day old at this time."""
    return sweeping.sweep_store(Store(root), clock=lambda: time)


def _hit_with_a_lost_slot(slot: int, root: str) -> None:
    """A machine may die while it removes slots; what was left can come back later."""
    hit_at(root, "3/minute", count=3)
    next(Path(root, "acme/3-per-60s").glob(f"*-{slot}")).unlink()


def _hit_and_reset(root: str) -> None:
    hit_at(root, "3/second")
    Limiter(root, "3/second").reset("acme")
    hit_at(root, "3/hour")


def _hit_the_last_segment_later(root: str) -> None:
    hit_at(root, "70/minute", count=64)
    hit_at(root, "70/minute", now=NOW + 5 * SECOND)


def _hits(limits: str, count: int = 1) -> Callable[[str], None]:
    return lambda root: hit_at(root, limits, count=count)


IDLE: dict[str, tuple[Callable[[str], None], int]] = {
    "sliding": (_hits("3/second"), DAY),
    "fixed": (_hits("2/hour fixed"), DAY),
    "burst": (_hits("5/minute burst 6"), DAY + 12 * SECOND),  # its arrival time is in the future
    "several limits": (_hits("3/second;70/minute;2/hour fixed;5/minute burst 6"), DAY + 12 * SECOND),
    "a long window": (_hits("3/7 days"), 7 * DAY),
    "a long fixed window": (_hits("3/7 days fixed"), 7 * DAY),
    "a long bucket": (_hits("3/7 days burst 3"), 7 * DAY + 7 * DAY // 3),
    **{f"{quota} slots": (_hits(f"{quota}/minute", quota), DAY) for quota in (1, 2, 64, 65, 300)},
    **{f"slot {slot} lost": (partial(_hit_with_a_lost_slot, slot), DAY) for slot in range(3)},
    "a segment hit later": (_hit_the_last_segment_later, DAY + 5 * SECOND),
    "reset": (_hit_and_reset, DAY),
}
"""Applications, and how long after NOW they are idle."""


@pytest.mark.parametrize(("hit", "idle"), IDLE.values(), ids=IDLE.keys())
def test_an_application_goes_when_it_is_idle_and_not_before(
    any_root: str, hit: Callable[[str], None], idle: int
) -> None:
    hit(any_root)
    there = entries(any_root)
    assert sweep_at(any_root, NOW + idle - 1).removed == 0
    assert entries(any_root) == there
    swept = sweep_at(any_root, NOW + idle)
    assert (swept.applications, swept.removed, swept.leftovers) == (1, 1, 0)
    assert entries(any_root) == []


@pytest.mark.parametrize("limits", ["1/minute", "70/minute", "2/hour fixed", "5/minute burst 6"])
def test_an_application_with_a_slot_under_two_names_goes(root: str, limits: str) -> None:
    hit_at(root, limits)
    directory = Path(root, "acme", only(limits).name)
    (directory / f"1500000000.000000{max(os.listdir(directory))[17:]}").touch()
    assert not sweep_at(root, NOW + DAY - SECOND).removed
    assert sweep_at(root, NOW + DAY + 60 * SECOND).removed
    assert entries(root) == []


@pytest.mark.parametrize("limits", ["3/minute", "70/minute"])
def test_an_application_stays_if_the_listing_lacks_the_slot_that_is_just_being_hit(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str
) -> None:
    """A network file system may list so; the slot then looks like one that is lost for good."""
    hit_at(root, limits)
    directory = f"{root}/acme/{only(limits).directory(0)}"
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


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, None])
def test_nothing_goes_while_a_copy_is_away(
    root: str, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """GlusterFS reports this by EAGAIN.  All other errors of the attribute are ignored."""
    hit_at(root, "3/minute")
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
        "acme/10-per-1s/notes",
        "acme/0-per-1s-burst-5/notes",
        "acme/10-per-1s.7/notes",
        "acme/3-per-1s/notes",
        "README",
        "lost+found/notes",
        ".hidden/notes",
    ],
)
def test_what_is_not_the_limiters_stays(root: str, foreign: str) -> None:
    hit_at(root, "3/second")
    path = Path(root, foreign)
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    there = entries(root)
    sweep_at(root, LATER)
    assert path.read_text() == "mine"
    if foreign.startswith("acme/"):
        assert entries(root) == there


def _leave_behind(root: str, name: str, seconds: float) -> Path:
    """Leave a directory that was being furnished so many seconds after the epoch."""
    leftover = Path(root, name)
    (leftover / "10-per-1s").mkdir(parents=True)
    (leftover / "10-per-1s" / "0000000000.000000-0").touch()
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

    for name in ("mkdir", "open", "close", "rename"):
        before_each(monkeypatch, name, stop)
    for stopped in range(2, 100):
        calls = 0
        app = f"app{stopped}"
        # It fails if its directory was removed before it was full; otherwise it furnishes another.
        with suppress(StoreError):
            assert Limiter(root, "2/minute;3/hour").hit(app)
        assert not [name for name in os.listdir(root) if name.startswith(".new-")]
        if Path(root, app).exists():
            assert len(os.listdir(f"{root}/{app}/2-per-60s")) == 2
            assert len(os.listdir(f"{root}/{app}/3-per-3600s")) == 3
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
        f"{root}: 1 of 2 applications removed, 1 leftovers of dead processes removed\n"
    )
    assert os.listdir(root) == ["new"]


def test_a_store_that_is_missing_is_an_error(root: str) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        sweep(f"{root}/missing")


@pytest.mark.parametrize("call", ["listdir", "lstat", "open", "rename", "rmdir", "unlink"])
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


def test_an_application_that_fails_keeps_no_other(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replicated file system may have one unreadable directory; the others are swept, in any order."""
    for app in ("a", "broken", "c"):
        hit_at(root, "3/second", app)
    fails = failing(errno.ENOTCONN)
    listdir = posix.listdir
    monkeypatch.setattr(
        posix, "listdir", lambda path: fails() if path.endswith("/broken") else listdir(path)
    )
    with pytest.raises(StoreError, match="broken"):
        sweep_at(root, LATER)
    assert os.listdir(root) == ["broken"]


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("call", ["stat", "listdir", "lstat", "open", "rename", "rmdir", "unlink"])
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


def test_root_sweeps_as_the_owner(root: str) -> None:
    """It does not touch what belongs to other users, though root could."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    hit_at(root, "3/second", "theirs")
    hit_at(root, "3/second", "roots")
    for path in (Path(root), Path(root, "theirs"), *Path(root, "theirs").rglob("*")):
        os.chown(path, 65534, 65534)

    def sweep_theirs() -> None:
        with suppress(StoreError):
            sweep(root)

    run(sweep_theirs)
    assert os.listdir(root) == ["roots"]


@pytest.mark.one_python
def test_the_units_are_right() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    units = [UNITS / f"access-limiter-sweep.{kind}" for kind in ("service", "timer")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
