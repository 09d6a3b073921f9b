"""The WSGI door under mod_wsgi in a real Apache: in daemon processes, and in Apache's own processes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apache_server import LONG, Server, apache, assert_answer, own_store
from tests.hanging import Mount, hanging_mount
from tests.places import temporary

MODULE = "/usr/lib/apache2/modules/mod_wsgi.so"
BODY = bytes(range(256)) * 4096

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(
        not Path(MODULE).exists(), reason="mod_wsgi is missing (libapache2-mod-wsgi-py3)"
    ),
]

CONFIGURATIONS = {
    "daemon": """
        WSGIDaemonProcess api processes={processes} threads={threads} python-path={home}/access-limiter
        WSGIScriptAlias /api {home}/api.wsgi process-group=api application-group=%{{GLOBAL}}
        WSGIScriptAlias /other {home}/api.wsgi process-group=api application-group=other
    """,
    "embedded": """
        WSGIPythonPath {home}/access-limiter
        WSGIScriptAlias /api {home}/api.wsgi application-group=%{{GLOBAL}}
        WSGIScriptAlias /other {home}/api.wsgi application-group=other
    """,
}
SETTINGS = f"""
<Directory "{{home}}">
    Require all granted
</Directory>
SetEnv LIMITER_TIMEOUT {LONG}
<LocationMatch "^/(api|other)">
    SetEnv LIMITER_ROOT {{store}}
    SetEnv LIMITER_LIMIT 37/day
    SetEnv MEETING_PLACE {{home}}/meeting
</LocationMatch>
<Location "/api/token">
    SetEnv LIMITER_KEY header:Authorization
    SetEnv LIMITER_LIMIT 2/day
    WSGIPassAuthorization On
</Location>
<Location "/api/hasty">
    SetEnv LIMITER_TIMEOUT 0.5
</Location>
"""
SCRIPT = """
from limiter.wsgi import RateLimit
from api import application

application = RateLimit(application)
"""

# An application without any framework: it answers with the request's body.  An admitted request
# to /api/meet waits until another process gets one, too.
APPLICATION = """
import os
import time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/meet":
        place = environ["MEETING_PLACE"]
        open(f"{place}/{os.getpid()}", "w").close()
        deadline = time.monotonic() + 120
        while len(os.listdir(place)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    decision = environ["limiter.decision"]
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Remaining", str(decision.remaining))])
    return [environ["wsgi.input"].read()]
"""


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def mode(request: pytest.FixtureRequest) -> str:
    """Each of the two ways in which mod_wsgi runs an application."""
    return str(request.param)


@pytest.fixture(scope="module")
def home(installed: Path) -> Iterator[Path]:
    """The installed files, and beside them an application, and a place for processes to meet."""
    with temporary("/tmp") as path:
        shutil.copytree(installed, path / "access-limiter")
        (path / "access-limiter/api.py").write_text(APPLICATION)
        (path / "api.wsgi").write_text(SCRIPT)
        (path / "meeting").mkdir()
        (path / "meeting").chmod(0o777)
        yield path


@contextmanager
def site(
    home: Path,
    mode: str,
    mpm: str,
    store: str = "${LIMITER_ROOT}",
    processes: int = 2,
    threads: int = 15,
) -> Iterator[Server]:
    """Run a server with one of the two configurations."""
    text = CONFIGURATIONS[mode] + SETTINGS
    text = text.format(home=home, processes=processes, threads=threads, store=store)
    with apache(mpm, home / "access-limiter", after=text, modules=("wsgi",)) as server:
        yield server


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    """A file system that hangs on command, with the store."""
    with hanging_mount() as it:
        yield it


@pytest.fixture(scope="module")
def server(home: Path, mode: str, mount: Mount) -> Iterator[Server]:
    """A server with one of the two configurations."""
    with site(home, mode, "event", str(own_store(mount.path))) as server:
        yield server
    assert_ended_well(server.log)


def lines_of_limiter(log: str) -> list[str]:
    return [line for line in log.splitlines() if "] limiter: " in line]


def assert_ended_well(log: str) -> None:
    """Check that no thread was in the way when interpreters and processes ended."""
    for sign in ("Traceback", "Fatal", "exit signal", "sending a SIGKILL", "Aborting process"):
        assert sign not in log, log


def test_processes_and_interpreters_together_admit_exactly_the_limit(home: Path, mode: str) -> None:
    """Each of two applications has its own interpreter in every process."""
    for file in (home / "meeting").iterdir():
        file.unlink()
    # A process has one thread, so that two concurrent requests need two processes.
    # In processes of mpm_event, mod_wsgi 4.9 with several interpreters does not end, in any case.
    with site(home, mode, "prefork", processes=4, threads=1) as server, ThreadPoolExecutor(8) as clients:
        paths = 100 * ["/api/meet?app_id=acme", "/other/meet?app_id=acme"]
        replies = list(clients.map(server.ask, paths))
    answers = [reply.status for reply in replies]
    assert (answers.count(200), answers.count(429)) == (37, 163)
    assert len(os.listdir(home / "meeting")) >= 2
    assert all(reply.headers["RateLimit-Policy"] == '"37-per-86400s";q=37;w=86400' for reply in replies)
    denied = next(reply for reply in replies if reply.status == 429)
    assert_answer(denied, 429)
    assert 0 < int(denied.headers["Retry-After"]) <= 86400
    assert not lines_of_limiter(server.log)
    # In Apache's own processes, mod_wsgi may crash when several interpreters with threads end, after
    # all requests have been answered.  Therefore the documentation recommends %{GLOBAL}.
    if mode == "daemon":
        assert_ended_well(server.log)


def test_the_body_reaches_the_application_or_is_dropped(server: Server) -> None:
    """The settings come from the location."""
    admitted = server.ask("/api/token?x", "POST", BODY, {"Authorization": "Basic eDp5"})
    assert (admitted.status, admitted.headers["X-Remaining"], admitted.body) == (200, "1", BODY)
    for _ in range(3):
        assert_answer(server.ask("/api", "POST", 8 * BODY), 401)


def test_an_unresponsive_store_gets_500_and_one_line_meanwhile(server: Server, mount: Mount) -> None:
    assert server.ask("/api?app_id=acme").status == 200
    mount.hang()
    try:
        begin = time.monotonic()
        assert_answer(server.ask("/api/hasty?app_id=acme"), 500)
        assert time.monotonic() - begin >= 0.5
    finally:
        mount.release()
    assert server.ask("/api?app_id=acme").status == 200
    (line,) = lines_of_limiter(server.logged())
    assert line.endswith(
        "StoreError: [Errno 110] The store did not answer within 0.5 s (LIMITER_TIMEOUT)"
    )
