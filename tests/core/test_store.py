"""The store: two calls, their answers and their errors; and valid names of applications."""

from __future__ import annotations

import errno
import os
import posix
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.store import Store, StoreError, is_app, is_lost
from tests.faults import HARD, PASSING

DIRECTORY = "acme/2-per-60s"
OLD, NEW = "0000000000.000000-0", "1513123456.123456-0"
LOST = [errno.ENOENT, errno.ESTALE]


@pytest.fixture
def directory(root: str) -> Path:
    """A limit's directory with one slot."""
    path = Path(root, DIRECTORY)
    path.mkdir(parents=True)
    (path / OLD).write_text("")
    return path


def failing(number: int) -> Callable[..., None]:
    """Return a system call that fails."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_names(root: str, directory: Path) -> None:
    """A listing has everything in the directory, of whatever kind."""
    (directory / ".nfs0001").write_text("")
    (directory / "directory").mkdir()
    assert sorted(Store(root).names(DIRECTORY)) == [".nfs0001", OLD, "directory"]


@pytest.mark.parametrize("missing", ["acme/3-per-60s", "emca/2-per-60s", "emca"])
def test_names_of_a_missing_directory(root: str, directory: Path, missing: str) -> None:
    """The result is None, and the directory is not made."""
    assert Store(root).names(missing) == []
    assert os.listdir(root) == ["acme"]
    assert os.listdir(directory.parent) == [directory.name]


def test_rename(root: str, directory: Path) -> None:
    """True for the first, False for everyone after it."""
    store = Store(root)
    assert store.rename(DIRECTORY, OLD, NEW) is True
    assert os.listdir(directory) == [NEW]
    assert store.rename(DIRECTORY, OLD, NEW) is False
    assert store.rename("emca/2-per-60s", OLD, NEW) is False
    assert os.listdir(directory) == [NEW]


@pytest.mark.parametrize("number", LOST)
def test_a_race_lost_is_an_answer(root: str, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A name that is gone is not an error."""
    monkeypatch.setattr(posix, "listdir", failing(number))
    monkeypatch.setattr(posix, "rename", failing(number))
    assert Store(root).names(DIRECTORY) == []
    assert Store(root).rename(DIRECTORY, OLD, NEW) is False


@pytest.mark.parametrize("number", HARD + PASSING)
def test_everything_else_is_a_store_error(
    root: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It has errno, strerror and path, and its text contains all three."""
    monkeypatch.setattr(posix, "listdir", failing(number))
    monkeypatch.setattr(posix, "rename", failing(number))
    with pytest.raises(StoreError) as listing:
        Store(root).names(DIRECTORY)
    with pytest.raises(StoreError) as renaming:
        Store(root).rename(DIRECTORY, OLD, NEW)
    for error, path in (
        (listing.value, f"{root}/{DIRECTORY}"),
        (renaming.value, f"{root}/{DIRECTORY}/{OLD}"),
    ):
        assert (error.errno, error.strerror, error.path) == (number, os.strerror(number), path)
        assert str(error) == f"[Errno {number}] {os.strerror(number)}: {path!r}"
        assert isinstance(error.__cause__, OSError)


def test_a_file_in_place_of_a_directory(root: str) -> None:
    """A real file gives this error, too, not only a simulated errno."""
    Path(root, "acme").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        Store(root).names(DIRECTORY)
    with pytest.raises(StoreError, match="Not a directory"):
        Store(root).rename(DIRECTORY, OLD, NEW)


def test_a_store_error_is_an_os_error_of_its_own_class() -> None:
    """This holds even for numbers for which OSError would choose another class."""
    for number in (errno.EACCES, errno.ENOENT, errno.EEXIST, errno.ETIMEDOUT):
        error = StoreError.of(OSError(number, "why"), "/store")
        assert type(error) is StoreError
        assert isinstance(error, OSError)
        assert (error.errno, error.strerror, error.filename, error.path) == (
            number,
            "why",
            "/store",
            "/store",
        )


@pytest.mark.parametrize(
    ("number", "lost"),
    [*((number, True) for number in LOST), *((number, False) for number in HARD + PASSING)],
)
def test_what_counts_as_lost(number: int, lost: bool) -> None:
    """Two errnos mean a lost race, and no others."""
    assert is_lost(OSError(number, "why")) is lost


@pytest.mark.parametrize(
    "name",
    ["a", "A", "0", "acme", "acme.example", "a-b_c.d", "a..b", "a.", "a-", "a" * 64, "10-per-1s", "CON"],
)
def test_names_of_applications(name: str) -> None:
    """Letters, digits, dot, underscore and hyphen, up to 64 of them."""
    assert is_app(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".new-1", ".default", "-a", "_a", "a" * 65, "a/b", "/a", "a/", "a\\b", "a b", "a\0",
     "a\n", "\na", "a\r", "a\t", "a+b", "a%61", "a~", "a:b", "a@b", "a=b", "\u00e9", "\u0661", "a\u0661",
     "\uff41", "a\udc80", "\u212a", "a\u200b"],
)  # fmt: skip
def test_no_names_of_applications(name: str) -> None:
    """No path, no hidden name, and nothing that only looks like an app_id."""
    assert not is_app(name)


@given(st.text(st.characters(max_codepoint=0x250) | st.sampled_from("ab./-_\0\n"), max_size=70))
def test_an_application_s_name_is_what_the_documentation_says(name: str) -> None:
    """Each name is compared with the documented definition, character by character."""
    alphanumeric = string.ascii_letters + string.digits
    expected = (
        1 <= len(name) <= 64
        and name[0] in alphanumeric
        and all(letter in alphanumeric + "._-" for letter in name)
    )
    assert is_app(name) is expected
