"""The servers that people run in production, on a unix socket, with a limited application behind them.

::

    with serving("gunicorn", place, LIMITER_ROOT=root) as server:
        status = server.ask("/?app_id=acme")
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.conftest import clean_environ
from tests.places import REPOSITORY
from tests.waiting import SAFETY, wait_until

APPLICATIONS = """
from limiter import asgi, wsgi

def application(environ, start_response):
    status = "401 Unauthorized" if "fail" in environ["QUERY_STRING"] else "200 OK"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", "7")])
    return [b"through"]

async def async_application(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"7")]
    status = 401 if b"fail" in scope["query_string"] else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"through"})

of_wsgi = wsgi.RateLimit(application)
of_asgi = asgi.RateLimit(async_application)
"""

_GUNICORN = ["gunicorn", "applications:of_wsgi", "--no-control-socket", "--bind", "unix:{socket}"]
_WAITRESS = ["waitress", "--unix-socket={socket}", "--no-clear-untrusted-proxy-headers"]
COMMANDS = {
    "gunicorn": [*_GUNICORN, "--worker-class", "sync"],
    "gunicorn-gevent": [*_GUNICORN, "--worker-class", "gevent"],
    # The application is imported before gevent replaces Python's own threads.
    "gunicorn-gevent-preload": [*_GUNICORN, "--worker-class", "gevent", "--preload"],
    "gunicorn-gthread": [*_GUNICORN, "--worker-class", "gthread", "--threads", "2"],
    "uvicorn": ["uvicorn", "applications:of_asgi", "--uds", "{socket}", "--lifespan", "off"],
    "hypercorn": ["hypercorn", "applications:of_asgi", "--bind", "unix:{socket}"],
    "waitress": [*_WAITRESS, "applications:of_wsgi"],
}
"""The module of each server, and its arguments."""


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    socket: str
    log_file: Path
    pid: int = 0

    def ask(self, path: str, method: str = "GET", **fields: str) -> int:
        """Send a request, and return the status.  ``X_Forwarded_For`` is that header field."""
        connection = http.client.HTTPConnection("localhost", timeout=SAFETY)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(SAFETY)
        connection.sock.connect(self.socket)
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, path, headers=headers)
        with connection.getresponse() as response:
            response.read()
        connection.close()
        return response.status

    @property
    def log(self) -> list[str]:
        """The lines that the limiter has logged."""
        return [line for line in self.log_file.read_text().splitlines() if line.startswith("limiter: ")]


@contextmanager
def serving(name: str, place: Path, **settings: str) -> Iterator[Server]:
    """Run this server in ``place`` with these variables, and end it after the block."""
    with running(COMMANDS[name], APPLICATIONS, place, **settings) as server:
        yield server


@contextmanager
def running(command: list[str], text: str, place: Path, **settings: str) -> Iterator[Server]:
    """Run a server for the module ``applications``, with this text."""
    (place / "applications.py").write_text(text)
    server = Server(str(place / "socket"), place / "log")
    command = [it.format(socket=server.socket) for it in command]
    settings = {"PYTHONPATH": f"{REPOSITORY}:{place}", "LIMITER_TIMEOUT": "60", **settings}
    environ = clean_environ(**settings)
    with server.log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=place, env=environ, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: process.poll() is not None or _answers(server.socket), "it listens")
        assert process.poll() is None, server.log_file.read_text()
        yield replace(server, pid=process.pid)
    finally:
        process.terminate()
        process.wait(SAFETY)
        if os.path.exists(server.socket):
            os.unlink(server.socket)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as it:
        try:
            it.connect(path)
        except OSError:
            return False
    return True
