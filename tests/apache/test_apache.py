"""check.py, health.py and the user's own scripts in a real Apache: under mod_cgid, and where it matters under
mod_cgi.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apache.test_apache_guard import add
from tests.apache_server import LONG, MPMS, Reply, Server, apache, assert_answer, own_store
from tests.places import temporary

CHECK = "/cgi-bin/check.py"
HEALTH = "/cgi-bin/health.py"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

pytestmark = pytest.mark.one_python

OWN = """\
#!/usr/bin/python3
from limiter.cgi import guard
guard()
print("Content-Type: text/plain", end="\\n\\n")
"""

# Settings for URLs below health.py.
PLACES = f"""
<Location "{HEALTH}/missing">
    SetEnv LIMITER_ROOT "/nowhere"
</Location>
<Location "{HEALTH}/restricted">
    Require expr "%{{HTTP_HOST}} == 'balancer'"
</Location>
"""

DEAD = {
    "crashed.py": "#!/usr/bin/python3 -IS\nimport nothing_of_this_name\n",
    "killed": '#!/bin/sh\nkill -KILL "$$"\n',
    "garbled": "#!/bin/sh\necho 'No header, this.'\n",
    "halved": "#!/bin/sh\necho 'RateLimit: something'\necho 'and then it dies'\n",
    "uninterpreted": "#!/nowhere/python3\n",
}


@pytest.fixture(scope="module")
def home(installed: Path) -> Iterator[Path]:
    """An installation, with scripts that die beside check.py."""
    with temporary("/tmp") as path:
        shutil.copytree(installed, path, dirs_exist_ok=True)
        for name, text in DEAD.items():
            add(path / "cgi-bin" / name, text)
        yield path


@pytest.fixture(scope="module")
def distribution(installed: Path) -> Iterator[Path]:
    """A cgi-bin as every distribution has one, with the package and the user's own scripts in it."""
    with temporary("/tmp") as path:
        shutil.copytree(installed / "limiter", path / "limiter")
        add(path / "own.py", OWN)
        add(path / "check.py", "#!/bin/sh\necho\necho 'Not the one that is meant.'\n")
        yield path


@pytest.fixture(scope="module", params=MPMS)
def server(request: pytest.FixtureRequest, home: Path, distribution: Path) -> Iterator[Server]:
    """A server that admits two hits per hour: no test lasts that long."""
    scripts = "\n".join(
        f'<Location "/{name}">\nScriptAlias "{home}/cgi-bin/{name}"\n</Location>' for name in DEAD
    )
    with temporary("/tmp") as place:
        # As in RHEL's httpd.conf: before the configuration of the limiter.
        before = f"""
            ScriptAlias "/cgi-bin/" "{distribution}/"
            <Directory "{distribution}">
                Require all granted
                SetEnv LIMITER_ROOT "{own_store(place)}"
                SetEnv LIMITER_LIMIT "2/hour"
                SetEnv LIMITER_TIMEOUT "{LONG}"
            </Directory>
            {scripts}
            {PLACES}
        """
        with apache(request.param, home, {"LIMITER_LIMIT": "2/hour"}, before) as server:
            yield server


# What passes through Apache


@pytest.mark.parametrize("script", ["check.py", "own.py"])
@pytest.mark.parametrize(("app_id", "status"), [("unread", 429), ("", 401)])
def test_an_unread_body_does_not_damage_the_answer(
    server: Server, script: str, app_id: str, status: int
) -> None:
    """Under mod_cgid a script has one socket for its input and output."""
    path = f"/cgi-bin/{script}?app_id={app_id}"
    for _ in range(2 if status == 429 else 0):
        assert server.ask(path).status == 200
    for media_type in ("application/json", "application/x-www-form-urlencoded"):
        for size in (1, 65537, 1000000):
            reply = server.ask(path, "POST", b"x" * size, {"Content-Type": media_type})
            assert_answer(reply, status)


def test_a_body_is_read_as_far_as_apache_says(server: Server) -> None:
    """A form counts with the query, also a chunked one, which has no CONTENT_LENGTH."""
    assert_answer(server.ask(CHECK, "POST", b"colour=red&app_id=form", FORM), 200)
    assert_answer(server.ask(f"{CHECK}?app_id=form", "POST", b"app_id=form", FORM), 401)
    chunked = {**FORM, "Transfer-Encoding": "chunked"}
    for app_id, status in (("chunked", 200), ("", 401)):
        path = f"{CHECK}?app_id={app_id}"
        assert_answer(server.ask(path, "POST", b"1\r\nx\r\n0\r\n\r\n", chunked), status)
    for app_id, status in (("in-chunks", 200), ("in-chunks&app_id=in-chunks", 401)):
        form = b"".join([b"1\r\n%c\r\n" % byte for byte in f"app_id={app_id}".encode()])
        assert_answer(server.ask(CHECK, "POST", form + b"0\r\n\r\n", chunked), status)


# Scripts that die


@pytest.mark.parametrize("script", DEAD)
def test_script_that_dies_is_answered_as_json(server: Server, script: str) -> None:
    """The ErrorDocument answers in its place, for any method and any conditions."""
    assert_answer(server.ask(f"/{script}"), 500)
    assert_answer(server.ask(f"/{script}", "POST", b"app_id=acme", FORM), 500)
    assert_answer(server.ask(f"/{script}", headers={"If-None-Match": "*", "Range": "bytes=0-3"}), 500)
    head = server.ask(f"/{script}", "HEAD")
    assert (head.status, head.body) == (500, b"")
    assert head.headers["Content-Type"] == "application/json; charset=utf-8"


def test_answer_to_errors_cannot_be_requested(server: Server) -> None:
    """The ErrorDocument is no page of its own."""
    assert server.ask("/access-limiter/500.json").status == 403


def test_package_that_is_missing_is_answered_as_json_without_mod_headers(copy: Path) -> None:
    """The log gets a traceback.  Without mod_headers only "no-store" is missing."""
    shutil.rmtree(copy / "limiter")
    with apache("event", copy, without=("headers",)) as server:
        for script in (CHECK, HEALTH):
            reply = server.ask(f"{script}?app_id=acme")
            assert (reply.status, reply.body) == (500, b'{"message": "Internal Server Error"}')
            assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert server.log.count("No module named 'limiter'") == 2


# Beside other scripts


def test_other_scripts_and_files_are_none_of_ours(server: Server) -> None:
    """All scripts but check.py stay those of the distribution's directory."""
    assert server.ask("/cgi-bin/own.py").status == 401
    assert_answer(server.ask(f"{CHECK}?app_id=ours"), 200)
    for path in (
        "/cgi-bin/check",
        "/cgi-bin/check.pyc",
        "/cgi-bin/crashed.py",
        "/limiter/core/store.py",
    ):
        assert server.ask(path).status in (403, 404)


def test_package_in_an_existing_cgi_bin_cannot_be_read(server: Server, distribution: Path) -> None:
    """It is not executable, so Apache refuses it."""
    for module in (distribution / "limiter").rglob("*.py"):
        reply = server.ask(f"/cgi-bin/{module.relative_to(distribution)}")
        assert reply.status in (403, 500)
        assert b"import" not in reply.body


# health.py: what a load balancer sees


def assert_health(reply: Reply, reason: str = "", head: bool = False) -> None:
    """Compare an answer with the contract: 503 with the reason, or 200 if there is none."""
    sick = json.dumps({"message": "Service Unavailable", "reason": reason})
    expected = re.escape(sick) if reason else r'{"message": "OK", "newcomers": \d+}'
    assert reply.status == (503 if reason else 200)
    assert re.fullmatch("" if head else expected, reply.body.decode())
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-store"
    assert "RateLimit" not in reply.headers


def test_a_server_that_can_admit_is_healthy_whatever_the_request(server: Server) -> None:
    before = os.listdir(server.root)
    claims = ("?app_id=health", "?app_id=..%2F..", "?LIMITER_ROOT=/nowhere", "?-h", "?" + 4000 * "a")
    for path in ("", *claims, "/etc/passwd", "/.new-trial-"):
        assert_health(server.ask(HEALTH + path))
    form = {**FORM, "Limiter-Root": "/nowhere"}
    assert_health(server.ask(HEALTH, "POST", b"app_id=health", form))
    # keepalived sends this request.
    assert server.send(f"GET {HEALTH} HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert os.listdir(server.root) == before


@pytest.mark.parametrize(("place", "reason"), [("", ""), ("/missing", "ENOENT")])
def test_the_answer_reaches_the_balancer_whatever_the_method(
    server: Server, place: str, reason: str
) -> None:
    assert_health(server.ask(HEALTH + place), reason)
    assert_health(server.ask(HEALTH + place, "POST", b"x" * 1_000_000), reason)
    assert_health(server.ask(HEALTH + place, "HEAD"), reason, head=True)


def test_access_to_health_can_be_restricted(server: Server) -> None:
    assert server.ask(f"{HEALTH}/restricted", headers={"Host": "balancer"}).status == 200
    assert server.ask(f"{HEALTH}/restricted").status == 403
