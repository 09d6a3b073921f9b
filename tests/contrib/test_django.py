"""Django's middleware, decorator and system check, sync and async, by Django's own test clients."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient, Client, override_settings
from django.test.client import RequestFactory

from tests.doors.frameworks import set_up_django
from tests.places import REPOSITORY

set_up_django()  # before what needs its settings is imported

from rest_framework.settings import api_settings  # noqa: E402

from limiter.contrib import rest_framework  # noqa: E402
from limiter.core.store import StoreError  # noqa: E402

pytestmark = pytest.mark.one_python

MIDDLEWARE = ["limiter.contrib.django.RateLimitMiddleware"]


class Site:
    """A site with these settings, asked by a synchronous or an asynchronous client."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async

    def ask(self, path: str, **headers: str) -> Any:
        if not self.is_async:
            return Client().get(path, headers=headers)
        return asyncio.run(AsyncClient().get(path, headers=headers))


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def site(request: pytest.FixtureRequest, root: str) -> Iterator[Site]:
    with override_settings(
        ROOT_URLCONF="tests.contrib.django_site",
        MIDDLEWARE=MIDDLEWARE,
        ACCESS_LIMITER={"ROOT": root, "LIMIT": "2/hour"},
    ):
        yield Site(request.param)


def settings(root: str, **more: Any) -> override_settings:
    return override_settings(ACCESS_LIMITER={"ROOT": root, "LIMIT": "2/hour", **more})


@pytest.mark.parametrize("path", ["/page", "/async"])
def test_the_middleware_answers_as_every_door(site: Site, path: str) -> None:
    first = site.ask(f"{path}?app_id=acme")
    assert (first.status_code, first.content) == (200, b"1")
    assert first["RateLimit"] == '"2-per-3600s";r=1;t=3600'
    assert first["RateLimit-Policy"] == '"2-per-3600s";q=2;w=3600'
    assert site.ask(f"{path}?app_id=acme").status_code == 200
    denied = site.ask(f"{path}?app_id=acme")
    assert (denied.status_code, json.loads(denied.content)) == (429, {"message": "Too Many Requests"})
    assert 3590 < int(denied["Retry-After"]) <= 3600
    assert (denied["Content-Type"], denied["Cache-Control"]) == (
        *("application/json; charset=utf-8", "no-store"),
    )
    for query in ("", "?app_id=a&app.id=b", "?app_id=%00", "?app_id=\N{SNOWMAN}"):
        answer = site.ask(path + query)
        assert (answer.status_code, answer["WWW-Authenticate"]) == (401, 'AppId realm="limiter"')


def test_key_and_rules_may_be_python(site: Site, root: str) -> None:
    rules = ["/page * exempt", "/async * 1/hour", "/ * page=2/hour"]
    with settings(root, KEY=lambda request: request.headers.get("X-Who"), RULES=rules):
        assert [site.ask("/page").status_code for _ in range(4)] == [200] * 4
        assert [site.ask("/async", **{"X-Who": "me"}).status_code for _ in range(2)] == [200, 429]
        assert site.ask("/async").status_code == 401


def test_a_rule_counts_answers_by_their_status(site: Site, root: str) -> None:
    with settings(root, KEY="env:REMOTE_ADDR", RULES=["/login * login=2/hour count=401"]):
        assert [site.ask("/login").status_code for _ in range(3)] == [401, 401, 429]


def test_the_site_s_own_handler_answers_what_is_denied(site: Site) -> None:
    with override_settings(ROOT_URLCONF="tests.contrib.django_site_with_handler"):
        for _ in range(2):
            assert site.ask("/page?app_id=acme").status_code == 200
        denied = site.ask("/page?app_id=acme")
    assert (denied.status_code, denied.content) == (429, b"Slow down for True: /page")
    assert denied["Content-Type"] == "text/plain"
    assert int(denied["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["/limited", "/limited-async"])
def test_a_decorator_limits_a_view(site: Site, path: str) -> None:
    with override_settings(MIDDLEWARE=[]):
        assert [site.ask(path).status_code for _ in range(3)] == [200, 200, 429]
        assert [site.ask("/by-parameter?app_id=a").status_code for _ in range(3)] == [200, 200, 429]
        assert site.ask("/by-parameter").status_code == 401


def test_the_fields_of_the_middleware_and_of_a_decorator_are_one_list(site: Site) -> None:
    answer = site.ask("/limited?app_id=acme")
    assert answer["RateLimit-Policy"] == '"view";q=2;w=3600, "2-per-3600s";q=2;w=3600'


def test_a_store_that_fails_is_a_500_or_admits(
    site: Site, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    with settings(f"{root}/missing"):
        assert site.ask("/page?app_id=acme").status_code == 500
    assert "The store does not exist" in caplog.text
    with settings(f"{root}/missing", ON_ERROR="admit"):
        assert site.ask("/page?app_id=acme").status_code == 200


def test_a_wrong_setting_is_refused(site: Site, root: str) -> None:
    with settings(root, MODE="maybe"):
        assert site.ask("/page?app_id=acme").status_code == 500
    with settings(root, LIMTI="2/hour"), pytest.raises(ImproperlyConfigured, match="'LIMTI'"):
        site.ask("/page?app_id=acme")


MANAGE = """
import os, sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["limiter.contrib.django"], ACCESS_LIMITER=eval(sys.argv.pop()))
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({}, 0, "System check identified no issues"),
        ({"LIMIT": "many"}, 1, "(access_limiter.E001) limit 'many': expected a number of hits"),
        ({"ROOT": "/nowhere"}, 1, "(access_limiter.E002) the store failed"),
        (
            {"COLOUR": "red"},
            1,
            "(access_limiter.E001) ACCESS_LIMITER['COLOUR']: expected one of APPS,",
        ),
        ({"KEY": "cookie:a"}, 1, "(access_limiter.E001) key 'cookie:a': expected a parameter's name"),
    ],
)
def test_manage_py_check_tries_the_settings_and_the_store(
    given: dict[str, str], status: int, said: str, root: str
) -> None:
    command = [sys.executable, "-c", MANAGE, "check", repr({"ROOT": root, **given})]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (ended.returncode, said in ended.stdout + ended.stderr) == (status, True), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def throttles(root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    rates = {"anon": "2/min", "user": "3/hour", "scoped": "1/second;2/day", "none": None, "bad": "many"}
    for kind in ("AnonRateThrottle", "UserRateThrottle", "ScopedRateThrottle"):
        monkeypatch.setattr(getattr(rest_framework, kind), "THROTTLE_RATES", rates)
    monkeypatch.setattr(rest_framework, "_stores", rest_framework._Stores())
    with settings(root):
        yield


class User:
    """Who asks."""

    def __init__(self, pk: int) -> None:
        self.pk = pk
        self.is_authenticated = bool(pk)


class View:
    """A view of the framework."""

    throttle_scope: str | None = None


def request_of(user: int = 0, address: str = "192.0.2.1") -> Any:
    request: Any = RequestFactory().get("/", REMOTE_ADDR=address)
    request.user = User(user)
    return request


@pytest.mark.usefixtures("throttles")
def test_throttles_count_users_and_addresses() -> None:
    def allowed(kind: Any, request: Any) -> bool:
        return bool(kind().allow_request(request, View()))

    anon, user = rest_framework.AnonRateThrottle, rest_framework.UserRateThrottle
    assert [allowed(anon, request_of()) for _ in range(3)] == [True, True, False]
    assert allowed(anon, request_of(address="192.0.2.2"))
    assert [allowed(anon, request_of(user=7)) for _ in range(5)] == [True] * 5
    assert [allowed(user, request_of(user=7)) for _ in range(4)] == [True, True, True, False]
    assert allowed(user, request_of(user=8))
    assert allowed(user, request_of())


@pytest.mark.usefixtures("throttles")
def test_a_throttle_says_how_long_to_wait() -> None:
    throttle = rest_framework.AnonRateThrottle()
    assert throttle.wait() is None
    for _ in range(2):
        throttle.allow_request(request_of(), View())
    assert not throttle.allow_request(request_of(), View())
    assert 59 < (throttle.wait() or 0) <= 60


@pytest.mark.usefixtures("throttles")
def test_scopes_have_rates_in_our_notation_too() -> None:
    view = View()
    throttle = rest_framework.ScopedRateThrottle()
    assert throttle.allow_request(request_of(), view)
    view.throttle_scope = "scoped"
    assert throttle.allow_request(request_of(), view)
    assert not throttle.allow_request(request_of(), view)
    assert 0 < (throttle.wait() or 0) <= 1
    view.throttle_scope = "none"
    assert throttle.allow_request(request_of(), view)
    for scope, said in (("bad", "throttle rate: limit 'many'"), ("unknown", "No default throttle rate")):
        view.throttle_scope = scope
        with pytest.raises(ImproperlyConfigured, match=said):
            throttle.allow_request(request_of(), view)


@pytest.mark.usefixtures("throttles")
def test_a_throttle_whose_store_fails_raises_or_admits(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for on_error in ("deny", "admit"):
        monkeypatch.setattr(rest_framework, "_stores", rest_framework._Stores())
        with settings(f"{root}/missing", ON_ERROR=on_error):
            throttle = rest_framework.AnonRateThrottle()
            if on_error == "admit":
                assert throttle.allow_request(request_of(), View())
            else:
                with pytest.raises(StoreError):
                    throttle.allow_request(request_of(), View())
    assert os.listdir(root) == []


def test_the_framework_s_own_settings_are_untouched() -> None:
    assert api_settings.DEFAULT_THROTTLE_CLASSES == []
