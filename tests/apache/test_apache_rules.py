"""Rules in a real Apache, at the map: by ``Use RateLimit`` or by the file LIMITER_RULES."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter import Limiter
from tests.apache_server import MPMS, Server, apache, assert_answer
from tests.places import REPOSITORY, temporary

pytestmark = pytest.mark.one_python

CLIENTS = 8

RULES = [
    ("/", "OPTIONS", "exempt"),
    ("/login", "POST", "login=3/hour key=env:REMOTE_ADDR"),
    ("/static/", "*", "exempt"),
    ("^/v[0-9]+/", "GET", "2 per 2 hours; 5/day"),
    ("/api/", "*", "20/hour"),
]
SITE = """
AliasMatch "^/" "{site}/page"
<Directory "{site}">
    Require all granted
    {guarded}
</Directory>
"""
PAGE = "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\npage'\n"
MACROS = f'Include "{REPOSITORY}/deploy/apache/macros.conf"'


@pytest.fixture
def site() -> Iterator[Path]:
    with temporary("/tmp") as path:
        (path / "page").write_text(PAGE)
        (path / "page").chmod(0o755)
        (path / "rules").write_text(
            "\n".join([f"{path} {methods} {_quoted(rest)}" for path, methods, rest in RULES])
        )
        yield path


def _quoted(rest: str) -> str:
    return f'"{rest}"' if ";" in rest else rest


@contextmanager
def by_macro(home: Path, site: Path, mpm: str, guarded: str = "") -> Iterator[Server]:
    """A server whose configuration has the rules."""
    uses = [f'Use RateLimit "{path}" "{methods}" "{rest}"' for path, methods, rest in RULES]
    before = "\n".join([MACROS, *uses])
    after = SITE.format(site=site, guarded=guarded)
    with apache(mpm, home, before=before, after=after, modules=("rewrite",)) as server:
        yield server


@contextmanager
def by_file(home: Path, site: Path, mpm: str, guarded: str = "") -> Iterator[Server]:
    """A server whose rules are in a file, for the paths that the map guards."""
    settings = {"LIMITER_RULES": f"{site}/rules", "LIMITER_PATHS": "^/(login|static|v[0-9]+|api)(/|$)"}
    after = SITE.format(site=site, guarded=guarded)
    with apache(mpm, home, settings, after=after, modules=("rewrite",)) as server:
        yield server


@pytest.fixture(params=[(way, mpm) for way in (by_macro, by_file) for mpm in MPMS])
def server(request: pytest.FixtureRequest, installed: Path, site: Path) -> Iterator[Server]:
    way, mpm = request.param
    with way(installed, site, mpm) as server:
        yield server


def statuses(server: Server, *requests: str) -> list[int]:
    """The statuses of requests such as ``GET /path``."""
    return [
        server.ask(path, method).status for method, _, path in (it.partition(" ") for it in requests)
    ]


def test_each_request_has_the_limits_of_the_first_rule_that_it_meets(server: Server) -> None:
    assert statuses(server, *4 * ["POST /login"]) == [200, 200, 200, 429]
    assert statuses(server, *3 * ["GET /v1/x?app_id=a"], "GET /v2/x?app_id=a") == [200, 200, 429, 429]
    assert statuses(server, *9 * ["GET /static/x"], "OPTIONS /api/x", "POST /static/x") == [200] * 11
    reply = server.ask("/api/x?app_id=a")
    assert reply.headers["RateLimit-Policy"] == '"20-per-3600s";q=20;w=3600'
    assert_answer(server.ask("/api/x"), 401)
    assert Limiter(server.root, "login=3/hour").peek("127.0.0.1").remaining == 0


def test_what_no_rule_matches_and_the_map_does_not_guard_is_let_through(server: Server) -> None:
    for path in ("/open", "/open?app_id=a", "/loginx"):
        reply = server.ask(path)
        assert (reply.status, reply.headers["RateLimit"]) == (200, None)


def test_many_clients_at_once_get_what_the_rules_say(server: Server) -> None:
    paths = [*30 * ["/api/x?app_id=a"], *10 * ["/v1/x?app_id=a"], *10 * ["/static/x"]]
    with ThreadPoolExecutor(CLIENTS) as clients:
        got = Counter(clients.map(lambda path: (path, server.ask(path).status), paths))
    assert got == {
        ("/api/x?app_id=a", 200): 20,
        ("/api/x?app_id=a", 429): 10,
        ("/v1/x?app_id=a", 200): 2,
        ("/v1/x?app_id=a", 429): 8,
        ("/static/x", 200): 10,
    }


@pytest.mark.parametrize("path", ["/login;x=y", "/x/..;/login", "/login/", "/%256Cogin"])
def test_no_spelling_of_a_path_gets_around_its_limit(server: Server, path: str) -> None:
    assert statuses(server, *3 * ["POST /login"]) == [200, 200, 200]
    assert server.ask(path, "POST").status in (400, 404, 429)


def test_a_path_that_can_be_read_in_two_ways_gets_400(server: Server) -> None:
    assert_answer(server.ask("/api/..;/v1/x?app_id=a"), 400)


@pytest.mark.parametrize("way", [by_macro, by_file])
def test_the_guard_behind_the_map_does_not_count_the_same_again(
    installed: Path, site: Path, way: object
) -> None:
    """It admitted 3 of 6."""
    guarded = 'SetHandler limited\nSetEnv LIMITER_LIMIT "20/hour"'
    with way(installed, site, "event", guarded) as server:  # type: ignore[operator]
        got = statuses(server, *21 * ["GET /api/x?app_id=a"])
        assert got == [200] * 20 + [429]
        reply = server.ask("/api/x?app_id=b")
        assert reply.headers["RateLimit"] == '"20-per-3600s";r=19;t=3600'


def test_a_mistake_in_a_rule_is_a_500_and_the_log_says_where(installed: Path, site: Path) -> None:
    uses = 'Use RateLimit "/a" GET "1/hour"\nUse RateLimit "/b" GET "1/fortnight"'
    after = SITE.format(site=site, guarded="")
    with apache(
        "event", installed, before=f"{MACROS}\n{uses}", after=after, modules=("rewrite",)
    ) as server:
        assert_answer(server.ask("/a?app_id=a"), 500)
    assert "AH00111" not in server.log
    assert "Use RateLimit:2:10: limit '1/fortnight': expected a unit" in server.log


def test_count_needs_a_door_that_sees_the_status(installed: Path, site: Path) -> None:
    use = 'Use RateLimit "/login" POST "5/minute count=401"'
    after = SITE.format(site=site, guarded="")
    with apache(
        "event", installed, before=f"{MACROS}\n{use}", after=after, modules=("rewrite",)
    ) as server:
        assert_answer(server.ask("/login?app_id=a", "POST"), 500)
        assert server.ask("/login?app_id=a").status == 200
    assert "count= needs a door that sees the answer's status" in server.log


def test_an_error_document_in_a_guarded_path_is_not_judged(installed: Path, site: Path) -> None:
    """A 404 became a 401."""
    (site / "lost").write_text("Lost.\n")
    after = f"""
        Alias "/api/lost" "{site}/lost"
        DocumentRoot "{site}"
        ErrorDocument 404 "/api/lost"
        <Directory "{site}">
            Require all granted
        </Directory>
    """
    with apache(
        "event", installed, {"LIMITER_PATHS": "^/api/"}, after=after, modules=("rewrite",)
    ) as server:
        reply = server.ask("/missing")
        assert (reply.status, reply.body) == (404, b"Lost.\n")
        assert_answer(server.ask("/api/lost"), 401)
        assert server.ask("/api/lost?app_id=a").status == 200
