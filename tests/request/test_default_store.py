"""The default store: the first directory that is this user's alone, and made again when it has gone."""

from __future__ import annotations

import errno
import os
import posix
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from limiter.core.store import StoreError
from limiter.request import default_store as module
from limiter.request.default_store import default_store
from limiter.request.long_running import LongRunningGate
from tests.faults import HARD, PASSING
from tests.limiting import before, failing

NOBODY = 65534


class Places:
    """Where the default store may lie: each of these directories is in a temporary one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.system = path / "system"
        self.home = path / "home"
        self.xdg = path / "xdg"
        self.temporary = path / "temporary"
        self.home.mkdir()
        self.temporary.mkdir()
        self.environ = {b"HOME": bytes(self.home), b"TMPDIR": bytes(self.temporary)}

    @property
    def state(self) -> Path:
        return self.home / ".local/state/access-limiter"

    @property
    def last(self) -> Path:
        """The last resort."""
        return self.temporary / f"limiter-{os.geteuid()}"

    def choose(self, **variables: str) -> Path:
        """Return the default store, with these variables set, too."""
        more = {name.encode(): os.fsencode(value) for name, value in variables.items()}
        return Path(default_store({**self.environ, **more})[0])

    def note(self) -> str:
        return default_store(self.environ)[1]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """None of them exists but the home and the directory for temporary files."""
    made = Places(tmp_path)
    monkeypatch.setattr(module, "SYSTEM", str(made.system))
    return made


@pytest.fixture
def homeless(places: Places) -> Places:
    """A user that has only the directory for temporary files, as Apache's."""
    del places.environ[b"HOME"]
    return places


def check_own(path: Path) -> None:
    """It is a directory for its owner alone."""
    status = path.lstat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, os.geteuid())


# Which it is


def test_the_systems_store_comes_first(places: Places) -> None:
    places.state.mkdir(parents=True)
    places.last.mkdir()
    places.system.mkdir(0o755)
    assert places.choose(XDG_STATE_HOME=str(places.xdg)) == places.system


def test_the_systems_store_is_not_made(places: Places) -> None:
    places.choose()
    assert not places.system.exists()


def test_the_directory_for_state_comes_next(places: Places) -> None:
    places.last.mkdir()
    assert places.choose(XDG_STATE_HOME=str(places.xdg)) == places.xdg / "access-limiter"
    check_own(places.xdg / "access-limiter")


def test_without_xdg_state_home_it_is_below_the_home(places: Places) -> None:
    for _ in range(2):
        assert places.choose() == places.state
    for path in (places.state, places.state.parent, places.state.parents[1]):
        check_own(path)


@pytest.mark.parametrize("relative", ["", "state", "./state"])
def test_a_relative_xdg_state_home_is_ignored(
    places: Places, monkeypatch: pytest.MonkeyPatch, relative: str
) -> None:
    """The specification says so."""
    monkeypatch.chdir(places.path)
    assert places.choose(XDG_STATE_HOME=relative) == places.state


@pytest.mark.parametrize("home", ["", "home"])
def test_a_home_that_is_no_absolute_path_is_ignored(
    places: Places, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.chdir(places.path)
    assert places.choose(HOME=home) == places.last


def test_a_state_directory_of_ones_own_needs_no_home(homeless: Places) -> None:
    """A service may have only that (systemd: StateDirectory)."""
    homeless.xdg.mkdir()
    assert homeless.choose(XDG_STATE_HOME=str(homeless.xdg)) == homeless.xdg / "access-limiter"


@pytest.mark.parametrize("state", ["/dev/null", "/proc/nowhere", "/" + "a" * 300])
def test_a_state_directory_that_cannot_be_made_is_passed_over(places: Places, state: str) -> None:
    assert places.choose(XDG_STATE_HOME=state) == places.last


@pytest.mark.parametrize("environ", [{}, {b"TMPDIR": b""}])
def test_the_last_resort_is_in_tmp(
    places: Places, monkeypatch: pytest.MonkeyPatch, environ: dict[bytes, bytes]
) -> None:
    own = places.home.stat()
    monkeypatch.setattr(posix, "lstat", lambda path: own)
    monkeypatch.setattr(module, "_is_ours", lambda path: False)
    assert default_store(environ)[0] == f"/tmp/limiter-{os.geteuid()}"


def test_a_relative_directory_for_temporary_files_is_an_error(homeless: Places) -> None:
    with pytest.raises(ValueError, match="TMPDIR='tmp': expected an absolute path"):
        homeless.choose(TMPDIR="tmp")


# Made, and made again


@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "meanwhile"])
def test_it_is_made_once_and_for_its_owner_alone(
    homeless: Places, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    """Another process may make it at the same time."""
    if meanwhile:
        before(monkeypatch, "mkdir", posix.mkdir)
    for _ in range(2):
        assert homeless.choose() == homeless.last
    check_own(homeless.last)


def test_a_word_in_the_log_says_once_that_cleaners_may_remove_it(homeless: Places) -> None:
    assert homeless.note() == (
        f"The store is {homeless.last}, where cleaners of temporary files may remove it"
        " (set LIMITER_ROOT)"
    )
    assert homeless.note() == homeless.note() == ""


def test_another_process_that_makes_it_writes_the_note(
    homeless: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(monkeypatch, "mkdir", posix.mkdir)
    assert homeless.note() == ""


def test_no_cleaner_comes_elsewhere_so_there_is_no_note(places: Places) -> None:
    assert places.note() == ""


@pytest.mark.parametrize("where", ["state", "last"])
def test_a_process_that_stays_makes_it_again_when_it_has_gone(places: Places, where: str) -> None:
    """A cleaner has removed it.  So the limit counts anew."""
    if where == "last":
        del places.environ[b"HOME"]
    store = {"state": places.state, "last": places.last}[where]
    settings = {b"LIMITER_LIMIT": b"1/day", b"LIMITER_TIMEOUT": b"60"}
    gate = LongRunningGate({**places.environ, **settings})
    for _ in range(3):
        assert gate.decide("acme")[0] == "200 OK"
        assert len(gate.settings.notes) == (where == "last")
        gate.settings.notes.clear()
        assert gate.decide("other")[0] == "200 OK"
        shutil.rmtree(store)


# What is not trusted


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1700])
def test_a_store_that_only_its_owner_can_write_to_is_trusted(homeless: Places, mode: int) -> None:
    """Others may read it: they see app_ids and times."""
    homeless.last.mkdir()
    homeless.last.chmod(mode)
    assert homeless.choose() == homeless.last
    assert stat.S_IMODE(homeless.last.stat().st_mode) == mode


def _of_mode(mode: int, path: Path) -> None:
    path.mkdir()
    path.chmod(mode)


def _of_somebody_else(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to somebody else")
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)


PLANTS: dict[str, Callable[[Path], None]] = {
    "a link": lambda path: path.symlink_to(path.parent),
    "a broken link": lambda path: path.symlink_to("nowhere"),
    "a file": Path.touch,
    "a pipe": os.mkfifo,
    "writable by the group": partial(_of_mode, 0o770),
    "writable by all": partial(_of_mode, 0o1777),
    "of somebody else": _of_somebody_else,
}
planted = pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())


def looks(path: Path) -> tuple[int, int, int]:
    """What shows whether a path was changed."""
    status = path.lstat()
    return status.st_mode, status.st_uid, status.st_ino


@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "meanwhile"])
@planted
def test_a_store_that_others_may_have_planted_is_not_trusted(
    homeless: Places, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None], meanwhile: bool
) -> None:
    """The error names it, and it is not changed.  It may appear between the check and the mkdir."""
    there: list[tuple[int, int, int]] = []

    def plant_and_note(*_: object) -> None:
        plant(homeless.last)
        there.append(looks(homeless.last))

    if meanwhile:
        before(monkeypatch, "mkdir", plant_and_note)
    else:
        plant_and_note()
    with pytest.raises(StoreError, match="it is not trusted") as error:
        homeless.choose()
    assert (error.value.errno, error.value.path) == (errno.EPERM, str(homeless.last))
    assert looks(homeless.last) == there[0]
    assert not (homeless.temporary / "nowhere").exists()


@planted
def test_what_is_not_the_users_own_is_passed_over(places: Places, plant: Callable[[Path], None]) -> None:
    """First the system's store, then the one in the home.  They are not changed."""
    plant(places.system)
    places.state.parent.mkdir(parents=True)
    assert places.choose() == places.state
    places.state.rmdir()
    plant(places.state)
    there = [looks(path) for path in (places.system, places.state)]
    assert places.choose() == places.last
    assert [looks(path) for path in (places.system, places.state)] == there


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_nothing_is_made_in_the_home_of_somebody_else(places: Places) -> None:
    """Some ways to become another user (sudo, cron) keep HOME.  Nothing of that user lies there then."""
    os.chown(places.home, NOBODY, NOBODY)
    assert places.choose() == places.last
    assert os.listdir(places.home) == []


# Failing


def test_a_directory_for_temporary_files_that_is_a_file_is_an_error_that_names_the_store(
    homeless: Places,
) -> None:
    homeless.temporary.rmdir()
    homeless.temporary.touch()
    with pytest.raises(StoreError) as error:
        homeless.choose()
    assert (error.value.errno, error.value.path) == (errno.ENOTDIR, str(homeless.last))


UNUSABLE = {errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR}


@pytest.mark.parametrize("call", [1, 2], ids=["system", "home"])
@pytest.mark.parametrize("number", [*sorted({*HARD} - UNUSABLE), errno.ESTALE])
def test_a_place_that_fails_does_not_send_hits_elsewhere(
    places: Places, monkeypatch: pytest.MonkeyPatch, number: int, call: int
) -> None:
    """They would be counted anew.  Only a place that cannot be this user's is passed over."""
    assert places.choose() == places.state
    before(monkeypatch, "lstat", failing(number), at=call)
    with pytest.raises(StoreError) as error:
        places.choose()
    assert error.value.errno == number
    assert not places.last.exists()


@pytest.mark.parametrize("number", sorted(UNUSABLE))
def test_a_place_that_cannot_be_this_users_is_passed_over(
    places: Places, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before(monkeypatch, "lstat", failing(number))
    assert places.choose() == places.state


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("call", range(1, 7))
def test_a_fault_that_passes_changes_nothing(
    places: Places, monkeypatch: pytest.MonkeyPatch, number: int, call: int
) -> None:
    """The store is made meanwhile."""
    before(monkeypatch, "lstat", failing(number), at=call)
    assert places.choose() == places.choose() == places.state
