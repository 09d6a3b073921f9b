"""Rules at every door: the same file gives the same answers, whatever stands behind the door."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import limiter.asgi
from limiter import Limiter
from limiter.request.long_running import EXEMPT
from limiter.request.register import put
from limiter.request.rules_file import RulesFile
from tests.doors.doors import DOORS, Answer, Door, clients
from tests.doors.middlewares import doors
from tests.doors.test_contract import check_one_line, settings_of

__all__ = ["doors"]

RULES = """
# The first rule that matches decides.
/login POST login=1/hour key=env:REMOTE_ADDR
/api/ GET,PUT 2/hour
/static/ * exempt
^/v\\d+/x$ * "1 per 2 hours"
/seen * 0/hour mode=shadow
/off * 0/hour mode=off
"""

Ask = Callable[..., Answer]


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


@pytest.fixture
def file(place: Path) -> Path:
    """The file of rules."""
    file = place / "rules"
    file.write_text(RULES)
    file.chmod(0o644)
    return file


@pytest.fixture
def ask(door: Door, store: str, file: Path) -> Ask:
    """Send ``METHOD PATH`` to the door."""

    def ask(request: str, query: str = "app_id=acme", address: str = "192.0.2.1", **more: str) -> Answer:
        method, _, path = request.partition(" ")
        settings = settings_of(store, RULES=str(file), **more)
        return door.send(settings, query, method=method, address=address, path=path)

    return ask


def statuses(ask: Ask, *requests: str, **more: str) -> list[str]:
    """Return the statuses of these requests; none may log anything."""
    answers = [ask(request, **more) for request in requests]
    assert [answer.log for answer in answers] == [[] for _ in requests]
    return [answer.status for answer in answers]


def test_a_request_has_the_limits_of_the_first_rule_that_it_meets(ask: Ask) -> None:
    assert statuses(ask, *3 * ["GET /api/x"]) == ["200", "200", "429"]
    assert statuses(ask, "PUT /api/y", "HEAD /api") == ["429", "429"]
    assert statuses(ask, "GET /v1/x", "GET /v2/x") == ["200", "429"]


def test_a_rule_has_its_own_policy_and_key(ask: Ask, store: str) -> None:
    """No app_id is needed."""
    answer = ask("POST /login", "")
    assert answer.fields["ratelimit-policy"] == '"login";q=1;w=3600'
    assert statuses(ask, "POST /login/", "POST //login;x=y", query="") == ["429", "429"]
    assert statuses(ask, "POST /login", query="", address="192.0.2.2") == ["200"]
    assert clients(store) == ["192.0.2.1", "192.0.2.2"]


def test_a_request_that_meets_no_rule_is_judged_as_without_rules(ask: Ask) -> None:
    """Also one with another method."""
    got = statuses(ask, "GET /login", "POST /other", "DELETE /api/x")
    assert got == ["200", "200", "429"]
    assert statuses(ask, "GET /loginx", query="") == ["401"]


def test_an_exempt_request_is_not_counted_and_needs_no_app_id(ask: Ask, store: str) -> None:
    answers = [ask("GET /static/a.css", query) for query in ("", "app_id=acme", "app_id=..")]
    assert [(it.status, it.log, "ratelimit" in it.fields) for it in answers] == 3 * [("200", [], False)]
    assert os.listdir(store) == []


def test_the_mode_of_a_rule_replaces_the_setting(ask: Ask) -> None:
    answer = ask("GET /seen")
    assert answer.status == "200"
    assert answer.log == ["limiter: shadow: acme would have got 429 Too Many Requests"]
    assert statuses(ask, "GET /off") == ["200"]
    assert statuses(ask, "POST /login", "POST /login", MODE="off") == ["200", "200"]


def test_off_does_not_even_read_the_file(ask: Ask, file: Path) -> None:
    file.unlink()
    assert statuses(ask, "GET /x", "GET /api/..;/v1/x", MODE="off") == ["200", "200"]


def test_a_path_that_can_be_read_in_two_ways_gets_400(ask: Ask, store: str) -> None:
    """One application would take it for /login, another one for something below /api/."""
    answer = ask("GET /api/..;/v1/x")
    assert (answer.status, os.listdir(store)) == ("400", [])
    if answer.body:
        assert answer.body == b'{"message": "Bad Request"}'
    (line,) = ask("GET /api/..;/v1/x", LOG_LEVEL="warning").log
    assert '"status": 400, "reason": "Bad Request"' in line


@pytest.mark.parametrize("path", ["/static/..;/v1/x", "/static/%2e%2e;/v1/x"])
def test_what_may_be_read_as_a_limited_path_is_not_exempt(ask: Ask, path: str) -> None:
    assert statuses(ask, f"GET {path}", "GET /v1/x") == ["200", "429"]


def test_with_a_register_a_rule_has_its_own_limits_for_those_who_are_known(
    ask: Ask, file: Path, apps: str
) -> None:
    """An unlimited client stays unlimited."""
    file.write_text("/own * register\n/ * 1/day")
    put(apps, "acme", "2/day")
    assert statuses(ask, "GET /x", "GET /x", APPS=apps) == ["200", "429"]
    assert statuses(ask, *3 * ["GET /own"], APPS=apps) == ["200", "200", "429"]
    assert statuses(ask, "GET /x", APPS=apps, query="app_id=other") == ["401"]
    put(apps, "acme", "unlimited")
    assert statuses(ask, *2 * ["GET /x"], APPS=apps) == ["200", "200"]


@pytest.mark.parametrize("request_line", ["GET /api/x", "GET /static/x", "GET /other"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file or directory"),
        ("", "expected at least one rule"),
        (f"{RULES}\n/x GET 1/fortnight", ":10:10: limit '1/fortnight': expected a unit"),
        (f"{RULES}\n/x GET 1/hour key=no:such", ":10:19: key 'no:such'"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_500_with_the_reason(
    ask: Ask, store: str, file: Path, request_line: str, text: str | None, why: str
) -> None:
    """Never "no rules", whatever LIMITER_ON_ERROR says."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    answer = ask(request_line, ON_ERROR="admit")
    assert answer.status == "500"
    assert f"LIMITER_RULES={file}" in answer.log[0]
    check_one_line(answer, "", why)
    assert os.listdir(store) == []


def test_a_store_that_fails_gets_the_status_of_the_settings(ask: Ask, door: Door, store: str) -> None:
    missing = f"{store}/missing"
    answer = ask("GET /api/x", ROOT=missing)
    assert answer.status == "500"
    check_one_line(answer, "StoreError: [Errno 2] The store does not exist", missing)
    assert ask("GET /api/x", ROOT=missing, ON_ERROR="admit").status == "200"
    if door.name != "rewritemap":  # as root, that reads no request without a store
        assert statuses(ask, "GET /static/x", ROOT=missing) == ["200"]


def test_a_secret_key_of_a_rule_is_masked(ask: Ask, file: Path) -> None:
    file.write_text("/ * 0/hour key=api_key mode=shadow")
    answer = ask("GET /x", "api_key=sk-live-1")
    assert answer.log == ["limiter: shadow: *** would have got 429 Too Many Requests"]


def test_nodes_have_their_share_of_a_rule(ask: Ask) -> None:
    answer = ask("GET /api/x", NODES="2")
    assert answer.fields["ratelimit-policy"] == '"1-per-3600s";q=1;w=3600'


def test_two_rules_with_the_same_limits_share_a_budget_unless_they_are_named(
    ask: Ask, file: Path, store: str
) -> None:
    file.write_text("/a * 1/hour\n/b * 1/hour\n/c * c=1/hour\n")
    assert statuses(ask, "GET /a", "GET /b", "GET /c") == ["200", "429", "200"]
    assert Limiter(store, "c=1/hour").peek("acme").remaining == 0


# The middlewares


def test_rules_may_be_given_in_python(doors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They replace the file."""
    monkeypatch.setenv("LIMITER_RULES", "/nowhere")
    app = doors.door(doors.application, rules=["/a * 1/hour", "/b * exempt"])
    got = [doors.ask(app, path=path)[0] for path in ("/a", "/a", "/b", "/b", "/c")]
    assert got == [200, 429, 200, 200, 200]
    assert doors.ask(app, "", "/b") == (200, [])
    assert doors.ask(app, "", "/c")[0] == 401


def test_without_rules_in_python_the_file_applies_and_is_followed(
    doors: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(RulesFile.__init__, "__defaults__", (lambda: now[0],))
    monkeypatch.setenv("LIMITER_RULES", str(file))
    app = doors.door(doors.application)
    assert doors.ask(app, path="/v1/x")[1] == ['"1-per-7200s";q=1;w=7200']
    file.write_text("/ * 5/minute")
    now[0] += 1
    assert doors.ask(app, path="/v1/x")[1] == ['"5-per-60s";q=5;w=60']
    file.write_text("/ * 5/minut")
    now[0] += 1
    assert doors.ask(app, path="/v1/x")[1] == ['"5-per-60s";q=5;w=60']


def test_whom_a_key_function_exempts_is_not_limited(doors: Any) -> None:
    app = doors.door(doors.application, key=lambda _: EXEMPT, rules=["/ * 0/hour"])
    assert [doors.ask(app, "") for _ in range(3)] == 3 * [(200, [])]


def test_a_bad_rule_is_an_error_at_once(doors: Any) -> None:
    with pytest.raises(ValueError, match=r"^rules:2:7: found the end: expected limits$"):
        doors.door(doors.application, rules=["/ * exempt", "/a GET"])


def test_asgi_knows_the_path_with_its_root(root_only: None) -> None:
    """Servers differ in whether the path has it, too."""
    for path in ("/root/api", "/api"):
        assert limiter.asgi._path({"root_path": "/root", "path": path}) == "/root/api"
    assert limiter.asgi._path({"path": "/api"}) == "/api"
