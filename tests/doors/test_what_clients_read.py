"""What clients read at all doors: which header fields, and a message or problem details."""

from __future__ import annotations

import json
import time

import pytest

from tests.doors.doors import DOORS, Door
from tests.doors.test_contract import settings_of

DRAFT = {"ratelimit-policy", "ratelimit"}
X = {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
TYPES = "https://iana.org/assignments/http-problem-types#"


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [("draft", DRAFT), ("x-ratelimit", X), ("both", DRAFT | X), ("none", set())],
)
def test_the_fields_are_those_that_the_settings_ask_for(
    door: Door, store: str, headers: str, expected: set[str]
) -> None:
    settings = settings_of(store, LIMIT="1/hour", HEADERS=headers)
    for status in ("200", "429"):
        answer = door.send(settings)
        assert answer.status == status
        assert {name for name in answer.fields if "ratelimit" in name} == expected
        assert ("retry-after" in answer.fields) == (status == "429")


def test_x_ratelimit_has_the_limit_with_the_fewest_hits_left(door: Door, store: str) -> None:
    """Its reset is Unix time: when there are more."""
    settings = settings_of(store, LIMIT="9/minute;2/hour;5/day", HEADERS="x-ratelimit")
    begin = time.time()
    answers = [door.send(settings) for _ in range(3)]
    end = time.time()
    for answer, remaining in zip(answers, ("1", "0", "0")):
        assert answer.fields["x-ratelimit-limit"] == "2"
        assert answer.fields["x-ratelimit-remaining"] == remaining
        assert begin + 3600 <= int(answer.fields["x-ratelimit-reset"]) <= end + 3601


def test_what_is_denied_gets_problem_details_if_asked(door: Door, store: str) -> None:
    settings = settings_of(store, LIMIT="1/hour;login=1/day;5/day", PROBLEM="1")
    exceeded = {
        "type": f"{TYPES}quota-exceeded",
        "title": "Quota Exceeded",
        "violated-policies": ["1-per-3600s", "login"],
        "status": 429,
    }
    reduced = {
        "type": f"{TYPES}temporary-reduced-capacity",
        "title": "Temporary Reduced Capacity",
        "status": 500,
    }
    unauthorized = {"type": "about:blank", "title": "Unauthorized", "status": 401}
    mistaken = {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    assert door.send(settings).status == "200"
    for given, query, expected in (
        (settings, "app_id=acme", exceeded),
        (settings, "", unauthorized),
        ({**settings, "LIMITER_ROOT": f"{store}/missing"}, "app_id=acme", reduced),
        ({**settings, "LIMITER_LIMIT": "many"}, "app_id=acme", mistaken),
    ):
        answer = door.send(given, query)
        assert answer.status == str(expected["status"])
        assert json.loads(answer.body) == expected
        if door.name != "rewritemap":
            assert answer.fields["content-type"] == "application/problem+json"


@pytest.mark.parametrize("problem", ["0", ""])
def test_a_message_is_the_default(door: Door, store: str, problem: str) -> None:
    answer = door.send(settings_of(store, PROBLEM=problem), "")
    message = b"" if door.name == "rewritemap" else b'{"message": "Unauthorized"}'
    assert (answer.status, answer.body) == ("401", message)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("HEADERS", "X-RateLimit", "'draft' or 'x-ratelimit' or 'both' or 'none'"),
        ("PROBLEM", "yes", "'0' or '1'"),
        ("JITTER", "1.5", "a whole number from 1 to 3600"),
        ("JITTER", "3601", "a whole number from 1 to 3600"),
    ],
)
def test_a_mistake_in_these_settings_gets_500(
    door: Door, store: str, name: str, text: str, expected: str
) -> None:
    answer = door.send(settings_of(store, **{name: text}))
    assert answer.status == "500"
    (line,) = answer.log
    assert line == f"limiter: ValueError: LIMITER_{name}={text!r}: expected {expected}"


@pytest.mark.parametrize(
    ("limit", "more"),
    [("1/hour fixed", 5), ("1/hour", 0), ("1/hour burst 1", 0), ("9/hour fixed;1/hour", 0)],
)
def test_jitter_is_for_fixed_windows_that_are_full(
    door: Door, store: str, monkeypatch: pytest.MonkeyPatch, limit: str, more: int
) -> None:
    monkeypatch.setattr("limiter.request.jitter.urandom", lambda size: (13).to_bytes(size, "big"))
    settings = settings_of(store, LIMIT=limit, JITTER="7")
    answers = [door.send(settings) for _ in range(2)]
    answer = answers[-1]
    assert [it.status for it in answers] == ["200", "429"]
    reset = int(answer.fields["ratelimit"].rpartition("t=")[2])
    assert int(answer.fields["retry-after"]) == reset + more
