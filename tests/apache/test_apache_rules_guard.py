"""Rules in a real Apache, at the guard and at check.py: exact with many clients at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limiter import Limiter
from tests.apache_server import MPMS, Server, apache
from tests.places import temporary

pytestmark = pytest.mark.one_python

CLIENTS = 8

RULES = """
/app/login POST login=3/hour key=env:REMOTE_ADDR count=401
/app/free * exempt
/app/ GET 20/hour
/cgi-bin/check.py * 5/hour
/app/negotiated.py * 2/hour
"""

# Refuses a password that is wrong, as the query says.
LOGIN = """\
#!/usr/bin/python3 -IS
import posix
status = "401 No" if b"wrong" in posix.environ[b"QUERY_STRING"] else "200 OK"
print(f"Status: {status}\\nContent-Type: text/plain\\n\\ntext")
"""

SITE = """
DocumentRoot "{site}"
TypesConfig /dev/null
ScriptAlias "/cgi-bin/" "{home}/cgi-bin/"
<Directory "{home}">
    Require all granted
</Directory>
<Directory "{site}">
    Require all granted
    Options MultiViews
    SetHandler limited
    AddHandler limited .py
    AddType application/x-script .py
</Directory>
"""


@pytest.fixture
def site() -> Iterator[Path]:
    with temporary("/tmp") as path:
        (path / "app").mkdir()
        for name in ("login", "free", "page", "negotiated.py"):
            (path / "app" / name).write_text(LOGIN)
            (path / "app" / name).chmod(0o755)
        (path / "rules").write_text(RULES)
        yield path


@pytest.fixture(params=MPMS)
def server(request: pytest.FixtureRequest, installed: Path, site: Path) -> Iterator[Server]:
    settings = {"LIMITER_RULES": f"{site}/rules", "LIMITER_SUPERVISE": "1"}
    after = SITE.format(site=site, home=installed)
    modules = ("actions", "negotiation", "mime")
    with apache(request.param, installed, settings, after=after, modules=modules) as server:
        yield server


def statuses(server: Server, path: str, number: int, method: str = "GET") -> list[int]:
    return [server.ask(path, method).status for _ in range(number)]


def test_many_clients_at_once_get_what_the_rules_say(server: Server) -> None:
    paths = 40 * ["/app/page?app_id=acme"] + 10 * ["/cgi-bin/check.py?app_id=acme"] + 10 * ["/app/free"]
    with ThreadPoolExecutor(CLIENTS) as clients:
        got = Counter(clients.map(lambda path: (path, server.ask(path).status), paths))
    assert got == {
        ("/app/page?app_id=acme", 200): 20,
        ("/app/page?app_id=acme", 429): 20,
        ("/cgi-bin/check.py?app_id=acme", 200): 5,
        ("/cgi-bin/check.py?app_id=acme", 429): 5,
        ("/app/free", 200): 10,
    }


def test_a_log_in_page_admits_so_many_failures(server: Server) -> None:
    wrong, right = "/app/login?wrong", "/app/login"
    got = [statuses(server, path, 2, "POST") for path in (right, wrong, right, wrong, right)]
    assert got == [[200, 200], [401, 401], [200, 200], [401, 429], [429, 429]]


def test_at_most_the_failures_under_way_at_once_go_beyond(server: Server) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        got = Counter(
            clients.map(lambda path: server.ask(path, "POST").status, 40 * ["/app/login?wrong"])
        )
    assert 3 <= got[401] < 3 + CLIENTS
    assert got[401] + got[429] == 40
    assert Limiter(server.root, "login=3/hour").peek("127.0.0.1").remaining == 0
    assert statuses(server, "/app/login", 2, "POST") == [429, 429]


@pytest.mark.parametrize(
    "path",
    [
        "/app/%6Cogin",
        "//app//login",
        "/app/./login",
        "/x/../app/login",
        "/app/login/x",
        "/app/login;a=b",
    ],
)
def test_no_spelling_of_the_log_in_page_gets_around_its_limit(server: Server, path: str) -> None:
    assert statuses(server, "/app/login?wrong", 3, "POST") == [401, 401, 401]
    assert server.ask(path, "POST").status in (400, 404, 429)
    assert server.ask(f"http://localhost{path}", "POST").status in (400, 404, 429)


def test_the_script_that_apache_finds_has_its_limits(server: Server) -> None:
    """MultiViews finds negotiated.py for /app/negotiated."""
    paths = ["/app/negotiated", "/app/negotiated.py", "/app/negotiated"]
    got = [server.ask(f"{path}?app_id=acme", "PUT").status for path in paths]
    assert got == [200, 200, 429]
