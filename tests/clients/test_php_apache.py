"""The PHP client in pages under a real Apache, by php-cgi and by php-fpm: the same answers as the Python guard."""

from __future__ import annotations

import glob
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from limiter import Limiter
from limiter.request.register import put
from tests.apache_server import Reply, Server, apache, assert_answer
from tests.clients.kit import FILES
from tests.places import temporary
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

FPM = sorted(glob.glob("/usr/sbin/php-fpm*"))
WAYS = {"cgi": Path("/usr/bin/php-cgi").exists(), "fpm": bool(FPM)}
CLIENTS = 8
PAGE = "<?php require '{client}'; Limiter\\guard(); header('Content-Type: text/plain'); echo 'page';"
SITE = """
DocumentRoot "{site}"
ScriptAlias "/php-cgi" "/usr/bin/php-cgi"
Action php-script "/php-cgi"
<Files "php-cgi">
    Require all granted
</Files>
<Directory "{site}">
    Require all granted
    {handler}
    SetEnv LIMITER_ROOT "${{LIMITER_ROOT}}"
    SetEnv LIMITER_LIMIT "20/hour;login=25/day fixed"
</Directory>
{more}
"""
POOL = """
[global]
error_log = {place}/log
daemonize = no
[www]
listen = {place}/socket
listen.mode = 0666
user = www-data
group = www-data
pm = static
pm.max_children = 4
catch_workers_output = yes
"""


@contextmanager
def serving(way: str, installed: Path, more: str = "") -> Iterator[Server]:
    """Run Apache with a page of PHP."""
    if not WAYS[way]:
        pytest.skip(f"php-{way} is not installed")
    with ExitStack() as stack:
        site, place = [stack.enter_context(temporary("/tmp")) for _ in range(2)]
        shutil.copy(FILES["php"], site / "limiter.php")
        (site / "page.php").write_text(PAGE.format(client=site / "limiter.php"))
        handler = "SetHandler php-script"
        modules: tuple[str, ...] = ("actions",)
        if way == "fpm":
            stack.enter_context(fpm(place))
            handler = f'SetHandler "proxy:unix:{place}/socket|fcgi://localhost/"'
            modules = ("proxy", "proxy_fcgi")
        after = SITE.format(site=site, handler=handler, more=more)
        yield stack.enter_context(apache("event", installed, after=after, modules=modules))


@contextmanager
def fpm(place: Path) -> Iterator[None]:
    """Run a real php-fpm, with opcache."""
    place.chmod(0o755)
    (place / "pool").write_text(POOL.format(place=place))
    command = [FPM[0], "--fpm-config", str(place / "pool"), "-R"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: process.poll() is not None or (place / "socket").exists(), "php-fpm")
            yield
        finally:
            process.terminate()


@pytest.fixture(params=WAYS)
def server(request: pytest.FixtureRequest, installed: Path) -> Iterator[Server]:
    with serving(request.param, installed) as server:
        yield server


def fields(reply: Reply) -> dict[str, str | None]:
    names = ("RateLimit-Policy", "RateLimit", "Retry-After", "WWW-Authenticate", "Cache-Control")
    return {name: reply.headers[name] for name in names}


def test_the_page_and_python_share_one_limit_and_are_exact_together(server: Server) -> None:
    """Many clients at once, by PHP and from Python."""
    other = Limiter(server.root, "20/hour;login=25/day fixed")
    assert server.ask("/page.php?app_id=acme").status == 200

    def ask(number: int) -> int:
        if number % 2:
            return 200 if other.hit("acme") else 429
        return server.ask("/page.php?app_id=acme").status

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert Counter(clients.map(ask, range(60))) == {200: 19, 429: 41}


def test_its_answers_are_those_of_the_guard(server: Server) -> None:
    first = server.ask("/page.php?app_id=acme")
    assert (first.status, first.body) == (200, b"page")
    policy = '"20-per-3600s";q=20;w=3600, "login";q=25;w=86400'
    assert fields(first)["RateLimit-Policy"] == policy
    assert (fields(first)["RateLimit"] or "").startswith('"20-per-3600s";r=19;t=3600, "login";r=24;t=')
    assert_answer(server.ask("/page.php"), 401)
    assert_answer(server.ask("/page.php?app_id=a&app.id=b"), 401)
    for _ in range(19):
        assert server.ask("/page.php?app_id=acme").status == 200
    denied = server.ask("/page.php?app_id=acme")
    assert_answer(denied, 429)
    assert 3500 < int(fields(denied)["Retry-After"] or 0) <= 3600
    head = server.ask("/page.php?app_id=acme", "HEAD")
    assert (head.status, head.body) == (429, b"")


@pytest.mark.parametrize(
    ("name", "text", "status", "said"),
    [
        ("NODES", "2", 500, "LIMITER_NODES: PHP's client does not know this setting"),
        ("RULES", "/etc/rules", 500, "LIMITER_RULES: PHP's client does not know"),
        ("KEY", "header:X-Key", 500, "LIMITER_KEY='header:X-Key': PHP's client knows parameters alone"),
        ("LIMIT", "many", 500, "limit 'many': expected limits such as 10/second"),
        ("MODE", "on", 500, "LIMITER_MODE='on'"),
        ("MODE", "off", 200, ""),
        ("ROOT", "/nowhere", 500, "The store does not exist"),
        ("ROOT", "relative", 500, "expected an absolute path"),
        ("LIMIT", "0/hour", 429, ""),
    ],
)
def test_settings_are_followed_or_refused(
    installed: Path, name: str, text: str, status: int, said: str
) -> None:
    more = f'<Location "/page.php">\nSetEnv LIMITER_{name} "{text}"\n</Location>'
    with serving("cgi", installed, more) as server:
        reply = server.ask("/page.php?app_id=acme")
        assert reply.status == status
        if status != 200:
            assert_answer(reply, status)
        assert said in server.logged()


def test_shadow_mode_and_a_store_that_fails_admit_if_asked(installed: Path) -> None:
    more = (
        '<Location "/page.php">\nSetEnv LIMITER_LIMIT "0/hour"\nSetEnv LIMITER_MODE shadow\n</Location>'
    )
    with serving("cgi", installed, more) as server:
        assert server.ask("/page.php?app_id=acme").status == 200
        assert "shadow: a request would have got 429 Too Many Requests" in server.logged()
    more = '<Location "/page.php">\nSetEnv LIMITER_ROOT /nowhere\nSetEnv LIMITER_ON_ERROR admit\n</Location>'
    with serving("cgi", installed, more) as server:
        assert server.ask("/page.php?app_id=acme").body == b"page"


def test_it_follows_the_register(installed: Path, apps: str) -> None:
    put(apps, "acme", "2/hour")
    put(apps, "free", "unlimited")
    Path(apps).chmod(0o755)
    more = f'<Location "/page.php">\nSetEnv LIMITER_APPS "{apps}"\n</Location>'
    with serving("cgi", installed, more) as server:
        got = [server.ask(f"/page.php?app_id={app}").status for app in ("acme", "acme", "acme")]
        assert got == [200, 200, 429]
        assert [server.ask("/page.php?app_id=free").status for _ in range(3)] == [200] * 3
        assert server.ask("/page.php?app_id=other").status == 401


def test_what_the_map_in_front_has_counted_is_not_counted_again(installed: Path) -> None:
    """For the same limit; another limit of the page is counted."""
    if not WAYS["cgi"]:
        pytest.skip("php-cgi is not installed")
    with ExitStack() as stack:
        site = stack.enter_context(temporary("/tmp"))
        shutil.copy(FILES["php"], site / "limiter.php")
        for name in ("page.php", "other.php"):
            (site / name).write_text(PAGE.format(client=site / "limiter.php"))
        more = '<Location "/other.php">\nSetEnv LIMITER_LIMIT "2/day"\n</Location>'
        after = SITE.format(site=site, handler="SetHandler php-script", more=more)
        settings = {"LIMITER_PATHS": "^/.*php$", "LIMITER_LIMIT": "20/hour;login=25/day fixed"}
        modules = ("actions", "rewrite")
        server = stack.enter_context(apache("event", installed, settings, after=after, modules=modules))
        got = [server.ask("/page.php?app_id=acme").status for _ in range(21)]
        assert got == [200] * 20 + [429]
        reply = server.ask("/page.php?app_id=b")
        assert (reply.headers["RateLimit"] or "").startswith('"20-per-3600s";r=19;')
        assert [server.ask("/other.php?app_id=c").status for _ in range(3)] == [200, 200, 429]
