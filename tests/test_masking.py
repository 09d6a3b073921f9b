"""Masking: what looks like a secret is not told, and the rest is."""

from __future__ import annotations

import pytest

from limiter.masking import is_secret, mask, mask_query

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("query", "masked"),
    [
        ("", ""),
        ("app_id=acme&page=2", "app_id=acme&page=2"),
        ("token=hunter2", "token=***"),
        ("access_token=hunter2&page=2", "access_token=***&page=2"),
        ("page=2;API-KEY=hunter2;x=1", "page=2;API-KEY=***;x=1"),
        ("acc%65ss%5Ft%6fken=hunter2", "acc%65ss%5Ft%6fken=***"),
        ("password=hunter2=hunter2", "password=***"),
        ("code=hunter2&state=1", "code=***&state=1"),
        ("PHPSESSID=hunter2", "PHPSESSID=***"),
        ("X-Amz-Signature=hunter2", "X-Amz-Signature=***"),
        ("user[secret]=hunter2", "user[secret]=***"),
        ("token=", "token="),
        ("token", "token"),
        ("next=%2Fin%3Ftoken%3Dhunter2", "next=***"),
        ("to=https%3A%2F%2Fme%3Ahunter2%40example.org", "to=***"),
        (f"x={TOKEN}", "x=***"),
        (TOKEN, "***"),
    ],
)
def test_secrets_of_a_query(query: str, masked: str) -> None:
    assert mask_query(query) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("KeyError: 'app'", "KeyError: 'app'"),
        ("status code: 500, exit code=3", "status code: 500, exit code=3"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: *** ***"),
        ("sent 'Bearer hunter2hunter2'", "sent 'Bearer ***'"),
        ("basic aHVudGVyMg==", "basic ***"),
        ("password='hunter 2' of me", "password=*** of me"),
        ('{"api_key": "hunter2", "n": 1}', '{"api_key": ***, "n": 1}'),
        ("DSN postgres://me:hunter2@db/x failed", "DSN postgres://***@db/x failed"),
        (f"bad token {TOKEN}!", "bad token ***!"),
        ("/reset?token=hunter2&x=1", "/reset?token=***&x=1"),
    ],
)
def test_secrets_of_a_text(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize("name", ["app_id", "id", "page", "q", "limit", "user"])
def test_ordinary_names_are_no_secrets(name: str) -> None:
    assert not is_secret(name)
