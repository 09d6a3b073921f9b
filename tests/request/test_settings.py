"""The settings: their defaults, their meaning, and the errors for bad ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limiter.core.store import StoreError
from limiter.request.settings import NAMES, Settings


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
    ],
)
def test_limits(environ: dict[bytes, bytes], expected: str) -> None:
    """The text is used as it is set; empty counts as not set."""
    assert Settings(environ).limits == expected


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
    """It admits only if the setting says so."""
    assert Settings(environ).admits_on_error is expected


@pytest.mark.parametrize("word", [b"Admit", b" admit", b"admit\n", b"yes", b"1", b"\xff", b"x" * 10_000])
def test_another_word_is_a_value_error(word: bytes) -> None:
    """The error names the variable and both words, in one line."""
    with pytest.raises(ValueError, match=r"^LIMITER_ON_ERROR='.*: expected 'deny' or 'admit'$") as error:
        Settings({b"LIMITER_ON_ERROR": word})
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "enforce"),
        ({b"LIMITER_MODE": b""}, "enforce"),
        ({b"LIMITER_MODE": b"enforce"}, "enforce"),
        ({b"LIMITER_MODE": b"shadow"}, "shadow"),
        ({b"LIMITER_MODE": b"off"}, "off"),
    ],
)
def test_mode(environ: dict[bytes, bytes], expected: str) -> None:
    """The mode is one of three words."""
    assert Settings(environ).mode == expected


@pytest.mark.parametrize("word", [b"Off", b"0", b"off ", b"none"])
def test_another_mode_is_a_value_error(word: bytes) -> None:
    """If somebody meant to switch the limiter off or on, it must not do something else."""
    with pytest.raises(
        ValueError, match=r"^LIMITER_MODE='.*': expected 'enforce' or 'shadow' or 'off'$"
    ):
        Settings({b"LIMITER_MODE": word})


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"", 2.0), (b"2", 2.0), (b"0.25", 0.25), (b"3600", 3600.0), (b"1e-3", 0.001)]
)
def test_timeout(text: bytes, seconds: float) -> None:
    """Seconds, including fractions."""
    assert Settings({b"LIMITER_TIMEOUT": text}).timeout == seconds


@pytest.mark.parametrize(
    "text", [b"0", b"-1", b"3600.1", b"nan", b"inf", b"2s", b"two", b"1,5", b"\xff", b"9" * 5000]
)
def test_a_bad_timeout_is_a_value_error(text: bytes) -> None:
    """This includes times that never end, or that have passed already."""
    with pytest.raises(
        ValueError, match=r"^LIMITER_TIMEOUT='.*: expected seconds, above 0 and up to 3600$"
    ):
        Settings({b"LIMITER_TIMEOUT": text})


def test_the_register() -> None:
    """None by default; otherwise an absolute path."""
    assert Settings({}).apps == ""
    assert Settings({b"LIMITER_APPS": b"/etc/apps"}).apps == "/etc/apps"
    with pytest.raises(ValueError, match=r"^LIMITER_APPS='apps': expected an absolute path$"):
        Settings({b"LIMITER_APPS": b"apps"})


def test_who_asks() -> None:
    """The texts are used as they are set."""
    assert (Settings({}).key, Settings({}).proxies) == ("app_id", "")
    environ = {b"LIMITER_KEY": b"env:REMOTE_ADDR", b"LIMITER_TRUSTED_PROXIES": b"10.0.0.0/8"}
    assert (Settings(environ).key, Settings(environ).proxies) == ("env:REMOTE_ADDR", "10.0.0.0/8")


def test_all_names_are_told() -> None:
    """Code that copies the settings by these names copies all that are read."""

    class Recorder(dict[bytes, bytes]):
        def get(self, name: bytes, default: object = None) -> None:  # type: ignore[override]
            asked.append(name.decode())

    asked: list[str] = []
    Settings(Recorder()).root("acme")
    assert sorted(asked) == sorted([*NAMES, "TMPDIR"])


@pytest.mark.parametrize(
    "path", ["/", "/mnt/limiter", "/missing/store", "/with blank", "/\u00e9", "//x/"]
)
def test_root(path: str) -> None:
    """An absolute path is used as it is set; nothing is read or created."""
    assert Settings({b"LIMITER_ROOT": path.encode(), b"TMPDIR": b"/missing"}).root("acme") == path


def test_root_of_any_bytes() -> None:
    """A path need not be text."""
    assert os.fsencode(Settings({b"LIMITER_ROOT": b"/\xff\xfe"}).root("acme")) == b"/\xff\xfe"


@pytest.mark.parametrize(
    "path", [b"store", b"./store", b"../store", b"~/store", b" /store", b"C:/x", b"\n/"]
)
def test_a_root_that_is_not_absolute_is_a_value_error(path: bytes) -> None:
    """It would mean a different store in each working directory."""
    with pytest.raises(ValueError, match=r"^LIMITER_ROOT='.*: expected an absolute path$"):
        Settings({b"LIMITER_ROOT": path}).root("acme")


def test_several_roots() -> None:
    """Each app_id has one of them, and the list names them all."""
    settings = Settings({b"LIMITER_ROOT": b"/mnt/a:/mnt/b"})
    assert settings.roots == ("/mnt/a", "/mnt/b")
    assert {settings.root(f"app{number}") for number in range(100)} == {"/mnt/a", "/mnt/b"}


@pytest.mark.parametrize("path", [b"/mnt/a:", b":/mnt/a", b"/mnt/a::/mnt/b", b"/mnt/a:b"])
def test_each_of_several_roots_must_be_absolute(path: bytes) -> None:
    with pytest.raises(ValueError, match=r"^LIMITER_ROOT='.*: expected an absolute path$"):
        Settings({b"LIMITER_ROOT": path})


@pytest.mark.parametrize(
    ("text", "limits"), [(b"", "10/hour"), (b"1", "10/hour"), (b"3", "3 per 3600 seconds")]
)
def test_a_node_has_its_share(text: bytes, limits: str) -> None:
    assert Settings({b"LIMITER_NODES": text}).share("10/hour") == limits


@pytest.mark.parametrize("text", [b"0", b"-1", b"1.5", b"three", b"\xff", b"9" * 5000, b" 3"])
def test_a_bad_number_of_nodes_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^LIMITER_NODES='.*: expected a whole number of at least 1$"):
        Settings({b"LIMITER_NODES": text})


@pytest.mark.parametrize("environ", [{}, {b"LIMITER_ROOT": b""}])
def test_the_default_root(tmp_path: Path, environ: dict[bytes, bytes]) -> None:
    """It is in TMPDIR, and is created."""
    path = Settings({b"TMPDIR": os.fsencode(tmp_path), **environ}).root("acme")
    assert path == f"{tmp_path}/limiter-{os.geteuid()}"
    assert [entry.name for entry in tmp_path.iterdir()] == [f"limiter-{os.geteuid()}"]


@pytest.mark.parametrize("environ", [{}, {b"TMPDIR": b""}])
def test_the_default_root_without_tmpdir(
    monkeypatch: pytest.MonkeyPatch, environ: dict[bytes, bytes]
) -> None:
    """It is in /tmp."""
    monkeypatch.setattr("limiter.core.furnish.default_root", lambda temporary: f"{temporary}/store")
    assert Settings(environ).root("acme") == "/tmp/store"


def test_a_default_root_must_be_absolute_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative TMPDIR would make a different store in each working directory."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^TMPDIR='\.': expected an absolute path$"):
        Settings({b"TMPDIR": b"."}).root("acme")
    assert list(tmp_path.iterdir()) == []


def test_a_default_root_that_cannot_be_made(tmp_path: Path) -> None:
    """A StoreError names it."""
    with pytest.raises(StoreError) as error:
        Settings({b"TMPDIR": os.fsencode(tmp_path / "missing")}).root("acme")
    assert error.value.path == f"{tmp_path}/missing/limiter-{os.geteuid()}"
