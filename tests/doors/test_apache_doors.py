"""All doors at once share one limit, and each gives the configured verdict when the store fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.apache_server import MPMS, Reply, Server, wait_until
from tests.every_door import BODY, CGI, DOORS, doors
from tests.hanging import hanging_mount
from tests.places import new_root

pytestmark = pytest.mark.one_python

CLIENTS = 8
SECOND = 10**9
MESSAGES = {
    401: b'{"message": "Unauthorized"}',
    429: b'{"message": "Too Many Requests"}',
    500: b'{"message": "Internal Server Error"}',
}


class Answer(NamedTuple):
    """What a client saw: the times of request and answer, in nanoseconds, and the status."""

    asked: int
    answered: int
    status: int


@pytest.fixture(scope="module")
def server(installed: Path) -> Iterator[Server]:
    """A server with every door."""
    with doors(installed, {"LIMITER_LIMIT": "20/hour"}) as it:
        yield it


def url(door: str, app: str) -> str:
    return f"{DOORS[door]}?app_id={app}"


def assert_through(door: str, reply: Reply) -> None:
    assert reply.status == 200
    assert reply.body == (b'{"message": "OK"}' if door == "check" else BODY.encode())


def assert_refused(reply: Reply, status: int) -> None:
    assert (reply.status, reply.body) == (status, MESSAGES[status])
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"


def ask_at_all(server: Server, app: str, is_enough: Callable[[list[int]], bool]) -> list[Answer]:
    """Let 8 clients call all doors in turn, each from another start, until there are enough statuses."""
    answers: list[Answer] = []
    names = list(DOORS)

    def ask(client: int) -> None:
        for index in count(client):
            if is_enough([answer.status for answer in answers]):
                return
            asked = time.time_ns()
            status = server.ask(url(names[index % len(names)], app)).status
            answers.append(Answer(asked, time.time_ns(), status))

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, range(CLIENTS)))
    return answers


@pytest.mark.parametrize("door", DOORS)
def test_every_door_admits_denies_and_challenges(server: Server, door: str) -> None:
    replies = [server.ask(url(door, f"only-{door}")) for _ in range(21)]
    for left, reply in zip(range(19, -1, -1), replies):
        assert_through(door, reply)
        told = re.match(r'"20-per-3600s";r=(\d+);t=', reply.headers["RateLimit"])
        assert told
        # A long-running process claims without looking, so it does not know all claims of others.
        assert left <= int(told[1]) <= (left if door in CGI else 19)
    assert_refused(replies[20], 429)
    assert 3500 < int(replies[20].headers["Retry-After"]) <= 3600
    assert_refused(server.ask(DOORS[door]), 401)
    assert_refused(server.ask(url(door, "a&app_id=b")), 401)


@pytest.mark.parametrize("mpm", MPMS)
def test_all_doors_together_admit_exactly_the_limit(installed: Path, mpm: str) -> None:
    """This holds whether threads or processes call the map."""
    with doors(installed, {"LIMITER_LIMIT": "20/hour"}, mpm) as server:
        answers = ask_at_all(server, "together", lambda statuses: len(statuses) >= 100)
    statuses = [answer.status for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (20, len(answers) - 20)


def test_all_doors_together_keep_to_the_second(installed: Path) -> None:
    """Exactly, as far as clients can know: they do not see when within a request it was decided."""

    def is_enough(statuses: list[int]) -> bool:
        return (statuses.count(200) > 15 and 429 in statuses) or len(statuses) > 5000

    with doors(installed, {"LIMITER_LIMIT": "5/second"}) as server:
        answers = ask_at_all(server, "acme", is_enough)
    admitted = [answer for answer in answers if answer.status == 200]
    denied = [answer for answer in answers if answer.status == 429]
    assert len(admitted) + len(denied) == len(answers)
    assert denied
    for first in admitted:
        # All requests sent after this one, and answered within a second of it, are in one window.
        end = first.asked + SECOND
        within = [it for it in admitted if first.asked <= it.asked and it.answered < end]
        assert len(within) <= 5, within
    for it in denied:
        # All hits that may have been decided in the second before this denial.
        before = [
            hit for hit in admitted if hit.answered > it.asked - SECOND and hit.asked < it.answered
        ]
        assert len(before) >= 5, (it, before)


# A store that fails.


@contextmanager
def removed(root: Path) -> Iterator[None]:
    """The store is gone."""
    aside = root.rename(root.with_name("aside"))
    yield
    aside.rename(root)


@contextmanager
def forbidden(root: Path) -> Iterator[None]:
    """Apache no longer owns the store."""
    root.chmod(0)
    yield
    root.chmod(0o700)


@contextmanager
def full(root: Path) -> Iterator[None]:
    """Its disk has no room for another file.  An application that has its files already needs none."""
    files = [root.with_name(f"{number}.file") for number in range(os.statvfs(root).f_ffree)]
    for file in files:
        file.touch()
    yield
    for file in files:
        file.unlink()


@contextmanager
def small_disk() -> Iterator[Path]:
    """A store on a disk that is small enough to fill."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a disk that is small enough to be filled")
    place = new_root("/tmp")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=200", "tmpfs", place], check=True)
    try:
        place.chmod(0o755)
        yield own_store(place)
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def own_store(place: Path) -> Path:
    root = new_root(str(place))
    if os.geteuid() == 0:
        shutil.chown(root, "www-data")
    return root


@pytest.mark.parametrize("verdict", ["deny", "admit"])
def test_a_store_that_fails_gives_the_configured_verdict_until_it_is_back(
    installed: Path, verdict: str
) -> None:
    failures = (removed, forbidden, full)
    with small_disk() as root:
        settings = {"LIMITER_ROOT": str(root), "LIMITER_LIMIT": "20/hour", "LIMITER_ON_ERROR": verdict}
        with doors(installed, settings) as server:
            for failure in failures:
                with failure(root):
                    for door in DOORS:
                        reply = server.ask(url(door, f"unknown-{failure.__name__}"))
                        if verdict == "deny":
                            assert_refused(reply, 500)
                        else:
                            assert_through(door, reply)
                            assert "RateLimit" not in reply.headers
                for door in DOORS:
                    reply = server.ask(url(door, f"known-{failure.__name__}"))
                    assert_through(door, reply)
                    assert "RateLimit" in reply.headers
    lines = [line for line in server.log.splitlines() if "limiter: StoreError: " in line]
    assert len(lines) == len(failures) * len(DOORS)


def ask_until_counted(server: Server) -> None:
    """Call all doors until the store has answered: a busy machine may exceed a short time-out."""
    wait_until(lambda: all("RateLimit" in server.ask(url(door, "acme")).headers for door in DOORS))


@pytest.mark.parametrize("verdict", ["deny", "admit"])
def test_a_store_that_is_silent_gives_the_configured_verdict_meanwhile(
    installed: Path, verdict: str
) -> None:
    """When the store answers again, it is called again: no request is admitted uncounted for good."""
    timeout = 0.5
    with hanging_mount() as mount:
        settings = {
            "LIMITER_ROOT": str(own_store(mount.path)),
            "LIMITER_LIMIT": "1000/hour fixed",
            "LIMITER_ON_ERROR": verdict,
            "LIMITER_TIMEOUT": str(timeout),
        }
        with doors(installed, settings) as server:

            def ask(door: str) -> tuple[Reply, float]:
                begin = time.monotonic()
                return server.ask(url(door, "acme")), time.monotonic() - begin

            ask_until_counted(server)
            mount.hang()
            try:
                with ThreadPoolExecutor(len(DOORS)) as clients:
                    replies = list(clients.map(ask, DOORS))
                for door, (reply, took) in zip(DOORS, replies):
                    # A long-running process may know already that the store does not answer.
                    assert door not in CGI or took >= timeout
                    if verdict == "deny":
                        assert_refused(reply, 500)
                    else:
                        assert_through(door, reply)
            finally:
                mount.release()
            ask_until_counted(server)
    silent = f"limiter: StoreError: [Errno 110] The store did not answer within {timeout:g} s (LIMITER_TIMEOUT)"
    assert server.log.count(silent) >= len(DOORS), server.log
