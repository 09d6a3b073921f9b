"""The register: links are found, made, replaced and removed, and every failure is reported."""

from __future__ import annotations

import errno
import os
import posix
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from limiter.core.store import StoreError
from limiter.request.register import DEFAULT, entries, look_up, put, remove

READS = [lambda it: look_up(it, "acme"), entries, lambda it: remove(it, "acme")]


@pytest.fixture
def register(tmp_path: Path) -> str:
    return str(tmp_path)


def test_an_entry_is_a_link_its_text_the_limit_and_the_default_for_all_others(register: str) -> None:
    os.symlink("100/second;5000/hour", f"{register}/acme")
    assert look_up(register, "acme") == (f"{register}/acme", "100/second;5000/hour")
    assert look_up(register, "Acme") is None
    put(register, DEFAULT, "1/second")
    assert look_up(register, "acme") == (f"{register}/acme", "100/second;5000/hour")
    assert look_up(register, "Acme") == (f"{register}/.default", "1/second")


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
    assert look_up(register, "acme") == (f"{register}/acme", "999/second")
    assert os.listdir(register) == ["acme"]


def test_entries_are_sorted_with_the_default_last_and_skip_what_is_no_app_id(register: str) -> None:
    """Such names are left by a put that was killed, or by an administrator."""
    for name, text in {"b": "\udcff", DEFAULT: "7/day", "a": "unlimited", "B": "1/second"}.items():
        put(register, name, text)
    Path(register, ".new-0123").symlink_to("1/second")
    Path(register, "README~").write_text("x")
    rest = [("b", "\udcff"), (DEFAULT, "7/day")]
    assert entries(register) == [("B", "1/second"), ("a", "unlimited"), *rest]
    assert [remove(register, name) for name in ("a", "B", "a")] == [True, True, False]
    assert entries(register) == rest


def test_an_entry_that_is_being_replaced_is_read_again(
    register: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system says ESTALE: the entry exists, and the default does not apply."""
    stale = OSError(errno.ESTALE, "Stale file handle")
    monkeypatch.setattr(posix, "readlink", Mock(side_effect=[stale, "1/second"]))
    assert look_up(register, "acme") == (f"{register}/acme", "1/second")


# Failures


@pytest.mark.parametrize("use", READS)
def test_an_entry_that_is_no_link_is_an_error_that_names_it(
    register: str, use: Callable[[str], object]
) -> None:
    Path(register, "acme").write_text("100/second")
    with pytest.raises(StoreError, match="Not a symbolic link") as error:
        use(register)
    assert error.value.path == f"{register}/acme"
    assert Path(register, "acme").read_text() == "100/second"


@pytest.mark.parametrize("use", [*READS, lambda it: put(it, "acme", "1/second")])
def test_a_missing_register_is_an_error_and_not_an_empty_one(
    register: str, use: Callable[[str], object]
) -> None:
    """Otherwise everybody would get 401, and no log would say why."""
    with pytest.raises(StoreError, match="The register does not exist") as error:
        use(f"{register}/missing")
    assert (error.value.errno, error.value.path) == (errno.ENOENT, f"{register}/missing")


@pytest.mark.parametrize(
    ("call", "use"),
    [
        ("readlink", lambda it: look_up(it, "acme")),
        ("stat", lambda it: look_up(it, "unknown")),
        ("listdir", entries),
        ("symlink", lambda it: put(it, "acme", "2/second")),
        ("unlink", lambda it: remove(it, "acme")),
    ],
)
@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.ESTALE])
def test_a_register_that_fails_is_an_error(
    register: str, call: str, use: Callable[[str], object], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(register, "acme", "1/second")
    monkeypatch.setattr(posix, call, Mock(side_effect=OSError(number, os.strerror(number))))
    with pytest.raises(StoreError) as error:
        use(register)
    assert error.value.errno == number


def test_a_put_that_fails_leaves_nothing_behind(register: str) -> None:
    Path(register, "acme").mkdir()  # a link cannot replace a directory
    with pytest.raises(StoreError) as error:
        put(register, "acme", "1/second")
    assert (error.value.errno, error.value.path) == (errno.EISDIR, f"{register}/acme")
    assert os.listdir(register) == ["acme"]
