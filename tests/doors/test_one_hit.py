"""One request, one hit: an inner door leaves alone what an outer door has counted."""

from __future__ import annotations

from typing import Any

import pytest

from limiter import Limiter
from limiter.request.long_running import LongRunningGate
from tests.doors.doors import DOORS, THROUGH, Door
from tests.doors.middlewares import doors
from tests.doors.test_contract import settings_of

__all__ = ["doors"]


def statuses(doors: Any, app: Any, number: int, query: str = "app_id=acme") -> list[int]:
    return [doors.ask(app, query)[0] for _ in range(number)]


def test_two_doors_with_one_policy_count_a_request_once(doors: Any) -> None:
    """The header fields are there once, and the application finds the decision."""
    app = doors.door(doors.door(doors.application))
    assert doors.ask(app) == (200, ['"3-per-3600s";q=3;w=3600'])
    assert doors.decision.remaining == 2
    assert statuses(doors, app, 3) == [200, 200, 429]


def test_a_request_is_counted_once_even_with_a_given_limiter_and_other_spellings(
    doors: Any, root: str
) -> None:
    app = doors.door(doors.door(doors.application), Limiter(root, "3 per 60 minutes"))
    assert statuses(doors, app, 4) == [200, 200, 200, 429]


def test_two_doors_with_different_limits_count_both(doors: Any, root: str) -> None:
    app = doors.door(doors.door(doors.application), Limiter(root, "5/day"))
    assert doors.ask(app) == (200, ['"3-per-3600s";q=3;w=3600', '"5-per-86400s";q=5;w=86400'])
    assert statuses(doors, app, 3) == [200, 200, 429]
    assert Limiter(root, "5/day").peek("acme").remaining == 1


def test_two_doors_with_different_keys_count_both(doors: Any, root: str) -> None:
    app = doors.door(doors.door(doors.application), key="header:X-User")
    assert statuses(doors, app, 4) == [200, 200, 200, 429]
    assert {Limiter(root, "3/hour").peek(it).remaining for it in ("acme", "ann")} == {0}


def test_two_rules_with_different_names_count_both(doors: Any, root: str) -> None:
    app = doors.door(doors.door(doors.application, rules=["/ * in=2/hour"]), rules=["/ * out=2/hour"])
    assert statuses(doors, app, 3) == [200, 200, 429]
    assert Limiter(root, "in=2/hour").peek("acme").remaining == 0


def test_an_outer_door_that_only_watches_does_not_spare_the_inner_one(
    doors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = doors.door(doors.application, rules=["/ * 1/hour"])
    app = doors.door(inner, rules=["/ * 9/hour mode=shadow"])
    assert statuses(doors, app, 2) == [200, 429]


def test_requests_after_each_other_are_counted_each(doors: Any) -> None:
    app = doors.door(doors.door(doors.application))
    assert statuses(doors, app, 4) == [200, 200, 200, 429]


# Doors behind Apache's map


NAMES = ["check", "guard", "action", "wsgi"]


@pytest.fixture(params=NAMES)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


def counted(settings: dict[str, str], app_id: str = "acme") -> dict[str, str]:
    """Return the settings and the variable that Apache's map sets."""
    environ = {name.encode(): it.encode() for name, it in settings.items()}
    return {**settings, "LIMITER_COUNTED": LongRunningGate(environ).policy(app_id)}


def test_what_the_map_has_counted_is_not_counted_again(door: Door, store: str) -> None:
    settings = settings_of(store)
    answers = [door.send(counted(settings)) for _ in range(3)]
    assert [(it.status, "ratelimit" in it.fields, it.log) for it in answers] == 3 * [("200", False, [])]
    assert Limiter(store, "2/hour").peek("acme").remaining == 2


@pytest.mark.parametrize(
    "change",
    [
        {"LIMITER_LIMIT": "3/hour"},
        {"LIMITER_KEY": "header:X-Id"},
        {"LIMITER_NODES": "2"},
        {"LIMITER_COUNTED": ""},
        {"LIMITER_COUNTED": "acme"},
    ],
)
def test_what_the_map_has_counted_otherwise_is_counted(
    door: Door, store: str, change: dict[str, str]
) -> None:
    answer = door.send({**counted(settings_of(store)), **change}, fields={"X-Id": "ann"})
    assert (answer.status, "ratelimit" in answer.fields) == ("200", True)


def test_what_the_map_has_counted_for_another_client_is_counted(door: Door, store: str) -> None:
    assert "ratelimit" in door.send(counted(settings_of(store), "other")).fields


def test_the_map_cannot_answer_for_who_has_no_app_id(door: Door, store: str) -> None:
    assert door.send(counted(settings_of(store)), "").status == "401"


def test_a_client_cannot_say_that_it_was_counted(door: Door, store: str) -> None:
    """Its header fields arrive as HTTP_..."""
    settings = settings_of(store)
    name = counted(settings)["LIMITER_COUNTED"]
    fields = {"Limiter-Counted": name, "LIMITER_COUNTED": name, "REDIRECT_STATUS": "404"}
    got = [door.send(settings, fields=fields).status for _ in range(3)]
    assert got == ["200", "200", "429"]


@pytest.mark.parametrize("status", ["404", "403", "500"])
@pytest.mark.parametrize("name", ["guard", "action", "wsgi"])
def test_an_error_document_is_not_judged(name: str, store: str, status: str) -> None:
    """Its request has been answered: without an app_id, a 404 would become a 401."""
    variable = "REDIRECT_REDIRECT_STATUS" if name == "action" else "REDIRECT_STATUS"
    door = DOORS[name]
    answer = door.send({**settings_of(store), variable: status}, "")
    assert (answer.status, answer.body, answer.log) == ("200", THROUGH, [])


@pytest.mark.parametrize("name", ["guard", "action", "wsgi"])
def test_a_request_that_apache_redirected_without_an_error_is_judged(name: str, store: str) -> None:
    variable = "REDIRECT_REDIRECT_STATUS" if name == "action" else "REDIRECT_STATUS"
    assert DOORS[name].send({**settings_of(store), variable: "200"}, "").status == "401"
