"""The settings: their defaults, their meaning, and what is said of bad ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limiter.settings import admits_on_error, limits, root
from limiter.store import StoreError


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "10/second"),
        ({b"LIMITER_LIMIT": b""}, "10/second"),
        ({b"LIMITER_LIMIT": b"5/minute"}, "5/minute"),
        ({b"LIMITER_LIMIT": b"5/minute; 7/hour fixed"}, "5/minute; 7/hour fixed"),
        ({b"LIMITER_LIMIT": b" "}, " "),
        ({b"limiter_limit": b"5/minute", b"LIMIT": b"6/minute"}, "10/second"),
        ({b"LIMITER_LIMIT": b"5/\xff"}, "5/\udcff"),
        ({b"LIMITER_LIMIT": "5/\u00e9".encode()}, "5/\u00e9"),
        ({b"LIMITER_APPS": b"", b"LIMITER_KEY": b"", b"LIMITER_TIMEOUT": b""}, "10/second"),
    ],
)
def test_limits(environ: dict[bytes, bytes], expected: str) -> None:
    """The text as it is set; empty counts as not set."""
    assert limits(environ) == expected


@pytest.mark.parametrize("name", ["LIMITER_APPS", "LIMITER_KEY", "LIMITER_TIMEOUT"])
def test_settings_that_are_not_known_yet(name: str) -> None:
    """Whoever sets one relies on it, and must not be let down in silence."""
    with pytest.raises(ValueError, match=rf"^{name} is set, but this version does not know it"):
        limits({name.encode(): b"app_id", b"LIMITER_LIMIT": b"5/minute"})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({b"LIMITER_ON_ERROR": b""}, False),
        ({b"LIMITER_ON_ERROR": b"deny"}, False),
        ({b"LIMITER_ON_ERROR": b"admit"}, True),
    ],
)
def test_admits_on_error(environ: dict[bytes, bytes], expected: bool) -> None:
    """Only if that is said."""
    assert admits_on_error(environ) is expected


@pytest.mark.parametrize("word", [b"Admit", b" admit", b"admit\n", b"yes", b"1", b"\xff", b"x" * 10_000])
def test_another_word_is_a_value_error(word: bytes) -> None:
    """It names the variable and both words, in one line."""
    with pytest.raises(ValueError, match=r"^LIMITER_ON_ERROR='.*: expected 'deny' or 'admit'$") as error:
        admits_on_error({b"LIMITER_ON_ERROR": word})
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path", ["/", "/mnt/limiter", "/missing/store", "/with blank", "/\u00e9", "//x/"]
)
def test_root(path: str) -> None:
    """An absolute path as it is set; nothing is looked at or made."""
    assert root({b"LIMITER_ROOT": path.encode(), b"TMPDIR": b"/missing"}) == path


def test_root_of_any_bytes() -> None:
    """A path need not be text."""
    assert os.fsencode(root({b"LIMITER_ROOT": b"/\xff\xfe"})) == b"/\xff\xfe"


@pytest.mark.parametrize(
    "path", [b"store", b"./store", b"../store", b"~/store", b" /store", b"C:/x", b"\n/"]
)
def test_a_root_that_is_not_absolute_is_a_value_error(path: bytes) -> None:
    """It would be another one from each directory."""
    with pytest.raises(ValueError, match=r"^LIMITER_ROOT='.*: expected an absolute path$"):
        root({b"LIMITER_ROOT": path})


@pytest.mark.parametrize("environ", [{}, {b"LIMITER_ROOT": b""}])
def test_the_default_root(tmp_path: Path, environ: dict[bytes, bytes]) -> None:
    """In TMPDIR, and made."""
    path = root({b"TMPDIR": os.fsencode(tmp_path), **environ})
    assert path == f"{tmp_path}/limiter-{os.geteuid()}"
    assert [entry.name for entry in tmp_path.iterdir()] == [f"limiter-{os.geteuid()}"]


@pytest.mark.parametrize("environ", [{}, {b"TMPDIR": b""}])
def test_the_default_root_without_tmpdir(
    monkeypatch: pytest.MonkeyPatch, environ: dict[bytes, bytes]
) -> None:
    """In /tmp."""
    monkeypatch.setattr("limiter.furnish.default_root", lambda temporary: f"{temporary}/store")
    assert root(environ) == "/tmp/store"


def test_a_default_root_must_be_absolute_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TMPDIR that is relative would make another store in each directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^TMPDIR='\.': expected an absolute path$"):
        root({b"TMPDIR": b"."})
    assert list(tmp_path.iterdir()) == []


def test_a_default_root_that_cannot_be_made(tmp_path: Path) -> None:
    """A StoreError that names it."""
    with pytest.raises(StoreError) as error:
        root({b"TMPDIR": os.fsencode(tmp_path / "missing")})
    assert error.value.path == f"{tmp_path}/missing/limiter-{os.geteuid()}"
