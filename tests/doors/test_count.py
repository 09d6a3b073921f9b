"""Rules with count=: only answers with these statuses count."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import limiter.asgi
import limiter.wsgi
from limiter import Limiter
from limiter.request.register import put
from tests.doors.doors import DOORS
from tests.doors.middlewares import Asgi, Doors, doors
from tests.doors.test_contract import check_one_line, settings_of

__all__ = ["doors"]

RULE = "/ * 3/hour count=401,5xx"


def statuses(doors: Doors, app: Any, *answers: str) -> list[int]:
    """Return what the client gets for requests that the application would answer so."""
    got = []
    for doors.status in answers:
        got.append(doors.ask(app)[0])
    return got


def remaining(root: str, limits: str = "3/hour") -> int:
    return Limiter(root, limits).peek("acme").remaining


def test_only_answers_with_these_statuses_count(doors: Any, root: str) -> None:
    app = doors.door(doors.application, rules=[RULE])
    sent = ["200 OK", "401 No", "404 No", "401 No", "200 OK", "503 No", "200 OK"]
    assert statuses(doors, app, *sent) == [200, 401, 404, 401, 200, 503, 429]
    assert (doors.calls, remaining(root)) == (6, 0)


def test_other_answers_write_nothing(doors: Any, root: str) -> None:
    app = doors.door(doors.application, rules=[RULE])
    assert statuses(doors, app, *5 * ["200 OK"]) == 5 * [200]
    assert os.listdir(root) == []


def test_a_denied_request_is_not_counted_again(doors: Any, root: str) -> None:
    app = doors.door(doors.application, rules=["/ * 1/hour count=429"])
    assert statuses(doors, app, "429 No", "429 No", "200 OK") == [429, 429, 429]
    assert doors.calls == 1


def test_the_fields_show_what_remains_after_the_answer(doors: Any) -> None:
    app = doors.door(doors.application, rules=[RULE])
    shown = []
    for doors.status in ("200 OK", "401 No", "200 OK"):
        fields = dict(doors.answer(app, "app_id=acme", "/")[1])
        shown.append((fields["ratelimit-policy"], fields["ratelimit"].partition(";t=")[0]))
    policy = '"3-per-3600s";q=3;w=3600'
    assert shown == [(policy, f'"3-per-3600s";r={left}') for left in (3, 2, 2)]


def test_at_most_the_requests_under_way_at_once_go_beyond(doors: Any, root: str) -> None:
    """Four failing requests are under way when the first of them is counted; the limit is two."""
    app = doors.door(doors.application, rules=["/ * 2/hour count=401"])
    doors.status = "401 No"
    got = []

    def another() -> None:
        if doors.calls < 4:
            got.append(doors.ask(app)[0])

    doors.before = another
    if isinstance(doors, Asgi):
        got = asyncio.run(_at_once(doors, app, 4))
    else:
        got.append(doors.ask(app)[0])
    assert got == 4 * [401]
    assert remaining(root, "2/hour") == 0
    assert doors.ask(app)[0] == 429
    assert doors.calls == 4


async def _at_once(doors: Asgi, app: Any, number: int) -> list[int]:
    """Send so many requests.  Each waits for all others before it answers."""
    doors.before = int
    barrier = asyncio.Event()
    arrived = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == number:
            barrier.set()
        await barrier.wait()
        await doors.application(scope, receive, send)

    app._app = application
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message.get("status"))

    scope = {"type": "http", "query_string": b"app_id=acme", "headers": [], "path": "/"}
    await asyncio.gather(*[app(scope, None, send) for _ in range(number)])
    app._app = doors.application
    return [status for status in sent if status]


def test_shadow_mode_counts_and_logs_but_admits(doors: Any, root: str) -> None:
    app = doors.door(doors.application, rules=[f"{RULE} mode=shadow"])
    assert statuses(doors, app, *5 * ["401 No"]) == 5 * [401]
    assert remaining(root) == 0


def test_a_register_may_have_the_limits(
    doors: Any, apps: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(apps, "acme", "1/day")
    monkeypatch.setenv("LIMITER_APPS", apps)
    app = doors.door(doors.application, rules=["/ * register count=401"])
    assert statuses(doors, app, "200 OK", "401 No", "200 OK") == [200, 401, 429]
    put(apps, "acme", "unlimited")
    assert statuses(doors, app, "401 No", "401 No") == [401, 401]


def test_a_new_client_that_could_not_be_counted_is_denied(
    doors: Any, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever invents names faster than the store takes them in would never be counted."""
    monkeypatch.setenv("LIMITER_NEWCOMERS", "1/hour")
    app = doors.door(doors.application, rules=[RULE])
    assert statuses(doors, app, "401 No", "401 No") == [401, 401]
    assert doors.ask(app, "app_id=other")[0] == 429
    assert doors.ask(app)[0] == 401


def test_a_store_that_fails_after_the_answer_is_logged_and_the_answer_stays(
    doors: Any, root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    app = doors.door(doors.application, rules=[RULE])
    doors.status = "401 No"
    os.rmdir(root)
    doors.before = lambda: os.rmdir(root)
    os.mkdir(root)
    try:
        assert doors.ask(app)[0] == 401
    finally:
        os.mkdir(root)
    (line,) = doors.log + capfd.readouterr().err.splitlines()
    assert "StoreError: [Errno 2] The store does not exist" in line


def test_two_doors_with_one_rule_count_a_failure_once(doors: Any, root: str) -> None:
    app = doors.door(doors.door(doors.application, rules=[RULE]), rules=[RULE])
    assert statuses(doors, app, *4 * ["401 No"]) == [401, 401, 401, 429]


def test_a_response_that_wsgi_replaces_counts_once(root_only: None, root: str) -> None:
    def application(_: Any, start_response: Any) -> list[bytes]:
        for status in ("200 OK", "500 No", "503 No"):
            start_response(status, [])
        return []

    app = limiter.wsgi.RateLimit(application, rules=[RULE])
    environ = {"REQUEST_METHOD": "GET", "QUERY_STRING": "app_id=acme", "PATH_INFO": "/"}
    app(environ, lambda *_: lambda _: None)
    assert remaining(root) == 2


@pytest.mark.parametrize(
    ("messages", "left"),
    [
        (["websocket.accept", "websocket.close"], 3),
        (["websocket.close"], 2),
        (["websocket.http.response.start"], 2),
    ],
)
def test_a_websocket_that_is_refused_has_the_status_403(
    root_only: None, root: str, messages: list[str], left: int
) -> None:
    async def application(_: Any, __: Any, send: Any) -> None:
        for kind in messages:
            await send({"type": kind, "status": 403} if "http" in kind else {"type": kind})

    async def send(_: Any) -> None:
        pass

    app = limiter.asgi.RateLimit(application, rules=["/ * 3/hour count=403"])
    scope = {"type": "websocket", "query_string": b"app_id=acme", "headers": [], "path": "/"}
    asyncio.run(app(scope, None, send))  # type: ignore[arg-type]
    assert remaining(root) == left


@pytest.mark.parametrize("name", ["check", "guard", "action"])
@pytest.mark.parametrize("query", ["app_id=acme", ""])
def test_a_door_that_sees_no_status_refuses_such_a_rule(
    name: str, store: str, place: Any, query: str
) -> None:
    (place / "rules").write_text(RULE)
    answer = DOORS[name].send(settings_of(store, RULES=f"{place}/rules"), query, path="/x")
    assert (answer.status, os.listdir(store)) == ("500", [])
    check_one_line(answer, f"ValueError: rule '{RULE}': count= needs", "LIMITER_SUPERVISE=1")
