"""limiter.conf in a real Apache: each Defined setting reaches check.py, the guard and the map."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.report import options
from limiter.request.register import put
from limiter.request.settings import NAMES
from tests.apache_server import Reply, Server, apache
from tests.places import new_root

pytestmark = pytest.mark.one_python

DOORS = {"check": "/cgi-bin/check.py", "guard": "/guarded/script", "map": "/api/file.txt"}
MODULES = ("actions", "cgi", "rewrite")

TELLING = """\
#!/bin/sh
echo Content-Type: text/plain
echo
env
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A script and a file."""
    path = new_root("/tmp")
    (path / "script").write_text(TELLING)
    (path / "script").chmod(0o755)
    (path / "file.txt").touch()
    yield path
    shutil.rmtree(path)


@contextmanager
def run(
    installed: Path, site: Path, settings: Mapping[str, str] | None = None, more: str = ""
) -> Iterator[Server]:
    """A server with three doors that admits one hit per hour, unless the settings say otherwise."""
    configuration = f"""
        Alias "/api" "{site}"
        Alias "/guarded" "{site}"
        <Directory "{site}">
            Require all granted
        </Directory>
        <Location "/guarded">
            SetHandler limited
        </Location>
        {more}
    """
    definitions = {"LIMITER_PATHS": "^/api/", "LIMITER_LIMIT": "1/hour", **(settings or {})}
    with apache(
        "event", installed, definitions, without=("cgid",), after=configuration, modules=MODULES
    ) as server:
        yield server


def ask(server: Server, door: str, query: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    return server.ask(f"{DOORS[door]}?{query}", headers=headers)


def statuses(
    server: Server, door: str, *queries: str, headers: Mapping[str, str] | None = None
) -> list[int]:
    return [ask(server, door, query, headers).status for query in queries]


def test_all_doors_have_the_same_store_and_limit(installed: Path, site: Path) -> None:
    with run(installed, site, {"LIMITER_LIMIT": "3 per 2 hours"}) as server:
        replies = [ask(server, door, "app_id=acme") for door in [*DOORS, *DOORS]]
        assert os.listdir(server.root) == ["acme"]
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429, 429]
    assert {reply.headers["RateLimit-Policy"] for reply in replies} == {'"3-per-7200s";q=3;w=7200'}


@pytest.mark.parametrize(("verdict", "status"), [("deny", 500), ("admit", 200)])
def test_store_that_fails_gives_the_verdict(
    installed: Path, site: Path, verdict: str, status: int
) -> None:
    settings = {"LIMITER_ROOT": "/nowhere/store", "LIMITER_ON_ERROR": verdict}
    with run(installed, site, settings) as server:
        for door in DOORS:
            assert statuses(server, door, "app_id=acme") == [status]


def test_register_says_who_may_ask(installed: Path, site: Path, place: Path) -> None:
    put(str(place), "acme", "2/hour")
    with run(installed, site, {"LIMITER_APPS": str(place)}) as server:
        for door in DOORS:
            put(str(place), door, "2/hour")
            assert statuses(server, door, "app_id=x", *3 * [f"app_id={door}"]) == [401, 200, 200, 429]


def test_key_may_be_another_parameter(installed: Path, site: Path) -> None:
    with run(installed, site, {"LIMITER_KEY": "user"}) as server:
        for door in DOORS:
            queries = ["app_id=acme", f"user={door}", f"user={door}"]
            assert statuses(server, door, *queries) == [401, 200, 429]


def test_key_may_be_a_header(installed: Path, site: Path) -> None:
    with run(installed, site, {"LIMITER_HEADER": "X-Api-Key"}) as server:
        for door in DOORS:
            assert statuses(server, door, "app_id=acme") == [401]
            assert statuses(server, door, "", "", headers={"X-Api-Key": door}) == [200, 429]


def test_map_does_not_take_one_header_for_another(installed: Path, site: Path) -> None:
    """The map gets X-Forwarded-For unless LIMITER_HEADER names another header: then it cannot be the
    key.
    """
    headers = {"X-Forwarded-For": "forged", "X-Api-Key": "mine"}
    with run(installed, site, {"LIMITER_KEY": "header:X-Api-Key"}) as server:
        for door in ("check", "guard"):
            assert statuses(server, door, "", headers={"X-Api-Key": door}) == [200]
        reply = ask(server, "map", "", headers)
        assert (reply.status, reply.body) == (500, b'{"message": "Internal Server Error"}')
        assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
        assert "forged" not in os.listdir(server.root)
    assert server.log.count("Access Limiter: Define LIMITER_HEADER instead of LIMITER_KEY") == 1


def test_key_may_be_the_credentials(installed: Path, site: Path) -> None:
    """The guard sees them only where this is configured; its scripts then see them, too."""
    more = f"""
        Alias "/app/" "{site}/"
        <Location "/app/">
            SetHandler limited
        </Location>
        <Location "/access-limiter/guard/app/">
            CGIPassAuth On
        </Location>
    """
    with run(installed, site, {"LIMITER_HEADER": "Authorization"}, more) as server:
        for number, door in enumerate(("check", "map")):
            headers = {"Authorization": f"Bearer {number}"}
            assert statuses(server, door, "", "", headers=headers) == [200, 429]
        headers = {"Authorization": "Bearer guard"}
        assert statuses(server, "guard", "", headers=headers) == [401]
        reply = server.ask("/app/script", headers=headers)
        assert reply.status == 200
        assert b"HTTP_AUTHORIZATION=Bearer guard\n" in reply.body


def test_guarded_script_does_not_see_the_credentials(installed: Path, site: Path) -> None:
    with run(installed, site) as server:
        reply = ask(server, "guard", "app_id=acme", {"Authorization": "Bearer mine"})
    assert reply.status == 200
    assert b"AUTHORIZATION" not in reply.body


def test_two_keys_are_refused(installed: Path) -> None:
    both = {"LIMITER_HEADER": "X-Api-Key", "LIMITER_KEY": "app_id"}
    with (
        pytest.raises(RuntimeError, match="LIMITER_KEY or LIMITER_HEADER, not both"),
        apache("event", installed, both),
    ):
        pass


def test_trusted_proxies_are_believed(installed: Path, site: Path) -> None:
    settings = {"LIMITER_KEY": "env:REMOTE_ADDR", "LIMITER_TRUSTED_PROXIES": "127.0.0.0/8, ::1"}
    with run(installed, site, settings) as server:
        for number, door in enumerate(DOORS):
            headers = {"X-Forwarded-For": f"198.51.100.9, 192.0.2.{number}"}
            assert statuses(server, door, "", "", headers=headers) == [200, 429]
        assert sorted(os.listdir(server.root)) == ["192.0.2.0", "192.0.2.1", "192.0.2.2"]
    with run(installed, site, {"LIMITER_KEY": "env:REMOTE_ADDR"}) as server:
        ask(server, "check", headers={"X-Forwarded-For": "192.0.2.1"})
        assert os.listdir(server.root) == ["127.0.0.1"]


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_modes_admit(installed: Path, site: Path, mode: str) -> None:
    with run(installed, site, {"LIMITER_MODE": mode, "LIMITER_LIMIT": "0/second"}) as server:
        for door in DOORS:
            assert statuses(server, door, "app_id=acme") == [200]
    assert server.log.count("limiter: shadow: acme would have got 429") == 3 * (mode == "shadow")


@pytest.mark.parametrize("name", sorted({*NAMES} - {"LIMITER_ROOT"}))
def test_mistake_in_any_setting_is_an_error_at_every_door(
    installed: Path, site: Path, name: str
) -> None:
    """So no setting is lost on the way."""
    key = {"LIMITER_KEY": "env:REMOTE_ADDR"} if name == "LIMITER_TRUSTED_PROXIES" else {}
    with run(installed, site, {**key, name: "a:mistake"}) as server:
        for door in DOORS:
            assert statuses(server, door, "app_id=acme") == [500]
    said = [line for line in server.log.splitlines() if "limiter: " in line]
    assert len(said) == len(DOORS)
    assert all("a:mistake" in line for line in said), said


@pytest.mark.parametrize("name", options.NAMES)
def test_mistake_in_how_problems_are_told_is_told_at_every_door(
    installed: Path, site: Path, name: str
) -> None:
    """The error log reports the mistake with the first problem."""
    settings = {"LIMITER_LOG": "stderr", "LIMITER_ROOT": "/missing", name: "a:mistake"}
    with run(installed, site, settings) as server:
        for door in DOORS:
            assert statuses(server, door, "app_id=acme") == [500]
    assert server.log.count(f"ValueError: {name}='a:mistake'") == len(DOORS)
    assert server.log.count('"reason": "StoreError: ') == len(DOORS)


@pytest.mark.parametrize("name", ["LIMITER_SUPERVISE", "LIMITER_SCRIPT_TIMEOUT"])
def test_mistake_in_how_scripts_are_supervised_is_an_error(
    installed: Path, site: Path, name: str
) -> None:
    with run(installed, site, {"LIMITER_SUPERVISE": "1", name: "a:mistake"}) as server:
        assert [statuses(server, door, "app_id=acme") for door in DOORS].count([500]) == 1
    assert f"ValueError: {name}=" in server.log


SPELLINGS = [
    "/v1/api/file.txt",
    "/v1//api/file.txt",
    "/v1%2fapi/file.txt",
    "/v1/api%2Ffile.txt",
    "/v1/%2f/api%2f/file.txt",
]
PATHS = "^/v1(/|%2[Ff])+api(/|%2[Ff])"


def test_paths_must_fit_how_apache_takes_slashes(installed: Path, site: Path) -> None:
    """This is the condition in map.conf."""
    more = f"""
        MergeSlashes Off
        AllowEncodedSlashes NoDecode
        AliasMatch "{PATHS}" "{site}/file.txt"
    """
    with run(installed, site, {"LIMITER_PATHS": PATHS}, more) as server:
        assert [server.ask(path).status for path in SPELLINGS] == [401] * 5
    with run(installed, site, {"LIMITER_PATHS": "^/v1/api/"}, more) as server:
        assert [server.ask(path).status for path in SPELLINGS] == [401] + [200] * 4
