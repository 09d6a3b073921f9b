"""The command check-config: the rules, every mistake with its place, and which rule a request meets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from limiter.request.register import put
from tests.request.test_rules import MISTAKES
from tests.tools.test_cli import Run, run

__all__ = ["run"]

RULES = """\
# The log-in page
/login POST login=5/minute key=env:REMOTE_ADDR count=401

/api/ * 100/minute
/static/ * exempt
/ * 1000/minute key=env:REMOTE_ADDR
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "rules.conf"
    file.write_text(RULES)
    return file


def printed(ended: subprocess.CompletedProcess[str], status: int) -> list[str]:
    assert (ended.returncode, ended.stderr) == (status, "")
    return ended.stdout.splitlines()


def test_each_rule_is_a_line(run: Run, file: Path) -> None:
    lines = RULES.splitlines()
    expected = [f"{file}:{number}: {lines[number - 1]}" for number in (2, 4, 5, 6)]
    assert printed(run("check-config", str(file)), 0) == expected
    assert printed(run("check-config", LIMITER_RULES=str(file)), 0) == expected


def test_every_mistake_is_a_line_with_its_place(run: Run, file: Path) -> None:
    """At least 20 kinds of them, all at once."""
    text = "".join(f"{line}\n" for line, _, _ in MISTAKES)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    lines = printed(run("check-config", str(file)), 1)
    assert len(lines) == len(MISTAKES) > 20
    for number, (line, (_, column, expected)) in enumerate(zip(lines, MISTAKES), 1):
        assert line.startswith(f"{file}:{number}:{column}: ")
        assert expected in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No such file or directory"),
        ("", "expected at least one rule"),
        ("#\n", "at least one rule"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_mistake(
    run: Run, file: Path, text: str | None, expected: str
) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    (line,) = printed(run("check-config", str(file)), 1)
    assert line.startswith(f"{file}: ")
    assert expected in line


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("/a * 1/hour\n/a GET 2/hour", ["2: warning: it never matches, since line 1 does so before"]),
        (
            "/a GET 1/hour\n/a/b HEAD 2/hour",
            ["2: warning: it never matches, since line 1 does so before"],
        ),
        ("/ * 1/hour\n^/a * 2/hour", ["2: warning: it never matches, since line 1 does so before"]),
        (
            "/a/ * 1/hour\n^/a/\\d GET 2/hour",
            ["2: warning: it never matches, since line 1 does so before"],
        ),
        (
            "^/a GET 1/hour\n^/a GET 2/hour",
            ["2: warning: it never matches, since line 1 does so before"],
        ),
        ("/a GET 1/hour\n/a * 2/hour\n/ab GET 1/hour\n^/ab? GET 1/hour\n/ PUT exempt", []),
        ("/a PSOT 1/hour", ["1: warning: PSOT is no registered method of HTTP"]),
        ("/a * register", ["1: warning: LIMITER_APPS is not set, so LIMITER_LIMIT applies"]),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(
    run: Run, file: Path, text: str, warnings: list[str]
) -> None:
    file.write_text(text)
    lines = printed(run("check-config", str(file)), 0)
    assert [line for line in lines if "warning" in line] == [f"{file}:{it}" for it in warnings]


@pytest.mark.parametrize(
    ("request_line", "met"),
    [
        ("POST /login", "{file}:2: /login POST login=5/minute key=env:REMOTE_ADDR count=401"),
        ("POST //login/;a=b?next=/static/", "{file}:2: /login POST"),
        ("GET /login", "{file}:6: / * 1000/minute"),
        ("GET http://example.org/static/a%20b.css", "{file}:5: /static/ * exempt"),
        (
            "DELETE /api/..;/login",
            "400 Bad Request: applications may read it as /api/../login or /login",
        ),
    ],
)
def test_it_says_which_rule_a_request_meets(run: Run, file: Path, request_line: str, met: str) -> None:
    (line,) = printed(run("check-config", "--request", request_line, str(file)), 0)
    assert f" meets {met.format(file=file)}" in line


def test_it_says_that_a_request_meets_no_rule(run: Run, file: Path) -> None:
    file.write_text("/login POST 5/minute")
    (line,) = printed(run("check-config", "--request", "GET /login", str(file)), 0)
    assert line == "GET /login meets no rule: the settings apply"


@pytest.mark.parametrize("text", ["/login", "POST", "POST login", "POST /a b", ""])
def test_what_is_no_request_is_refused(run: Run, file: Path, text: str) -> None:
    ended = run("check-config", "--request", text, str(file))
    assert ended.returncode == 2
    assert "expected a method and a path, as 'POST /login'" in ended.stderr


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"LIMIT": "5/fortnight"}, "LIMITER_LIMIT: limit '5/fortnight': expected a unit"),
        ({"NEWCOMERS": "many"}, "LIMITER_NEWCOMERS: limit 'many'"),
        ({"KEY": "header:X_Y"}, "key 'header:X_Y': expected a header's name"),
        ({"TRUSTED_PROXIES": "10.0.0.0/40", "KEY": "env:REMOTE_ADDR"}, "'10.0.0.0/40': expected"),
        ({"MODE": "on"}, "LIMITER_MODE='on': expected"),
        ({"RULES": "rules"}, "LIMITER_RULES='rules': expected an absolute path"),
        ({"MAIL_TO": "nobody at home"}, "LIMITER_MAIL_TO='nobody at home': expected"),
        ({"SUPERVISE": "yes"}, "LIMITER_SUPERVISE='yes': expected"),
        ({"LIMITS": "5/hour"}, "LIMITER_LIMITS is no setting: expected LIMITER_LIMIT"),
        ({"ZZZ": "red"}, "LIMITER_ZZZ is no setting: expected one of docs/settings.md"),
        ({"APPS": "/missing"}, "LIMITER_APPS: [Errno 2] The register does not exist"),
    ],
)
def test_the_other_settings_are_checked_too(
    run: Run, file: Path, settings: dict[str, str], expected: str
) -> None:
    named = {f"LIMITER_{name}": text for name, text in settings.items()}
    lines = printed(run("check-config", str(file), **named), 1)
    assert len(lines) == 1 + 4
    assert expected in lines[0]


def test_all_mistakes_in_the_settings_are_found(run: Run, apps: str) -> None:
    put(apps, "acme", "5/fortnight")
    put(apps, "boss", "unlimited")
    lines = printed(run("check-config", LIMITER_APPS=apps, LIMITER_NEWCOMERS="x", LIMITER_X="y"), 1)
    assert [line.partition(": ")[0] for line in lines[:2]] == ["LIMITER_NEWCOMERS", f"{apps}/acme"]
    assert lines[2].startswith("LIMITER_X is no setting")


def test_without_rules_it_says_so(run: Run) -> None:
    assert printed(run("check-config"), 0) == ["There are no rules: LIMITER_RULES is not set"]
