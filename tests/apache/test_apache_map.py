"""map.conf in a real Apache: one program in front of files, scripts, back ends and applications."""

from __future__ import annotations

import http.client
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apache_server import BASIC_AUTH, Reply, Server, apache, assert_answer, back_end
from tests.places import temporary
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

HEALTH = "/cgi-bin/health.py"
LIMIT = 5
SETTINGS = {"LIMITER_PATHS": "^/api/", "LIMITER_LIMIT": f"{LIMIT}/hour"}
POLICY = f'"{LIMIT}-per-3600s";q={LIMIT};w=3600'

MODULES = (*BASIC_AUTH, "rewrite", "actions", "dir", "mime", "setenvif")
MORE_MODULES = ("include", "filter", "autoindex", "negotiation", "proxy", "proxy_http", "wsgi")

DEAD = "Access Limiter: the map program does not answer"
LEFT_OUT = "Access Limiter: no rules here"
LED = "Access Limiter: a rule with PT leads to this guarded URL"

ECHO = """\
#!/bin/sh
echo "Content-Type: text/plain"
case $QUERY_STRING in
  *status=*) echo "Status: ${QUERY_STRING##*status=}" ;;
esac
echo "X-Method: $REQUEST_METHOD"
echo
cat
"""

WSGI = """\
def application(environ, start_response):
    status = environ["QUERY_STRING"].partition("status=")[2] or "200"
    body = environ["wsgi.input"].read()
    start_response(status + " Mine", [("Content-Type", "text/plain"), ("X-Method", environ["REQUEST_METHOD"])])
    return [body]
"""

# In the order of the phases: Apache maps a URL to each of them in another way.
HANDLED = {
    "file": "/api/file.txt",
    "index": "/api/directory/",
    "alias": "/api/alias/file.txt",
    "proxy": "/api/proxy/x/y",
    "cgi": "/api/cgi/echo",
    "cgi-path-info": "/api/cgi/echo/api/file.txt",
    "wsgi": "/api/wsgi/x",
    "action": "/api/action/some.echo",
    "front": "/api/front/some/page",
    "ssi": "/api/page.shtml",
    "listing": "/api/listing/",
    "negotiated": "/api/file",
    "error-document": "/api/missing",
}
# These are not guarded themselves, and lead to URLs that are.
DOORS = [
    "/open/index/",
    "/open/script/",
    "/open/added/",
    "/open/set/",
    "/fallback/some/page",
    "/front/file.txt",
    "/scripts/redirecting",
]
ECHOING = ("proxy", "cgi", "cgi-path-info", "wsgi", "action", "front")
# mod_cgi sends the whole body before it reads: more than fits into a pipe would block an echo forever.
BODY = bytes(range(256)) * 200


# The document root: files, and scripts that are executable.
INCLUDED = '<!--#include virtual="/api/file.txt" -->'
FILES = {
    "api/file.txt": "A file.\n",
    "api/directory/index.html": "A file.\n",
    "api/listing/file.txt": "A file.\n",
    "api/lost.txt": "It is not here.\n",
    "api/page.shtml": INCLUDED + '<!--#include virtual="/api/cgi/echo" -->',
    "api/action/some.echo": "",
    "api/action/set": "",
    "api/application.wsgi": WSGI,
    "api/front/.htaccess": (
        "RewriteEngine On\nRewriteCond %{REQUEST_FILENAME} !-f\nRewriteRule . index.cgi [L]\n"
    ),
    "front/.htaccess": "RewriteEngine On\nRewriteRule ^(.*) /api/$1 [L]\n",
    "open.txt": "A file.\n",
    "page.shtml": INCLUDED,
}
SCRIPTS = {
    "api/cgi/echo": ECHO,
    "api/front/index.cgi": ECHO,
    "api/cgi/redirecting": '#!/bin/sh\necho "Location: /api/file.txt?$QUERY_STRING"\necho\n',
}
DIRECTORIES = ("api/listing/api", "open/index", "open/script", "open/added", "open/set")

# A server that has everything, in its main part.
EVERYTHING = """
    ScriptAlias "/api/cgi/" "{site}/api/cgi/"
    ScriptAlias "/scripts/" "{site}/api/cgi/"
    Alias "/api/alias/" "{site}/api/"
    ProxyPass "/api/proxy/" "http://127.0.0.1:{port}/"
    WSGIApplicationGroup "%{{GLOBAL}}"
    WSGIScriptAlias "/api/wsgi" "{site}/api/application.wsgi"
    AddHandler echoing .echo
    Action echoing "/api/cgi/echo"
    AddHandler cgi-script .cgi
    AddType text/html .shtml
    AddType text/plain .txt
    AddOutputFilter INCLUDES .shtml
    DirectoryIndex index.html
    <Directory "{site}">
        AllowOverride All
        Options +Includes +Indexes +MultiViews +ExecCGI
    </Directory>
"""

LOCATIONS = {
    "/api/missing": 'ErrorDocument 404 "/api/lost.txt"',
    "/open/index": 'DirectoryIndex "/api/none" "/api/file.txt"',
    "/open/script": 'DirectoryIndex "/api/cgi/echo"',
    "/open/added": 'DirectoryIndex "/api/front/index.cgi"',
    "/open/set": 'DirectoryIndex "/api/action/set"',
    "/api/action/set": "SetHandler echoing",
    "/fallback": 'FallbackResource "/api/cgi/echo"',
    "/api/secret": 'AuthType Basic\nAuthName "mine"\nAuthUserFile "/nowhere"\nRequire valid-user',
}
EVERYTHING += "".join(f'<Location "{path}">\n{text}\n</Location>\n' for path, text in LOCATIONS.items())


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A document root with a file or script of each kind."""
    with temporary("/tmp") as path:
        for directory in DIRECTORIES:
            (path / directory).mkdir(parents=True)
        for name, text in {**FILES, **SCRIPTS}.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
            (path / name).chmod(0o755 if name in SCRIPTS else 0o644)
        yield path


@pytest.fixture(scope="module")
def server(installed: Path, site: Path) -> Iterator[Server]:
    """A server that has everything."""
    with (
        back_end() as port,
        run(installed, site, EVERYTHING.format(site=site, port=port), MORE_MODULES) as server,
    ):
        yield server


@contextmanager
def run(
    home: Path,
    site: Path,
    after: str = "",
    modules: tuple[str, ...] = (),
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run a server of these files, guarded below /api/ unless the settings say otherwise."""
    before = f"""
        DocumentRoot "{site}"
        TypesConfig "/dev/null"
        <Directory "{site}">
            Require all granted
        </Directory>
    """
    definitions = {**SETTINGS, **(settings or {})}
    with apache("event", home, definitions, before, after=after, modules=(*MODULES, *modules)) as it:
        yield it


def remaining(reply: Reply) -> int:
    """Return the number of remaining hits in the answer."""
    match = re.fullmatch(rf'"{LIMIT}-per-3600s";r=(\d+);t=\d+', reply.headers["RateLimit"])
    assert match, reply.headers["RateLimit"]
    return int(match[1])


@pytest.mark.parametrize("kind", HANDLED)
def test_whatever_handles_a_url_one_request_is_one_hit(server: Server, kind: str) -> None:
    path = f"{HANDLED[kind]}?app_id=one_{kind.replace('-', '_')}"
    replies = [server.ask(path) for _ in range(LIMIT + 1)]
    expected = 404 if kind == "error-document" else 200
    assert [reply.status for reply in replies] == [expected] * LIMIT + [429]
    assert [remaining(reply) for reply in replies] == [*range(LIMIT)[::-1], 0]
    assert replies[0].headers.get_all("RateLimit-Policy") == [POLICY]
    assert "Retry-After" not in replies[0].headers
    assert_answer(replies[-1], 429)
    assert_answer(server.ask(HANDLED[kind], "POST", BODY), 401)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_no_method_gets_past(server: Server, method: str) -> None:
    assert_answer(server.ask("/api/file.txt", method), 401)
    assert_answer(server.ask("/api/proxy/x", method), 401)


def test_head_gets_no_body(server: Server) -> None:
    head = server.ask("/api/file.txt", "HEAD")
    assert (head.status, head.body) == (401, b"")
    assert head.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("kind", ECHOING)
@pytest.mark.parametrize("status", [200, 401, 429, 500])
def test_an_application_gets_the_body_and_keeps_its_own_errors(
    server: Server, kind: str, status: int
) -> None:
    path = f"{HANDLED[kind]}?app_id=own{status}_{kind.replace('-', '_')}&status={status}"
    reply = server.ask(path, "POST", BODY)
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (status, BODY, "text/plain")
    assert reply.headers["X-Method"] == "POST"
    assert remaining(reply) == LIMIT - 1
    assert {"Retry-After", "Cache-Control", "WWW-Authenticate"}.isdisjoint(reply.headers)


def test_the_limit_comes_before_authentication(server: Server) -> None:
    """An error of Apache itself keeps its own answer."""
    assert_answer(server.ask("/api/secret"), 401)
    replies = [server.ask("/api/secret?app_id=secret") for _ in range(LIMIT + 1)]
    assert replies[0].headers["WWW-Authenticate"] == 'Basic realm="mine"'
    assert (replies[0].status, replies[0].body[:14]) == (401, b"<!DOCTYPE HTML")
    assert_answer(replies[-1], 429)


def test_connection_outlives_a_body_that_nobody_reads(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    local = None
    for size in (0, 1, 100000, 0):
        connection.request("POST", "/api/cgi/echo", b"x" * size)
        response = connection.getresponse()
        assert_answer(Reply(response.status, response.headers, response.read()), 401)
        assert local in (None, connection.sock.getsockname())
        local = connection.sock.getsockname()
    connection.close()


@pytest.mark.parametrize("door", DOORS)
def test_a_guarded_url_behind_another_url_is_one_hit(server: Server, door: str) -> None:
    path = f"{door}?app_id=door{door.replace('/', '_')}"
    replies = [server.ask(path, "POST", b"A file.\n") for _ in range(LIMIT + 1)]
    assert [(reply.status, reply.body) for reply in replies[:LIMIT]] == [(200, b"A file.\n")] * LIMIT
    assert [remaining(reply) for reply in replies] == [*range(LIMIT)[::-1], 0]
    assert_answer(replies[-1], 429)
    assert_answer(server.ask(door), 401)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/open.txt", 200),
        ("/nothing", 404),
        ("/page.shtml", 200),  # what a page includes is its own affair
        ("/scripts/echo/api/file.txt", 200),  # its path info looks guarded
        ("/api%2ffile.txt", 404),
        ("/open%2f..%2fapi/file.txt", 404),
    ],
)
def test_another_url_is_not_limited(server: Server, path: str, status: int) -> None:
    reply = server.ask(path)
    assert (reply.status, reply.headers["RateLimit"]) == (status, None)


@pytest.mark.parametrize(
    "path",
    [
        "/%61pi/file.txt",
        "//api/file.txt",
        "/api//file.txt",
        "/./api/file.txt",
        "/x/../api/file.txt",
        "/x/%2e%2e/api/file.txt",
        "/api/x/../file.txt",
        "/api/directory/../../api/file.txt",
        "/api/cgi/echo/../../file.txt",
        "http://localhost/api/file.txt",
        "http://localhost//%61pi/./file.txt",
    ],
)
def test_no_spelling_gets_past(server: Server, path: str) -> None:
    assert_answer(server.ask(path), 401)


def test_client_cannot_bring_an_answer_of_its_own(server: Server) -> None:
    forged = "200|x|y|"
    names = ("LIMITER", "REDIRECT_LIMITER", "Redirect-Limiter", "Limiter", "REDIRECT-LIMITER-DENIED")
    reply = server.ask(f"/api/file.txt?LIMITER={forged}", headers=dict.fromkeys(names, forged))
    assert_answer(reply, 401)


RULES = """\
RewriteEngine On
RewriteRule "^/api/old$" "/api/file.txt" [L]
RewriteRule "^/old$" "/api/file.txt" [PT]
RewriteRule "^/api/gone$" "-" [G]
RewriteRule "^/api/ended" "/open.txt" [END]"""
FREED = 'SetEnvIf Request_URI "^" LIMITER=admit'


def virtual_hosts(**texts: str) -> str:
    """Return virtual hosts with these names and configurations."""
    host = "<VirtualHost *>\nServerName {}\n{}\n</VirtualHost>\n"
    return "".join(host.format(name, text) for name, text in texts.items())


HOSTS = virtual_hosts(
    bare="",
    plain="RewriteEngine On",
    own=RULES,
    off="RewriteEngine Off",
    ignoring="RewriteEngine On\nRewriteOptions IgnoreInherit",
    local='RewriteEngine On\n<Location "/api/">\nRewriteEngine Off\n</Location>',
    freed=FREED,
    freed_with_rules=f"RewriteEngine On\n{FREED}",
)


def test_virtual_hosts_are_limited_or_closed_or_freed_by_name(installed: Path, site: Path) -> None:
    with run(installed, site, HOSTS) as server:

        def ask(host: str, path: str = "/api/file.txt") -> Reply:
            return server.ask(path, headers={"Host": host})

        for host in ("plain", "own"):
            assert_answer(ask(host), 401)
            replies = [ask(host, f"/api/file.txt?app_id={host}") for _ in range(LIMIT + 1)]
            assert [reply.status for reply in replies] == [200] * LIMIT + [429]
            assert_answer(replies[-1], 429)
        assert ask("own", "/api/old?app_id=rules").status == 200
        assert ask("own", "/api/gone?app_id=rules").status == 410
        assert remaining(ask("own", "/api/ended?app_id=rules")) == LIMIT - 3
        for path in ("/api/old", "/api/gone", "/api/ended"):
            assert_answer(ask("own", path), 401)
        for host in ("freed", "freed_with_rules"):
            reply = ask(host)
            assert (reply.status, reply.headers["RateLimit"]) == (200, None)
        closed = [ask(host) for host in ("bare", "off", "ignoring", "local")]
        rewritten = ask("own", "/old")
        assert [ask(host, "/open.txt").status for host in ("bare", "off", "ignoring")] == [200] * 3
    for reply in closed:
        assert_answer(reply, 500)
    assert_answer(rewritten, 500)
    lines = [line for line in server.log.splitlines() if "AH02557" in line]
    assert [sum(text in line for line in lines) for text in (LEFT_OUT, LED)] == [4, 1]


@pytest.mark.parametrize(("on_error", "status"), [("deny", 500), ("admit", 200)])
def test_dead_program_gives_the_configured_answer_and_a_line(
    installed: Path, site: Path, on_error: str, status: int
) -> None:
    paths = ["/api/file.txt?app_id=acme", "/api/file.txt", "/api/directory/", "/api/page.shtml"]
    settings = {"LIMITER_ON_ERROR": on_error}
    with run(installed, site, HOSTS, ("include", "filter"), settings) as server:
        server.ask("/api/file.txt", headers={"Host": "plain"})
        (pid,) = server.maps()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not server.maps())
        replies = [
            server.ask(path, headers={"Host": host}) for path in paths for host in ("plain", "own")
        ]
        assert server.ask("/open.txt", headers={"Host": "own"}).status == 200
    assert [reply.status for reply in replies] == [status] * 8
    for reply in replies:
        if status == 500:
            assert_answer(reply, 500)
        else:
            assert {"RateLimit", "Retry-After", "Cache-Control"}.isdisjoint(reply.headers)
    assert server.log.count(DEAD) == 8
    assert LEFT_OUT not in server.log


# What a program may answer, and the status that the client gets.
BELIEVED = {
    "200": 200,
    "200||0a": 200,
    "200||||10 9 1700000000": 200,
    "200|||||": 200,
    "none": 200,
    "400": 400,
    "401": 401,
    "500": 500,
    "429|p;1;2;3;4||7": 429,
    "429|p~s||7||x": 429,
    "429\n\n429": 500,
}
OTHERS = [
    *("", "NULL", "OK", "200||||||", "200||0A", "200|||7x", "403", " 200", "200 ", "2000", "20"),
    *("nonex", "none|", "200||||x", "200|||x"),
]
# A program that gives the answer whose number is the query.
ANSWERING = """\
import sys
answers = {answers!r}
for line in sys.stdin:
    sys.stdout.write(answers[int(line.split()[3])] + "\\n")
    sys.stdout.flush()
"""


def test_only_a_proper_answer_of_the_program_is_believed(copy: Path, site: Path) -> None:
    """For any other the client gets 500, and the error log says why."""
    answers = [*OTHERS, *BELIEVED]
    (copy / "rewritemap").write_text(ANSWERING.format(answers=answers))
    with run(copy, site) as server:
        for number, answer in enumerate(answers):
            lines = server.logged().count(DEAD)
            reply = server.ask(f"/api/file.txt?{number}")
            if BELIEVED.get(answer) == 200:
                assert (reply.status, reply.body) == (200, b"A file.\n")
            else:
                assert_answer(reply, BELIEVED.get(answer, 500))
            assert server.logged().count(DEAD) == lines + (answer in OTHERS), answer


def test_a_map_and_a_proxy_for_everything_let_balancers_call_health(installed: Path, site: Path) -> None:
    """The request does not reach the back end, so nothing there escapes the limit."""
    settings = {"LIMITER_PATHS": "^/", "LIMITER_LIMIT": "1/hour"}
    with back_end() as port:
        hosts = virtual_hosts(
            plain="RewriteEngine On",
            proxy=f'RewriteEngine On\nProxyPass "/" "http://127.0.0.1:{port}/"',
            rewriting=f'RewriteEngine On\nRewriteRule "^" "http://127.0.0.1:{port}/?status=418" [P]',
        )
        with run(installed, site, hosts, ("proxy", "proxy_http"), settings) as server:
            for host in ("plain", "proxy", "rewriting"):
                own = {"Host": host}
                for _ in range(3):
                    reply = server.ask(HEALTH, headers=own)
                    assert (reply.status, reply.body) == (200, b'{"message": "OK", "newcomers": 1000}')
                for path in (f"{HEALTH}x", f"{HEALTH}/x", "/"):
                    assert server.ask(path, headers=own).status == 401
            assert os.listdir(server.root) == []
            for host in ("proxy", "rewriting"):
                path = f"/?app_id={host}&status=418"
                replies = [server.ask(path, headers={"Host": host}) for _ in range(2)]
                assert [reply.status for reply in replies] == [418, 429]
