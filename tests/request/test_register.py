"""The register: links are found, made, replaced and removed, and every failure is reported."""

from __future__ import annotations

import errno
import os
import posix
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.store import StoreError
from limiter.request.register import DEFAULT, entries, look_up, put, remove

apps = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@pytest.fixture
def register(tmp_path: Path) -> str:
    return str(tmp_path)


def test_an_entry_is_a_link_and_its_text_the_limit(register: str) -> None:
    os.symlink("100/second;5000/hour", f"{register}/acme")
    assert look_up(register, "acme") == (f"{register}/acme", "100/second;5000/hour")


def test_who_has_no_entry_is_unknown(register: str) -> None:
    os.symlink("100/second", f"{register}/acme")
    assert look_up(register, "Acme") is None


def test_default_is_for_everybody_else(register: str) -> None:
    put(register, "acme", "100/second")
    put(register, DEFAULT, "1/second")
    assert look_up(register, "acme") == (f"{register}/acme", "100/second")
    assert look_up(register, "other") == (f"{register}/.default", "1/second")


def test_put_replaces_at_once_and_leaves_nothing_else(register: str) -> None:
    put(register, "acme", "1/second")
    put(register, "acme", "2/second")
    assert look_up(register, "acme") == (f"{register}/acme", "2/second")
    assert os.listdir(register) == ["acme"]


def test_an_entry_that_is_replaced_is_never_missing(register: str) -> None:
    """A reader looks it up all the time while a writer replaces it a thousand times."""
    put(register, "acme", "0/second")
    done = threading.Event()

    def write() -> None:
        for number in range(1000):
            put(register, "acme", f"{number}/second")
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        entry = look_up(register, "acme")
        assert entry is not None
        seen.add(entry[1])
    writer.join()
    assert seen <= {f"{number}/second" for number in range(1000)}


@given(st.dictionaries(apps, st.sampled_from(["1/second", "unlimited", "0/second", "\udcff"])))
def test_entries_are_sorted_with_the_default_last(texts: dict[str, str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as register:
        for name, text in [(DEFAULT, "7/day"), *texts.items()]:
            put(register, name, text)
        assert entries(register) == [*sorted(texts.items()), (DEFAULT, "7/day")]
        for name in texts:
            assert remove(register, name)
        assert entries(register) == [(DEFAULT, "7/day")]


def test_entries_pass_over_what_can_be_none(register: str) -> None:
    """Such names are left by a put that was killed, or by an administrator."""
    Path(register, ".new-0123").symlink_to("1/second")
    Path(register, "README~").write_text("x")
    assert entries(register) == []


def test_remove_says_if_there_was_none(register: str) -> None:
    put(register, "acme", "1/second")
    assert remove(register, "acme")
    assert not remove(register, "acme")
    assert os.listdir(register) == []


@pytest.mark.parametrize(
    "look", [lambda it: look_up(it, "acme"), entries, lambda it: remove(it, "acme")]
)
def test_what_is_no_link_is_an_error_that_names_it(register: str, look: object) -> None:
    Path(register, "acme").write_text("100/second")
    assert callable(look)
    with pytest.raises(StoreError, match="Not an entry of a register") as error:
        look(register)
    assert error.value.path == f"{register}/acme"
    assert Path(register, "acme").read_text() == "100/second"


@pytest.mark.parametrize(
    "use",
    [
        lambda it: look_up(it, "acme"),
        entries,
        lambda it: put(it, "acme", "1/second"),
        lambda it: remove(it, "acme"),
    ],
)
def test_a_register_that_is_missing_is_an_error_and_not_an_empty_one(register: str, use: object) -> None:
    """Otherwise everybody would get 401, and no log would say why."""
    assert callable(use)
    with pytest.raises(StoreError, match="The register does not exist") as error:
        use(f"{register}/missing")
    assert error.value.errno == errno.ENOENT


def test_an_entry_that_is_being_replaced_is_read_again(
    register: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system says ESTALE: the entry exists, and the default does not apply."""
    put(register, "acme", "1/second")
    put(register, DEFAULT, "9/second")
    readlink, failures = posix.readlink, [errno.ESTALE]

    def stale(path: str) -> str:
        if failures:
            raise OSError(failures.pop(), "Stale file handle", path)
        return readlink(path)

    monkeypatch.setattr(posix, "readlink", stale)
    assert look_up(register, "acme") == (f"{register}/acme", "1/second")
    assert not failures


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EIO, errno.ENOTCONN, errno.ENOTDIR, errno.ESTALE]
)
def test_a_register_that_fails_is_an_error(
    register: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    put(register, "acme", "1/second")
    for name in ("readlink", "listdir", "symlink"):
        monkeypatch.setattr(posix, name, fail)
    for use in (
        lambda: look_up(register, "acme"),
        lambda: entries(register),
        lambda: put(register, "acme", "2/second"),
        lambda: remove(register, "acme"),
    ):
        with pytest.raises(StoreError) as error:
            use()
        assert error.value.errno == number


def test_a_put_that_fails_leaves_nothing_behind(register: str) -> None:
    Path(register, "acme").mkdir()  # a link cannot replace a directory
    with pytest.raises(StoreError) as error:
        put(register, "acme", "1/second")
    assert error.value.errno == errno.EISDIR
    assert os.listdir(register) == ["acme"]
