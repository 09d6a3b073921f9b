"""``limiter.errors`` in a real Apache with a real SMTP server: one answer, one line and one mail each.

``tests.doors.test_errors`` has every way to fail.  Here is what may differ because of Apache: pipes
(prefork, mod_cgi), one socket (event, mod_cgid), and mod_wsgi.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.apache.test_apache_guard import add
from tests.apache_server import MPMS, Reply, Server, apache, contents, own_store
from tests.mailbox import Mailbox, mailbox
from tests.places import temporary
from tests.scripts.failures import BEGIN, DIVISION, FAILURES
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

WSGI = "/usr/lib/apache2/modules/mod_wsgi.so"
QUERY = "?app_id=acme&token=hunter2"
DEADLINE = 120

# Each kind of response and of a process's end: pipes may show it in another way than sockets.
KINDS = ("after-headers", "after-a-flush", "thread", "at-exit", "closed-file", "not-found")
APPLICATION = """\
from limiter import errors

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b""
    1 / 0

application = errors.HandleErrors(application)
"""
CONFIGURATION = """\
<Directory "{site}">
    Require all granted
</Directory>
ScriptAlias "/fail/" "{site}/"
<IfModule wsgi_module>
    WSGIPythonPath "{home}"
    WSGIScriptAlias /embedded "{site}/application.wsgi" application-group=%{{GLOBAL}}
    WSGIDaemonProcess api processes=2 threads=15 python-path={home}
    WSGIScriptAlias /api "{site}/application.wsgi" process-group=api application-group=%{{GLOBAL}}
</IfModule>
SetEnv PYTHONPATH "{home}"
SetEnv TMPDIR "{own}"
SetEnv LIMITER_LOG "{log}"
SetEnv LIMITER_LOG_LEVEL "warning"
SetEnv LIMITER_MAIL_TO "root@example.org"
SetEnv LIMITER_MAIL_FROM "limiter@example.org"
SetEnv LIMITER_SMTP "127.0.0.1:{port}"
"""


@dataclass
class Site:
    """A server, its mailbox, and its log."""

    server: Server
    box: Mailbox
    log: Path

    def entries(self, path: str) -> list[dict[str, Any]]:
        """Return the lines about a URL's path."""
        entries = [json.loads(line) for line in contents(self.log).splitlines()]
        return [entry for entry in entries if entry.get("path") == path]

    def entry(self, path: str) -> dict[str, Any]:
        """Return the one line about a URL's path, which may be written after the answer."""
        wait_until(lambda: self.entries(path))
        (entry,) = self.entries(path)
        return entry


@contextmanager
def site(mpm: str, home: Path, box: Mailbox, log: str = "") -> Iterator[Site]:
    """Run Apache with this installation; the log is a file by default."""
    with temporary("/tmp") as place:
        for name in KINDS:
            add(place / name, BEGIN + FAILURES[name].script)
        (place / "application.wsgi").write_text(APPLICATION)
        own = own_store(place)
        after = CONFIGURATION.format(
            site=place, home=home, port=box.port, own=own, log=log or own / "log"
        )
        modules = ("unique_id", *(["wsgi"] if Path(WSGI).exists() else []))
        with apache(mpm, home, after=after, modules=modules) as server:
            yield Site(server, box, own / "log")


@pytest.fixture(scope="module", params=MPMS)
def either(request: pytest.FixtureRequest, installed: Path) -> Iterator[Site]:
    """One site for all tests that use URLs of their own, with each way to run scripts."""
    with mailbox() as box, site(request.param, installed, box) as it:
        yield it


def assert_is_own(reply: Reply, status: int) -> None:
    assert (reply.status, json.loads(reply.body)) == (status, {"message": HTTPStatus(status).phrase})
    assert reply.headers.get_all("Content-Type") == ["application/json; charset=utf-8"]
    assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", KINDS)
def test_a_failure_is_one_answer_one_line_and_one_mail(either: Site, name: str) -> None:
    failure = FAILURES[name]
    path = f"/fail/{name}"
    reply = either.server.ask(path + QUERY)
    if failure.left is None:
        assert_is_own(reply, failure.status)
    else:
        assert (reply.status, reply.body) == (failure.status, failure.left)
    entry = either.entry(path)
    status = 500 if failure.left is not None else failure.status
    assert (entry["status"], entry["app_id"], entry["method"]) == (status, "acme", "GET")
    assert entry["query"] == "app_id=acme&token=***"
    assert len(entry["id"]) > 10
    assert entry["reason"].startswith(failure.reason)
    assert entry["reason"].endswith("(headers had been sent)") == (failure.left is not None)
    if status < 500:
        assert not either.box.of(f"path: {path}\n")
        return
    mail = either.box.wait_for(f"path: {path}\n")
    assert (mail["To"], mail["From"]) == ("root@example.org", "limiter@example.org")
    assert mail["Subject"].startswith(f"{status} {path}: ")
    assert "hunter2" not in mail.as_string()


def test_a_body_that_was_not_read_does_not_cost_the_answer(either: Site) -> None:
    for _ in range(5):
        assert_is_own(either.server.ask("/fail/after-headers", "POST", 300_000 * b"x"), 500)


needs_wsgi = pytest.mark.skipif(
    not Path(WSGI).exists(), reason="mod_wsgi is missing (libapache2-mod-wsgi-py3)"
)


@pytest.mark.parametrize(
    ("mpm", "path", "log"),
    [
        ("event", "/fail/after-headers", ""),
        ("event", "/fail/after-headers", "stderr"),
        ("prefork", "/fail/after-headers", ""),
        ("prefork", "/fail/after-headers", "stderr"),
        pytest.param("event", "/api", "", marks=needs_wsgi),
        pytest.param("event", "/embedded", "", marks=needs_wsgi),
    ],
)
def test_a_slow_mail_server_delays_no_answer_and_the_mail_outlives_apache(
    installed: Path, mpm: str, path: str, log: str
) -> None:
    with mailbox() as box:
        box.released.clear()
        with site(mpm, installed, box, log) as it:
            assert_is_own(it.server.ask(path), 500)
            assert box.begun.wait(DEADLINE)
            assert_is_own(it.server.ask(path), 500)
            if not log:
                wait_until(lambda: len(it.entries(path)) == 2)
            # One may have ended just now, but no process would wait for it any more.
            wait_until(lambda: not zombies_in(it.server.pid))
        assert it.server.log.count(DIVISION) == (2 if log else 0)
        assert not box.mails
        box.released.set()
        box.wait_for(f"path: {path}\n")


def zombies_in(group: int) -> list[list[bytes]]:
    """Return the processes of a group that have ended and that no process has waited for."""
    stats = [contents(it).rpartition(b")")[2].split() for it in Path("/proc").glob("[0-9]*/stat")]
    return [it for it in stats if it and it[0] == b"Z" and int(it[2]) == group]
