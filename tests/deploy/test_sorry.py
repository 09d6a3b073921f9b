"""deploy/loadbalancer/sorry: the answer of a director while no web server can admit."""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.laboratories.machines import wait_for
from tests.places import PYTHON, REPOSITORY

pytestmark = pytest.mark.one_python

SORRY = REPOSITORY / "deploy/loadbalancer/sorry"
_PATIENCE = "_SECONDS = 5\n"


@contextmanager
def _serving(directory: Path, seconds: float) -> Iterator[int]:
    """Run it with this time limit for requests; return the port."""
    text = SORRY.read_text()
    assert _PATIENCE in text
    program = directory / "sorry"
    program.write_text(text.replace(_PATIENCE, f"_SECONDS = {seconds}\n"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    with subprocess.Popen([PYTHON, program, str(port)]) as process:
        try:
            with socket.socket() as client:
                wait_for(lambda: client.connect_ex(("127.0.0.1", port)) == 0, "it listens")
            yield port
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def sorry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of one whose time limit is longer than any of these tests takes."""
    with _serving(tmp_path_factory.mktemp("patient"), 600) as port:
        yield port


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
def test_every_request_gets_503(sorry: int, method: str) -> None:
    """The body may exceed all buffers.  The answer is JSON, like all others."""
    connection = HTTPConnection("127.0.0.1", sorry)
    connection.request(method, "/cgi-bin/check.py?app_id=acme", b" " * 10_000_000)
    answer = connection.getresponse()
    assert (answer.status, answer.reason) == (503, "Service Unavailable")
    assert answer.getheader("Retry-After") == "1"
    assert answer.getheader("Cache-Control") == "no-store"
    assert answer.getheader("Content-Type") == "application/json; charset=utf-8"
    assert answer.read() == (b"" if method == "HEAD" else b'{"message": "Service Unavailable"}')
    connection.close()


def _connect(stack: ExitStack, port: int) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", port)))


def test_idle_clients_delay_no_other(sorry: int) -> None:
    """Neither does a client that sends too much; it is disconnected."""
    with ExitStack() as stack:
        idle = [_connect(stack, sorry) for _ in range(100)]
        greedy = _connect(stack, sorry)
        greedy.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
        connection = HTTPConnection("127.0.0.1", sorry)
        connection.request("GET", "/")
        assert connection.getresponse().status == 503
        connection.close()
        with suppress(ConnectionResetError):
            assert greedy.recv(1) == b""
        assert not select.select(idle, [], [], 0)[0]


def test_idle_clients_are_disconnected(tmp_path: Path) -> None:
    """Each request has a time limit."""
    with _serving(tmp_path, 0.1) as port, ExitStack() as stack:
        idle = [_connect(stack, port) for _ in range(100)]
        assert [client.recv(1) for client in idle] == [b""] * len(idle)
