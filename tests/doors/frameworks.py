"""Applications behind the WSGI and the ASGI door, and a client of each.

Each application answers with the body of the request, and with what it knows of the decision.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import django
import fastapi
import flask
import httpx
import starlette.applications
import starlette.routing
from django.conf import settings as django_settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from limiter import asgi, wsgi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # WebOb imports the old module cgi; Starlette recommends httpx2
    from starlette.testclient import TestClient
    from webtest.lint import middleware as lint

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

NOTHING = "nothing was counted"


def _remaining(decision: Any) -> str:
    return NOTHING if decision is None else str(decision.remaining)


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A WSGI application without a framework."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    length = ("Content-Length", str(len(body)))
    remaining = ("X-Remaining", _remaining(environ["limiter.decision"]))
    start_response("200 OK", [("Content-Type", "application/octet-stream"), length, remaining])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _flask() -> WSGIApplication:
    application = flask.Flask(__name__)

    @application.route("/", methods=["GET", "POST"])
    def view() -> flask.Response:
        answer = flask.Response(flask.request.get_data(), mimetype="application/octet-stream")
        answer.headers["X-Remaining"] = _remaining(flask.request.environ["limiter.decision"])
        return answer

    return application


def _django_view(request: HttpRequest) -> HttpResponse:
    answer = HttpResponse(request.body, content_type="application/octet-stream")
    answer["X-Remaining"] = _remaining(request.META["limiter.decision"])
    return answer


urlpatterns = [re_path("", _django_view)]


def set_up_django() -> None:
    """Configure Django, once in a process."""
    if not django_settings.configured:
        django_settings.configure(
            ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="none", LOGGING_CONFIG=None
        )
        django.setup()


def _django() -> WSGIApplication:
    set_up_django()
    application: WSGIApplication = get_wsgi_application()
    return application


async def _view(request: Request) -> Response:
    remaining = _remaining(request.scope["limiter.decision"])
    return Response(await request.body(), headers={"X-Remaining": remaining})


async def _socket_view(socket: WebSocket) -> None:
    await socket.accept(headers=[(b"x-own", b"1")])
    await socket.send_text(_remaining(socket.scope["limiter.decision"]))
    await socket.close()


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[None]:
    app.state.life = "begun"
    yield
    app.state.life = "ended"


def _starlette() -> Any:
    routes = [
        starlette.routing.Route("/", _view, methods=["GET", "POST"]),
        starlette.routing.WebSocketRoute("/socket", _socket_view),
    ]
    return starlette.applications.Starlette(routes=routes, lifespan=_lifespan)


def _fastapi() -> Any:
    app = fastapi.FastAPI(lifespan=_lifespan)
    app.add_api_route("/", _view, methods=["GET", "HEAD", "POST"])
    app.add_api_websocket_route("/socket", _socket_view)
    return app


WSGI: dict[str, Callable[[], Any]] = {"bare": lambda: bare, "flask": _flask, "django": _django}
ASGI: dict[str, Callable[[], Any]] = {"starlette": _starlette, "fastapi": _fastapi}


def client_of(framework: str, *arguments: Any, **more: Any) -> httpx.Client:
    """Return a client of a limited application.  The arguments are those of RateLimit after the first."""
    if framework in ASGI:
        return TestClient(asgi.RateLimit(ASGI[framework](), *arguments, **more))
    limited = wsgi.RateLimit(lint(WSGI[framework]()), *arguments, **more)
    return httpx.Client(transport=httpx.WSGITransport(lint(limited)), base_url="http://test")
