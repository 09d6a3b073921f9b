"""Supervised scripts in a real Apache: working scripts run as before; each failure is answered and
reported.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.apache import test_apache_guard as unsupervised
from tests.apache.test_apache_guard import add, both, everything, told
from tests.apache_server import MPMS, Reply, Server, apache, wait_until
from tests.failing import FAILING
from tests.mailbox import Mailbox, mailbox
from tests.places import new_root
from tests.scripts.test_cgi_header import BAD, GOOD
from tests.scripts.test_supervise import wait_until_gone

pytestmark = pytest.mark.one_python

# Supervise all scripts behind the guard.  Scripts without it get the variable that supervision adds.
SUPERVISED = """
<Directory "{home}/cgi-bin">
    SetEnv LIMITER_SUPERVISE 1
    SetEnv LIMITER_SCRIPT_TIMEOUT 600
</Directory>
<LocationMatch "bare(?!/rewritten)|php-cgi">
    SetEnv PYTHONFAULTHANDLER 1
</LocationMatch>
"""
MESSAGES = {500: b'{"message": "Internal Server Error"}', 504: b'{"message": "Gateway Timeout"}'}

home = unsupervised.home
site = unsupervised.site
elsewhere = unsupervised.elsewhere
server = unsupervised.server
either = unsupervised.either


@pytest.fixture(scope="module")
def more() -> str:
    """Let the server of the unsupervised scripts supervise them."""
    return SUPERVISED


# The same holds as for unsupervised scripts

test_script_is_given_the_same = (
    unsupervised.test_script_is_given_what_it_would_be_given_without_the_guard
)
test_place_of_a_script_is_no_matter = unsupervised.test_place_of_a_script_is_no_matter
test_script_of_another_redirect = unsupervised.test_script_of_another_redirect_is_given_what_that_set
test_user_is_known = unsupervised.test_user_is_known
test_words_of_a_query = unsupervised.test_words_of_a_query_are_arguments_of_all_but_php
test_php_is_given_the_same = unsupervised.test_php_is_given_what_apache_s_own_action_gives_it
test_php_gets_files = unsupervised.test_php_gets_files
test_body_is_the_script_s_byte_for_byte = unsupervised.test_body_is_the_script_s_byte_for_byte
test_exactly_twenty_are_admitted = unsupervised.test_exactly_twenty_are_admitted_over_all_languages


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


def test_head_is_get_without_a_body(either: Server) -> None:
    for name in unsupervised.NAMES:
        get, head = (either.ask(f"/kept/{name}?app_id=head", it) for it in ("GET", "HEAD"))
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Type"] == get.headers["Content-Type"]
        assert "RateLimit" in head.headers


# Scripts that fail


@contextmanager
def supervised(
    mpm: str, home: Path, scripts: Path, also: str = "", **settings: str
) -> Iterator[tuple[Server, Path]]:
    """A server that supervises everything in the directory, and its log, a file; ``also`` is further
    configuration.
    """
    logs = new_root("/tmp")
    own = {"LIMITER_SUPERVISE": "1", "LIMITER_LOG": f"{logs}/log", "TMPDIR": str(logs)}
    own["LIMITER_SCRIPT_TIMEOUT"] = "600"
    after = (
        "Timeout 700\n"
        + everything(scripts)
        + also
        + "".join([f'SetEnv {name} "{it}"\n' for name, it in {**own, **settings}.items()])
    )
    limit = {"LIMITER_LIMIT": "1000/hour"}
    try:
        with apache(mpm, home, limit, after=after, modules=("actions", "unique_id")) as server:
            owner = server.root.stat()
            os.chown(logs, owner.st_uid, owner.st_gid)
            yield server, logs / "log"
    finally:
        shutil.rmtree(logs)


# One of each kind, and one of each language: other failures are reported and answered in the same way.
KINDS = (
    "segmentation.py",
    "raises.py",
    "loop.py",
    "missing.py",
    "garbage.sh",
    "endless_header.pl",
    "half.sh",
    "closed.sh",
    "header_only.sh",
    "wordy.py",
)
LANGUAGES = ("killed.pl", "raise.rb", "half_a_page.php")
SILENCE = "0.5"
"""The LIMITER_SCRIPT_TIMEOUT of scripts that fail by writing nothing; no other script fails so on a busy
machine.
"""


@pytest.fixture(scope="module")
def scripts() -> Iterator[Path]:
    """A directory of scripts that fail."""
    for tool in ("perl", "ruby", "php-cgi"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    path = new_root("/tmp")
    for name in KINDS + LANGUAGES:
        FAILING[name].add(path / name)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def failing(
    request: pytest.FixtureRequest, home: Path, scripts: Path
) -> Iterator[tuple[Server, Path, Mailbox]]:
    """A server of these scripts, its log, and its mailbox."""
    silent = f'<Files "loop.py">\nSetEnv LIMITER_SCRIPT_TIMEOUT {SILENCE}\n</Files>\n'
    with mailbox() as box:
        mail = {"LIMITER_MAIL_TO": "root@localhost", "LIMITER_SMTP": f"127.0.0.1:{box.port}"}
        with supervised(request.param, home, scripts, silent, **mail) as (server, log):
            yield server, log, box
    assert "limiter: " not in server.log


def entries(log: Path) -> list[dict[str, Any]]:
    """Return the entries of the log."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def assert_failed(reply: Reply, status: int) -> None:
    """Compare the answer for a script with the contract."""
    assert (reply.status, reply.body) == (status, MESSAGES[status])
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["RateLimit-Policy"] == '"1000-per-3600s";q=1000;w=3600'


@pytest.mark.parametrize(
    ("failing", "method", "name"),
    [("event", "GET", name) for name in KINDS + LANGUAGES]
    + [
        (mpm, method, name)
        for mpm, method in (("event", "POST"), ("prefork", "GET"), ("prefork", "POST"))
        for name in KINDS
    ],
    indirect=["failing"],
)
def test_failure_is_answered_as_json_and_told_once(
    failing: tuple[Server, Path, Mailbox], scripts: Path, name: str, method: str
) -> None:
    server, log, box = failing
    script = FAILING[name]
    before = len(entries(log))
    body = b"x" * 300000 if method == "POST" else None
    assert_failed(server.ask(f"/{name}?app_id=acme", method, body), script.status)
    (entry,) = entries(log)[before:]
    reason = f"the script wrote nothing for {SILENCE} seconds" if script.status == 504 else script.reason
    assert reason in entry["reason"]
    assert (entry["status"], entry["script"]) == (script.status, f"{scripts}/{name}")
    assert entry["path"] == f"/{name}"
    assert (entry["app_id"], entry["method"], len(entry["id"])) == ("acme", method, 27)
    assert script.words in "\n".join(entry.get("stack", []))
    if script.line:
        assert entry["where"] == f"{scripts}/{name}:{script.line}"
    box.wait(lambda: box.of(f"{scripts}/{name}"))


# Scripts that go on


@pytest.fixture(params=MPMS)
def streams(request: pytest.FixtureRequest, home: Path, place: Path) -> Iterator[Server]:
    """A server of scripts that write for long, and write their process number to a file."""
    for name, text in STREAMS.items():
        add(
            place / name,
            f"#!/usr/bin/perl\n$| = 1; print 'Content-Type: text/plain', chr(10) x 2;\n{text}",
        )
    with supervised(request.param, home, place) as (server, log):
        yield server
        assert entries(log) == []


STREAMS = {
    "large": "$part = join('', map(chr, 0 .. 255)) x 256; print $part for 1 .. 512;",
    "endless": "print $$, chr(10); print 'x' x 65536 while 1;",
    "silent": "print $$, chr(10); sleep 999;",
    "slow": "print 'first'; select undef, undef, undef, .01 until -e 'seen'; print 'second';",
}


def begin(server: Server, path: str) -> tuple[socket.socket, bytes]:
    """Send a request; return the connection, and the response up to the first bytes of its body."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=120)
    connection.sendall(f"GET {path}?app_id=acme HTTP/1.0\r\n\r\n".encode())
    data = b""
    while not data.partition(b"\r\n\r\n")[2]:
        part = connection.recv(65536)
        assert part, data
        data += part
    return connection, data


def test_large_output_is_complete(streams: Server) -> None:
    reply = streams.ask("/large?app_id=acme")
    assert reply.status == 200
    assert reply.body == bytes(range(256)) * 256 * 512


def test_output_comes_as_it_is_written(streams: Server, place: Path) -> None:
    """The script goes on only when the client has received the first part."""
    connection, data = begin(streams, "/slow")
    with connection:
        assert data.endswith(b"\r\n\r\nfirst")
        (place / "seen").touch()
        assert b"".join(iter(lambda: connection.recv(65536), b"")) == b"second"


def test_client_that_goes_away_ends_the_script(streams: Server) -> None:
    connection, data = begin(streams, "/endless")
    with connection:
        number = int(data.partition(b"\r\n\r\n")[2].split()[0])
        assert Path(f"/proc/{number}").exists()
    wait_until_gone(number)


@pytest.mark.parametrize("mpm", MPMS)
def test_apache_that_stops_ends_the_script(mpm: str, home: Path, place: Path) -> None:
    add(place / "silent", f"#!/usr/bin/perl\n$| = 1; print 'X: y', chr(10) x 2;\n{STREAMS['silent']}")
    with supervised(mpm, home, place) as (server, _):
        connection, data = begin(server, "/silent")
        number = int(data.partition(b"\r\n\r\n")[2].split()[0])
        assert Path(f"/proc/{number}").exists()
        if mpm == "event":
            # Its thread waits for the script, and Apache waits 10 s for the thread; then it does this.
            daemon = parent_of(parent_of(number))
            os.kill(server.pid, signal.SIGTERM)
            for child in children_of(server.pid) - {daemon}:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    connection.close()
    wait_until_gone(number)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(process: int) -> set[int]:
    return {int(it) for it in Path(f"/proc/{process}/task/{process}/children").read_text().split()}


# The guard with a clock that only the test moves; for each reading of it a file gets a byte.
CLOCKED = """\
#!/usr/bin/python3 -IS
import posix, sys
sys.path.insert(0, "{home}")
from limiter.apache import guard
from limiter.scripts import supervise

looks = posix.open("{place}/looks", posix.O_WRONLY | posix.O_APPEND)

def monotonic():
    posix.write(looks, b".")
    return float(posix.readlink("{place}/clock"))

supervise.monotonic = monotonic
guard.run()
"""


def wait_for_size(file: Path, size: int, log: Path) -> None:
    """Wait until the file has this size; fail if a failure is logged before."""
    wait_until(lambda: file.stat().st_size >= size or log.exists())


@pytest.mark.parametrize("mpm", MPMS)
def test_upload_that_is_slow_is_not_the_script_s_silence(mpm: str, copy: Path, place: Path) -> None:
    """The guard wakes every 10 ms and finds that months have passed, but there is nothing to read."""
    (copy / "cgi-bin/guard.py").write_text(CLOCKED.format(home=copy, place=place))
    looks, read = place / "looks", place / "read"
    for file in (looks, read):
        file.touch()
        file.chmod(0o666)
    (place / "clock").symlink_to("0")
    note = "open my $read, '>>', 'read'; print $read '.'; close $read;"
    script = f"while (<STDIN>) {{ $all .= $_; {note} }} print 'X: y', chr(10) x 2, $all;"
    add(place / "upload", f"#!/usr/bin/perl\n{script}\n")
    with supervised(mpm, copy, place, LIMITER_SCRIPT_TIMEOUT="0.01") as (server, log):
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
            connection.sendall(b"POST /upload?app_id=acme HTTP/1.0\r\nContent-Length: 8\r\n\r\n")
            for number in range(1, 5):
                connection.sendall(b"x\n")
                if number == 4:
                    break
                wait_for_size(read, number, log)
                (place / "new").symlink_to(str(number * 10**7))
                (place / "new").replace(place / "clock")
                wait_for_size(looks, looks.stat().st_size + 5, log)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.endswith(b"\r\n\r\n" + b"x\n" * 4), answer
        assert entries(log) == []


@pytest.mark.parametrize("mpm", MPMS)
def test_standard_error_goes_to_the_log_of_apache(mpm: str, home: Path, place: Path) -> None:
    """All of it does, before and after the response."""
    line = "x" * 99
    text = f"print STDERR '{line}', chr(10) for 1 .. 5243;"
    header = "print 'X: y', chr(10) x 2, 'whole';"
    add(place / "wordy", f"#!/usr/bin/perl\n{text}\n{header}\n{text}\n")
    with supervised(mpm, home, place) as (server, log):
        reply = server.ask("/wordy?app_id=acme")
        assert (reply.status, reply.body) == (200, b"whole")
        assert entries(log) == []
    assert server.log.count(line) == 2 * 5243


# What gets through Apache in some way, and yet is no valid answer.
STRICTER = {"NUL", "return within", "status that is none", "status of no answer", "no end"}


def test_what_is_no_header_is_what_apache_takes_for_none(home: Path, place: Path) -> None:
    outputs = {**GOOD, **{name: output for name, (output, _) in BAD.items()}}
    for name, output in outputs.items():
        (place / f"{name}.output").write_bytes(output + (b"body" if name in GOOD else b"\n\nbody"))
        add(place / f"{name}.sh", f"#!/bin/sh\nexec cat '{name}.output'\n")
    bare = f"""
        Alias /bare "{place}"
        <Location "/bare">
            Options ExecCGI
            SetHandler cgi-script
        </Location>
    """
    with supervised("event", home, place, bare) as (server, log):
        for name in outputs:
            told = len(entries(log))
            path = f"{name}.sh?app_id=acme".replace(" ", "%20")
            requests = (f"GET /{it}{path} HTTP/1.0\r\n\r\n".encode() for it in ("bare/", ""))
            unguarded, guarded = (server.send(it).partition(b"\r\n")[0] for it in requests)
            assert len(entries(log)) - told == (name in BAD)
            if name not in STRICTER:
                assert (guarded, guarded[9:12] == b"500") == (unguarded, name in BAD)
