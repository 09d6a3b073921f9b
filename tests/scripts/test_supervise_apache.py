"""The supervising guard in a real Apache: what may differ because of Apache.

``tests.scripts.test_supervise`` has every way to fail.  mod_cgi (prefork) gives a script pipes, and
mod_cgid (event) one socket.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.apache import test_apache_guard as unsupervised
from tests.apache.test_apache_guard import add, both, everything, told
from tests.apache_server import MPMS, Server, apache, contents, own_store
from tests.mailbox import Mailbox, mailbox
from tests.places import temporary
from tests.scripts.failures import SUPERVISED
from tests.scripts.test_cgi_header import BAD, GOOD
from tests.scripts.test_errors_apache import assert_is_own
from tests.scripts.test_supervise import has_ended
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

# Supervise all scripts behind the guard.  Scripts without it get the variable that supervision adds.
CONFIGURATION = """
<Directory "{home}/cgi-bin">
    SetEnv LIMITER_SUPERVISE 1
    SetEnv LIMITER_SCRIPT_TIMEOUT 600
</Directory>
<LocationMatch "bare(?!/rewritten)|php-cgi">
    SetEnv PYTHONFAULTHANDLER 1
</LocationMatch>
"""

home = unsupervised.home
site = unsupervised.site
elsewhere = unsupervised.elsewhere
server = unsupervised.server
either = unsupervised.either


@pytest.fixture(scope="module")
def more() -> str:
    """Let the server of the unsupervised scripts supervise them."""
    return CONFIGURATION


# The same holds as for unsupervised scripts.

test_script_is_given_the_same = (
    unsupervised.test_script_is_given_what_it_would_be_given_without_the_guard
)
test_php_is_given_the_same = unsupervised.test_php_is_given_what_apache_s_own_action_gives_it
test_body_is_the_script_s_byte_for_byte = unsupervised.test_body_is_the_script_s_byte_for_byte


def test_scripts_are_supervised_here(server: Server) -> None:
    bare, kept = (told(it)[0] for it in both(server, "/{}/tell.py?app_id=acme"))
    assert bare[b"PYTHONFAULTHANDLER"] == kept[b"PYTHONFAULTHANDLER"] == b"1"


def test_process_is_as_it_would_be_without_the_guard(either: Server) -> None:
    """Only its output differs: it goes through pipes."""
    bare, kept = (
        re.sub(rb"(?m)\[\d+\]|^\d+ \S*/process\n|^[12] .*\n", b"", it.body)
        for it in both(either, "/{}/process?app_id=acme")
    )
    assert kept == bare
    assert b"SigIgn:" in kept
    assert b"\n0 " in kept


@contextmanager
def supervised(
    mpm: str, home: Path, scripts: Path, also: str = "", **settings: str
) -> Iterator[tuple[Server, Path]]:
    """A server that supervises everything in the directory, and its log, a file; ``also`` is further
    configuration.
    """
    with temporary("/tmp") as place:
        logs = own_store(place)
        own = {
            "LIMITER_SUPERVISE": "1",
            "LIMITER_LOG": f"{logs}/log",
            "LIMITER_SCRIPT_TIMEOUT": "600",
            "TMPDIR": str(logs),
        }
        variables = [f'SetEnv {name} "{it}"\n' for name, it in {**own, **settings}.items()]
        after = f"Timeout 700\n{everything(scripts)}{also}{''.join(variables)}"
        limit = {"LIMITER_LIMIT": "1000/hour"}
        with apache(mpm, home, limit, after=after, modules=("actions", "unique_id")) as server:
            yield server, logs / "log"


def entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in contents(log).splitlines()]


# Scripts that fail: one that is killed, one that times out, one that closes its output, one that writes
# more to standard error than a pipe holds, and one that fails after its header.
KINDS = ("segmentation.py", "loop.pl", "closed.sh", "wordy.py", "header_only.sh")


@pytest.fixture(scope="module", params=MPMS)
def failing(request: pytest.FixtureRequest, home: Path) -> Iterator[tuple[Server, Path, Mailbox]]:
    """A server of these scripts, its log, and its mailbox."""
    # The others have time on a busy machine.
    impatient = '<Files "loop.pl">\nSetEnv LIMITER_SCRIPT_TIMEOUT 0.5\n</Files>\n'
    with temporary("/tmp") as scripts, mailbox() as box:
        for name in KINDS:
            add(scripts / name, SUPERVISED[name].script)
        mail = {"LIMITER_MAIL_TO": "root@localhost", "LIMITER_SMTP": f"127.0.0.1:{box.port}"}
        with supervised(request.param, home, scripts, impatient, **mail) as (server, log):
            yield server, log, box
    assert "limiter: " not in server.log


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", KINDS)
def test_failure_is_one_answer_one_line_and_one_mail(
    failing: tuple[Server, Path, Mailbox], name: str, method: str
) -> None:
    server, log, box = failing
    failure = SUPERVISED[name]
    before = len(entries(log))
    # The body is more than a pipe or a socket holds, and the script does not read it.
    body = b"x" * 300000 if method == "POST" else None
    reply = server.ask(f"/{name}?app_id=acme", method, body)
    assert_is_own(reply, failure.status)
    assert reply.headers["RateLimit-Policy"] == '"1000-per-3600s";q=1000;w=3600'
    (entry,) = entries(log)[before:]
    assert entry["reason"].startswith(failure.reason)
    assert (entry["status"], entry["path"]) == (failure.status, f"/{name}")
    assert (entry["app_id"], entry["method"], len(entry["id"])) == ("acme", method, 27)
    box.wait(lambda: box.of(f"path: /{name}\n"))


# Scripts that go on


def begin(server: Server, path: str) -> tuple[socket.socket, int]:
    """Send a request; return the connection, and the process number that the script writes first."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=120)
    connection.sendall(f"GET {path}?app_id=acme HTTP/1.0\r\n\r\n".encode())
    with connection.makefile("rb") as reply:
        while reply.readline().strip():
            pass
        number = int(reply.readline())
    assert Path(f"/proc/{number}").exists()
    return connection, number


PERL = "#!/usr/bin/perl\n$| = 1; print 'Content-Type: text/plain', chr(10) x 2, $$, chr(10);\n"


@pytest.mark.parametrize("mpm", MPMS)
def test_client_that_goes_away_ends_the_script(mpm: str, home: Path, place: Path) -> None:
    add(place / "endless", f"{PERL}print 'x' x 65536 while 1;")
    with supervised(mpm, home, place) as (server, log):
        connection, number = begin(server, "/endless")
        connection.close()
        wait_until(lambda: has_ended(number))
        assert entries(log) == []


@pytest.mark.parametrize("mpm", MPMS)
def test_apache_that_stops_ends_the_script(mpm: str, home: Path, place: Path) -> None:
    add(place / "silent", f"{PERL}sleep 999;")
    with supervised(mpm, home, place) as (server, _):
        connection, number = begin(server, "/silent")
        if mpm == "event":
            # Its thread waits for the script, and Apache waits 10 s for the thread; then it does this.
            daemon = parent_of(parent_of(number))
            os.kill(server.pid, signal.SIGTERM)
            for child in children_of(server.pid) - {daemon}:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    connection.close()
    wait_until(lambda: has_ended(number))


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(process: int) -> set[int]:
    return {int(it) for it in Path(f"/proc/{process}/task/{process}/children").read_text().split()}


# What gets through Apache in some way, and yet is no valid answer.
STRICTER = {"NUL", "return within", "status that is none", "status of no answer", "no end"}


def test_what_is_no_header_is_what_apache_takes_for_none(home: Path, place: Path) -> None:
    outputs = {**GOOD, **{name: output for name, (output, _) in BAD.items()}}
    for name, output in outputs.items():
        (place / f"{name}.output").write_bytes(output + (b"body" if name in GOOD else b"\n\nbody"))
        add(place / f"{name}.sh", f"#!/bin/sh\nexec cat '{name}.output'\n")
    bare = f'Alias /bare "{place}"\n<Location "/bare">\nOptions ExecCGI\nSetHandler cgi-script\n</Location>\n'
    with supervised("event", home, place, bare) as (server, log):
        for name in outputs:
            before = len(entries(log))
            path = f"{name}.sh?app_id=acme".replace(" ", "%20")
            requests = (f"GET /{it}{path} HTTP/1.0\r\n\r\n".encode() for it in ("bare/", ""))
            unguarded, guarded = (server.send(it).partition(b"\r\n")[0] for it in requests)
            assert len(entries(log)) - before == (name in BAD)
            if name not in STRICTER:
                assert (guarded, guarded[9:12] == b"500") == (unguarded, name in BAD)
