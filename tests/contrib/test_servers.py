"""Flask-Limiter, SlowAPI, Django and its REST framework under real servers with four processes."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.doors.servers import running

pytestmark = pytest.mark.one_python

FLASK_LIMITER = """
import flask, os
from flask_limiter import Limiter
import limiter.contrib.limits

application = flask.Flask(__name__)
application.config["RATELIMIT_STORAGE_URI"] = limiter.contrib.limits.uri(os.environ["PLACE"])
application.config["RATELIMIT_STRATEGY"] = os.environ["STRATEGY"]
application.config["RATELIMIT_HEADERS_ENABLED"] = True
limits = Limiter(lambda: "everybody", app=application)

@application.route("/")
@limits.limit("20/minute")
def page():
    return "page"
"""
SLOWAPI = """
import os
from fastapi import FastAPI, Request
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
import limiter.contrib.limits

uri = limiter.contrib.limits.uri(os.environ["PLACE"])
limits = Limiter(lambda: "everybody", storage_uri=uri, strategy=os.environ["STRATEGY"])
application = FastAPI()
application.state.limiter = limits
application.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)

@application.get("/")
@limits.limit("20/minute")
async def page(request: Request):
    return "page"
"""
DJANGO = """
import os
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="none",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["rest_framework", "limiter.contrib.django"],
    ACCESS_LIMITER={"ROOT": os.environ["PLACE"], "TIMEOUT": "60"},
    MIDDLEWARE=os.environ.get("MIDDLEWARE", "").split(),
    REST_FRAMEWORK={
        "UNAUTHENTICATED_USER": None,
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_THROTTLE_RATES": {"scoped": "20/minute"},
    },
)
django.setup()

from rest_framework.response import Response
from rest_framework.views import APIView
from limiter.contrib.django import rate_limit
from limiter.contrib.rest_framework import ScopedRateThrottle

@rate_limit("page=20/minute", key=lambda request: "everybody")
def page(request):
    return HttpResponse("page")

@rate_limit("page=20/minute", key=lambda request: "everybody")
async def async_page(request):
    return HttpResponse("page")

class Throttled(APIView):
    throttle_classes = [ScopedRateThrottle]
    throttle_scope = "scoped"

    def get(self, request):
        return Response("page")

def plain(request):
    return HttpResponse("page")

urlpatterns = [
    path("page", page), path("async", async_page), path("drf", Throttled.as_view()), path("", plain)
]
application = get_wsgi_application()
of_asgi = get_asgi_application()
"""
_GUNICORN = [
    "gunicorn",
    "applications:application",
    "--no-control-socket",
    "--bind=unix:{socket}",
    "--workers=4",
]
_UVICORN = ["uvicorn", "--uds={socket}", "--workers=4", "--lifespan=off"]
SERVERS = {
    "sync": _GUNICORN,
    "gthread": [*_GUNICORN, "--worker-class=gthread", "--threads=4"],
    "uvicorn": [*_UVICORN, "applications:application"],
    "uvicorn-django": [*_UVICORN, "applications:of_asgi"],
}


def flooded(
    server: str, text: str, place: Path, root: str, path: str = "/", **settings: str
) -> Counter[int]:
    """What 200 requests of 16 clients are answered."""
    with (
        running(SERVERS[server], text, place, PLACE=root, **settings) as it,
        ThreadPoolExecutor(16) as clients,
    ):
        return Counter(clients.map(lambda _: it.ask(path), range(200)))


@pytest.mark.parametrize("strategy", ["moving-window", "fixed-window", "sliding-window-counter"])
@pytest.mark.parametrize("server", ["sync", "gthread", "uvicorn"])
def test_flask_limiter_and_slowapi_are_exact_over_four_processes(
    server: str, strategy: str, tmp_path: Path, root: str
) -> None:
    text = SLOWAPI if server == "uvicorn" else FLASK_LIMITER
    assert flooded(server, text, tmp_path, root, STRATEGY=strategy) == {200: 20, 429: 180}


@pytest.mark.parametrize(
    ("server", "path"),
    [("gthread", "/page"), ("sync", "/drf"), ("gthread", "/drf"), ("uvicorn-django", "/async")],
)
def test_django_and_its_rest_framework_are_exact_over_four_processes(
    server: str, path: str, tmp_path: Path, root: str
) -> None:
    assert flooded(server, DJANGO, tmp_path, root, path) == {200: 20, 429: 180}


@pytest.mark.parametrize("server", ["sync", "uvicorn-django"])
def test_django_s_middleware_is_exact_over_four_processes(
    server: str, tmp_path: Path, root: str
) -> None:
    middleware = "limiter.contrib.django.RateLimitMiddleware"
    settings = {"MIDDLEWARE": middleware, "LIMITER_LIMIT": "20/hour"}
    got = flooded(server, DJANGO, tmp_path, root, "/?app_id=acme", **settings)
    assert got == {200: 20, 429: 180}
