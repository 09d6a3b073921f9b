"""The store: two calls, their answers and their errors; and valid names of applications."""

from __future__ import annotations

import os
import posix
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limiter.core.store import Store, StoreError, is_app
from tests.faults import HARD, PASSING
from tests.limiting import failing

DIRECTORY = "acme@2-per-60s"
OLD, NEW = "0000000000.000000-0", "1513123456.123456-0"


def test_a_rename_has_one_winner(root: str) -> None:
    directory = Path(root, DIRECTORY)
    directory.mkdir()
    (directory / OLD).touch()
    store = Store(root)
    assert store.rename(DIRECTORY, OLD, NEW) is True
    assert store.rename(DIRECTORY, OLD, NEW) is False
    assert store.rename("emca@2-per-60s", OLD, NEW) is False
    assert os.listdir(directory) == [NEW]


@pytest.mark.parametrize("number", HARD + PASSING)
def test_every_other_error_is_a_store_error(
    root: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """OSError would choose another class for some of these numbers."""
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
        assert type(error) is StoreError
        assert (error.errno, error.path) == (number, path)
        assert error.strerror
        assert error.strerror.startswith(os.strerror(number))
        assert ("belongs to user" in error.strerror) == isinstance(error.__cause__, PermissionError)
        assert str(error) == f"[Errno {number}] {error.strerror}: {path!r}"
        assert isinstance(error.__cause__, OSError)


@given(st.text(st.characters(max_codepoint=0x250) | st.sampled_from("ab./-_\0\n"), max_size=70))
@example("a" * 64)
@example("a" * 65)
@example("\u0661")  # a digit, but not of ASCII
@example("\u212a")  # its lower case is "k"
@example("a\udc80")
@example("a\n")
def test_a_valid_app_id_is_what_the_documentation_says(name: str) -> None:
    """Each name is compared with the documented definition, character by character."""
    alphanumeric = string.ascii_letters + string.digits
    expected = (
        1 <= len(name) <= 64
        and name[0] in alphanumeric
        and all(letter in alphanumeric + "._-" for letter in name)
    )
    assert is_app(name) is expected
