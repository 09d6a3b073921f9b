"""The middlewares of WSGI and ASGI in this process, with one interface for both."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import pytest

import limiter.asgi
import limiter.wsgi
from tests.doors.doors import THROUGH


class Doors:
    """One kind of door, and an application that answers with ``status``.

    ``before``: what the application does before it answers.  ``calls``: how often it was called.
    """

    status = "200 OK"
    door: Any

    def __init__(self) -> None:
        self.calls = 0
        self.decision: Any = None
        self.before: Callable[[], object] = int
        self.log: list[str] = []

    def ask(self, app: Any, query: str = "app_id=acme", path: str = "/") -> tuple[int, list[str]]:
        """Send a request; return the status, and the policies in the header fields."""
        status, fields = self.answer(app, query, path)
        return status, [value for name, value in fields if name == "ratelimit-policy"]

    def answer(self, app: Any, query: str, path: str) -> tuple[int, list[tuple[str, str]]]:
        """Send a request; return the status and the header fields."""
        raise NotImplementedError


class Wsgi(Doors):
    door = limiter.wsgi.RateLimit

    def application(self, environ: Any, start_response: Any) -> list[bytes]:
        self.calls += 1
        self.decision = environ.get("limiter.decision")
        self.before()
        start_response(self.status, [])
        return [THROUGH]

    def answer(self, app: Any, query: str, path: str) -> tuple[int, list[tuple[str, str]]]:
        got: list[Any] = []
        log = io.StringIO()
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_X_USER": "ann",
            "wsgi.errors": log,
        }
        app(environ, lambda status, headers, _=None: got.append((int(status[:3]), headers)))
        self.log += log.getvalue().splitlines()
        ((status, headers),) = got
        return status, [(name.lower(), value) for name, value in headers]


class Asgi(Doors):
    door = limiter.asgi.RateLimit

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.decision = scope.get("limiter.decision")
        self.before()
        status = int(self.status[:3])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": THROUGH})

    def answer(self, app: Any, query: str, path: str) -> tuple[int, list[tuple[str, str]]]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": [(b"x-user", b"ann")],
        }
        asyncio.run(app(scope, None, send))
        fields = sent[0]["headers"]
        return sent[0]["status"], [(name.decode(), value.decode()) for name, value in fields]


@pytest.fixture(params=[Wsgi, Asgi], ids=["wsgi", "asgi"])
def doors(request: pytest.FixtureRequest, root_only: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One kind of doors, with an empty store and 3/hour."""
    monkeypatch.setenv("LIMITER_LIMIT", "3/hour")
    return request.param()
