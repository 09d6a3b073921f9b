"""The response: every byte, and the fields as structured fields."""

from __future__ import annotations

import math

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.decision import Decision, View
from limiter.core.limit import SECOND
from limiter.core.notation import parse
from limiter.request.response import TOO_MANY_REQUESTS, answer, standings

NOW = 1_513_123_456 * SECOND


def decide(text: str, used: int, following: int, retry_after: float = 0.0) -> Decision:
    """Return a decision: each limit has counted ``used`` hits, the first of them until ``following``."""
    views = []
    for limit in parse(text):
        view = View(limit, {}, {})
        view.now, view.used, view.next = NOW, used, following
        views.append(view)
    return Decision(not retry_after, retry_after, views, NOW, 0)


def test_every_byte_of_an_answer() -> None:
    """The answer to HEAD lacks only the body."""
    decision = decide("10/second;1000/day", 10, 300_000, 0.3)
    head = (
        b"Status: 429 Too Many Requests\n"
        b'RateLimit-Policy: "10-per-1s";q=10;w=1, "1000-per-86400s";q=1000;w=86400\n'
        b'RateLimit: "10-per-1s";r=0;t=1, "1000-per-86400s";r=990;t=1\n'
        b"Retry-After: 1\n"
        b"Content-Type: application/json; charset=utf-8\n"
        b"Cache-Control: no-store\n"
        b"\n"
    )
    assert answer(TOO_MANY_REQUESTS, decision, True) == head
    assert answer(TOO_MANY_REQUESTS, decision, False) == head + b'{"message": "Too Many Requests"}'


def test_a_policy_is_called_by_the_name_that_its_limit_has() -> None:
    found = dict(standings(decide("login=5/minute;100/hour", 1, SECOND)))
    assert found["RateLimit-Policy"] == '"login";q=5;w=60, "100-per-3600s";q=100;w=3600'
    assert found["RateLimit"] == '"login";r=4;t=1, "100-per-3600s";r=99;t=1'


DAYS = 3660 * 86400


@pytest.mark.parametrize(
    ("microseconds", "seconds"),
    [
        (0, 1),  # never 0: some clients would retry at once, again and again
        (999_999, 1),
        (1_000_000, 1),
        (1_000_001, 2),
        (60_000_000, 60),
        (DAYS * SECOND - 1, DAYS),
        (DAYS * SECOND, DAYS),
    ],
)
def test_seconds_are_rounded_up(microseconds: int, seconds: int) -> None:
    """Both fields with a time hold whole seconds: at least 1, and never too early."""
    decision = decide("10/minute", 10, microseconds, microseconds / SECOND or 1e-6)
    lines = answer(TOO_MANY_REQUESTS, decision, True).decode().splitlines()
    assert lines[2] == f'RateLimit: "10-per-60s";r=0;t={seconds}'
    assert lines[3] == f"Retry-After: {seconds}"


@pytest.mark.parametrize(
    ("limits", "seconds"), [("0/hour", 3600), ("0/hour;5/day", 86400), ("0/second;9/second burst 8", 1)]
)
def test_a_hit_that_is_never_allowed_may_be_retried_after_the_longest_window(
    limits: str, seconds: int
) -> None:
    """The field must hold a number, and the limit may be changed later."""
    decision = decide(limits, 0, 0, math.inf)
    assert b"\nRetry-After: %d\n" % seconds in answer(TOO_MANY_REQUESTS, decision, True)


kinds = st.sampled_from(["", " fixed", " burst 7", " burst 99"])
units = st.sampled_from("smh")
one = st.builds("{}/{} {}{}".format, st.integers(0, 10_000), st.integers(1, 99), units, kinds)
most = st.just("999999999999999/day fixed")


@given(st.lists(one | most, min_size=1, max_size=4), st.integers(0, 10_000), st.integers(0, 10**13))
def test_fields_are_structured_field_lists(texts: list[str], used: int, following: int) -> None:
    """As RFC 9651 defines them: strings with integer parameters, with the same limits in both fields."""
    text = ";".join({parse(text)[0].name: text for text in texts}.values())
    limits = parse(text)
    found = dict(standings(decide(text, used, following if used else 0)))
    assert http_sf.parse(found["RateLimit-Policy"].encode(), tltype="list") == [
        (limit.name, {"q": limit.quota, "w": math.ceil(limit.window / SECOND)}) for limit in limits
    ]
    seconds = max(1, -(-following // SECOND)) if used else 1
    assert http_sf.parse(found["RateLimit"].encode(), tltype="list") == [
        (limit.name, {"r": max(0, limit.quota - used), "t": seconds}) for limit in limits
    ]
