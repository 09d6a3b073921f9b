"""health.py in a real Apache: what a load balancer sees when the store fails, and when it is back."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from limiter.request.register import put
from tests.apache_server import MPMS, Reply, apache
from tests.hanging import hanging_mount
from tests.places import new_root

pytestmark = pytest.mark.one_python

HEALTH = "/cgi-bin/health.py"
CHECK = "/cgi-bin/check.py"

Do = Callable[[], object]
Failure = Callable[[], AbstractContextManager[tuple[Path, Do, Do]]]
"""A store, a function that makes it fail, and one that repairs it."""

HOSTILE = [
    "",
    "?",
    "?app_id=acme",
    "?app_id=..%2F..",
    "?app_id=.health",
    "?LIMITER_ROOT=/nowhere",
    "?-h",
    "?" + 4000 * "a",
    "/etc/passwd",
    "/.new-health-",
]


def own_store(place: str) -> Path:
    """Make a store that belongs to Apache's user."""
    root = new_root(place)
    if os.geteuid() == 0:
        shutil.chown(root, "www-data")
    return root


def assert_healthy(reply: Reply) -> None:
    """Compare an answer with the contract."""
    assert (reply.status, reply.body) == (200, b'{"message": "OK"}')
    assert_fields(reply)


def assert_sick(reply: Reply, reason: str) -> None:
    assert reply.status == 503
    assert json.loads(reply.body) == {"message": "Service Unavailable", "reason": reason}
    assert_fields(reply)


def assert_fields(reply: Reply) -> None:
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-store"
    assert "RateLimit" not in reply.headers


@pytest.mark.parametrize("mpm", MPMS)
def test_whoever_can_admit_is_healthy_whatever_is_asked(mpm: str, installed: Path) -> None:
    with apache(mpm, installed, {"LIMITER_LIMIT": "1/day"}) as server:
        for query in HOSTILE:
            assert_healthy(server.ask(HEALTH + query))
        assert_healthy(server.post(HEALTH, b"app_id=acme"))
        assert_healthy(server.ask(HEALTH, "POST", b"x" * 1_000_000))
        head = server.ask(HEALTH, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert_fields(head)
        # keepalived sends this request.
        assert server.send(f"GET {HEALTH} HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.1 200 OK\r\n")
        assert os.listdir(server.root) == []
    assert "limiter:" not in server.log


def test_many_balancers_and_clients_do_not_disturb_each_other(installed: Path) -> None:
    with apache("event", installed, {"LIMITER_LIMIT": "10/hour"}) as server:
        with ThreadPoolExecutor(8) as clients:
            replies = list(clients.map(server.ask, [HEALTH, f"{CHECK}?app_id=acme", HEALTH] * 20))
        health = [reply.status for number, reply in enumerate(replies) if number % 3 != 1]
        check = [reply.status for reply in replies[1::3]]
        assert set(health) == {200}
        assert sorted(check) == [200] * 10 + [429] * 10
        assert os.listdir(server.root) == ["acme"]


# A store that fails


@contextmanager
def removed() -> Iterator[tuple[Path, Do, Do]]:
    """The store has been removed."""
    place = new_root("/tmp")
    root = own_store(str(place))
    yield root, lambda: root.rename(place / "away"), lambda: (place / "away").rename(root)
    shutil.rmtree(place)


@contextmanager
def forbidden() -> Iterator[tuple[Path, Do, Do]]:
    """The store no longer belongs to Apache's user."""
    root = own_store("/tmp")
    yield root, lambda: root.chmod(0), lambda: root.chmod(0o700)
    shutil.rmtree(root)


@contextmanager
def full() -> Iterator[tuple[Path, Do, Do]]:
    """There is no room for another file."""
    with _disk("nr_inodes=40") as place:

        def fill() -> None:
            for number in range(os.statvfs(place).f_ffree):
                (place / str(number)).touch()

        def empty() -> None:
            for file in place.glob("[0-9]*"):
                file.unlink()

        yield own_store(str(place)), fill, empty


@contextmanager
def read_only() -> Iterator[tuple[Path, Do, Do]]:
    """The file system is read-only, as after a disk error."""
    with _disk("size=1M") as place:

        def remount(how: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", place], check=True)

        yield own_store(str(place)), lambda: remount("ro"), lambda: remount("rw")


@contextmanager
def _disk(options: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can make a disk of that kind")
    place = new_root("/tmp")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        place.chmod(0o755)
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


FAILURES: dict[str, Failure] = {
    "ENOENT": removed,
    "EACCES": forbidden,
    "ENOSPC": full,
    "EROFS": read_only,
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_store_that_fails_is_a_503_until_it_is_back(installed: Path, reason: str) -> None:
    with FAILURES[reason]() as (root, fail, repair):
        with apache("event", installed, {"LIMITER_ROOT": str(root)}) as server:
            assert_healthy(server.ask(HEALTH))
            fail()
            assert_sick(server.ask(HEALTH), reason)
            head = server.ask(HEALTH, "HEAD")
            assert (head.status, head.body) == (503, b"")
            assert server.ask(HEALTH, "POST", b"x" * 1_000_000).status == 503
            repair()
            assert_healthy(server.ask(HEALTH))
        lines = [line for line in server.log.splitlines() if "limiter: health: StoreError: " in line]
        assert len(lines) == 3
        assert all(f"[Errno {getattr(errno, reason)}] " in line and str(root) in line for line in lines)


def test_a_store_whose_mount_has_died_is_a_503(installed: Path) -> None:
    with hanging_mount() as mount:
        root = own_store(str(mount.path))
        with apache("event", installed, {"LIMITER_ROOT": str(root)}) as server:
            assert_healthy(server.ask(HEALTH))
            mount._daemon.kill()
            mount._daemon.wait()
            assert_sick(server.ask(HEALTH), "ENOTCONN")
            assert server.ask(f"{CHECK}?app_id=acme").status == 500


@pytest.mark.parametrize("mpm", MPMS)
def test_a_store_that_is_silent_is_a_503_meanwhile(mpm: str, installed: Path) -> None:
    timeout = 0.5
    hasty = f"{HEALTH}/hasty"
    after = f'<Location "{hasty}">\nSetEnv LIMITER_TIMEOUT {timeout}\n</Location>'
    with hanging_mount() as mount:
        settings = {"LIMITER_ROOT": str(own_store(str(mount.path)))}
        with apache(mpm, installed, settings, after=after) as server:
            assert_healthy(server.ask(HEALTH))
            mount.hang()
            try:
                for _ in range(3):
                    begin = time.monotonic()
                    assert_sick(server.ask(hasty), "ETIMEDOUT")
                    assert time.monotonic() - begin >= timeout
                mount.wait_until_stuck()
            finally:
                mount.release()
            assert_healthy(server.ask(HEALTH))
    silent = "limiter: health: StoreError: [Errno 110] The store did not answer within 0.5 s (LIMITER_TIMEOUT)"
    assert server.log.count(silent) == 3, server.log


# Settings


@contextmanager
def register() -> Iterator[Path]:
    """A register that bans all app_ids."""
    path = new_root("/tmp")
    put(str(path), ".default", "0/second")
    yield path
    shutil.rmtree(path)


def test_a_register_that_cannot_be_read_is_a_503(installed: Path) -> None:
    with register() as path, apache("event", installed, {"LIMITER_APPS": str(path)}) as server:
        assert_healthy(server.ask(HEALTH))
        path.chmod(0)
        assert_sick(server.ask(HEALTH), "EACCES")
        path.chmod(0o755)
        assert_healthy(server.ask(HEALTH))


@pytest.mark.parametrize(
    "settings",
    [{"LIMITER_LIMIT": "many"}, {"LIMITER_ROOT": "store"}, {"LIMITER_TIMEOUT": "soon"}],
    ids=lambda settings: next(iter(settings)),
)
def test_a_mistake_in_the_settings_is_a_503(installed: Path, settings: Mapping[str, str]) -> None:
    with apache("event", installed, settings) as server:
        assert_sick(server.ask(HEALTH), "settings")
    assert server.log.count("limiter: health: ValueError: ") == 1


def test_a_package_that_is_missing_is_no_200(copy: Path) -> None:
    shutil.rmtree(copy / "limiter")
    with apache("event", copy) as server:
        reply = server.ask(HEALTH)
    assert (reply.status, reply.body) == (500, b'{"message": "Internal Server Error"}')


# Who may send requests


@pytest.mark.parametrize(("who", "status"), [("127.0.0.0/8", 200), ("192.0.2.0/24", 403)])
@pytest.mark.parametrize("place", ["before", "after"])
def test_who_may_ask_can_be_restricted(installed: Path, place: str, who: str, status: int) -> None:
    restriction = f'<Location "{HEALTH}">\nRequire ip {who}\n</Location>'
    before, after = (restriction, "") if place == "before" else ("", restriction)
    with apache("event", installed, before=before, after=after, modules=("authz_host",)) as server:
        assert server.ask(HEALTH).status == status
        assert server.ask(f"{CHECK}?app_id=acme").status == 200


MAP = {"LIMITER_PATHS": "^/", "LIMITER_LIMIT": "1/hour"}
MAP_MODULES = ("rewrite", "actions", "proxy", "proxy_http")


def test_the_map_that_guards_everything_lets_balancers_ask(installed: Path) -> None:
    with apache("event", installed, MAP, modules=MAP_MODULES) as server:
        for _ in range(3):
            assert_healthy(server.ask(HEALTH))
        assert server.ask(f"{HEALTH}x").status == 401
        assert server.ask(f"{HEALTH}/x").status == 401
        assert server.ask("/").status == 401
        assert os.listdir(server.root) == []


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(418)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


PROXIES = {
    "ProxyPass": 'ProxyPass "/" "http://127.0.0.1:{port}/"',
    "RewriteRule": 'RewriteRule "^" "http://127.0.0.1:{port}/" [P]',
}


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_for_everything_answers_for_itself(installed: Path, proxy: str) -> None:
    """The request does not reach the back end, so nothing there escapes the limit."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as back_end:
        thread = Thread(target=back_end.serve_forever)
        thread.start()
        try:
            after = PROXIES[proxy].format(port=back_end.server_port)
            with apache("event", installed, MAP, modules=MAP_MODULES, after=after) as server:
                assert_healthy(server.ask(HEALTH))
                assert server.ask("/?app_id=acme").status == 418
                assert server.ask("/?app_id=acme").status == 429
        finally:
            back_end.shutdown()
            thread.join()
