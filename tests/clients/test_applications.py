"""Middleware for Rack, Plack and PSR-15: real applications behind a real Apache, beside Python's script."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.apache_server import Server, apache, assert_answer, own_store
from tests.clients.kit import FILES, HERE
from tests.clients.pages import FPM, PAGES, SITE, php_fpm
from tests.places import REPOSITORY, temporary
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

LIMIT = "20/hour;login=25/day fixed"
CLIENTS = 8
RACK = """
require 'rack/lint'
require 'limiter/rack'
use Rack::Lint
use Limiter::Rack, 'LIMITER_LIMIT' => '{limit}'
use Rack::Lint
run ->(_env) {{ [200, {{ 'content-type' => 'text/plain' }}, ['page']] }}
"""
PLACK = """
use Plack::Builder;
builder {{
    enable 'Lint';
    enable 'AccessLimiter', LIMITER_LIMIT => '{limit}';
    enable 'Lint';
    sub {{ [200, ['Content-Type' => 'text/plain'], ['page']] }};
}};
"""
APPLICATIONS = {"rack": RACK, "plack": PLACK}
COMMANDS = {
    "rack": "puma --quiet --workers 2 --bind unix://{socket}?umask=0111 -I {clients}/ruby {file}",
    "plack": "starman --workers 3 --listen {socket} -I {clients}/perl {file}",
}
"""How to start each application."""
FILES_OF = {"rack": "config.ru", "plack": "app.psgi"}
DOORS = ("/php", "/psr15", "/rack", "/plack", "/cgi-bin/check.py")
PSR7 = Path("/usr/share/php/Nyholm/Psr7/autoload.php")


@contextmanager
def application(world: str, text: str, root: Path) -> Iterator[Path]:
    """Run an application in several processes, as Apache's user.  Returns its socket."""
    place = root.parent
    file, socket = place / FILES_OF[world], place / f"{world}.socket"
    file.write_text(text.format(limit=LIMIT))
    command = COMMANDS[world].format(socket=socket, file=file, clients=REPOSITORY / "clients").split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    owner = root.stat()
    os.chown(place, owner.st_uid, owner.st_gid)
    with (place / f"{world}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], "LIMITER_ROOT": str(root), "RACK_ENV": "production"},
            stdout=log,
            stderr=log,
            user=owner.st_uid,
            group=owner.st_gid,
            umask=0o000,
            start_new_session=True,
        )
    try:
        wait_until(lambda: process.poll() is not None or socket.exists(), world)
        assert process.poll() is None, (place / f"{world}.log").read_text()
        yield socket
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def server(installed: Path) -> Iterator[Server]:
    """An Apache with pages of PHP by php-fpm, an application of Rack and one of Plack, and check.py."""
    if not FPM or not PSR7.exists():
        pytest.skip(f"php-fpm or {PSR7} is not installed")
    with ExitStack() as stack:
        site, place, pool = [stack.enter_context(temporary("/tmp")) for _ in range(3)]
        root = own_store(place)
        stack.enter_context(php_fpm(pool))
        (site / "php").write_text(PAGES["php"].replace("{client}", str(FILES["php"])))
        (site / "psr15").write_text(f"<?php require '{HERE}/psr15.php';")
        more = ""
        for world, text in APPLICATIONS.items():
            socket = stack.enter_context(application(world, text, root))
            more += f'ProxyPass "/{world}" "unix:{socket}|http://localhost/"\n'
        settings = {"LIMITER_ROOT": str(root), "LIMITER_LIMIT": LIMIT}
        handler = f'SetHandler "proxy:unix:{pool}/socket|fcgi://localhost/"'
        after = SITE.format(site=site, handler=handler, more=more)
        modules = ("actions", "proxy", "proxy_http", "proxy_fcgi", "rewrite")
        yield stack.enter_context(apache("event", installed, settings, after=after, modules=modules))


def test_all_worlds_and_check_py_are_exact_together(server: Server) -> None:
    def ask(number: int) -> int:
        return server.ask(f"{DOORS[number % len(DOORS)]}?app_id=together").status

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert Counter(clients.map(ask, range(20 * len(DOORS)))) == {200: 20, 429: 80}


@pytest.mark.parametrize("world", ["psr15", *APPLICATIONS])
def test_a_middleware_answers_as_the_guard(server: Server, world: str) -> None:
    first = server.ask(f"/{world}?app_id={world}")
    assert (first.status, first.body) == (200, b"page")
    assert first.headers["RateLimit-Policy"] == '"20-per-3600s";q=20;w=3600, "login";q=25;w=86400'
    assert first.headers["RateLimit"].startswith('"20-per-3600s";r=19;t=3600, "login";r=24;t=')
    assert_answer(server.ask(f"/{world}"), 401)
    assert_answer(server.ask(f"/{world}?app_id=a&app.id=b"), 401)
    for _ in range(19):
        assert server.ask(f"/{world}?app_id={world}").status == 200
    denied = server.ask(f"/{world}?app_id={world}")
    assert_answer(denied, 429)
    assert 3500 < int(denied.headers["Retry-After"]) <= 3600
    assert server.ask(f"/{world}?app_id={world}", "HEAD").body == b""


def test_psr15_knows_headers(server: Server) -> None:
    """A setting in the code is stronger than the server's."""
    path = "/psr15?app_id=other"
    assert_answer(server.ask(path, headers={"X-Limit": "1/hour"}), 401)
    asked = [server.ask(path, headers={"X-Limit": "1/hour", "X-Key": "a b"}).status for _ in range(2)]
    assert asked == [200, 429]


def test_a_wrong_setting_is_an_error_that_says_so(installed: Path) -> None:
    text = "require 'limiter/rack'; use Limiter::Rack, 'LIMITER_NODES' => '2'; run ->(_) {{ raise 'not reached' }}"
    with temporary("/tmp") as place:
        root = own_store(place)
        with application("rack", text, root) as socket:
            more = f'ProxyPass "/rack" "unix:{socket}|http://localhost/"\n'
            modules = ("actions", "proxy", "proxy_http", "rewrite")
            with apache("event", installed, after=more, modules=modules) as server:
                assert_answer(server.ask("/rack?app_id=a"), 500)
        assert (
            "LIMITER_NODES: Ruby's client does not know this setting" in (place / "rack.log").read_text()
        )
