"""The settings: their defaults, their values, and the errors for bad ones."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import pytest

from limiter.apache.guard import GUARD
from limiter.core.newcomers import check as check_newcomers
from limiter.core.store import StoreError
from limiter.report.settings import REPORT
from limiter.request.settings import REQUEST, Settings
from limiter.tools.cli import main
from tests.places import REPOSITORY

TABLES = [REQUEST, REPORT, GUARD]
ALL = {name: table for table in TABLES for name in table}

VALUES: list[tuple[str, bytes, object]] = [
    ("LIMITER_LIMIT", b"5/minute; 7/hour fixed", "5/minute; 7/hour fixed"),
    ("LIMITER_LIMIT", b" ", " "),
    ("LIMITER_LIMIT", b"5/\xff", "5/\udcff"),
    ("LIMITER_LIMIT", "5/\u00e9".encode(), "5/\u00e9"),
    *[("LIMITER_ROOT", path.encode(), (path,)) for path in ("/", "/mnt/limiter", "/with blank", "//x/")],
    ("LIMITER_ROOT", "/\u00e9".encode(), ("/\u00e9",)),
    ("LIMITER_ROOT", b"/\xff\xfe", ("/\udcff\udcfe",)),
    ("LIMITER_ROOT", b"/mnt/a:/mnt/b", ("/mnt/a", "/mnt/b")),
    *[("LIMITER_NEWCOMERS", it.encode(), it) for it in ("7/second;9/hour fixed", "many", "Unlimited")],
    ("LIMITER_NEWCOMERS", b"unlimited", ""),
    *[("LIMITER_NODES", text, int(text)) for text in (b"3", b"99999999")],
    ("LIMITER_APPS", b"/etc/apps", "/etc/apps"),
    ("LIMITER_KEY", b"env:REMOTE_ADDR", "env:REMOTE_ADDR"),
    ("LIMITER_TRUSTED_PROXIES", b"10.0.0.0/8, unix", "10.0.0.0/8, unix"),
    *[("LIMITER_IPV6_PREFIX", text, int(text)) for text in (b"1", b"56", b"128")],
    *[("LIMITER_MODE", word.encode(), word) for word in ("enforce", "shadow", "off")],
    *[("LIMITER_ON_ERROR", word.encode(), word) for word in ("deny", "admit")],
    *[("LIMITER_TIMEOUT", text, float(text)) for text in (b"2", b"0.25", b"3600", b"1e-3")],
    *[("LIMITER_LOG", word.encode(), word) for word in ("stderr", "syslog", "/var/log/limiter")],
    ("LIMITER_LOG_LEVEL", b"warning", "warning"),
    ("LIMITER_LOG_SAMPLE", b"1000000", 1_000_000),
    ("LIMITER_MAIL_TO", b"root, me@example.org", ["root", "me@example.org"]),
    ("LIMITER_MAIL_FROM", b"me@example.org", "me@example.org"),
    *[
        ("LIMITER_SMTP", text.encode(), text)
        for text in ("sendmail", "/usr/bin/msmtp", "mail.example.org", "localhost:2525")
    ],
    ("LIMITER_GUARD_ROOT", b"/srv/www", "/srv/www"),
    ("LIMITER_SUPERVISE", b"1", "1"),
    ("LIMITER_SCRIPT_TIMEOUT", b"0.5", 0.5),
]

ABSOLUTE = "an absolute path"
SECONDS = "seconds, above 0 and up to 3600"
ADDRESS = "addresses as root@example.org, without names, with commas between them"
LOG = "'stderr', 'syslog' or a file's absolute path"
SMTP = "'host', 'host:port', 'sendmail' or the absolute path of such a program"
MISTAKES: list[tuple[str, list[bytes], str]] = [
    (
        "LIMITER_ROOT",
        [b"store", b"./store", b"../store", b"~/store", b" /store", b"C:/x", b"\n/"],
        ABSOLUTE,
    ),
    ("LIMITER_ROOT", [b"/mnt/a:", b":/mnt/a", b"/mnt/a::/mnt/b", b"/mnt/a:b"], ABSOLUTE),
    ("LIMITER_APPS", [b"apps"], ABSOLUTE),
    ("LIMITER_GUARD_ROOT", [b"www"], ABSOLUTE),
    (
        "LIMITER_NODES",
        [b"0", b"-1", b"1.5", b"three", b"\xff", b"9" * 5000, b" 3"],
        "a whole number from 1 to 99999999",
    ),
    ("LIMITER_IPV6_PREFIX", [b"0", b"129", b"/64", b"-1"], "a whole number from 1 to 128"),
    ("LIMITER_LOG_SAMPLE", [b"0", b"1000001", b"x", b"\xd9\xa1"], "a whole number from 1 to 1000000"),
    ("LIMITER_MODE", [b"Off", b"0", b"off ", b"none"], "'enforce' or 'shadow' or 'off'"),
    (
        "LIMITER_ON_ERROR",
        [b"Admit", b" admit", b"admit\n", b"yes", b"1", b"\xff", b"x" * 10_000],
        "'deny' or 'admit'",
    ),
    ("LIMITER_LOG_LEVEL", [b"debug", b"Warning"], "'error' or 'warning'"),
    ("LIMITER_SUPERVISE", [b"yes", b"2"], "'0' or '1'"),
    (
        "LIMITER_TIMEOUT",
        [b"0", b"-1", b"3600.1", b"nan", b"inf", b"2s", b"two", b"1,5", b"\xff", b"9" * 5000],
        SECONDS,
    ),
    ("LIMITER_SCRIPT_TIMEOUT", [b"0", b"x"], SECONDS),
    ("LIMITER_LOG", [b"log", b"./log", b"/var/log/", b"/a\0b"], LOG),
    (
        "LIMITER_MAIL_TO",
        [b"@b", b"a@", b"-oi", b"a b@c", b"Me <me@b>", b",", b"a@b;c", b"a@b\nc", b"a@b@c"],
        ADDRESS,
    ),
    ("LIMITER_MAIL_FROM", [b"a\r\nb@example.org", "\u00e4@example.org".encode()], ADDRESS),
    ("LIMITER_MAIL_FROM", [b"a@b,c@d"], "one address"),
    (
        "LIMITER_SMTP",
        [b":25", b"host:", b"host:0", b"host:65536", b"a b", b"smtp://host", b"bin/mail"],
        SMTP,
    ),
]


def value_of(name: str, text: bytes) -> Any:
    """Return the value of one setting; the others are not set."""
    return getattr(Settings({name.encode(): text}, ALL[name]), name[8:].lower())


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_a_value_is_read_as_it_is_set(name: str, text: bytes, value: object) -> None:
    assert value_of(name, text) == value


@pytest.mark.parametrize("name", ALL)
def test_an_empty_variable_has_the_default(name: str) -> None:
    parse, default, _ = ALL[name][name]
    assert value_of(name, b"") == parse(default)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [(name, text, expected) for name, texts, expected in MISTAKES for text in texts],
)
def test_a_mistake_names_the_variable_and_what_is_expected(
    name: str, text: bytes, expected: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name}='") as error:
        value_of(name, text)
    assert str(error.value).endswith(f": expected {expected}")
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


# The store of an application


def test_several_stores_share_the_applications() -> None:
    settings = Settings({b"LIMITER_ROOT": b"/mnt/a:/mnt/b"})
    assert {settings.store(f"app{number}") for number in range(100)} == {"/mnt/a", "/mnt/b"}


def test_one_store_is_used_as_it_is_set(tmp_path: Path) -> None:
    """Nothing is read or created; the path need not be text."""
    settings = Settings({b"LIMITER_ROOT": b"/\xff\xfe", b"TMPDIR": b"missing"})
    assert os.fsencode(settings.store("acme")) == b"/\xff\xfe"


def test_a_default_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        Settings({b"TMPDIR": os.fsencode(tmp_path / "missing")}).store("acme")
    assert error.value.path == f"{tmp_path}/missing/limiter-{os.geteuid()}"


@pytest.mark.parametrize(
    ("text", "limits"), [(b"", "10/hour"), (b"1", "10/hour"), (b"3", "3 per 3600 seconds")]
)
def test_a_node_has_its_share(text: bytes, limits: str) -> None:
    assert Settings({b"LIMITER_NODES": text}).share("10/hour") == limits


# The bound for new clients


@pytest.mark.parametrize("text", [b"", b"unlimited", b"0/second", b"7/second;9/hour burst 2"])
def test_a_bound_for_new_clients_is_in_the_notation_of_limits(text: bytes) -> None:
    check_newcomers(Settings({b"LIMITER_NEWCOMERS": text}).newcomers)


@pytest.mark.parametrize("text", [b"many", b"Unlimited", b"-1/second", b"1/fortnight\n", b"9" * 5000])
def test_a_bad_bound_for_new_clients_is_named(text: bytes) -> None:
    settings = Settings({b"LIMITER_NEWCOMERS": text})
    with pytest.raises(ValueError, match=r"^LIMITER_NEWCOMERS: limit '.*': expected ") as error:
        check_newcomers(settings.newcomers)
    assert len(str(error.value)) < 400


# The one table feeds everything


def test_the_documentation_and_the_configuration_are_as_the_table_says() -> None:
    """If this fails, run python3 docs/settings.py."""
    for path, write in runpy.run_path(str(REPOSITORY / "docs/settings.py"))["FILES"].items():
        text = (REPOSITORY / path).read_text()
        assert write(text) == text, path


def test_the_help_has_every_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["limiter", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = " ".join(capsys.readouterr().out.split())
    for name, table in ALL.items():
        assert f" {name} {table[name][2]}" in text
