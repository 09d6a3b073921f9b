"""The response: every byte, and the fields as structured fields."""

from __future__ import annotations

import math

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.hit import Decision, View
from limiter.core.limit import SECOND
from limiter.core.notation import parse
from limiter.request.response import (
    INTERNAL_SERVER_ERROR,
    OK,
    TOO_MANY_REQUESTS,
    UNAUTHORIZED,
    answer,
    body,
    fields,
    header,
    standings,
)

NOW = 1_513_123_456 * SECOND


def decide(text: str, used: int, following: int, retry_after: float = 0.0) -> Decision:
    """Return a decision: each limit has counted ``used`` hits, the first of them until ``following``."""
    views = []
    for limit in parse(text):
        view = View(limit, {})
        view.now, view.used, view.next = NOW, used, following
        views.append(view)
    return Decision(not retry_after, retry_after, views, NOW, 0)


ALLOWED = decide("10/second", 7, 300_000)
DENIED = decide("10/second", 10, 300_000, 0.3)

REST = b"Content-Type: application/json; charset=utf-8\nCache-Control: no-store\n\n"
POLICY = b'RateLimit-Policy: "10-per-1s";q=10;w=1\n'


@pytest.mark.parametrize(
    ("status", "decision", "head", "message"),
    [
        (
            OK,
            ALLOWED,
            b"Status: 200 OK\n" + POLICY + b'RateLimit: "10-per-1s";r=3;t=1\n',
            b'{"message": "OK"}',
        ),
        (OK, None, b"Status: 200 OK\n", b'{"message": "OK"}'),
        (
            UNAUTHORIZED,
            None,
            b'Status: 401 Unauthorized\nWWW-Authenticate: AppId realm="limiter"\n',
            b'{"message": "Unauthorized"}',
        ),
        (
            TOO_MANY_REQUESTS,
            DENIED,
            b"Status: 429 Too Many Requests\n"
            + POLICY
            + b'RateLimit: "10-per-1s";r=0;t=1\nRetry-After: 1\n',
            b'{"message": "Too Many Requests"}',
        ),
        (
            INTERNAL_SERVER_ERROR,
            None,
            b"Status: 500 Internal Server Error\n",
            b'{"message": "Internal Server Error"}',
        ),
    ],
)
def test_answers(status: str, decision: Decision | None, head: bytes, message: bytes) -> None:
    """The whole response, byte for byte; the answer to HEAD lacks only the body."""
    assert answer(status, decision, False) == head + REST + message
    assert answer(status, decision, True) == head + REST
    # For those doors that need the parts.
    assert header([("Status", status), *fields(status, decision)]) + b"\n" == head + REST
    assert body(status) == message


@pytest.mark.parametrize(
    ("text", "policy", "standing"),
    [
        ("10/second", '"10-per-1s";q=10;w=1', '"10-per-1s";r=3;t=1'),
        ("10/2 hours fixed", '"10-per-7200s-fixed";q=10;w=7200', '"10-per-7200s-fixed";r=3;t=1'),
        ("5/second burst 21", '"5-per-1s-burst-21";q=21;w=5', '"5-per-1s-burst-21";r=14;t=1'),
        ("3/second burst 7", '"3-per-1s-burst-7";q=7;w=3', '"3-per-1s-burst-7";r=0;t=1'),
        ("100/second burst 8", '"100-per-1s-burst-8";q=8;w=1', '"100-per-1s-burst-8";r=1;t=1'),
        (
            "10/second;1000/day",
            '"10-per-1s";q=10;w=1, "1000-per-86400s";q=1000;w=86400',
            '"10-per-1s";r=3;t=1, "1000-per-86400s";r=993;t=1',
        ),
        (
            "999999999999999/day fixed",
            '"999999999999999-per-86400s-fixed";q=999999999999999;w=86400',
            '"999999999999999-per-86400s-fixed";r=999999999999992;t=1',
        ),
    ],
)
def test_fields(text: str, policy: str, standing: str) -> None:
    """The limits come in the order in which they are configured."""
    decision = decide(text, 7, 1)
    assert standings(decision) == [("RateLimit-Policy", policy), ("RateLimit", standing)]


@pytest.mark.parametrize(
    ("microseconds", "seconds"),
    [
        (0, 1),
        (1, 1),
        (999_999, 1),
        (1_000_000, 1),
        (1_000_001, 2),
        (1_999_999, 2),
        (59_000_001, 60),
        (60_000_000, 60),
        (3660 * 86400 * SECOND - 1, 3660 * 86400),
        (3660 * 86400 * SECOND, 3660 * 86400),
    ],
)
def test_seconds_are_rounded_up(microseconds: int, seconds: int) -> None:
    """Both fields with a time hold whole seconds: at least 1, and never too early."""
    decision = decide("10/minute", 10, microseconds, microseconds / SECOND or 1e-6)
    lines = answer(TOO_MANY_REQUESTS, decision, True).decode().splitlines()
    assert lines[2] == f'RateLimit: "10-per-60s";r=0;t={seconds}'
    assert lines[3] == f"Retry-After: {seconds}"


@pytest.mark.parametrize(("text", "seconds"), [("0/second", 1), ("0/hour", 3600), ("0/hour;5/day", 86400),
                                               ("0/second;100/second burst 8", 1)])  # fmt: skip
def test_never_is_the_longest_window(text: str, seconds: int) -> None:
    """The field must hold a number, and the limit may be changed later."""
    decision = decide(text, 0, 0, math.inf)
    assert b"\nRetry-After: %d\n" % seconds in answer(TOO_MANY_REQUESTS, decision, True)


def test_nothing_used_is_reset_in_a_second() -> None:
    """It is never 0: some clients would retry at once, again and again."""
    assert b";r=10;t=1\n" in header(standings(decide("10/minute", 0, 0)))


kinds = st.sampled_from(["", " fixed", " burst 7", " burst 999"])
one = st.builds(
    "{}/{} {}{}".format, st.integers(0, 10_000), st.integers(1, 99), st.sampled_from("smh"), kinds
)


@given(st.lists(one, min_size=1, max_size=4), st.integers(0, 10_000), st.integers(0, 10**13))
def test_fields_are_structured_field_lists(texts: list[str], used: int, following: int) -> None:
    """As RFC 9651 defines them: strings with integer parameters, with the same limits in both fields."""
    by_name = {parse(text)[0].name: text for text in texts}
    limits = parse(";".join(by_name.values()))
    decision = decide(";".join(by_name.values()), used, following if used else 0)
    policy_line, standing_line = header(standings(decision)).splitlines()
    name, _, policy = policy_line.partition(b": ")
    assert name == b"RateLimit-Policy"
    assert http_sf.parse(policy, tltype="list") == [
        (limit.name, {"q": limit.quota, "w": math.ceil(limit.window / SECOND)}) for limit in limits
    ]
    name, _, standing = standing_line.partition(b": ")
    assert name == b"RateLimit"
    assert http_sf.parse(standing, tltype="list") == [
        (
            limit.name,
            {"r": max(0, limit.quota - used), "t": max(1, -(-following // SECOND)) if used else 1},
        )
        for limit in limits
    ]
