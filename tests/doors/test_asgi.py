"""The ASGI door by itself: web sockets, the event loop, and calls as a bare server makes them."""

from __future__ import annotations

import asyncio
import errno
import posix
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from limiter import Decision, Limiter
from limiter.asgi import _THREADS, RateLimit
from limiter.core.limit import clock
from tests.conftest import clean_environ
from tests.doors.frameworks import ASGI
from tests.places import REPOSITORY
from tests.waiting import stand_still

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette recommends httpx2, which older versions do not know
    from starlette.testclient import TestClient, WebSocketDenialResponse

if TYPE_CHECKING:
    from limiter.asgi import Application, Message, Receive, Scope, Send

FIELDS = ("ratelimit-policy", "ratelimit")


pytestmark = pytest.mark.usefixtures("root_only")


def assert_one_line(text: str, begin: str) -> None:
    assert text.startswith(f"limiter: {begin}")
    assert text.count("\n") == 1
    assert text.endswith("\n")


@pytest.mark.parametrize("framework", ASGI)
def test_lifespan_is_passed_through(framework: str) -> None:
    application = ASGI[framework]()
    with TestClient(RateLimit(application)) as client:
        assert application.state.life == "begun"
        assert client.get("/?app_id=acme").status_code == 200
    assert application.state.life == "ended"


def test_a_header_that_is_sent_twice_gets_401() -> None:
    twice = [(b"X-Api-Key", b"acme"), (b"x-api-key", b"acme")]
    scope = scope_of(headers=twice)
    assert asyncio.run(status_of(RateLimit(accept, key="header:X-Api-Key"), scope)) == 401


@pytest.mark.parametrize("framework", ASGI)
def test_a_websocket_is_admitted_and_denied_as_a_request(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    client = TestClient(RateLimit(ASGI[framework]()))
    with client.websocket_connect("/socket?app_id=acme") as socket:
        assert socket.receive_text() == "0"
        sent: list[tuple[bytes, bytes]] = socket.extra_headers or []
        assert [name for name, _ in sent] == [b"x-own", *map(str.encode, FIELDS)]
    for path, status in (("/socket?app_id=acme", 429), ("/socket", 401)):
        with pytest.raises(WebSocketDenialResponse) as denied:
            client.websocket_connect(path).__enter__()
        assert denied.value.status_code == status
        assert int(denied.value.headers["Content-Length"]) == len(denied.value.content) > 0


# As a bare server calls it.


def scope_of(path: str = "?app_id=acme", kind: str = "http", **more: Any) -> dict[str, Any]:
    _, _, query = path.partition("?")
    return {"type": kind, "query_string": query.encode(), "headers": [], **more}


async def never() -> Message:
    raise AssertionError("the request is read")


async def messages_of(app: Application, scope: Scope, receive: Receive = never) -> list[Message]:
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
    sent = await messages_of(app, scope_of() if scope is None else scope)
    status: int = sent[0]["status"]
    return status


def test_a_websocket_is_closed_where_no_answer_can_be_given() -> None:
    async def connect() -> Message:
        received.append("connect")
        return {"type": "websocket.connect"}

    extensions: list[dict[str, object]] = [{}, {"extensions": None}, {"extensions": {"tls": {}}}]
    for more in extensions:
        received: list[str] = []
        sent = asyncio.run(messages_of(RateLimit(accept), scope_of("", "websocket", **more), connect))
        assert sent == [{"type": "websocket.close", "code": 1008, "reason": "401 Unauthorized"}]
        assert received == ["connect"]


def test_events_that_are_no_request_are_passed_on() -> None:
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
    asyncio.run(messages_of(RateLimit(app), scope))
    assert scope == scope_of()
    decision = seen[0].pop("limiter.decision")
    assert [*seen[0].pop("limiter.policies").values()] == [decision]
    assert isinstance(decision, Decision)
    assert (decision.allowed, decision.limit) == (True, 10)
    assert seen == [scope]


def test_the_fields_join_those_of_the_application_and_do_not_change_them() -> None:
    own = {"type": "http.response.start", "status": 200, "headers": ((b"ratelimit", b'"own";r=1'),)}
    body = {"type": "http.response.body", "body": b"it"}

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send(own)
        await send(body)

    start, rest = asyncio.run(messages_of(RateLimit(app), scope_of()))
    assert [name for name, _ in start["headers"]] == [b"ratelimit", *map(str.encode, FIELDS)]
    assert len(own["headers"]) == 1  # type: ignore[arg-type]
    assert rest is body


@pytest.mark.parametrize("scope", [scope_of(), scope_of(client=None)])
def test_a_client_without_an_address_is_an_error(
    scope: Scope, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is behind a unix socket: else everybody would get 401."""
    assert asyncio.run(status_of(RateLimit(accept, key="env:REMOTE_ADDR"), scope)) == 500
    assert "the server is behind a unix socket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("env:HTTP_X_USER", 204),
        ("header:Content-Type", 204),
        ("env:CONTENT_LENGTH", 204),
        ("env:HTTP_X_OTHER", 401),
        ("env:X_USER", 500),
        ("env:PATH", 500),
        ("env:SERVER_NAME", 500),
        ("env:REMOTE_USER", 500),
    ],
)
def test_variables_are_those_that_a_server_makes_of_headers(
    key: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any other is a mistake, and the log says so."""
    headers = [(b"X-User", b"me"), (b"content-type", b"text/plain"), (b"content-length", b"7")]
    scope = scope_of("", headers=[*headers, (b"x_other", b"me"), (b"path", b"me")])
    assert asyncio.run(status_of(RateLimit(accept, key=key), scope)) == status
    reason = (
        f"limiter: ValueError: key '{key}': ASGI has no variables but REMOTE_ADDR and those of headers"
    )
    assert capsys.readouterr().err.startswith(reason if status == 500 else "")


def test_concurrent_requests_get_exactly_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "37/day")

    async def all_at_once() -> list[int]:
        limited = RateLimit(accept)
        return await asyncio.gather(*[status_of(limited) for _ in range(200)])

    got = asyncio.run(all_at_once())
    assert (got.count(204), got.count(429)) == (37, 163)


@pytest.mark.parametrize("is_local", [True, False])
def test_the_event_loop_decides_what_cannot_hang(
    root: str, monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    """A denial from memory, and all but the first request to a store on a local file system."""
    if not is_local:
        monkeypatch.setattr("limiter.request.store_access.LOCAL", ())
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
    assert by_second == here if is_local else by_second - here
    assert third == (429, here)


@pytest.fixture
def hung(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[], tuple[threading.Event, threading.Event]]]:
    """Return a function that hangs the store: (event set by the first call, event that frees it)."""
    called, freed, over = threading.Event(), threading.Event(), threading.Event()

    def hang() -> tuple[threading.Event, threading.Event]:
        for name in ("listdir", "rename"):
            monkeypatch.setattr(posix, name, wrapped(getattr(posix, name)))
        return called, freed

    def wrapped(call: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object) -> object:
            called.set()
            freed.wait()
            if over.is_set():
                raise OSError(errno.EIO, "Nobody waits for it any more")
            return call(*arguments)

        return instead

    yield hang
    over.set()
    freed.set()


def test_a_slow_store_is_called_for_many_requests_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store answers only after it has been called eight times."""
    monkeypatch.setenv("LIMITER_NEWCOMERS", "unlimited")  # each request makes the same calls
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
    called, freed = hung()

    async def free() -> None:
        while not called.is_set():
            await asyncio.sleep(0)
        freed.set()

    async def both() -> int:
        status, _ = await asyncio.gather(status_of(RateLimit(accept)), free())
        return status

    assert asyncio.run(both()) == 204


def test_more_requests_than_threads_all_get_an_answer_in_time(
    monkeypatch: pytest.MonkeyPatch,
    hung: Callable[[], object],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The time-out expires once, when as many calls wait as there can be: no request waits again."""
    monkeypatch.setenv("LIMITER_TIMEOUT", "0.5")
    clock = stand_still(monkeypatch)
    hung()

    async def all_at_once() -> list[int]:
        limited = RateLimit(accept)
        passing = asyncio.create_task(asyncio.to_thread(clock.move, 0.5, _THREADS))
        got = await asyncio.gather(*[status_of(limited) for _ in range(50)])
        await passing
        return got

    assert asyncio.run(all_at_once()) == 50 * [500]
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
