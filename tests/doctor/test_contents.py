"""What the doctor finds in a store: older formats, foreign directories, lost slots, room for newcomers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.core.store import Store
from limiter.doctor import contents
from limiter.doctor.contents import check_contents
from tests.disks import small_disk
from tests.doctoring import CONTENTS

ACME = "acme@10-per-1s"
NOBODY = 65534
HOME, OTHER = 1000, 2000
"""The user and the group of a store, and others."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")


@pytest.fixture(autouse=True)
def default(monkeypatch: pytest.MonkeyPatch) -> None:
    """LIMITER_NEWCOMERS is not set, and directories of tests are as good as others."""
    monkeypatch.delenv("LIMITER_NEWCOMERS", raising=False)
    monkeypatch.setattr(contents, "_TEMPORARY", ("/tmp/",))


@pytest.fixture
def acme(root: str) -> Path:
    """The slots of an application that was hit once."""
    assert Limiter(root, "10/second", newcomers="").hit("acme")
    return Path(root, ACME)


def findings(root: str | Path) -> dict[str, tuple[str, str, str]]:
    """Return level, finding and advice of each check; only a PASS has no advice."""
    found = {what: (level, text, advice) for level, what, text, advice in check_contents(str(root))}
    assert list(found) == CONTENTS
    assert [bool(advice) for *_, advice in found.values()] == [it[0] != "PASS" for it in found.values()]
    return found


def faults(root: str | Path) -> dict[str, str]:
    """Return what was found wrong, with the level."""
    return {what: f"{it[0]}: {it[1]}" for what, it in findings(root).items() if it[0] != "PASS"}


def test_a_store_in_use_is_in_order(root: str) -> None:
    """It may hold all kinds of limits, several segments, and files that are not the limiter's."""
    limits = "100/minute;3/hour fixed;5/second burst 5;login=2/day"
    for app in ("acme", "other"):
        limiter = Limiter(root, limits)
        while limiter.hit(app):
            pass
    Path(root, "README").touch()
    Path(root, "notes/old").mkdir(parents=True)
    assert faults(root) == {}


def test_a_store_where_cleaners_of_temporary_files_work_gets_a_warning(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert faults(root) == {"permanence": "WARN: the store is in a directory for temporary files"}


def test_applications_of_an_older_format_are_named(root: str, acme: Path) -> None:
    old = Path(root, "old/10-per-1s")
    old.mkdir(parents=True)
    (old / "1513123456.123456-0").touch()
    assert faults(root) == {"format": "WARN: 1 directories of an older format: old"}


# Owners


@as_root
@pytest.mark.parametrize(
    ("store", "owner", "group", "mode", "is_good"),
    [
        (0o700, HOME, OTHER, 0o700, True),
        (0o700, OTHER, HOME, 0o700, False),
        (0o770, OTHER, HOME, 0o770, True),
        (0o770, HOME, OTHER, 0o770, False),
        (0o2775, OTHER, HOME, 0o2755, False),
        (0o777, OTHER, OTHER, 0o777, True),
        (0o777, HOME, HOME, 0o775, False),
    ],
)
def test_a_directory_that_not_all_users_of_the_store_can_use_is_named(
    root: str, acme: Path, store: int, owner: int, group: int, mode: int, is_good: bool
) -> None:
    """It is in order after what the advice says."""
    os.chown(root, HOME, HOME)
    os.chmod(root, store)
    os.chown(acme, owner, group)
    os.chmod(acme, mode)
    level, found, advice = findings(root)["owners"]
    assert level == ("PASS" if is_good else "FAIL")
    assert (ACME in found) == (not is_good)
    if not is_good:
        subprocess.run(advice.partition(": ")[2], shell=True, check=True)
        assert faults(root) == {}


@as_root
def test_who_may_not_read_a_directory_is_told_all_else(
    root: str, acme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_NEWCOMERS", "10/second")
    assert Limiter(root, "10/second", newcomers="10/second").hit("ours")
    other, newcomers = Path(root, "ours@10-per-1s"), ".newcomers@10-per-1s"
    os.chown(root, NOBODY, NOBODY)
    os.chown(other, NOBODY, NOBODY)
    next(other.iterdir()).unlink()
    for name in (newcomers, ACME):
        os.chmod(f"{root}/{name}", 0o700)
    os.seteuid(NOBODY)
    try:
        found = findings(root)
    finally:
        os.seteuid(0)
    assert found["owners"][:2] == (
        "FAIL",
        f"2 directories of another owner, group or mode: {newcomers}, {ACME}",
    )
    assert found["slots"][:2] == ("WARN", "1 directories with slots missing: ours@10-per-1s")
    assert found["new clients"][0] == "WARN"
    assert newcomers in found["new clients"][1]


# Slots


def test_a_directory_that_has_lost_slots_is_named_until_a_hit_has_made_them_again(
    root: str, acme: Path
) -> None:
    for slot in sorted(acme.iterdir())[:8]:
        slot.unlink()
    assert faults(root) == {"slots": f"WARN: 1 directories with slots missing: {ACME}"}
    later = clock() + 2_000_000
    assert Limiter(root, "10/second", newcomers="", clock=lambda: later).hit("acme")
    assert faults(root) == {}


def test_a_directory_with_nothing_but_a_foreign_file_has_lost_its_slots(root: str, acme: Path) -> None:
    for slot in acme.iterdir():
        slot.unlink()
    (acme / "README").touch()
    assert faults(root) == {"slots": f"WARN: 1 directories with slots missing: {ACME}"}


def _swept(acme: Path) -> None:
    lowest, *others = sorted(acme.iterdir(), key=lambda it: it.name[18:])
    lowest.rename(acme / f".gone-{lowest.name}")
    for slot in others[:5]:
        slot.unlink()


def _emptied(acme: Path) -> None:
    for slot in acme.iterdir():
        slot.unlink()


@pytest.mark.parametrize("change", [_swept, _emptied])
def test_a_directory_that_is_being_removed_has_not_lost_slots(
    root: str, acme: Path, change: Callable[[Path], None]
) -> None:
    change(acme)
    assert faults(root) == {}


def test_a_listing_that_lacks_slots_once_is_not_believed(
    root: str, acme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that is renamed during a listing may not be in it.  This lacks another one each time."""
    names, lacking = Store.names, 0

    def torn(store: Store, directory: str) -> list[str]:
        nonlocal lacking
        lacking += directory == ACME
        return [it for it in names(store, directory) if not it.endswith(f"-{lacking}")]

    monkeypatch.setattr(Store, "names", torn)
    assert faults(root) == {}
    assert lacking == 2


# New clients


@pytest.mark.parametrize(
    ("setting", "clients", "level", "found"),
    [
        ("3/day", 2, "PASS", "1 more are taken in now (LIMITER_NEWCOMERS is 3/day)"),
        ("3/day", 3, "WARN", "0 more are taken in now (LIMITER_NEWCOMERS is 3/day)"),
        ("unlimited", 3, "PASS", "unlimited"),
    ],
)
def test_it_says_how_many_new_clients_there_is_room_for(
    root: str, monkeypatch: pytest.MonkeyPatch, setting: str, clients: int, level: str, found: str
) -> None:
    monkeypatch.setenv("LIMITER_NEWCOMERS", setting)
    limiter = Limiter(root, "10/second", newcomers="" if setting == "unlimited" else setting)
    assert all([limiter.hit(f"app{number}") for number in range(clients)])
    assert findings(root)["new clients"][:2] == (level, found)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A store with room for 200 files."""
    with small_disk() as disk:
        yield disk.path


@pytest.mark.parametrize(
    ("free", "level", "end"),
    [(25, "PASS", "burst 1000)"), (19, "WARN", "; less than a tenth of the inodes or bytes is free")],
)
def test_a_file_system_that_is_nearly_full_is_named(disk: Path, free: int, level: str, end: str) -> None:
    for number in range(os.statvfs(disk).f_ffree - free):
        (disk / f"{number}.file").touch()
    verdict, found, _ = findings(disk)["new clients"]
    assert verdict == level
    assert found.startswith("1000 more" if level == "PASS" else "0 more")
    assert found.endswith(end)


# Large stores


def test_of_a_large_store_a_sample_is_looked_at(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few of the directories with a fault are named."""
    monkeypatch.setattr(contents, "_SAMPLE", 5)
    for number in range(6):
        Path(root, f"old{number}/10-per-1s").mkdir(parents=True)
    found = findings(root)
    assert found["contents"][1] == "6 directories, of which 5 were looked at"
    assert found["format"][1].startswith("5 directories of an older format: old")
    assert found["format"][1].count("old") == 4
    assert found["format"][1].endswith(" ...")
