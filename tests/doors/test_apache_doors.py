"""All doors at once share one limit, and each gives the configured answer when the store fails."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.apache_server import (
    MPMS,
    THROUGH,
    Reply,
    Server,
    apache,
    assert_answer,
    back_end,
    own_store,
)
from tests.disks import small_disk
from tests.hanging import hanging_mount
from tests.places import temporary
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

DOORS = {
    "check": "/cgi-bin/check.py",
    "file": "/map/file.txt",
    "proxy": "/map/proxy/",
    "php": "/guard/page.php",
    "ruby": "/guard/page.rb",
    "perl": "/guard/page.pl",
    "python": "/guard/page.py",
    "wsgi": "/wsgi/",
}
"""The name of each door, and its URL path."""

CGI = ("check", "php", "ruby", "perl", "python")
"""The doors that start a process for each request."""

_PAGES = {
    "page.php": "<?php header('Content-Type: text/plain'); echo 'through';",
    "page.rb": '#!/usr/bin/ruby\nprint "Content-Type: text/plain\\n\\nthrough"\n',
    "page.pl": '#!/usr/bin/perl\nprint "Content-Type: text/plain\\n\\nthrough";\n',
    "page.py": "#!/usr/bin/python3\nprint('Content-Type: text/plain\\n\\nthrough', end='')\n",
}
_NEEDED = ("/usr/bin/php-cgi", "/usr/bin/ruby", "/usr/bin/perl", "/usr/lib/apache2/modules/mod_wsgi.so")
_APPLICATION = """\
from limiter.wsgi import RateLimit

def page(_, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"through"]

application = RateLimit(page)
"""
_BEFORE = 'Define LIMITER_PATHS "^/map/"\n'
_SITE = """\
DocumentRoot "{site}"
<Directory "{site}">
    Require all granted
</Directory>
<Directory "{site}/guard">
    SetHandler limited
</Directory>
ProxyPass "/map/proxy/" "http://127.0.0.1:{port}/"
WSGIDaemonProcess wsgi processes=2 threads=4 python-path={home}
WSGIScriptAlias "/wsgi" "{site}/page.wsgi" process-group=wsgi application-group=%{{GLOBAL}}
<Location "/wsgi">
    SetEnv LIMITER_ROOT "${{LIMITER_ROOT}}"
    SetEnv LIMITER_LIMIT "${{LIMITER_LIMIT}}"
    SetEnv LIMITER_ON_ERROR "${{LIMITER_ON_ERROR}}"
    SetEnv LIMITER_TIMEOUT "${{LIMITER_TIMEOUT}}"
</Location>
"""
_MODULES = ("actions", "proxy", "proxy_http", "rewrite", "wsgi")


@contextmanager
def doors(home: Path, settings: Mapping[str, str], mpm: str = "event") -> Iterator[Server]:
    """Run it with this installation and these definitions.  Skip the test if a language is missing."""
    for file in _NEEDED:
        if not Path(file).exists():
            pytest.skip(f"{file} is not installed")
    with temporary("/tmp") as site, back_end() as port:
        _furnish(site)
        after = _SITE.format(site=site, home=home, port=port)
        with apache(mpm, home, settings, _BEFORE, after=after, modules=_MODULES) as server:
            yield server


def _furnish(site: Path) -> None:
    (site / "page.wsgi").write_text(_APPLICATION)
    (site / "map").mkdir()
    (site / "map/file.txt").write_bytes(THROUGH)
    (site / "guard").mkdir()
    for name, text in _PAGES.items():
        page = site / "guard" / name
        page.write_text(text)
        page.chmod(0o755)


CLIENTS = 8
SECOND = 10**9
POLICY = '"20-per-3600s";q=20;w=3600'


class Answer(NamedTuple):
    """What a client saw: the times of request and answer, in nanoseconds, and the status."""

    asked: int
    answered: int
    status: int


def url(door: str, app: str) -> str:
    return f"{DOORS[door]}?app_id={app}"


def assert_through(door: str, reply: Reply) -> None:
    assert reply.status == 200
    assert reply.body == (b'{"message": "OK"}' if door == "check" else THROUGH)
    assert "Retry-After" not in reply.headers


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


@pytest.fixture(scope="module", params=MPMS)
def server(request: pytest.FixtureRequest, installed: Path) -> Iterator[Server]:
    """A server with every door, whose threads or processes call the map."""
    with doors(installed, {"LIMITER_LIMIT": "20/hour"}, request.param) as it:
        yield it


@pytest.mark.parametrize("door", DOORS)
def test_every_door_admits_denies_and_challenges(server: Server, door: str) -> None:
    replies = [server.ask(url(door, f"only-{door}")) for _ in range(21)]
    for left, reply in zip(range(19, -1, -1), replies):
        assert_through(door, reply)
        assert reply.headers.get_all("RateLimit-Policy") == [POLICY]
        standing = re.match(r'"20-per-3600s";r=(\d+);t=', reply.headers["RateLimit"])
        assert standing
        # A long-running process claims without looking, so it does not know all claims of others.
        assert left <= int(standing[1]) <= (left if door in CGI else 19)
    assert_answer(replies[20], 429)
    assert 3500 < int(replies[20].headers["Retry-After"]) <= 3600
    assert_answer(server.ask(DOORS[door]), 401)
    assert_answer(server.ask(url(door, "a&app_id=b")), 401)


def test_all_doors_together_admit_exactly_the_limit(server: Server) -> None:
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


def test_a_store_that_fails_gives_500_until_it_is_back(installed: Path) -> None:
    """Each failure meets an unknown application.  A full disk has no room for it: that is a 429."""
    with small_disk() as disk:
        root = own_store(disk.path)
        away = root.with_name("away")
        failures: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "removed": (lambda: root.rename(away), lambda: away.rename(root)),
            "forbidden": (lambda: root.chmod(0), lambda: root.chmod(0o700)),
            "full": (disk.fill, disk.empty),
        }
        settings = {"LIMITER_ROOT": str(root), "LIMITER_LIMIT": "20/hour"}
        with doors(installed, settings) as server:
            for name, (fail, repair) in failures.items():
                fail()
                for door in DOORS:
                    reply = server.ask(url(door, f"unknown-{name}"))
                    assert_answer(reply, 429 if name == "full" else 500)
                    assert reply.headers.get("Retry-After") == ("60" if name == "full" else None)
                repair()
                for door in DOORS:
                    reply = server.ask(url(door, f"known-{name}"))
                    assert_through(door, reply)
                    assert "RateLimit" in reply.headers
    lines = [line for line in server.log.splitlines() if "limiter: StoreError: " in line]
    # Two doors share the map's program, which logs an error of one kind once.
    assert len(lines) == (len(failures) - 1) * (len(DOORS) - 1)
    assert server.log.count(f"limiter: {root}: new clients are refused (429): few inodes") == len(DOORS)


def ask_until_counted(server: Server) -> None:
    """Call all doors until the store has answered: a busy machine may exceed a short time-out."""
    wait_until(lambda: all("RateLimit" in server.ask(url(door, "acme")).headers for door in DOORS))


@pytest.mark.parametrize(("mpm", "on_error"), [("event", "deny"), ("prefork", "admit")])
def test_an_unresponsive_store_gives_the_configured_answer_meanwhile(
    installed: Path, mpm: str, on_error: str
) -> None:
    """When the store answers again, it is called again: no request is admitted uncounted for good."""
    timeout = 0.5
    with hanging_mount() as mount:
        settings = {
            "LIMITER_ROOT": str(own_store(mount.path)),
            "LIMITER_LIMIT": "1000/hour fixed",
            "LIMITER_ON_ERROR": on_error,
            "LIMITER_TIMEOUT": str(timeout),
        }
        with doors(installed, settings, mpm) as server:

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
                    if on_error == "deny":
                        assert_answer(reply, 500)
                    else:
                        assert_through(door, reply)
                        assert "RateLimit" not in reply.headers
                mount.wait_until_stuck()
            finally:
                mount.release()
            ask_until_counted(server)
    line = f"limiter: StoreError: [Errno 110] The store did not answer within {timeout:g} s (LIMITER_TIMEOUT)"
    assert server.log.count(line) >= len(DOORS), server.log
