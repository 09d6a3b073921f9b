"""Why a request got 401: one reason for each cause, and never a value that the client sent."""

from __future__ import annotations

import json

import pytest

from limiter.report.masking import mask
from limiter.report.problems import report_denial
from limiter.request.key import Key
from limiter.request.reasons import reason, reason_of_cgi

SECRET = b"s3cr3t-"
BASIC = b"Basic czNjcjN0LXY"
HEADER = "header:X-Api-Key"
LOGIN = "header:Authorization"
NOT_IN = "is not in the register, which has no .default"
TWICE = "is given twice, or under another name that some applications take for it"

PARAMETERS = [
    ("", "app_id is missing"),
    ("x=1", "app_id is missing"),
    ("app_id", "app_id is empty"),
    ("app_id=", "app_id is empty"),
    ("app_id=s3cr3t-%00", "app_id is malformed"),
    ("app_id=.s3cr3t-", "app_id is malformed"),
    ("app_id=s3cr3t-&app_id=s3cr3t-", f"app_id {TWICE}"),
    ("app_id=s3cr3t-&App.Id=s3cr3t-", f"app_id {TWICE}"),
    ("App_Id=s3cr3t-", "app_id is given under another name, which only some applications take for it"),
    ("app_id=s3cr3t-", f"app_id {NOT_IN}"),
]


@pytest.mark.parametrize(("query", "expected"), PARAMETERS)
def test_the_reason_for_a_parameter(query: str, expected: str) -> None:
    assert reason(Key(), lambda _: None, (query.encode(), b"")) == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (HEADER, None, "X-Api-Key is missing or empty"),
        (HEADER, b" ", "X-Api-Key is missing or empty"),
        (HEADER, b"s3cr3t-, x", "X-Api-Key is given twice, or has a comma"),
        (HEADER, b"s3cr3t-", f"X-Api-Key {NOT_IN}"),
        (LOGIN, BASIC, "Authorization is not the canonical base64 of a name, a colon and a password"),
        (LOGIN, b"Bearer s3cr3t-\xff", "Authorization is not a token (RFC 6750)"),
        (LOGIN, b"Bearer eyJ.s3cr3t-~", "Authorization is not the canonical base64url of a JSON web"),
        (LOGIN, b"Bearer", "Authorization has a scheme without credentials"),
        (LOGIN, b'X s="s3cr3t-"', "Authorization has parameters, which have several spellings"),
        (LOGIN, b"Basic OnMzY3IzdC0=", "Authorization has an empty name"),
        ("env:REMOTE_USER", None, "REMOTE_USER is missing or empty"),
        ("env:REMOTE_USER", b"s3cr3t-", f"REMOTE_USER {NOT_IN}"),
    ],
)
def test_the_reason_for_a_header_or_a_variable(key: str, value: bytes | None, expected: str) -> None:
    """The log masks what looks like a secret; a reason must pass unchanged."""
    it = Key(key)
    environ = {} if value is None else {it.variable: value}
    found = reason(it, environ.get, ())
    assert found.startswith(expected)
    assert SECRET.decode() not in found
    assert mask(f"Unauthorized: {found}") == f"Unauthorized: {found}"
    assert (it.find(environ.get) is None) is (NOT_IN not in found)


@pytest.mark.parametrize("query", [b"", b"app_id=acme"])
def test_a_form_that_could_not_be_read_is_a_reason_if_nothing_else_is(query: bytes) -> None:
    environ = {b"QUERY_STRING": query}
    found = reason_of_cgi(environ, b"", "it ended early")
    why = "app_id is missing, and the form could not be read: it ended early"
    assert found == (f"app_id {NOT_IN}" if query else why)


def test_a_reason_that_cannot_be_found_again_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """The request was answered already, and the rules may have changed since then."""
    environ = {b"LIMITER_RULES": b"/nowhere/rules", b"LIMITER_LOG_LEVEL": b"warning"}
    report_denial(
        "401 Unauthorized", b"warning", lambda: environ, lambda: reason_of_cgi(environ, b"", "")
    )
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["reason"].startswith("Unauthorized: ValueError: LIMITER_RULES=")


def test_the_reason_of_a_cgi_request_is_that_under_its_settings() -> None:
    environ = {b"LIMITER_KEY": b"header:X-Api-Key", b"QUERY_STRING": b"app_id=acme"}
    assert reason_of_cgi(environ, b"", "") == "X-Api-Key is missing or empty"
    assert reason_of_cgi({b"QUERY_STRING": b"app_id=1"}, b"app_id=1", "") == f"app_id {TWICE}"
