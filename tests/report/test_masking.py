"""Masking: text that looks like a secret is masked, and all other text stays."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from time import process_time

import pytest

from limiter.report.masking import mask, mask_query

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("query", "masked"),
    [
        ("", ""),
        ("app_id=acme&id=1&page=2&q=3&limit=4&user=5", "app_id=acme&id=1&page=2&q=3&limit=4&user=5"),
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
        ("x=Bearer+hunter2hunter2", "x=***"),
        ("Bearer+hunter2hunter2", "***"),
        ("x=a+b&&;y=1+2", "x=a+b&&;y=1+2"),
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
        ("postgres://a@b:hunter2@db/x", "postgres://***@db/x"),
        ("password='hunter2 hunter2", "password=***"),
        ('token: "hunter2\nhunter2', "token: ***"),
        ("-" + TOKEN, "-***"),
        ("eyJ-eyJhbGciOiJI no token", "eyJ-eyJhbGciOiJI no token"),
        ("/reset?token=hunter2&x=1", "/reset?token=***&x=1"),
    ],
)
def test_secrets_of_a_text(text: str, masked: str) -> None:
    assert mask(text) == masked


# Each is something that a part of a pattern can match any number of times.
PARTS = [
    *(
        "a",
        "a.",
        "a://",
        "://b",
        "eyJ-",
        "eyJ.",
        "eyJa.a-",
        "Bearer ",
        "bearer",
        " ",
        "token",
        "token =",
    ),
    *('token="', "token='\\", 'token="\\\n', "secret' key \"", "&", "a=b&", "%41"),
]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("function", [mask, mask_query])
def test_the_work_grows_no_faster_than_the_text(function: Callable[[str], str], part: str) -> None:
    """64 times the text takes about 64 times the CPU time; 4096 times if parts are read again."""

    def work(size: int) -> float:
        text = (part * size)[:size]
        return min(timeit.repeat(lambda: function(text), timer=process_time, number=1))

    assert work(32_000) < 512 * work(500)
