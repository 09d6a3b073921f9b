"""The clients in pages under a real Apache: the same answers as the Python guard."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from limiter import Limiter
from limiter.request.register import put
from tests.apache_server import Reply, Server, apache, assert_answer
from tests.clients.kit import FILES
from tests.clients.pages import FPM, PAGES, SITE, php_fpm
from tests.places import temporary

pytestmark = pytest.mark.one_python

WAYS = {
    "php-cgi": Path("/usr/bin/php-cgi").exists(),
    "php-fpm": bool(FPM),
    "perl": Path("/usr/bin/perl").exists(),
    "ruby": Path("/usr/bin/ruby").exists(),
}
"""Which pages can be tried here."""
CLIENTS = 8


@contextmanager
def serving(
    way: str, installed: Path, more: str = "", settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run Apache with the pages ``page`` and ``other``."""
    if not WAYS[way]:
        pytest.skip(f"{way} is not installed")
    language = way.partition("-")[0]
    with ExitStack() as stack:
        site, place = [stack.enter_context(temporary("/tmp")) for _ in range(2)]
        client = site / FILES[language].name
        shutil.copy(FILES[language], client)
        for name in ("page", "other"):
            (site / name).write_text(PAGES[language].replace("{client}", str(client)))
            (site / name).chmod(0o755)
        handler = {"php-cgi": "SetHandler php-script"}.get(way, "SetHandler cgi-script")
        modules = ["actions", "rewrite"]
        if way == "php-fpm":
            stack.enter_context(php_fpm(place))
            handler = f'SetHandler "proxy:unix:{place}/socket|fcgi://localhost/"'
            modules += ["proxy", "proxy_fcgi"]
        after = SITE.format(site=site, handler=handler, more=more)
        yield stack.enter_context(
            apache("event", installed, settings, after=after, modules=tuple(modules))
        )


@pytest.fixture(params=WAYS)
def server(request: pytest.FixtureRequest, installed: Path) -> Iterator[Server]:
    with serving(request.param, installed) as server:
        yield server


def fields(reply: Reply) -> dict[str, str | None]:
    names = ("RateLimit-Policy", "RateLimit", "Retry-After", "WWW-Authenticate", "Cache-Control")
    return {name: reply.headers[name] for name in names}


def test_the_page_and_python_share_one_limit_and_are_exact_together(server: Server) -> None:
    """Many clients at once, by the page and from Python."""
    other = Limiter(server.root, "20/hour;login=25/day fixed")
    assert server.ask("/page?app_id=acme").status == 200

    def ask(number: int) -> int:
        if number % 2:
            return 200 if other.hit("acme") else 429
        return server.ask("/page?app_id=acme").status

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert Counter(clients.map(ask, range(60))) == {200: 19, 429: 41}


def test_its_answers_are_those_of_the_guard(server: Server) -> None:
    first = server.ask("/page?app_id=acme")
    assert (first.status, first.body) == (200, b"page")
    policy = '"20-per-3600s";q=20;w=3600, "login";q=25;w=86400'
    assert fields(first)["RateLimit-Policy"] == policy
    assert (fields(first)["RateLimit"] or "").startswith('"20-per-3600s";r=19;t=3600, "login";r=24;t=')
    assert_answer(server.ask("/page"), 401)
    assert_answer(server.ask("/page?app_id=a&app.id=b"), 401)
    for _ in range(19):
        assert server.ask("/page?app_id=acme").status == 200
    denied = server.ask("/page?app_id=acme")
    assert_answer(denied, 429)
    assert 3500 < int(fields(denied)["Retry-After"] or 0) <= 3600
    head = server.ask("/page?app_id=acme", "HEAD")
    assert (head.status, head.body) == (429, b"")


LANGUAGES = ("php-cgi", "perl", "ruby")


def location(*settings: str, path: str = "/page") -> str:
    """Directives that set these variables for a page."""
    lines = "\n".join([f"SetEnv LIMITER_{it}" for it in settings])
    return f'<Location "{path}">\n{lines}\n</Location>'


@pytest.mark.parametrize("way", LANGUAGES)
@pytest.mark.parametrize(
    ("name", "text", "status", "said"),
    [
        ("NODES", "2", 500, "LIMITER_NODES: {}'s client does not know this setting"),
        ("RULES", "/etc/rules", 500, "LIMITER_RULES: {}'s client does not know"),
        ("KEY", "cookie:key", 500, "LIMITER_KEY='cookie:key': "),
        ("LIMIT", "many", 500, "limit 'many': expected limits such as 10/second"),
        ("MODE", "on", 500, "LIMITER_MODE='on'"),
        ("MODE", "off", 200, ""),
        ("ROOT", "/nowhere", 500, "The store does not exist"),
        ("ROOT", "relative", 500, "expected an absolute path"),
        ("LIMIT", "0/hour", 429, ""),
    ],
)
def test_settings_are_followed_or_refused(
    installed: Path, way: str, name: str, text: str, status: int, said: str
) -> None:
    with serving(way, installed, location(f'{name} "{text}"')) as server:
        reply = server.ask("/page?app_id=acme")
        assert reply.status == status
        if status != 200:
            assert_answer(reply, status)
        language = {"php-cgi": "PHP", "perl": "Perl", "ruby": "Ruby"}[way]
        assert said.format(language) in server.logged()


@pytest.mark.parametrize("way", LANGUAGES)
def test_shadow_mode_and_a_store_that_fails_admit_if_asked(installed: Path, way: str) -> None:
    more = location('LIMIT "0/hour"', "MODE shadow")
    more += "\n" + location("ROOT /nowhere", "ON_ERROR admit", path="/other")
    with serving(way, installed, more) as server:
        assert server.ask("/page?app_id=acme").body == b"page"
        assert "shadow: a request would have got 429 Too Many Requests" in server.logged()
        assert server.ask("/other?app_id=acme").body == b"page"


@pytest.mark.parametrize("way", LANGUAGES)
def test_it_follows_the_register(installed: Path, apps: str, way: str) -> None:
    put(apps, "acme", "2/hour")
    put(apps, "free", "unlimited")
    Path(apps).chmod(0o755)
    with serving(way, installed, location(f"APPS {apps}")) as server:
        assert [server.ask("/page?app_id=acme").status for _ in range(3)] == [200, 200, 429]
        assert [server.ask("/page?app_id=free").status for _ in range(3)] == [200] * 3
        assert server.ask("/page?app_id=other").status == 401


@pytest.mark.parametrize("way", LANGUAGES)
def test_what_the_map_in_front_has_counted_is_not_counted_again(installed: Path, way: str) -> None:
    """For the same limit; another limit of the page is counted."""
    settings = {"LIMITER_PATHS": "^/(page|other)$", "LIMITER_LIMIT": "20/hour;login=25/day fixed"}
    with serving(way, installed, location('LIMIT "2/day"', path="/other"), settings) as server:
        got = [server.ask("/page?app_id=acme").status for _ in range(21)]
        assert got == [200] * 20 + [429]
        reply = server.ask("/page?app_id=b")
        assert (reply.headers["RateLimit"] or "").startswith('"20-per-3600s";r=19;')
        assert [server.ask("/other?app_id=c").status for _ in range(3)] == [200, 200, 429]
