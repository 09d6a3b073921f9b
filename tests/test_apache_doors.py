"""All doors at once: one limit for all of them, and the configured verdict at each when the store fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.apache import MPMS, Reply, Server
from tests.doors import BODY, CGI, DOORS, doors
from tests.hanging import hanging_mount
from tests.places import new_root
from tests.timing import Watch

pytestmark = pytest.mark.one_python

CLIENTS = 8
MESSAGES = {
    401: b'{"message": "Unauthorized"}',
    429: b'{"message": "Too Many Requests"}',
    500: b'{"message": "Internal Server Error"}',
}


class Answer(NamedTuple):
    """What a client saw: when it asked and when it had the answer, in seconds, and the status."""

    asked: float
    answered: float
    status: int


@pytest.fixture(scope="module", params=MPMS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Every door, with two limits for whoever asks for them: 20 an hour for all, 5 a second for some."""
    with doors(request.param, {"LIMITER_LIMIT": "20/hour"}) as it:
        yield it


def url(door: str, app: str) -> str:
    return f"{DOORS[door]}?app_id={app}"


def assert_through(door: str, reply: Reply) -> None:
    assert reply.status == 200
    assert reply.body == (b'{"message": "OK"}' if door == "check" else BODY.encode())


def assert_refused(reply: Reply, status: int) -> None:
    assert (reply.status, reply.body) == (status, MESSAGES[status])
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"


def ask_at_all(server: Server, app: str, number: int) -> list[Answer]:
    """Have 8 clients ask at all doors in turn, each beginning at another one."""

    def ask(client: int) -> list[Answer]:
        answers = []
        names = list(DOORS)
        for index in range(number):
            asked = time.monotonic()
            reply = server.ask(url(names[(client + index) % len(names)], app))
            answers.append(Answer(asked, time.monotonic(), reply.status))
        return answers

    with ThreadPoolExecutor(CLIENTS) as clients:
        return [answer for answers in clients.map(ask, range(CLIENTS)) for answer in answers]


@pytest.mark.parametrize("door", DOORS)
def test_every_door_admits_denies_and_challenges(server: Server, door: str) -> None:
    replies = [server.ask(url(door, f"only-{door}")) for _ in range(21)]
    for left, reply in zip(range(19, -1, -1), replies):
        assert_through(door, reply)
        told = re.match(r'"20-per-3600s";r=(\d+);t=', reply.headers["RateLimit"])
        assert told
        # A process that stays claims without a look, and so does not know of all that others have claimed.
        assert left <= int(told[1]) <= (left if door in CGI else 19)
    assert_refused(replies[20], 429)
    assert 3500 < int(replies[20].headers["Retry-After"]) <= 3600
    assert_refused(server.ask(DOORS[door]), 401)
    assert_refused(server.ask(url(door, "a&app_id=b")), 401)


def test_all_doors_together_admit_exactly_the_limit(server: Server) -> None:
    answers = ask_at_all(server, "together", 2 * len(DOORS))
    statuses = [answer.status for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (20, len(answers) - 20)


def test_all_doors_together_keep_to_the_second() -> None:
    """Exactly, as far as clients can tell who do not know at which moment of a request it was decided."""
    with doors(settings={"LIMITER_LIMIT": "5/second"}) as server:
        answers = ask_at_all(server, "acme", 12 * len(DOORS))
    admitted = sorted(answer for answer in answers if answer.status == 200)
    denied = [answer for answer in answers if answer.status == 429]
    assert len(admitted) + len(denied) == len(answers)
    assert denied
    for first in admitted:
        # Whatever was asked after this one was asked, and answered within a second of that, lies in one window.
        within = [it for it in admitted if first.asked <= it.asked and it.answered < first.asked + 1]
        assert len(within) <= 5
    for it in denied:
        # Whatever may have been decided in the second before this one was.
        before = [hit for hit in admitted if hit.answered > it.asked - 1 and hit.asked < it.answered]
        assert len(before) >= 5


# A store that fails.


@contextmanager
def removed() -> Iterator[tuple[Path, Callable[[], None]]]:
    """A store, and what makes it fail: it is gone."""
    root = _own_store("/tmp")
    yield root, lambda: shutil.rmtree(root)


@contextmanager
def forbidden() -> Iterator[tuple[Path, Callable[[], None]]]:
    """It is not Apache's any more."""
    root = _own_store("/tmp")
    yield root, lambda: root.chmod(0)
    shutil.rmtree(root)


@contextmanager
def full() -> Iterator[tuple[Path, Callable[[], None]]]:
    """Its disk has no room for another file; an application that is known already needs none."""
    place = new_root("/tmp")
    if os.geteuid() != 0:
        pytest.skip("only root can make a disk that is small enough to be filled")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=40", "tmpfs", place], check=True)
    try:
        root = _own_store(str(place))

        def fill() -> None:
            shutil.rmtree(root / "acme")
            for number in range(os.statvfs(place).f_ffree):
                (place / str(number)).touch()

        yield root, fill
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def _own_store(place: str) -> Path:
    root = new_root(place)
    if os.geteuid() == 0:
        shutil.chown(root, "www-data")
    return root


FAILURES = {"removed": removed, "forbidden": forbidden, "full": full}


@pytest.mark.parametrize("verdict", ["deny", "admit"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_store_that_fails_gives_the_configured_verdict(failure: str, verdict: str) -> None:
    with FAILURES[failure]() as (root, fail):
        settings = {"LIMITER_ROOT": str(root), "LIMITER_LIMIT": "20/hour", "LIMITER_ON_ERROR": verdict}
        with doors(settings=settings) as server:
            for door in DOORS:
                assert_through(door, server.ask(url(door, "acme")))
            fail()
            for door in DOORS:
                reply = server.ask(url(door, "other"))
                if verdict == "deny":
                    assert_refused(reply, 500)
                else:
                    assert_through(door, reply)
                    assert "RateLimit" not in reply.headers
    lines = [line for line in server.log.splitlines() if "limiter: StoreError: " in line]
    assert len(lines) == len(DOORS)


@pytest.mark.parametrize("verdict", ["deny", "admit"])
def test_a_store_that_is_silent_gives_the_configured_verdict_in_time(verdict: str) -> None:
    """And is asked again when it speaks again: nobody is let through for good."""
    timeout = 1.0
    with hanging_mount() as mount:
        root = _own_store(str(mount.path))
        settings = {
            "LIMITER_ROOT": str(root),
            "LIMITER_LIMIT": "20/hour",
            "LIMITER_ON_ERROR": verdict,
            "LIMITER_TIMEOUT": str(timeout),
        }
        with doors(settings=settings) as server:
            usual = {}
            for door in DOORS:
                begin = time.monotonic()
                assert_through(door, server.ask(url(door, "acme")))
                usual[door] = time.monotonic() - begin
            mount.hang()
            for door in DOORS:
                watch = Watch()
                reply = server.ask(url(door, "acme"))
                # What a request takes anyway is none of the deadline's.
                watch.assert_took(0, timeout + 0.1 + usual[door])
                if verdict == "deny":
                    assert_refused(reply, 500)
                else:
                    assert_through(door, reply)
            mount.release()
            for door in DOORS:
                for _ in range(20):
                    status = server.ask(url(door, "acme")).status
                assert status == 429
