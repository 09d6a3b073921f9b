"""The map when Apache ends: a graceful restart refuses no request, and a stop leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from tests.apache_server import MPMS, Server, apache, contents
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

SETTINGS = {
    "LIMITER_PATHS": "^/api/",
    "LIMITER_LIMIT": "1000000/day fixed",
    "LIMITER_TIMEOUT": "600",  # a busy machine may exceed a short one
}
MODULES = ("rewrite", "actions")
PATH = "/api/500.json?app_id=acme"
RESTARTS = 4
BEGUN = "resuming normal operations"
"""What Apache logs when it is ready for the next restart: earlier signals are forgotten."""


@pytest.fixture(scope="module", params=MPMS)
def server(request: pytest.FixtureRequest, installed: Path) -> Iterator[Server]:
    """A server with one guarded file.  It stops while a client is still connected."""
    site = f"""
        Alias "/api/" "{installed}/"
        <Directory "{installed}">
            Require all granted
        </Directory>
    """
    with apache(request.param, installed, SETTINGS, after=site, modules=MODULES) as server:
        yield server
        assert len(server.maps()) == 1
        client = socket.create_connection(("127.0.0.1", server.port))
    client.close()
    assert not server.maps()


def restart(server: Server) -> None:
    """Restart Apache gracefully.

    Wait until it has restarted, and has a map program that handles the signal to end.
    """
    before = server.maps()
    begun = server.logged().count(BEGUN)

    def is_anew() -> bool:
        new = [it for it in server.maps() - before if status(it, "PPid") == str(server.pid)]
        return server.logged().count(BEGUN) > begun and any(map(leaves_a_copy, new))

    os.kill(server.pid, signal.SIGUSR1)
    wait_until(is_anew)


def status(process: int, name: str) -> str:
    """Return what the kernel reports on a process; nothing if it has ended."""
    text = contents(Path(f"/proc/{process}/status")).decode()
    return text.partition(f"\n{name}:")[2].partition("\n")[0].strip()


def leaves_a_copy(program: int) -> bool:
    """Return whether it catches SIGTERM.

    A program that gets the signal in its first 10 ms, before it can catch it, just ends.
    """
    return bool(int(status(program, "SigCgt") or "0", 16) >> signal.SIGTERM - 1 & 1)


def test_a_request_that_began_before_a_restart_is_answered_after_it(server: Server) -> None:
    assert server.ask(PATH).status == 200
    (before,) = server.maps()
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode())
        wait_until(lambda: is_read(connection))
        restart(server)
        restart(server)
        assert before not in server.maps()
        assert len(server.maps()) > 1
        connection.sendall(b"Connection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: len(server.maps()) == 1)


def is_read(connection: socket.socket) -> bool:
    """Return whether the other side has read everything that was sent."""
    own, other = (f":{name[1]:04X}" for name in (connection.getsockname(), connection.getpeername()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(other) and fields[2].endswith(own):
            return fields[4].endswith(":00000000") and fields[3] == "01" and fields[9] != "0"
    return False


def test_restarts_under_load_refuse_nobody(server: Server) -> None:
    over = Event()

    def ask(_: int) -> list[int]:
        statuses = []
        while not over.is_set():
            statuses.append(server.ask(PATH).status)
        return statuses

    assert server.ask(PATH).status == 200
    with ThreadPoolExecutor(4) as clients:
        answers = clients.map(ask, range(4))
        try:
            for _ in range(RESTARTS):
                restart(server)
                wait_until(lambda: len(server.maps()) == 1)
        finally:
            over.set()
        statuses = [status for statuses in answers for status in statuses]
    assert set(statuses) == {200}, server.logged()
