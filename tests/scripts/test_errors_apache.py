"""Scripts that fail in every way, in a real Apache with a real SMTP server: one answer, one line, one
mail each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.apache_server import MPMS, Reply, Server, apache, wait_until
from tests.failures import BEGIN, FAILURES, HALF, PAGE, PHRASES
from tests.mailbox import Mailbox, mailbox
from tests.places import new_root

pytestmark = pytest.mark.one_python

WSGI = "/usr/lib/apache2/modules/mod_wsgi.so"
QUERY = "?app_id=acme&token=hunter2"
DEADLINE = 120

OTHERS = {
    # The script can answer nothing, so Apache answers in its own form, and ends the script.
    "closed-output": (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.close(1)\n1 / 0"
    ),
    "endless": (
        "import os\nprint(f'Content-Type: text/plain\\n\\n{os.getpid()} ')\nwhile True:\n    print(1000 * 'x')"
    ),
    "well": PAGE,
}
APPLICATION = """\
from limiter import errors

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/not-found":
        raise errors.NotFound("no such thing")
    if path == "/call":
        start_response("200 OK", [("Content-Type", "text/plain")])
        1 / 0
    if path == "/first":
        return first(start_response)
    if path == "/later":
        return later(start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"well"]

def first(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    1 / 0
    yield b"never"

def later(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"Half a page"
    1 / 0

application = errors.HandleErrors(application)
"""
CONFIGURATION = """\
<Directory "{site}">
    Require all granted
</Directory>
ScriptAlias "/fail/" "{site}/cgi/"
<IfModule wsgi_module>
    WSGIPythonPath "{home}"
    WSGIScriptAlias /embedded "{site}/application.wsgi" application-group=%{{GLOBAL}}
    WSGIDaemonProcess api processes=2 threads=15 python-path={home}
    WSGIScriptAlias /api "{site}/application.wsgi" process-group=api application-group=%{{GLOBAL}}
</IfModule>
SetEnv PYTHONPATH "{home}"
SetEnv TMPDIR "{site}/tmp"
SetEnv LIMITER_LOG "{log}"
SetEnv LIMITER_LOG_LEVEL "warning"
SetEnv LIMITER_MAIL_TO "root@example.org"
SetEnv LIMITER_MAIL_FROM "limiter@example.org"
SetEnv LIMITER_SMTP "127.0.0.1:{port}"
"""


@dataclass
class Site:
    """A server, its mailbox, and the places of its log and its default store."""

    server: Server
    box: Mailbox
    place: Path

    def entries(self) -> list[dict[str, Any]]:
        """Return the lines of the log."""
        log = self.place / "log/errors"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def entries_of(self, path: str) -> list[dict[str, Any]]:
        """Return the lines about a URL's path."""
        return [entry for entry in self.entries() if entry.get("path") == path]

    def entry(self, path: str) -> dict[str, Any]:
        """Return the one line about a URL's path: the client may get its answer before that line is
        written.
        """
        wait_until(lambda: self.entries_of(path))
        (entry,) = self.entries_of(path)
        return entry

    def kinds(self) -> list[Path]:
        """Return the directories of the default store: one for each kind of mail."""
        return [*(self.place / "tmp").glob("limiter-*/mail-*")]


@contextmanager
def site(mpm: str, home: Path, box: Mailbox, log: str = "", limit: str = "") -> Iterator[Site]:
    """Run Apache with this installation; the log is a file by default."""
    place = new_root("/tmp")
    try:
        for name in ("cgi", "tmp", "log"):
            (place / name).mkdir()
        for name in ("tmp", "log"):
            owner = "www-data" if os.geteuid() == 0 else None
            if owner:
                shutil.chown(place / name, owner)
        scripts = {name: failure.script for name, failure in FAILURES.items()}
        for name, text in {**scripts, **OTHERS}.items():
            script = place / "cgi" / name
            script.write_text(BEGIN + text)
            script.chmod(0o755)
        (place / "application.wsgi").write_text(APPLICATION)
        configuration = CONFIGURATION.format(
            site=place, home=home, port=box.port, log=log or f"{place}/log/errors"
        )
        settings = {"LIMITER_LIMIT": limit} if limit else {}
        modules = ("unique_id", *(["wsgi"] if Path(WSGI).exists() else []))
        with apache(mpm, home, settings, after=configuration, modules=modules) as server:
            yield Site(server, box, place)
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def running(installed: Path) -> Iterator[Site]:
    """One site for all tests that use URLs of their own."""
    with mailbox() as box, site("event", installed, box) as it:
        yield it


@pytest.fixture(scope="module", params=MPMS)
def either(request: pytest.FixtureRequest, running: Site, installed: Path) -> Iterator[Site]:
    """That site, whose scripts have one socket, and another, whose scripts have pipes."""
    if request.param == "event":
        yield running
        return
    with mailbox() as box, site(request.param, installed, box) as it:
        yield it


def assert_is_own(reply: Reply, status: int) -> None:
    assert (reply.status, json.loads(reply.body)) == (status, {"message": PHRASES[status]})
    assert reply.headers.get_all("Content-Type") == ["application/json; charset=utf-8"]
    assert reply.headers["Cache-Control"] == "no-store"


# Each kind of response and of a process's end: pipes may show it in another way than sockets.
ENDS = (
    "before-headers",
    "after-a-flush",
    "after-too-much",
    "thread",
    "at-exit",
    "silence",
    "closed-file",
)


@pytest.mark.parametrize(
    ("either", "name"),
    [("event", name) for name in FAILURES] + [("prefork", name) for name in ENDS],
    indirect=["either"],
)
def test_a_failure_is_one_answer_one_line_and_one_mail(either: Site, name: str) -> None:
    failure = FAILURES[name]
    path = f"/fail/{name}"
    kinds = either.kinds()
    reply = either.server.ask(path + QUERY)
    if failure.left is None:
        assert_is_own(reply, failure.status)
    else:
        assert (reply.status, reply.body) == (failure.status, failure.left)
    for field, value in failure.fields.items():
        assert reply.headers.get_all(field) == [value]
    entry = either.entry(path)
    status = 500 if failure.left is not None else failure.status
    assert (entry["status"], entry["app_id"], entry["method"]) == (status, "acme", "GET")
    assert entry["query"] == "app_id=acme&token=***"
    assert len(entry["id"]) > 10
    assert entry["reason"].startswith(failure.reason)
    assert entry["reason"].endswith("(headers had been sent)") == (failure.left is not None)
    if status < 500:
        assert either.kinds() == kinds
        return
    mail = either.box.wait_for(f"path: {path}\n")
    assert (mail["To"], mail["From"]) == ("root@example.org", "limiter@example.org")
    assert mail["Subject"].startswith(f"{status} {path}: ")
    assert "hunter2" not in mail.as_string()


def test_a_script_that_is_well_is_left_alone(running: Site) -> None:
    reply = running.server.ask("/fail/well" + QUERY)
    assert (reply.status, reply.body) == (200, HALF)
    assert reply.headers["Content-Type"] == "text/plain"
    assert not running.entries_of("/fail/well")


def test_closed_output_is_one_line(either: Site) -> None:
    assert either.server.ask("/fail/closed-output").status == 500  # answered by Apache
    entry = either.entry("/fail/closed-output")
    assert entry["reason"].startswith("ZeroDivisionError: division by zero (nobody took the answer: ")


def test_a_client_that_leaves_is_no_failure(either: Site) -> None:
    with socket.create_connection(("127.0.0.1", either.server.port), DEADLINE) as connection:
        connection.sendall(b"GET /fail/endless HTTP/1.0\r\n\r\n")
        data = b""
        while not re.search(rb"\r\n\r\n\d+ ", data):
            data += connection.recv(65536)
    number = int(data.partition(b"\r\n\r\n")[2].split()[0])
    wait_until(lambda: not Path(f"/proc/{number}").exists())
    assert not either.entries_of("/fail/endless")


def test_head_has_no_body(either: Site) -> None:
    reply = either.server.ask("/fail/not-found", "HEAD")
    assert (reply.status, reply.body) == (404, b"")
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"


def test_a_body_that_was_not_read_does_not_cost_the_answer(either: Site) -> None:
    for _ in range(5):
        assert_is_own(either.server.ask("/fail/before-headers", "POST", 300_000 * b"x"), 500)


def test_many_processes_write_whole_lines(running: Site) -> None:
    before = len(running.entries_of("/fail/unavailable"))
    with ThreadPoolExecutor(8) as clients:
        replies = [*clients.map(running.server.ask, 40 * ["/fail/unavailable"])]
    assert [reply.status for reply in replies] == 40 * [503]
    wait_until(lambda: len(running.entries_of("/fail/unavailable")) == before + 40)


# A mail takes its time.


def zombies_in(group: int) -> list[int]:
    """Return the processes of a group that have ended and that no process has waited for."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, its_group = (
                Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[:3]
            )
        except OSError:
            continue
        if state == "Z" and int(its_group) == group:
            found.append(int(process))
    return found


@pytest.mark.parametrize("log", ["", "stderr"], ids=["file", "stderr"])
@pytest.mark.parametrize("mpm", MPMS)
def test_a_slow_mail_server_delays_no_answer_and_the_mail_outlives_apache(
    installed: Path, mpm: str, log: str
) -> None:
    with mailbox() as box:
        box.released.clear()
        with site(mpm, installed, box, log) as it:
            assert_is_own(it.server.ask("/fail/after-headers"), 500)
            # And the next request has to wait for nothing.
            assert_is_own(it.server.ask("/fail/after-headers"), 500)
            assert box.begun.wait(DEADLINE)
        assert it.server.log.count("ZeroDivisionError: ") == (2 if log else 0)
        assert not box.mails
        box.released.set()
        box.wait_for("path: /fail/after-headers\n")


needs_wsgi = pytest.mark.skipif(
    not Path(WSGI).exists(), reason="mod_wsgi is missing (libapache2-mod-wsgi-py3)"
)


@needs_wsgi
@pytest.mark.parametrize("mode", ["api", "embedded"])
def test_a_slow_mail_server_delays_no_answer_of_a_wsgi_application(installed: Path, mode: str) -> None:
    path = f"/{mode}/call"
    with mailbox() as box:
        box.released.clear()
        with site("event", installed, box) as it:
            assert_is_own(it.server.ask(path), 500)
            assert box.begun.wait(DEADLINE)
            assert_is_own(it.server.ask(path), 500)
            wait_until(lambda: len(it.entries_of(path)) == 2)
            # One may have ended just now, but no process would wait for it any more.
            wait_until(lambda: not zombies_in(it.server.pid))
        assert not box.mails
        box.released.set()
        box.wait_for(f"path: {path}\n")


@needs_wsgi
@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/api/call", 500, "ZeroDivisionError: division by zero"),
        ("/api/first", 500, "ZeroDivisionError: division by zero"),
        ("/api/not-found", 404, "NotFound: no such thing"),
    ],
)
def test_a_wsgi_application_that_fails(running: Site, path: str, status: int, reason: str) -> None:
    assert_is_own(running.server.ask(path + QUERY), status)
    entry = running.entry(path)
    assert (entry["status"], entry["reason"], entry["app_id"]) == (status, reason, "acme")
    assert entry["query"] == "app_id=acme&token=***"
    if status == 500:
        running.box.wait_for(f"path: {path}\n")


@needs_wsgi
def test_a_wsgi_application_that_fails_in_its_body_is_cut_off(running: Site) -> None:
    reply = running.server.ask("/api/later")
    assert (reply.status, reply.body) == (200, b"Half a page")
    assert running.entry("/api/later")["reason"].endswith("(headers had been sent)")
    running.box.wait_for("path: /api/later\n")


@needs_wsgi
def test_of_1000_failures_in_a_minute_one_is_mailed_and_the_next_mail_tells_the_number(
    installed: Path,
) -> None:
    asked: list[Reply] = []
    with mailbox() as box, site("event", installed, box) as it:

        def both_are_asked() -> bool:
            with ThreadPoolExecutor(8) as clients:
                asked.extend(clients.map(it.server.ask, 1000 * ["/api/call"]))
            wait_until(lambda: len(it.entries_of("/api/call")) == len(asked))
            return len({entry["pid"] for entry in it.entries()}) == 2

        wait_until(both_are_asked)
        assert {reply.status for reply in asked} == {500}
        assert len(it.entries()) == len(asked)
        assert "more of this kind" not in box.wait_for("path: /api/call\n").get_content()
        (kind,) = it.kinds()
        (slot,) = (kind / "1-per-60s").iterdir()
        slot.rename(slot.with_name(f"{int(slot.name[:10]) - 60}{slot.name[10:]}"))
        it.server.ask("/api/call")
        box.wait(lambda: len(box.mails) > 1)
        _, mail = box.mails
        assert f"\n{len(asked) - 1} more of this kind" in mail.get_content().replace("\r\n", "\n")


# The limiter's own doors.


def test_the_doors_of_the_limiter_report_in_the_same_way(installed: Path) -> None:
    with mailbox() as box, site("event", installed, box, limit="1/hour") as it:
        path = "/cgi-bin/check.py"
        replies = [it.server.ask(path + query) for query in ("?app_id=acme", "?app_id=acme", "")]
        assert [reply.status for reply in replies] == [200, 429, 401]
        wait_until(lambda: len(it.entries_of(path)) == 2)
        assert [entry["status"] for entry in it.entries_of(path)] == [429, 401]
        assert not it.kinds()
        it.server.root.rename(it.server.root.with_name("away"))
        assert_is_own(it.server.ask(path + "?app_id=acme"), 500)
        wait_until(lambda: len(it.entries_of(path)) == 3)
        assert it.entries_of(path)[2]["reason"].startswith(
            "StoreError: [Errno 2] The store does not exist"
        )
        box.wait_for(f"path: {path}\n")
    assert "limiter:" not in it.server.log
