"""The WSGI door by itself: what PEP 3333 and Apache's SetEnv demand."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from limiter import Decision, Limiter
from limiter.wsgi import RateLimit
from tests.doors.frameworks import bare

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # WebOb imports the old module cgi
    from webtest import TestApp, TestResponse
    from webtest.lint import middleware as lint

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

NAMES_OF_FIELDS = ("RateLimit-Policy", "RateLimit")


pytestmark = pytest.mark.usefixtures("only_a_timeout")


def send(
    limited: WSGIApplication, path: str = "/?app_id=acme", method: str = "GET", **environ: Any
) -> TestResponse:
    """Send a request with these variables, as with Apache's SetEnv.  Any status is accepted."""
    client = TestApp(limited, extra_environ=environ, lint=True)
    return client.request(path, method=method, expect_errors=True)


def statuses(
    number: int, limited: WSGIApplication, path: str = "/?app_id=acme", **environ: Any
) -> list[int]:
    """Return the statuses of so many requests."""
    return [send(limited, path, **environ).status_int for _ in range(number)]


def test_the_body_is_never_read_by_the_limiter(root: str) -> None:
    class Unread(io.RawIOBase):
        def read(self, _: int = -1) -> bytes:
            raise AssertionError("the limiter reads the body")

    form = {"wsgi.input": Unread(), "CONTENT_TYPE": "application/x-www-form-urlencoded"}
    environ = {**form, "CONTENT_LENGTH": "11", "LIMITER_ROOT": root, "LIMITER_LIMIT": "0/second"}
    limited = RateLimit(lint(bare))
    assert send(limited, "/", "POST", **environ).status_int == 401
    assert send(limited, "/?app_id=acme", "POST", **environ).status_int == 429


@pytest.mark.parametrize(
    "value", ["10/\udcff\n".encode("utf-8", "surrogateescape").decode("latin-1"), "10/\u20ac"]
)
def test_a_mistake_of_any_bytes_gets_500_and_one_line(root: str, value: str) -> None:
    answer = send(RateLimit(lint(bare)), LIMITER_ROOT=root, LIMITER_LIMIT=value)
    assert answer.status_int == 500
    assert answer.errors.startswith("limiter: ")
    assert answer.errors.count("\n") == 1
    assert answer.errors.isascii()


def test_a_variable_of_the_request_hides_that_of_the_process(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_ROOT", root)
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    limited = RateLimit(lint(bare))
    assert statuses(2, limited) == [200, 429]
    assert statuses(1, limited, LIMITER_LIMIT="3/day") == [200]


def test_a_function_gets_the_environ(root: str) -> None:
    limited = RateLimit(
        lint(bare), Limiter(root, "1/day"), key=lambda environ: environ.get("REMOTE_USER")
    )
    assert statuses(1, limited) == [401]
    assert statuses(2, limited, REMOTE_USER="J. Doe") == [200, 429]


def test_concurrent_threads_get_exactly_the_limit(root: str) -> None:
    limited = RateLimit(lint(bare), Limiter(root, "37/day"))
    with ThreadPoolExecutor(8) as threads:
        got = [*threads.map(lambda _: send(limited).status_int, range(200))]
    assert (got.count(200), got.count(429)) == (37, 163)


class Started(list[tuple[Any, ...]]):
    """A server's start_response that records its arguments."""

    def __call__(self, *arguments: Any) -> Callable[[bytes], object]:
        self.append(arguments)
        return self.write

    def write(self, _: bytes) -> None:
        """The write function for the application."""


def call(application: WSGIApplication, root: str) -> tuple[Iterable[bytes], Started]:
    """Call the limited application as a bare server does."""
    started = Started()
    environ = {
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "app_id=acme",
        "wsgi.errors": io.StringIO(),
        "LIMITER_ROOT": root,
    }
    return RateLimit(application)(environ, started), started


def names(started: tuple[Any, ...]) -> list[str]:
    return [name for name, _ in started[1]]


def test_what_the_application_returns_is_passed_on_as_it_is(root: str) -> None:
    returned = [b"body"]

    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return returned

    body, _ = call(app, root)
    assert body is returned


def test_the_headers_of_the_application_are_not_changed_in_its_hands(root: str) -> None:
    own = [("X-Own", "1"), ("RateLimit", '"another";r=1')]

    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", own)
        return []

    _, started = call(app, root)
    assert own == [("X-Own", "1"), ("RateLimit", '"another";r=1')]
    assert names(started[0]) == ["X-Own", "RateLimit", *NAMES_OF_FIELDS]


def test_a_generator_starts_its_response_late(root: str) -> None:
    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"body"

    body, started = call(app, root)
    assert not started
    assert [*body] == [b"body"]
    assert names(started[0]) == [*NAMES_OF_FIELDS]


def test_a_second_start_with_exc_info_is_passed_on(root: str) -> None:
    raised: list[Any] = []

    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise LookupError
        except LookupError:
            raised.append(sys.exc_info())
            start_response("500 Oops", [("X-Own", "1")], raised[0])
        return []

    _, started = call(app, root)
    assert started[1][0] == "500 Oops"
    assert started[1][2] is raised[0]
    assert names(started[1]) == ["X-Own", *NAMES_OF_FIELDS]


def test_the_application_can_write(root: str) -> None:
    writes: list[object] = []

    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        writes.append(start_response("200 OK", []))
        return []

    _, started = call(app, root)
    assert writes == [started.write]


def test_an_exception_of_the_application_reaches_the_server(root: str) -> None:
    def app(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        raise LookupError("its own affair")

    with pytest.raises(LookupError, match="its own affair"):
        call(app, root)


def test_the_application_gets_the_decision(root: str) -> None:
    seen: list[object] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["limiter.decision"])
        start_response("200 OK", [])
        return []

    call(app, root)
    [decision] = seen
    assert isinstance(decision, Decision)
    assert decision.allowed
    assert decision.limit == 10


def test_nested_limits_all_hold(root: str) -> None:
    inner = RateLimit(bare, Limiter(root, "5/day"), key="user")
    limited = RateLimit(inner, Limiter(root, "3/day"))
    path = "/?app_id=acme&user=me"
    assert send(limited, path).headers.getall("RateLimit-Policy") == [
        '"5-per-86400s";q=5;w=86400',
        '"3-per-86400s";q=3;w=86400',
    ]
    assert statuses(3, limited, path) == [200, 200, 429]
