"""The WSGI door, with a bare, a Flask and a Django application and a client that checks PEP 3333."""

from __future__ import annotations

import io
import os
import posix
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import django
import flask
import pytest
from django.conf import settings as django_settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import re_path

from limiter import Decision, Limiter
from limiter.request.register import put
from limiter.request.response import fields
from limiter.request.settings import NAMES
from limiter.wsgi import RateLimit
from tests.waiting import stand_still

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # WebOb imports the old module cgi
    from webtest import TestApp, TestResponse
    from webtest.lint import middleware as lint

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BODY = bytes(range(256)) * 1000
NAMES_OF_FIELDS = ("RateLimit-Policy", "RateLimit")


def remaining(environ: WSGIEnvironment) -> str:
    """Return what an application knows of the decision."""
    decision = environ["limiter.decision"]
    return "nothing was counted" if decision is None else str(decision.remaining)


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    start_response(
        "200 OK",
        [
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(len(body))),
            ("X-Remaining", remaining(environ)),
        ],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


flask_application = flask.Flask(__name__)


@flask_application.route("/", defaults={"_": ""}, methods=["GET", "POST"])
@flask_application.route("/<path:_>", methods=["GET", "POST"])
def flask_view(_: str) -> flask.Response:
    answer = flask.Response(flask.request.get_data(), mimetype="application/octet-stream")
    answer.headers["X-Remaining"] = remaining(flask.request.environ)
    return answer


def django_view(request: HttpRequest) -> HttpResponse:
    answer = HttpResponse(request.body, content_type="application/octet-stream")
    answer["X-Remaining"] = remaining(request.META)
    return answer


urlpatterns = [re_path("", django_view)]


def django_application() -> WSGIApplication:
    if not django_settings.configured:
        django_settings.configure(
            ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="none", LOGGING_CONFIG=None
        )
        django.setup()
    application: WSGIApplication = get_wsgi_application()
    return application


@pytest.fixture(params=["bare", "flask", "django"])
def application(request: pytest.FixtureRequest) -> WSGIApplication:
    """Answers with the request's body and what it knows of the decision."""
    if request.param == "django":
        return django_application()
    return bare if request.param == "bare" else flask_application


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all settings, except for a time-out that even a busy machine does not exceed."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIMITER_TIMEOUT", "60")


class Site:
    """A limited application whose requests carry these settings, as with Apache's SetEnv."""

    def __init__(
        self,
        application: WSGIApplication,
        settings: dict[str, str],
        limiter: Limiter | None = None,
        key: str | Callable[[WSGIEnvironment], str | None] | None = None,
    ) -> None:
        self.settings = settings
        self.limited = RateLimit(lint(application), limiter, key)
        self.log = ""

    def ask(self, path: str = "/?app_id=acme", method: str = "GET", **more: Any) -> TestResponse:
        """Send a request; any status is accepted.  Keep what it wrote to the log."""
        environ = {**self.settings, **more.pop("environ", {})}
        client = TestApp(self.limited, extra_environ=environ, lint=True)
        answer = client.request(path, method=method, expect_errors=True, **more)
        self.log = answer.errors or ""
        return answer

    def statuses(self, number: int, path: str = "/?app_id=acme", **more: Any) -> list[int]:
        """Return the statuses of so many requests."""
        return [self.ask(path, **more).status_int for _ in range(number)]


def site(root: str, application: WSGIApplication = bare, **settings: str) -> Site:
    return Site(application, {"LIMITER_ROOT": root, **settings})


def assert_is_own(answer: TestResponse, status: int, message: str) -> None:
    """Check that the limiter itself made this response."""
    assert answer.status == f"{status} {message}"
    assert answer.json == {"message": message}
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Length"] == str(len(answer.body))


def test_admits_the_limit_and_answers_429_beyond(root: str, application: WSGIApplication) -> None:
    limited = site(root, application, LIMITER_LIMIT="3/day")
    for left in (2, 1, 0):
        answer = limited.ask()
        assert answer.status == "200 OK"
        assert answer.headers["X-Remaining"] == str(left)
        assert answer.headers["RateLimit-Policy"] == '"3-per-86400s";q=3;w=86400'
        assert answer.headers["RateLimit"].startswith(f'"3-per-86400s";r={left};t=')
    for _ in range(3):
        answer = limited.ask()
        assert_is_own(answer, 429, "Too Many Requests")
        assert "X-Remaining" not in answer.headers
        assert answer.headers["RateLimit"].startswith('"3-per-86400s";r=0;t=')
        assert 86000 < int(answer.headers["Retry-After"]) <= 86400
    assert not limited.log


@pytest.mark.parametrize(
    "query", ["", "?", "?app_id=", "?app_id=%2e%2e", "?app_id=a&app%5Fid=b", "?app_id=a;app_id=b"]
)
def test_nobody_is_unauthorized(root: str, query: str) -> None:
    limited = site(root)
    answer = limited.ask(f"/{query}")
    assert_is_own(answer, 401, "Unauthorized")
    assert answer.headers["WWW-Authenticate"] == 'AppId realm="limiter"'
    assert not os.listdir(root)
    assert not limited.log


def test_an_own_answer_has_the_fields_that_every_door_sends(root: str) -> None:
    limited = site(root, LIMITER_LIMIT="1/day")
    limiter = Limiter(root, "1/day")
    limiter.hit("acme")
    answer = limited.ask()
    own = dict(fields("429 Too Many Requests", limiter.hit("acme")))
    assert {*answer.headers} == {*own, "Retry-After", "Content-Length"}


@pytest.mark.parametrize("path", ["/?app_id=acme", "/"])
def test_head_gets_the_fields_and_no_body(root: str, path: str) -> None:
    limited = site(root, LIMITER_LIMIT="0/second")
    answer = limited.ask(path, "HEAD")
    assert answer.body == b""
    full = limited.ask(path)
    assert answer.status == full.status
    assert answer.headers["Content-Length"] == str(len(full.body)) != "0"
    assert {*answer.headers} == {*full.headers}


def test_the_body_reaches_the_application_byte_for_byte(root: str, application: WSGIApplication) -> None:
    answer = site(root, application).ask("/path?app_id=acme", "POST", body=BODY)
    assert answer.status_int == 200
    assert answer.body == BODY


def test_the_body_is_never_read_by_the_limiter(root: str) -> None:
    limited = site(root, LIMITER_LIMIT="0/second")

    class Unread(io.RawIOBase):
        def read(self, _: int = -1) -> bytes:
            raise AssertionError("somebody reads the body")

    form = {"wsgi.input": Unread(), "CONTENT_TYPE": "application/x-www-form-urlencoded"}
    environ = {**form, "CONTENT_LENGTH": "11"}
    assert limited.ask("/", "POST", environ=environ).status_int == 401
    assert limited.ask("/?app_id=acme", "POST", environ=environ).status_int == 429


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMITER_LIMIT", "10/fortnight"),
        ("LIMITER_ROOT", "relative"),
        ("LIMITER_MODE", "on"),
        ("LIMITER_ON_ERROR", "yes"),
        ("LIMITER_TIMEOUT", "-1"),
        ("LIMITER_KEY", "header:X_Api_Key"),
        ("LIMITER_LIMIT", "10/\udcff\n".encode("utf-8", "surrogateescape").decode("latin-1")),
        ("LIMITER_LIMIT", "10/\u20ac"),
    ],
)
def test_a_mistake_in_the_settings_is_a_500_and_one_line_and_a_corrected_one_holds_at_once(
    root: str, name: str, value: str
) -> None:
    limited = site(root, LIMITER_ON_ERROR="admit")
    for _ in range(2):
        answer = limited.ask(environ={name: value})
        assert_is_own(answer, 500, "Internal Server Error")
        assert limited.log.startswith("limiter: ")
        assert "Error: " in limited.log
        assert limited.log.count("\n") == 1
        assert limited.log.isascii()
    assert limited.ask().status_int == 200
    assert not limited.log


def test_the_settings_of_the_process_hold_without_others(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = Site(bare, {})
    monkeypatch.setenv("LIMITER_ROOT", root)
    monkeypatch.setenv("LIMITER_LIMIT", "1/day")
    assert limited.statuses(2) == [200, 429]
    monkeypatch.setenv("LIMITER_LIMIT", "2/day")
    assert limited.statuses(3) == [200, 200, 429]
    assert limited.ask(environ={"LIMITER_LIMIT": "3/day"}).status_int == 200


def test_without_any_setting_the_store_is_the_users_own(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", root)
    assert Site(bare, {}).statuses(1) == [200]
    assert os.listdir(f"{root}/limiter-{os.getuid()}") == ["acme"]


def test_a_limiter_given_decides_alone(root: str, apps: str) -> None:
    settings = {"LIMITER_ROOT": "/nowhere", "LIMITER_LIMIT": "nonsense", "LIMITER_APPS": apps}
    limiter = Limiter(root, "2/day")
    limited = Site(bare, settings, limiter)
    assert limited.statuses(3) == [200, 200, 429]
    assert limiter.peek("acme").remaining == 0


def test_key_in_a_header(root: str) -> None:
    limited = site(root, LIMITER_LIMIT="1/day", LIMITER_KEY="header:X-Api-Key")
    assert limited.statuses(1) == [401]
    assert limited.statuses(1, headers={"X-Api-Key": "a, b"}) == [401]
    assert limited.statuses(2, headers={"X-Api-Key": "acme"}) == [200, 429]
    assert limited.statuses(2, headers={"X-Api-Key": "Bearer token/1"}) == [200, 429]
    assert limited.statuses(2, headers={"X-Api-Key": "\xe4"}) == [200, 429]
    assert not [name for name in os.listdir(root) if "token" in name]


def test_key_in_a_variable(root: str) -> None:
    limited = site(root, LIMITER_LIMIT="1/day", LIMITER_KEY="env:REMOTE_ADDR")
    assert limited.statuses(1) == [401]
    assert limited.statuses(2, environ={"REMOTE_ADDR": "192.0.2.1"}) == [200, 429]
    assert limited.statuses(1, environ={"REMOTE_ADDR": "2001:db8::1"}) == [200]
    assert limited.statuses(1, environ={"REMOTE_ADDR": "2001:db8::2"}) == [429]


def test_a_trusted_proxy_tells_who_asks(root: str) -> None:
    limited = site(
        root, LIMITER_LIMIT="1/day", LIMITER_KEY="env:REMOTE_ADDR", LIMITER_TRUSTED_PROXIES="192.0.2.1"
    )
    proxy = {"REMOTE_ADDR": "192.0.2.1"}
    told = {"X-Forwarded-For": "192.0.2.7"}
    assert limited.statuses(2, environ=proxy, headers=told) == [200, 429]
    assert limited.statuses(1, environ={"REMOTE_ADDR": "192.0.2.7"}) == [429]


def test_a_key_given_replaces_the_one_of_the_settings(root: str) -> None:
    settings = {"LIMITER_ROOT": root, "LIMITER_KEY": "header:X-Api-Key", "LIMITER_LIMIT": "1/day"}
    limited = Site(bare, settings, key="user")
    assert limited.statuses(2, "/?user=acme") == [200, 429]
    assert limited.statuses(1, headers={"X-Api-Key": "other"}) == [401]


def test_a_function_says_who_asks(root: str) -> None:
    settings = {"LIMITER_ROOT": root, "LIMITER_LIMIT": "1/day"}
    limited = Site(bare, settings, key=lambda environ: environ.get("REMOTE_USER"))
    assert limited.statuses(1) == [401]
    assert limited.statuses(2, environ={"REMOTE_USER": "J. Doe"}) == [200, 429]
    assert limited.statuses(1, environ={"REMOTE_USER": "acme"}) == [200]
    assert len(os.listdir(root)) == 2


def test_a_function_that_fails_is_a_500_and_one_line(root: str) -> None:
    settings = {"LIMITER_ROOT": root, "LIMITER_ON_ERROR": "admit"}
    limited = Site(bare, settings, key=lambda environ: str(environ["no\nsuch"]))
    assert_is_own(limited.ask(), 500, "Internal Server Error")
    assert limited.log == "limiter: KeyError: 'no\\\\nsuch'\n"


def test_a_bad_key_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="header:"):
        RateLimit(bare, key="header:")


def test_the_register_decides(root: str, apps: str) -> None:
    limited = site(root, LIMITER_APPS=apps)
    assert limited.statuses(1) == [401]
    put(apps, "acme", "1/day")
    assert limited.statuses(2) == [200, 429]
    put(apps, "acme", "2/day")
    assert limited.statuses(3) == [200, 200, 429]
    put(apps, "acme", "unlimited")
    answer = limited.ask()
    assert answer.status_int == 200
    assert answer.headers["X-Remaining"] == "nothing was counted"
    assert not [name for name in NAMES_OF_FIELDS if name in answer.headers]
    put(apps, "acme", "0/second")
    assert limited.statuses(1) == [429]
    put(apps, ".default", "1/day")
    assert limited.statuses(2, "/?app_id=other") == [200, 429]
    assert not limited.log


def test_shadow_admits_and_logs_what_it_would_have_denied(
    root: str, application: WSGIApplication
) -> None:
    limited = site(root, application, LIMITER_LIMIT="1/day", LIMITER_MODE="shadow")
    logs = []
    for path in ("/?app_id=acme", "/?app_id=acme", "/"):
        answer = limited.ask(path)
        assert answer.status_int == 200
        assert answer.headers["X-Remaining"] == "nothing was counted"
        assert not [name for name in NAMES_OF_FIELDS if name in answer.headers]
        logs.append(limited.log)
    assert logs == [
        "",
        "limiter: shadow: acme would have got 429 Too Many Requests\n",
        "limiter: shadow: a request without a valid app_id would have got 401 Unauthorized\n",
    ]


def test_off_does_nothing(application: WSGIApplication) -> None:
    limited = site("/nowhere", application, LIMITER_MODE="off")
    answer = limited.ask("/")
    assert answer.status_int == 200
    assert answer.headers["X-Remaining"] == "nothing was counted"
    assert not limited.log


@pytest.mark.parametrize(("on_error", "status"), [("deny", 500), ("admit", 200)])
def test_a_store_that_fails_gives_the_configured_verdict_and_one_line(
    root: str, application: WSGIApplication, on_error: str, status: int
) -> None:
    limited = site(f"{root}/missing", application, LIMITER_ON_ERROR=on_error)
    for _ in range(2):
        answer = limited.ask()
        assert answer.status_int == status
        assert limited.log.startswith("limiter: StoreError: ")
        assert limited.log.count("\n") == 1
        assert not [name for name in NAMES_OF_FIELDS if name in answer.headers]
    if status == 200:
        assert answer.headers["X-Remaining"] == "nothing was counted"
    else:
        assert_is_own(answer, 500, "Internal Server Error")


@pytest.mark.parametrize(("on_error", "status"), [("deny", 500), ("admit", 200)])
def test_a_silent_store_gives_the_configured_verdict_in_time(
    root: str, monkeypatch: pytest.MonkeyPatch, on_error: str, status: int
) -> None:
    """The store still does not answer then."""
    clock = stand_still(monkeypatch)
    limited = site(root, LIMITER_TIMEOUT="0.5", LIMITER_ON_ERROR=on_error)
    assert limited.statuses(1) == [200]
    released = threading.Event()

    def hang(*_: object) -> None:
        clock.move(0.5, waiting=1)
        released.wait()

    for name in ("listdir", "rename"):
        monkeypatch.setattr(posix, name, hang)
    try:
        assert limited.statuses(1) == [status]
        assert limited.log.startswith("limiter: StoreError: ")
        assert limited.log.count("\n") == 1
    finally:
        released.set()


def test_threads_together_get_exactly_what_is_allowed(root: str, application: WSGIApplication) -> None:
    limited = RateLimit(application)
    settings = {"LIMITER_ROOT": root, "LIMITER_LIMIT": "37/day"}

    def ask(_: int) -> int:
        client = TestApp(limited, lint=True)
        answer = client.get("/?app_id=acme", extra_environ=settings, expect_errors=True)
        status: int = answer.status_int
        return status

    with ThreadPoolExecutor(8) as threads:
        statuses = [*threads.map(ask, range(200))]
    assert (statuses.count(200), statuses.count(429)) == (37, 163)


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


def test_an_application_that_raises_does_so_to_the_server(root: str) -> None:
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


def test_limits_in_front_of_limits_all_hold(root: str) -> None:
    inner = RateLimit(bare, Limiter(root, "5/day"), key="user")
    limited = Site(inner, {}, Limiter(root, "3/day"))
    answer = limited.ask("/?app_id=acme&user=me")
    assert answer.headers.getall("RateLimit-Policy") == [
        '"5-per-86400s";q=5;w=86400',
        '"3-per-86400s";q=3;w=86400',
    ]
    assert limited.statuses(3, "/?app_id=acme&user=me") == [200, 200, 429]
