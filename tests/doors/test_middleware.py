"""Both middlewares, in front of five frameworks: what the application and its client get.

tests/doors/test_contract.py has what they share with the other doors.
"""

from __future__ import annotations

import posix
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from limiter import Limiter
from tests.doors.doors import clients
from tests.doors.frameworks import ASGI, NOTHING, WSGI, client_of
from tests.waiting import stand_still

BODY = bytes(range(256)) * 1000
FIELDS = ("RateLimit-Policy", "RateLimit")
DOORS = ["bare", "starlette"]
"""One framework for each door, where frameworks do not matter."""


pytestmark = pytest.mark.usefixtures("root_only")


@pytest.fixture(params=[*WSGI, *ASGI])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def statuses(client: httpx.Client, number: int, path: str = "/?app_id=acme", **more: Any) -> list[int]:
    """Return the statuses of so many requests."""
    return [client.get(path, **more).status_code for _ in range(number)]


def check_own(answer: httpx.Response, status: int, message: str) -> None:
    """Check that the limiter itself made this response."""
    assert answer.status_code == status
    assert answer.json() == {"message": message}
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Length"] == str(len(answer.content))


def check_one_line(capfd: pytest.CaptureFixture[str], begin: str) -> None:
    """Check that one line was logged since the last call."""
    text = capfd.readouterr().err
    assert text.startswith(f"limiter: {begin}")
    assert text.count("\n") == 1
    assert text.isascii()


def test_admits_up_to_the_limit_and_denies_after_it(
    framework: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "3/day")
    client = client_of(framework)
    for left in (2, 1, 0):
        answer = client.get("/?app_id=acme")
        assert answer.status_code == 200
        assert answer.headers["X-Remaining"] == str(left)
        assert answer.headers["RateLimit-Policy"] == '"3-per-86400s";q=3;w=86400'
        assert answer.headers["RateLimit"].startswith(f'"3-per-86400s";r={left};t=')
    for _ in range(3):
        answer = client.get("/?app_id=acme")
        check_own(answer, 429, "Too Many Requests")
        assert "X-Remaining" not in answer.headers
        assert answer.headers["RateLimit"].startswith('"3-per-86400s";r=0;t=')
        assert 86000 < int(answer.headers["Retry-After"]) <= 86400
    assert not capfd.readouterr().err


def test_the_body_reaches_the_application_byte_for_byte(framework: str) -> None:
    answer = client_of(framework).post("/?app_id=acme", content=BODY)
    assert (answer.status_code, answer.content) == (200, BODY)


@pytest.mark.parametrize(
    "settings", [{"MODE": "off"}, {"MODE": "shadow"}, {"ROOT": "/nowhere", "ON_ERROR": "admit"}]
)
def test_the_application_gets_no_decision_if_nothing_was_decided(
    framework: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    for name, text in settings.items():
        monkeypatch.setenv(f"LIMITER_{name}", text)
    answer = client_of(framework).get("/?app_id=acme")
    assert answer.headers["X-Remaining"] == NOTHING
    assert not [name for name in FIELDS if name in answer.headers]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", ["/?app_id=acme", "/"])
def test_the_answer_to_head_has_the_length_of_the_body(
    door: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "0/second")
    client = client_of(door)
    head, full = client.head(path), client.get(path)
    assert head.content == b""
    assert head.headers["Content-Length"] == str(len(full.content)) != "0"


@pytest.mark.parametrize("door", DOORS)
def test_a_form_is_not_read(door: str) -> None:
    assert client_of(door).post("/", data={"app_id": "acme"}).status_code == 401


@pytest.mark.parametrize("door", DOORS)
def test_settings_are_read_at_each_request(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(door)
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    assert statuses(client, 2) == [200, 429]
    monkeypatch.setenv("LIMITER_LIMIT", "2/day")
    assert statuses(client, 3) == [200, 200, 429]


@pytest.mark.parametrize("door", DOORS)
def test_a_mistake_gets_500_and_one_line_until_it_is_corrected(
    door: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = client_of(door)
    with monkeypatch.context() as wrong:
        wrong.setenv("LIMITER_LIMIT", "10/fort\nnight")
        for _ in range(2):
            check_own(client.get("/?app_id=acme"), 500, "Internal Server Error")
            check_one_line(capfd, "ValueError: ")
    assert statuses(client, 1) == [200]
    assert not capfd.readouterr().err


@pytest.mark.parametrize("door", DOORS)
def test_a_given_limiter_decides_alone(door: str, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_ROOT", "/nowhere")
    monkeypatch.setenv("LIMITER_APPS", "/nowhere")
    limiter = Limiter(root, "2/day")
    assert statuses(client_of(door, limiter), 3) == [200, 200, 429]
    assert limiter.peek("acme").remaining == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_given_key_replaces_the_setting(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    monkeypatch.setenv("LIMITER_KEY", "header:X-Api-Key")
    client = client_of(door, key="user")
    assert statuses(client, 2, "/?user=acme") == [200, 429]
    assert statuses(client, 1, headers={"X-Api-Key": "other"}) == [401]


@pytest.mark.parametrize(("door", "path"), [("bare", "PATH_INFO"), ("starlette", "path")])
def test_a_function_can_return_who_asks(
    door: str, path: str, root: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """None gets 401, and an exception 500."""
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    users: dict[str, str | None] = {"/": "J. Doe"}
    client = client_of(door, key=lambda request: users[request[path]])
    assert statuses(client, 2, "/") == [200, 429]
    users["/"] = None
    assert statuses(client, 1, "/") == [401]
    assert len(clients(root)) == 1
    check_own(client.get("/missing"), 500, "Internal Server Error")
    check_one_line(capfd, "KeyError: '/missing'")


@pytest.mark.parametrize("door", DOORS)
def test_a_bad_key_is_refused_at_once(door: str) -> None:
    with pytest.raises(ValueError, match="header:"):
        client_of(door, key="header:")


@pytest.mark.parametrize("door", DOORS)
def test_a_default_store_that_was_removed_is_made_again(
    door: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The client that it knew begins anew; nobody gets an error."""
    monkeypatch.setenv("LIMITER_ROOT", "")
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setenv("LIMITER_LIMIT", "2/day")
    client = client_of(door)
    for _ in range(2):
        assert statuses(client, 1) == [200]
        check_one_line(capfd, "The store is ")
        (store,) = place.iterdir()
        shutil.rmtree(store)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("on_error", "status"), [("deny", 500), ("admit", 200)])
def test_an_unresponsive_store_gets_the_status_of_the_settings_in_time(
    door: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    on_error: str,
    status: int,
) -> None:
    """The store still does not answer then."""
    clock = stand_still(monkeypatch)
    monkeypatch.setenv("LIMITER_TIMEOUT", "0.5")
    monkeypatch.setenv("LIMITER_ON_ERROR", on_error)
    client = client_of(door)
    assert statuses(client, 1) == [200]
    released = threading.Event()

    def hang(*_: object) -> None:
        clock.move(0.5, waiting=1)
        released.wait()

    for name in ("listdir", "rename"):
        monkeypatch.setattr(posix, name, hang)
    try:
        assert statuses(client, 1) == [status]
        check_one_line(capfd, "StoreError: ")
    finally:
        released.set()
