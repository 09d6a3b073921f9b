"""One file of rules for every door of a real Apache at once: the map, the guard, PHP and WSGI share its limits."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from limiter import Limiter
from tests.apache_server import LONG, Server, apache
from tests.places import temporary

CLIENTS = 8
NEEDED = ("/usr/bin/php-cgi", "/usr/lib/apache2/modules/mod_wsgi.so")
MISSING = [it for it in NEEDED if not Path(it).exists()]

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(bool(MISSING), reason=f"missing: {' '.join(MISSING)}"),
]

RULES = """
/login POST login=3/hour key=env:REMOTE_ADDR count=401,403,5xx
/api/ * 100/hour
/static/ * exempt
/ * all=1000/hour key=env:REMOTE_ADDR
"""
PLACES = ("api", "static", "other")
DOORS = ("map.txt", "guard", "page.php", "wsgi")

SCRIPT = """\
#!/bin/sh
case $QUERY_STRING in *wrong*) echo "Status: 401" ;; esac
printf 'Content-Type: text/plain\\n\\npage'
"""
PHP = '<?php header("Content-Type: text/plain"); echo "page";'
WSGI = """
from limiter.wsgi import RateLimit

def page(environ, start_response):
    status = "401 No" if "wrong" in environ["QUERY_STRING"] else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    return [b"page"]

application = RateLimit(page)
"""

SITE = """
DocumentRoot "{site}"
WSGIDaemonProcess all processes=2 threads=4 python-path={site}/access-limiter
WSGIProcessGroup all
WSGIApplicationGroup %{{GLOBAL}}
WSGIScriptAliasMatch "^/(api|static|other|login)/wsgi" "{site}/page.wsgi"
<Directory "{site}">
    Require all granted
    <FilesMatch "^(guard|page[.]php)$">
        Use Limited
    </FilesMatch>
</Directory>
<LocationMatch "/wsgi">
    SetEnv LIMITER_ROOT "${{LIMITER_ROOT}}"
    SetEnv LIMITER_RULES "{site}/rules"
    SetEnv LIMITER_TIMEOUT {long}
</LocationMatch>
"""


@pytest.fixture
def server(installed: Path) -> Iterator[Server]:
    with temporary("/tmp") as site:
        shutil.copytree(installed, site / "access-limiter")
        (site / "rules").write_text(RULES)
        (site / "page.wsgi").write_text(WSGI)
        for place in (*PLACES, "login"):
            (site / place).mkdir()
            (site / place / "map.txt").write_text("page")
            (site / place / "page.php").write_text(PHP)
            (site / place / "guard").write_text(SCRIPT)
            (site / place / "guard").chmod(0o755)
        settings = {
            "LIMITER_RULES": f"{site}/rules",
            "LIMITER_PATHS": "map[.]txt$",
            "LIMITER_SUPERVISE": "1",
            "LIMITER_TIMEOUT": LONG,
        }
        after = SITE.format(site=site, long=LONG)
        with apache("event", installed, settings, after=after, modules=("rewrite", "wsgi")) as server:
            yield server


def statuses(server: Server, place: str, number: int) -> Counter[int]:
    """The statuses of so many requests of many clients at once, the same number to each door."""
    paths = [f"/{place}/{door}?app_id=acme" for _, door in product(range(number // 4), DOORS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        return Counter(clients.map(lambda path: server.ask(path).status, paths))


def test_all_doors_together_admit_what_the_rules_say(server: Server) -> None:
    assert statuses(server, "api", 160) == {200: 100, 429: 60}
    assert statuses(server, "static", 40) == {200: 40}
    others = Limiter(server.root, "all=1000/hour")
    assert others.hit("127.0.0.1", 940)
    assert statuses(server, "other", 100) == {200: 60, 429: 40}
    assert [server.ask(f"/api/{door}").status for door in DOORS] == [401] * 4


def test_the_failures_at_all_doors_that_see_them_are_one_number(server: Server) -> None:
    """The map sees no status, and says so."""
    wrong = [f"/login/{door}?wrong" for door in ("guard", "wsgi")]
    right = [f"/login/{door}" for door in ("guard", "wsgi", "page.php")]
    asked = [server.ask(path, "POST").status for path in (*right, *wrong, *right, wrong[0])]
    assert asked == [200] * 3 + [401] * 2 + [200] * 3 + [401]
    assert [server.ask(path, "POST").status for path in (*right, *wrong)] == [429] * 5
    assert server.ask("/login/map.txt", "POST").status == 500
    assert "count= needs a door that sees the answer's status" in server.logged()
