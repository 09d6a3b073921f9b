"""The ASGI door: in front of Starlette and FastAPI, and called as a bare server calls it."""

from __future__ import annotations

import asyncio
import errno
import os
import posix
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import fastapi
import pytest
import starlette.applications
import starlette.routing
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from limiter import Decision, Limiter
from limiter.asgi import _THREADS, RateLimit
from limiter.core.limit import clock
from limiter.request.register import put
from limiter.request.settings import NAMES
from tests.conftest import clean_environ
from tests.places import REPOSITORY
from tests.waiting import stand_still

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette recommends httpx2, which older versions do not know
    from starlette.testclient import TestClient, WebSocketDenialResponse

if TYPE_CHECKING:
    import httpx

    from limiter.asgi import Application, Message, Receive, Scope, Send

BODY = bytes(range(256)) * 1000
FIELDS = ("ratelimit-policy", "ratelimit")

CLIENT = ("192.0.2.1", 4711)


async def view(request: Request) -> Response:
    """Answers with the request's body and what it knows of the decision."""
    decision = request.scope["limiter.decision"]
    left = "nothing was counted" if decision is None else str(decision.remaining)
    return Response(await request.body(), headers={"X-Remaining": left})


async def socket_view(socket: WebSocket) -> None:
    """Accepts, and sends what it knows of the decision."""
    await socket.accept(headers=[(b"x-own", b"1")])
    await socket.send_text(str(socket.scope["limiter.decision"].remaining))
    await socket.close()


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    app.state.life = "begun"
    yield
    app.state.life = "ended"


def with_starlette() -> Any:
    return starlette.applications.Starlette(
        routes=[
            starlette.routing.Route("/", view, methods=["GET", "POST"]),
            starlette.routing.WebSocketRoute("/socket", socket_view),
        ],
        lifespan=lifespan,
    )


def with_fastapi() -> Any:
    app = fastapi.FastAPI(lifespan=lifespan)
    app.add_api_route("/", view, methods=["GET", "HEAD", "POST"])
    app.add_api_websocket_route("/socket", socket_view)
    return app


@pytest.fixture(params=[with_starlette, with_fastapi], ids=["starlette", "fastapi"])
def application(request: pytest.FixtureRequest) -> Any:
    """One application for each framework."""
    return request.param()


@pytest.fixture(autouse=True)
def _root_only(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set only the root, and a time-out that even a busy machine does not exceed."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIMITER_ROOT", root)
    monkeypatch.setenv("LIMITER_TIMEOUT", "60")


def statuses(client: TestClient, number: int, path: str = "/?app_id=acme", **more: Any) -> list[int]:
    """Return the statuses of so many requests."""
    return [client.get(path, **more).status_code for _ in range(number)]


def assert_is_own(answer: httpx.Response, status: int, message: str) -> None:
    """Check that the limiter itself made this response."""
    assert answer.status_code == status
    assert answer.json() == {"message": message}
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Length"] == str(len(answer.content))


def assert_one_line(text: str, begin: str) -> None:
    assert text.startswith(f"limiter: {begin}")
    assert text.count("\n") == 1
    assert text.endswith("\n")


def test_admits_the_limit_and_answers_429_beyond(
    application: Application, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "3/day")
    client = TestClient(RateLimit(application))
    for left in (2, 1, 0):
        answer = client.get("/?app_id=acme")
        assert answer.status_code == 200
        assert answer.headers["X-Remaining"] == str(left)
        assert answer.headers["RateLimit-Policy"] == '"3-per-86400s";q=3;w=86400'
        assert answer.headers["RateLimit"].startswith(f'"3-per-86400s";r={left};t=')
    for _ in range(3):
        answer = client.get("/?app_id=acme")
        assert_is_own(answer, 429, "Too Many Requests")
        assert "X-Remaining" not in answer.headers
        assert answer.headers["RateLimit"].startswith('"3-per-86400s";r=0;t=')
        assert 86000 < int(answer.headers["Retry-After"]) <= 86400
    assert not capfd.readouterr().err


@pytest.mark.parametrize("query", ["", "?app_id=", "?app_id=%2e%2e", "?app_id=a&app%5Fid=b"])
def test_nobody_is_unauthorized(root: str, application: Application, query: str) -> None:
    answer = TestClient(RateLimit(application)).get(f"/{query}")
    assert_is_own(answer, 401, "Unauthorized")
    assert answer.headers["WWW-Authenticate"] == 'AppId realm="limiter"'
    assert not os.listdir(root)


def test_head_gets_the_fields_and_no_body(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "0/second")
    client = TestClient(RateLimit(application))
    head, get = client.head("/?app_id=acme"), client.get("/?app_id=acme")
    assert head.status_code == get.status_code == 429
    assert head.content == b""
    assert head.headers["Content-Length"] == str(len(get.content)) != "0"
    assert {*head.headers} == {*get.headers}


def test_the_body_reaches_the_application_byte_for_byte(application: Application) -> None:
    answer = TestClient(RateLimit(application)).post("/?app_id=acme", content=BODY)
    assert answer.content == BODY


def test_a_form_is_not_looked_at(application: Application) -> None:
    assert TestClient(RateLimit(application)).post("/", data={"app_id": "acme"}).status_code == 401


def test_lifespan_is_passed_through(application: Any) -> None:
    with TestClient(RateLimit(application)) as client:
        assert application.state.life == "begun"
        assert statuses(client, 1) == [200]
    assert application.state.life == "ended"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMITER_LIMIT", "10/fort\nnight"),
        ("LIMITER_ROOT", "relative"),
        ("LIMITER_MODE", "on"),
        ("LIMITER_KEY", "header:X_Api_Key"),
    ],
)
def test_a_mistake_in_the_settings_is_a_500_and_one_line_and_a_corrected_one_holds_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    client = TestClient(RateLimit(with_starlette()))
    with monkeypatch.context() as wrong:
        wrong.setenv("LIMITER_ON_ERROR", "admit")
        wrong.setenv(name, value)
        for _ in range(2):
            assert_is_own(client.get("/?app_id=acme"), 500, "Internal Server Error")
            assert_one_line(capfd.readouterr().err, "ValueError: ")
    assert statuses(client, 1) == [200]
    assert not capfd.readouterr().err


def test_a_limiter_given_decides_alone(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_ROOT", "/nowhere")
    monkeypatch.setenv("LIMITER_APPS", "/nowhere")
    limiter = Limiter(root, "2/day")
    assert statuses(TestClient(RateLimit(with_starlette(), limiter)), 3) == [200, 200, 429]
    assert limiter.peek("acme").remaining == 0


def test_key_in_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    monkeypatch.setenv("LIMITER_KEY", "header:X-Api-Key")
    client = TestClient(RateLimit(with_starlette()))
    assert statuses(client, 1) == [401]
    assert statuses(client, 2, headers={"X-Api-Key": "acme"}) == [200, 429]
    assert statuses(client, 1, headers={"X_Api_Key": "other"}) == [401]


def test_a_header_twice_is_nobodys(root: str) -> None:
    client = TestClient(RateLimit(with_starlette(), key="header:X-Api-Key"))
    twice = [("X-Api-Key", "acme"), ("x-api-key", "acme")]
    assert statuses(client, 1, headers=twice) == [401]
    assert not os.listdir(root)


def test_key_in_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    monkeypatch.setenv("LIMITER_KEY", "env:REMOTE_ADDR")
    limited = RateLimit(with_starlette())
    assert statuses(TestClient(limited, client=CLIENT), 2) == [200, 429]
    assert statuses(TestClient(limited, client=("2001:db8::1", 1)), 1) == [200]
    assert statuses(TestClient(limited, client=("2001:db8::2", 2)), 1) == [429]


def test_a_trusted_proxy_tells_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    monkeypatch.setenv("LIMITER_KEY", "env:REMOTE_ADDR")
    monkeypatch.setenv("LIMITER_TRUSTED_PROXIES", CLIENT[0])
    limited = RateLimit(with_starlette())
    proxy = TestClient(limited, client=CLIENT)
    told = [("X-Forwarded-For", "192.0.2.8"), ("X-Forwarded-For", "192.0.2.7")]
    assert statuses(proxy, 2, headers=told) == [200, 429]
    assert statuses(TestClient(limited, client=("192.0.2.7", 1)), 1) == [429]
    assert statuses(TestClient(limited, client=("192.0.2.8", 1)), 1) == [200]


def test_a_function_says_who_asks(
    root: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    users: dict[str, str | None] = {"/": "J. Doe"}
    client = TestClient(RateLimit(with_starlette(), key=lambda scope: users[scope["path"]]))
    assert statuses(client, 2, "/") == [200, 429]
    users["/"] = None
    assert statuses(client, 1, "/") == [401]
    assert len(os.listdir(root)) == 1
    assert_is_own(client.get("/missing"), 500, "Internal Server Error")
    assert_one_line(capfd.readouterr().err, "KeyError: ")


def test_a_bad_key_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="header:"):
        RateLimit(with_starlette(), key="header:")


def test_the_register_decides(apps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_APPS", apps)
    client = TestClient(RateLimit(with_starlette()))
    assert statuses(client, 1) == [401]
    put(apps, "acme", "1/day")
    assert statuses(client, 2) == [200, 429]
    put(apps, "acme", "2/day")
    assert statuses(client, 3) == [200, 200, 429]
    put(apps, "acme", "unlimited")
    answer = client.get("/?app_id=acme")
    assert answer.headers["X-Remaining"] == "nothing was counted"
    assert not [name for name in FIELDS if name in answer.headers]


def test_shadow_admits_and_logs_what_it_would_have_denied(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    monkeypatch.setenv("LIMITER_MODE", "shadow")
    client = TestClient(RateLimit(with_starlette()))
    assert statuses(client, 3) == [200, 200, 200]
    line = "limiter: shadow: acme would have got 429 Too Many Requests\n"
    assert capfd.readouterr().err == 2 * line


def test_off_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_ROOT", "/nowhere")
    monkeypatch.setenv("LIMITER_MODE", "off")
    assert (
        TestClient(RateLimit(with_starlette())).get("/").headers["X-Remaining"] == "nothing was counted"
    )


@pytest.mark.parametrize(("on_error", "status"), [("deny", 500), ("admit", 200)])
def test_a_store_that_fails_gives_the_configured_verdict_and_one_line(
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    on_error: str,
    status: int,
) -> None:
    monkeypatch.setenv("LIMITER_ROOT", f"{root}/missing")
    monkeypatch.setenv("LIMITER_ON_ERROR", on_error)
    client = TestClient(RateLimit(with_starlette()))
    for _ in range(2):
        assert statuses(client, 1) == [status]
        assert_one_line(capfd.readouterr().err, "StoreError: ")


def test_a_websocket_is_admitted_and_denied_as_a_request(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    client = TestClient(RateLimit(application))
    with client.websocket_connect("/socket?app_id=acme") as socket:
        assert socket.receive_text() == "0"
        sent: list[tuple[bytes, bytes]] = socket.extra_headers or []
        assert [name for name, _ in sent] == [b"x-own", *map(str.encode, FIELDS)]
    with pytest.raises(WebSocketDenialResponse) as denied:
        client.websocket_connect("/socket?app_id=acme").__enter__()
    assert_is_own(denied.value, 429, "Too Many Requests")
    assert int(denied.value.headers["Retry-After"]) > 86000
    with pytest.raises(WebSocketDenialResponse) as nobody:
        client.websocket_connect("/socket").__enter__()
    assert_is_own(nobody.value, 401, "Unauthorized")


# As a bare server calls it.


def scope_of(path: str = "?app_id=acme", kind: str = "http", **more: Any) -> dict[str, Any]:
    _, _, query = path.partition("?")
    return {"type": kind, "query_string": query.encode(), "headers": [], **more}


async def never() -> Message:
    raise AssertionError("somebody reads the request")


async def play(app: Application, scope: Scope, receive: Receive = never) -> list[Message]:
    """Return all that is sent."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def accept(scope: Scope, receive: Receive, send: Send) -> None:
    """A bare application."""
    await send({"type": "http.response.start", "status": 204})


async def status_of(app: Application, scope: Scope | None = None) -> int:
    sent = await play(app, scope_of() if scope is None else scope)
    status: int = sent[0]["status"]
    return status


def test_a_websocket_is_closed_where_no_answer_can_be_given() -> None:
    async def connect() -> Message:
        received.append("connect")
        return {"type": "websocket.connect"}

    extensions: list[dict[str, object]] = [{}, {"extensions": None}, {"extensions": {"tls": {}}}]
    for more in extensions:
        received: list[str] = []
        sent = asyncio.run(play(RateLimit(accept), scope_of("", "websocket", **more), connect))
        assert sent == [{"type": "websocket.close", "code": 1008, "reason": "401 Unauthorized"}]
        assert received == ["connect"]


def test_an_answer_to_head_has_no_body() -> None:
    start, rest = asyncio.run(play(RateLimit(accept), scope_of("", method="HEAD")))
    assert start["status"] == 401
    assert dict(start["headers"])[b"content-length"] == b"27"
    assert rest == {"type": "http.response.body", "body": b""}


def test_what_is_no_request_is_passed_on_as_it_is() -> None:
    seen: list[object] = []

    async def app(*arguments: object) -> None:
        seen.extend(arguments)

    async def send(_: Message) -> None:
        pass

    scope = {"type": "lifespan"}
    asyncio.run(RateLimit(app)(scope, never, send))
    assert seen[0] is scope
    assert seen[1:] == [never, send]


def test_the_application_gets_the_decision_in_a_scope_of_its_own() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert receive is never
        seen.append(scope)

    scope = scope_of()
    asyncio.run(play(RateLimit(app), scope))
    assert scope == scope_of()
    decision = seen[0].pop("limiter.decision")
    assert isinstance(decision, Decision)
    assert (decision.allowed, decision.limit) == (True, 10)
    assert seen == [scope]


def test_the_fields_join_those_of_the_application_and_do_not_change_them() -> None:
    own = {"type": "http.response.start", "status": 200, "headers": ((b"ratelimit", b'"own";r=1'),)}
    body = {"type": "http.response.body", "body": b"it"}

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send(own)
        await send(body)

    start, rest = asyncio.run(play(RateLimit(app), scope_of()))
    assert [name for name, _ in start["headers"]] == [b"ratelimit", *map(str.encode, FIELDS)]
    assert len(own["headers"]) == 1  # type: ignore[arg-type]
    assert rest is body


@pytest.mark.parametrize("scope", [scope_of(), scope_of(client=None)])
def test_who_has_no_address_is_nobody(scope: Scope) -> None:
    assert asyncio.run(status_of(RateLimit(accept, key="env:REMOTE_ADDR"), scope)) == 401


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("env:HTTP_X_USER", 204),
        ("header:Content-Type", 204),
        ("env:CONTENT_LENGTH", 204),
        ("env:HTTP_X_OTHER", 401),
        ("env:X_USER", 401),
        ("env:PATH", 401),
    ],
)
def test_variables_are_those_that_a_server_makes_of_headers(key: str, status: int) -> None:
    headers = [(b"X-User", b"me"), (b"content-type", b"text/plain"), (b"content-length", b"7")]
    scope = scope_of("", headers=[*headers, (b"x_other", b"me"), (b"path", b"me")])
    assert asyncio.run(status_of(RateLimit(accept, key=key), scope)) == status


def test_requests_at_once_get_exactly_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "37/day")

    async def all_at_once() -> list[int]:
        limited = RateLimit(accept)
        return await asyncio.gather(*[status_of(limited) for _ in range(200)])

    got = asyncio.run(all_at_once())
    assert (got.count(204), got.count(429)) == (37, 163)


def test_only_a_denial_from_memory_is_decided_on_the_event_loop(root: str) -> None:
    threads: set[int] = set()

    def watched() -> int:
        threads.add(threading.get_ident())
        return clock()

    async def threads_of_a_request() -> tuple[int, set[int]]:
        threads.clear()
        status = await status_of(limited)
        return status, {*threads}

    async def three() -> list[tuple[int, set[int]]]:
        return [await threads_of_a_request() for _ in range(3)]

    limited = RateLimit(accept, Limiter(root, "1/3000 days fixed", clock=watched))
    here = {threading.get_ident()}
    (first, by_first), (second, by_second), third = asyncio.run(three())
    assert (first, second) == (204, 429)
    assert by_first - here
    assert by_second - here
    assert third == (429, here)


@pytest.fixture
def hung(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[], tuple[threading.Event, threading.Event]]]:
    """Return a function that hangs the store: (event set by the first call, event that frees it)."""
    asked, freed, over = threading.Event(), threading.Event(), threading.Event()

    def hang() -> tuple[threading.Event, threading.Event]:
        for name in ("listdir", "rename"):
            monkeypatch.setattr(posix, name, held(getattr(posix, name)))
        return asked, freed

    def held(call: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object) -> object:
            asked.set()
            freed.wait()
            if over.is_set():
                raise OSError(errno.EIO, "Nobody waits for it any more")
            return call(*arguments)

        return instead

    yield hang
    over.set()
    freed.set()


def test_a_slow_store_is_asked_for_many_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store answers only after it has been called eight times."""
    eight = threading.Barrier(8)
    listdir = posix.listdir

    def slow(path: str) -> list[str]:
        eight.wait()
        return listdir(path)

    async def all_at_once() -> list[int]:
        limited = RateLimit(accept)
        return await asyncio.gather(
            *[status_of(limited, scope_of(f"?app_id={number}")) for number in range(8)]
        )

    monkeypatch.setattr(posix, "listdir", slow)
    assert asyncio.run(all_at_once()) == 8 * [204]


def test_the_event_loop_runs_while_the_store_hangs(
    hung: Callable[[], tuple[threading.Event, threading.Event]],
) -> None:
    """Another task of the loop frees the store: if the loop were blocked, the request would fail."""
    asked, freed = hung()

    async def free() -> None:
        while not asked.is_set():
            await asyncio.sleep(0)
        freed.set()

    async def both() -> int:
        status, _ = await asyncio.gather(status_of(RateLimit(accept)), free())
        return status

    assert asyncio.run(both()) == 204


@pytest.fixture
def of_a_silent_store(
    monkeypatch: pytest.MonkeyPatch, hung: Callable[[], object]
) -> Callable[[int], list[int]]:
    """Return a function that sends requests to a hanging store.

    It returns their statuses.  The time-out expires once, when as many calls wait as there can be.
    """

    def ask(number: int) -> list[int]:
        monkeypatch.setenv("LIMITER_TIMEOUT", "0.5")
        clock = stand_still(monkeypatch)
        hung()

        async def ask_all() -> list[int]:
            limited = RateLimit(accept)
            waiting = min(number, _THREADS)
            passing = asyncio.create_task(asyncio.to_thread(clock.move, 0.5, waiting))
            got = await asyncio.gather(*[status_of(limited) for _ in range(number)])
            await passing
            return got

        return asyncio.run(ask_all())

    return ask


@pytest.mark.parametrize(("on_error", "status"), [("deny", 500), ("admit", 204)])
def test_a_silent_store_gives_the_configured_verdict_in_time(
    monkeypatch: pytest.MonkeyPatch,
    of_a_silent_store: Callable[[int], list[int]],
    capfd: pytest.CaptureFixture[str],
    on_error: str,
    status: int,
) -> None:
    """The store still does not answer then."""
    monkeypatch.setenv("LIMITER_ON_ERROR", on_error)
    assert of_a_silent_store(1) == [status]
    assert_one_line(capfd.readouterr().err, "StoreError: ")


def test_more_requests_than_threads_all_get_their_verdict_in_time(
    of_a_silent_store: Callable[[int], list[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    """No request waits for its own time-out after others have waited for theirs."""
    assert of_a_silent_store(50) == 50 * [500]
    log = capfd.readouterr().err
    assert log.count("\n") == log.count("limiter: StoreError: ") == 50
    assert log.count("is not called again") == 50 - _THREADS


def test_a_process_with_a_hung_store_ends() -> None:
    program = f"""
import asyncio, posix, sys, threading
sys.path.insert(0, {str(REPOSITORY)!r})
from limiter.asgi import RateLimit
posix.listdir = lambda path: threading.Event().wait()
async def app(scope, receive, send):
    raise AssertionError
async def send(message):
    print(message.get("status"))
asyncio.run(RateLimit(app)({{"type": "http", "query_string": b"app_id=a", "headers": []}}, None, send))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environ(LIMITER_ROOT="/nowhere", LIMITER_TIMEOUT="0.2"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.split() == ["500", "None"]
    assert_one_line(ended.stderr, "StoreError: ")
