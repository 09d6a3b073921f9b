"""The WSGI door under mod_wsgi in a real Apache: in daemon processes, and in Apache's own processes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apache_server import LONG, Reply, Server, apache
from tests.hanging import hanging_mount
from tests.places import new_root

MODULE = "/usr/lib/apache2/modules/mod_wsgi.so"
BODY = bytes(range(256)) * 4096

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(
        not Path(MODULE).exists(), reason="mod_wsgi is missing (libapache2-mod-wsgi-py3)"
    ),
]

# The two configurations of the documentation; only the places are different in a test.
LIMITS = """
<Location "/api">
    SetEnv LIMITER_ROOT /var/lib/access-limiter/store
    SetEnv LIMITER_LIMIT 10/second
</Location>
<Directory "/srv/api">
    Require all granted
</Directory>
"""
DAEMON = f"""
WSGIDaemonProcess api processes=2 threads=15 python-path=/usr/local/share/access-limiter
WSGIScriptAlias /api /srv/api/application.wsgi process-group=api application-group=%{{GLOBAL}}
{LIMITS}
"""
EMBEDDED = f"""
WSGIPythonPath /usr/local/share/access-limiter
WSGIScriptAlias /api /srv/api/application.wsgi application-group=%{{GLOBAL}}
{LIMITS}
"""
CONFIGURATIONS = {"daemon": DAEMON, "embedded": EMBEDDED}
SCRIPT = """
from limiter.wsgi import RateLimit
from api import application

application = RateLimit(application)
"""

# An application without any framework: it answers with the request's body.  An admitted request
# to /api/meet waits until another process gets one, too.
BARE = """
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
FLASK = """
import flask

application = flask.Flask(__name__)

@application.post("/")
def echo():
    left = flask.request.environ["limiter.decision"].remaining
    return flask.request.get_data(), 200, {"X-Remaining": str(left)}
"""
FLASK_NEEDS = ("flask", "werkzeug", "jinja2", "markupsafe", "click", "itsdangerous", "blinker")

MORE = f"""
SetEnv LIMITER_TIMEOUT {LONG}
<Location "/api">
    SetEnv LIMITER_LIMIT 37/day
    SetEnv MEETING_PLACE /srv/meeting
</Location>
<Location "/api/wrong">
    SetEnv LIMITER_LIMIT 10/fortnight
</Location>
<Location "/api/key">
    SetEnv LIMITER_KEY header:X-Api-Key
    SetEnv LIMITER_LIMIT 1/day
</Location>
<Location "/api/token">
    SetEnv LIMITER_KEY header:Authorization
    SetEnv LIMITER_LIMIT 2/day
    WSGIPassAuthorization On
</Location>
<Location "/api/hasty">
    SetEnv LIMITER_TIMEOUT 0.5
</Location>
WSGIScriptAlias /other /srv/api/application.wsgi GROUP application-group=other
<Location "/other">
    SetEnv LIMITER_ROOT /var/lib/access-limiter/store
    SetEnv LIMITER_LIMIT 37/day
</Location>
"""


@pytest.fixture
def home(installed: Path) -> Iterator[Path]:
    """The installed files, and beside them a site: api/, and a place for processes to meet."""
    path = new_root("/tmp")
    shutil.copytree(installed, path / "access-limiter")
    (path / "api").mkdir()
    (path / "api/application.wsgi").write_text(SCRIPT)
    for name in ("store", "meeting"):
        (path / name).mkdir()
        (path / name).chmod(0o777)
    yield path
    shutil.rmtree(path)


@contextmanager
def site(
    home: Path,
    mode: str,
    application: str,
    changes: dict[str, str] | None = None,
    mpm: str = "event",
) -> Iterator[Server]:
    """Run a server with one of the two configurations, moved to ``home``, and an application."""
    (home / "access-limiter/api.py").write_text(application)
    configuration = CONFIGURATIONS[mode] + MORE.replace(
        "GROUP", "process-group=api" if mode == "daemon" else ""
    )
    for old, new in {**places(home), **(changes or {})}.items():
        assert old in configuration
        configuration = configuration.replace(old, new)
    with apache(mpm, home / "access-limiter", after=configuration, modules=("wsgi",)) as server:
        yield server


def places(home: Path) -> dict[str, str]:
    """Return where the test has what the configuration names."""
    return {
        "/usr/local/share/access-limiter": f"{home}/access-limiter",
        "/var/lib/access-limiter/store": f"{home}/store",
        "/srv": str(home),
    }


def ask_at_once(server: Server, paths: list[str]) -> list[Reply]:
    """Send requests with 8 concurrent clients."""
    with ThreadPoolExecutor(8) as clients:
        return [*clients.map(server.ask, paths)]


def assert_is_own(reply: Reply, status: int, message: str) -> None:
    """Check that the limiter itself made this response, not Apache."""
    assert reply.status == status
    assert json.loads(reply.body) == {"message": message}
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Content-Length"] == str(len(reply.body))


def lines_of_limiter(log: str) -> list[str]:
    return [line for line in log.splitlines() if "] limiter: " in line]


def assert_ended_well(log: str) -> None:
    """Check that no thread was in the way when interpreters and processes ended."""
    for sign in ("Traceback", "Fatal", "exit signal", "sending a SIGKILL", "Aborting process"):
        assert sign not in log, log


@pytest.fixture(params=CONFIGURATIONS)
def mode(request: pytest.FixtureRequest) -> str:
    """Each of the two ways in which mod_wsgi runs an application."""
    return str(request.param)


def test_processes_together_admit_exactly_the_limit(home: Path, mode: str) -> None:
    # They have one thread each, so that two concurrent requests need two processes.
    changes = {"processes=2 threads=15": "processes=4 threads=1"} if mode == "daemon" else {}
    with site(home, mode, BARE, changes, "prefork") as server:
        replies = ask_at_once(server, 200 * ["/api/meet?app_id=acme"])
    statuses = [reply.status for reply in replies]
    assert (statuses.count(200), statuses.count(429)) == (37, 163)
    assert len(os.listdir(home / "meeting")) >= 2
    assert all(reply.headers["RateLimit-Policy"] == '"37-per-86400s";q=37;w=86400' for reply in replies)
    denied = next(reply for reply in replies if reply.status == 429)
    assert_is_own(denied, 429, "Too Many Requests")
    assert 0 < int(denied.headers["Retry-After"]) <= 86400
    assert_ended_well(server.log)
    assert not lines_of_limiter(server.log)


def test_interpreters_together_admit_exactly_the_limit(home: Path, mode: str) -> None:
    """Each of two applications has its own interpreter in every process."""
    # In processes of mpm_event, mod_wsgi 4.9 with several interpreters does not end, in any case.
    with site(home, mode, BARE, mpm="prefork") as server:
        replies = ask_at_once(server, 50 * ["/api?app_id=acme", "/other?app_id=acme"])
        assert {reply.status for reply in replies} == {200, 429}
        assert sum(reply.status == 200 for reply in replies) == 37
    # In Apache's own processes, mod_wsgi may crash when several interpreters with threads end, after
    # all requests have been answered.  Therefore the documentation recommends %{GLOBAL}.
    if mode == "daemon":
        assert_ended_well(server.log)


def test_settings_come_from_the_location(home: Path, mode: str) -> None:
    def statuses(path: str, number: int, **headers: str) -> list[int]:
        return [server.ask(path, headers=headers).status for _ in range(number)]

    with site(home, mode, BARE) as server:
        assert_is_own(server.ask("/api"), 401, "Unauthorized")
        assert_is_own(server.ask("/api?app_id=a&app_id=a"), 401, "Unauthorized")
        assert statuses("/api/key", 1) == [401]
        assert statuses("/api/key", 2, **{"X-Api-Key": "mine"}) == [200, 429]
        assert statuses("/api/token", 3, Authorization="Bearer mine") == [200, 200, 429]
        head = server.ask("/api/key", "HEAD", headers={"X-Api-Key": "mine"})
        assert (head.status, head.body) == (429, b"")
        for _ in range(2):
            assert_is_own(server.ask("/api/wrong?app_id=acme"), 500, "Internal Server Error")
        assert server.ask("/api?app_id=acme").status == 200
    lines = lines_of_limiter(server.log)
    assert len(lines) == 2
    assert all("] limiter: ValueError: " in line and "10/fortnight" in line for line in lines)
    assert_ended_well(server.log)


def test_the_body_reaches_the_application_and_is_in_nobodys_way(home: Path, mode: str) -> None:
    with site(home, mode, BARE) as server:
        admitted = server.ask("/api/token?x", "POST", BODY, {"Authorization": "Basic eDp5"})
        assert admitted.status == 200
        assert admitted.body == BODY
        for _ in range(3):
            assert_is_own(server.ask("/api", "POST", 8 * BODY), 401, "Unauthorized")


def test_flask_needs_no_change(home: Path, mode: str) -> None:
    pytest.importorskip("flask")
    for name in FLASK_NEEDS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        # mod_wsgi may have another Python, but these modules work without their compiled parts.
        shutil.copytree(Path(spec.origin).parent, home / "access-limiter" / name)
    with site(home, mode, FLASK) as server:
        replies = [server.ask("/api/?app_id=acme", "POST", BODY) for _ in range(38)]
    assert [reply.status for reply in replies] == [*37 * [200], 429]
    assert replies[0].body == BODY
    assert replies[0].headers["X-Remaining"] == "36"
    assert_is_own(replies[37], 429, "Too Many Requests")


def test_a_silent_store_gives_the_verdict_meanwhile_and_apache_ends(home: Path, mode: str) -> None:
    with hanging_mount() as mount:
        store = mount.path / "store"
        store.mkdir()
        store.chmod(0o777)
        with site(home, mode, BARE, {"/var/lib/access-limiter/store": str(store)}) as server:
            assert server.ask("/api?app_id=acme").status == 200
            mount.hang()
            try:
                begin = time.monotonic()
                assert_is_own(server.ask("/api/hasty?app_id=acme"), 500, "Internal Server Error")
                assert time.monotonic() - begin >= 0.5
            finally:
                mount.release()
            assert server.ask("/api?app_id=acme").status == 200
    (line,) = lines_of_limiter(server.log)
    assert line.endswith(
        "StoreError: [Errno 110] The store did not answer within 0.5 s (LIMITER_TIMEOUT)"
    )
    assert_ended_well(server.log)
