"""Sweeping: what is removed and what stays, as which user, and what the command prints."""

from __future__ import annotations

import errno
import os
import posix
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.core.store import Store, StoreError
from limiter.core.sweep import DAY, sweep, sweep_app, sweep_store
from tests.faults import play
from tests.history import only
from tests.limiting import SECOND, entries
from tests.places import REPOSITORY
from tests.sweeping import ALL_KINDS, LATER, NOW, days_later, hit_at

UNITS = REPOSITORY / "deploy/systemd"


@pytest.mark.parametrize("limits", [*ALL_KINDS.split(";"), ALL_KINDS])
def test_an_application_goes_a_day_after_its_last_hit_and_not_before(any_root: str, limits: str) -> None:
    hit_at(any_root, limits)
    before = entries(any_root)
    last = NOW + 60 * SECOND  # the arrival time of a bucket is in the future
    assert sweep_store(Store(any_root), DAY, lambda: NOW + int(DAY) * SECOND - 1).removed == 0
    assert entries(any_root) == before
    swept = sweep_store(Store(any_root), DAY, lambda: last + int(DAY) * SECOND)
    assert (swept.applications, swept.removed, swept.leftovers) == (1, 1, 0)
    assert entries(any_root) == []


@pytest.mark.parametrize("limits", ["1/minute", "70/minute", "2/hour fixed", "5/minute burst 6"])
def test_an_application_with_a_slot_under_two_names_goes(root: str, limits: str) -> None:
    hit_at(root, limits)
    directory = Path(root, "acme", only(limits).directory(0))
    name = max(os.listdir(directory))
    (directory / f"1500000000.000000{name[17:]}").touch()
    assert not sweep_app(Store(root), "acme", DAY, days_later(0.9))
    assert sweep_app(Store(root), "acme", DAY, days_later(1.1))
    assert entries(root) == []


@pytest.mark.parametrize("limits", ["1/minute", "2/minute", "64/minute", "65/minute", "300/minute"])
def test_every_segment_goes(root: str, limits: str) -> None:
    hit_at(root, limits, count=only(limits).quota)
    assert len(os.listdir(f"{root}/acme")) == only(limits).segments
    assert sweep_app(Store(root), "acme", DAY, days_later(1.1))
    assert entries(root) == []


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_an_application_that_has_lost_a_slot_goes(root: str, slot: int) -> None:
    """A machine may die while it removes slots; what was left can come back later."""
    hit_at(root, "3/minute", count=3)
    (name,) = Path(root, "acme/3-per-60s").glob(f"*-{slot}")
    name.unlink()
    assert not sweep_app(Store(root), "acme", DAY, days_later(0.9))
    assert sweep_app(Store(root), "acme", DAY, days_later(1.1))
    assert entries(root) == []


@pytest.mark.parametrize("limits", ["3/minute", "70/minute"])
def test_an_application_stays_if_the_listing_lacks_the_slot_that_is_just_being_hit(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str
) -> None:
    """A network file system may list so; the slot then looks like one that is lost for good."""
    hit_at(root, limits)
    directory = f"{root}/acme/{only(limits).directory(0)}"
    slots, now = len(os.listdir(directory)), days_later(2)()
    listdir = posix.listdir

    def torn(path: str) -> list[str]:
        names = listdir(path)
        if path != directory:
            return names
        monkeypatch.undo()
        hit_at(root, limits, now=now)
        return sorted({*names} & {*listdir(path)})

    monkeypatch.setattr(posix, "listdir", torn)
    assert not sweep_app(Store(root), "acme", DAY, lambda: now)
    assert len(os.listdir(directory)) == slots
    remaining = Limiter(root, limits, clock=lambda: now).peek("acme").remaining
    assert remaining == only(limits).quota - 1


@pytest.mark.parametrize(
    ("number", "removed"),
    [(errno.EAGAIN, 0), (errno.ENODATA, 1), (errno.EOPNOTSUPP, 1), (errno.EPERM, 1)],
)
def test_nothing_goes_while_a_copy_is_away(
    root: str, monkeypatch: pytest.MonkeyPatch, number: int, removed: int
) -> None:
    """GlusterFS reports this by EAGAIN.  All other errors of the attribute are ignored."""
    hit_at(root, "3/minute")
    before = entries(root)

    def getxattr(path: str, name: str) -> bytes:
        assert (path, name) == (root, "replica.split-brain-status")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(posix, "getxattr", getxattr)
    if removed:
        assert sweep_store(Store(root), DAY, days_later(2)).removed == removed
    else:
        with pytest.raises(StoreError, match="A copy of the store is away") as error:
            sweep_store(Store(root), DAY, days_later(2))
        assert (error.value.errno, error.value.path) == (number, root)
        assert entries(root) == before


@pytest.mark.parametrize("limits", ["3/7 days", "3/7 days fixed", "3/7 days burst 3"])
def test_a_window_longer_than_a_day_counts(root: str, limits: str) -> None:
    hit_at(root, limits)
    assert not sweep_app(Store(root), "acme", DAY, days_later(6.9))
    assert sweep_app(Store(root), "acme", DAY, days_later(9.5))


def test_one_limit_in_use_keeps_them_all(root: str) -> None:
    hit_at(root, "3/second;3/hour")
    hit_at(root, "3/hour", now=NOW + int(DAY) * SECOND)
    before = entries(root)
    assert not sweep_app(Store(root), "acme", DAY, days_later(1.5))
    assert entries(root) == before


def test_one_segment_in_use_keeps_them_all(root: str) -> None:
    hit_at(root, "70/minute", count=64)
    hit_at(root, "70/minute", count=1)
    busy = f"{root}/acme/70-per-60s.1"
    assert Store(root).rename("acme/70-per-60s.1", sorted(os.listdir(busy))[-1], "1513209856.123456-69")
    assert not sweep_app(Store(root), "acme", DAY, days_later(1.5))
    assert len(entries(root)) == 3 + 70


def test_others_stay(root: str) -> None:
    hit_at(root, "3/second", "old")
    hit_at(root, "3/second", "new", now=NOW + int(DAY) * SECOND)
    swept = sweep_store(Store(root), DAY, days_later(1.5))
    assert (swept.applications, swept.removed) == (2, 1)
    assert os.listdir(root) == ["new"]


def test_an_application_that_was_forgotten_or_never_hit_goes(root: str) -> None:
    hit_at(root, "3/second")
    Limiter(root, "3/second").reset("acme")
    assert sweep_app(Store(root), "acme", DAY, days_later(1.5))


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
    before = entries(root)
    sweep_store(Store(root), DAY, days_later(1.5))
    assert path.read_text() == "mine"
    if foreign.startswith("acme/"):
        assert entries(root) == before


def test_a_link_out_of_the_store_is_not_followed(root: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    leftover = Path(root, ".new-0123")
    leftover.mkdir()
    (leftover / "link").symlink_to(tmp_path)
    os.utime(leftover, (0, 0))
    assert sweep_store(Store(root)).leftovers == 1
    assert entries(root) == []
    assert (tmp_path / "precious").read_text() == "mine"


def test_leftovers_go_after_an_hour(root: str) -> None:
    now = time.time()
    for name, age in (("old", 3601), ("new", 3590)):
        leftover = Path(root, f".new-{name}")
        (leftover / "10-per-1s").mkdir(parents=True)
        (leftover / "10-per-1s" / "0000000000.000000-0").touch()
        os.utime(leftover, (now - age, now - age))
    assert sweep_store(Store(root), clock=lambda: int(now * 1e6)).leftovers == 1
    assert os.listdir(root) == [".new-new"]


def test_a_furnisher_that_was_stopped_for_hours_loses_cleanly(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory is removed before each of its calls in turn; what it furnishes next is whole."""
    calls = 0

    def stop(call: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == stopped:
                for name in os.listdir(root):
                    os.utime(f"{root}/{name}", (0, 0))
                with monkeypatch.context() as patch:
                    for other, original in originals.items():
                        patch.setattr(posix, other, original)
                    sweep_store(Store(root))
            return call(*arguments)

        return instead

    originals = {name: getattr(posix, name) for name in ("mkdir", "open", "close", "rename")}
    for name, original in originals.items():
        monkeypatch.setattr(posix, name, stop(original))
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
def test_a_process_that_stays_looks_anew_when_its_slots_are_gone(root: str, limits: str) -> None:
    """It remembers the slots of an application that has been swept since: its renames fail."""
    now = NOW
    stays = Limiter(root, limits, clock=lambda: now)
    assert stays.hit("acme")
    now = LATER
    assert sweep_app(Store(root), "acme", DAY, lambda: LATER)
    quota = min(limit.quota for limit in stays.limits)
    assert [bool(stays.hit("acme")) for _ in range(quota + 1)] == [True] * quota + [False]
    assert not Limiter(root, limits, clock=lambda: now).hit("acme")


def test_a_process_that_stays_shares_what_another_has_furnished_since(root: str) -> None:
    now = NOW
    stays = Limiter(root, "3/second", clock=lambda: now)
    assert stays.hit("acme")
    now = LATER
    assert sweep_app(Store(root), "acme", DAY, lambda: LATER)
    hit_at(root, "3/second", count=2, now=now)
    assert [bool(stays.hit("acme")) for _ in range(2)] == [True, False]


def test_the_command_tells_what_it_did(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    hit_at(root, "3/second", "old")
    hit_at(root, "3/second", "new", now=clock())
    os.mkdir(f"{root}/.new-0123")
    os.utime(f"{root}/.new-0123", (0, 0))
    assert sweep(root) == 0
    assert capsys.readouterr().out == (
        f"{root}: 1 of 2 applications removed, 1 leftovers of dead processes removed\n"
    )
    assert os.listdir(root) == ["new"]


def test_a_store_that_is_missing_is_an_error(root: str) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        sweep(f"{root}/missing")


@pytest.mark.parametrize("call", ["listdir", "open", "rename", "rmdir", "unlink"])
def test_an_error_of_the_file_system_is_told(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """This holds for each call, and no slot is lost."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    hit_at(root, "3/second")
    with monkeypatch.context() as patch:
        patch.setattr(posix, call, fail)
        with pytest.raises(StoreError) as error:
            sweep_store(Store(root), DAY, lambda: LATER)
    assert error.value.errno == errno.EIO
    assert error.value.path.startswith(root)
    hit_at(root, "3/second", count=3, now=LATER)
    assert not Limiter(root, "3/second", clock=lambda: LATER).hit("acme")


def test_what_fails_keeps_nothing_else(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replicated file system may have one unreadable directory; the others are swept, in any order."""
    for app in ("a", "broken", "c"):
        hit_at(root, "3/second", app)
    listdir = posix.listdir

    def fail(path: str) -> list[str]:
        if path.endswith("/broken"):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return listdir(path)

    monkeypatch.setattr(posix, "listdir", fail)
    with pytest.raises(StoreError, match="broken"):
        sweep_store(Store(root), DAY, lambda: LATER)
    assert os.listdir(root) == ["broken"]


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

    play(sweep_theirs, 10**6, lambda: None)
    assert Path(root, "roots", "3-per-1s").exists()
    os.chmod(f"{root}/roots", 0o700)
    os.rename(f"{root}/roots", f"{root}/.roots")
    play(sweep_theirs, 10**6, lambda: None)
    assert os.listdir(root) == [".roots"]


@pytest.mark.one_python
def test_the_units_are_right() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    units = [UNITS / f"access-limiter-sweep.{kind}" for kind in ("service", "timer")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
