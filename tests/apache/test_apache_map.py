"""map.conf in a real Apache: one program in front of files, scripts, back ends and applications."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.apache_server import MPMS, Reply, Server, apache, wait_until
from tests.places import REPOSITORY, new_root

pytestmark = pytest.mark.one_python

PROGRAM = (REPOSITORY / "deploy/apache/rewritemap").read_text()

# Admits everything, and records how it was started and which lines it got.
RECORDER = """\
import sys
with open("{record}", "wb", 0) as record:
    record.write(repr(sys.argv[1:]).encode() + b"\\n")
    for line in sys.stdin.buffer:
        record.write(line)
        sys.stdout.write("200|||\\n")
        sys.stdout.flush()
"""

ANSWERING = """\
import sys
for line in sys.stdin:
    sys.stdout.write({answer!r} + "\\n")
    sys.stdout.flush()
"""

LIMIT = 5
SETTINGS = {"LIMITER_PATHS": "^/api/", "LIMITER_LIMIT": f"{LIMIT}/hour"}
POLICY = f'"{LIMIT}-per-3600s";q={LIMIT};w=3600'

MODULES = (
    "rewrite",
    "actions",
    "dir",
    "mime",
    "setenvif",
    "authn_core",
    "auth_basic",
    "authn_file",
    "authz_user",
)
MORE_MODULES = ("include", "filter", "autoindex", "negotiation", "proxy", "proxy_http", "wsgi")

DEAD = "Access Limiter: the map program does not answer"
LEFT_OUT = "Access Limiter: no rules here"

ECHO = """\
#!/bin/sh
echo "Content-Type: text/plain"
case $QUERY_STRING in
  *status=*) echo "Status: ${QUERY_STRING##*status=}" ;;
esac
echo "X-Method: $REQUEST_METHOD"
echo "X-Translated: $PATH_TRANSLATED"
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


class Backend(BaseHTTPRequestHandler):
    """Sends back what it gets, with the status that is in the query."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(int(self.path.partition("status=")[2] or 200))
        self.send_header("Content-Type", "text/plain")
        self.send_header("X-Method", self.command)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def home(installed: Path) -> Iterator[Path]:
    """An installation."""
    with home_with(installed, PROGRAM) as path:
        yield path


@contextmanager
def home_with(installed: Path, program: str) -> Iterator[Path]:
    """An installation with this program for the map."""
    path = new_root("/tmp")
    try:
        shutil.copytree(installed, path, dirs_exist_ok=True)
        (path / "rewritemap").write_text(program)
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def record() -> Iterator[Path]:
    """The file to which the recorder writes."""
    place = new_root("/tmp")
    yield place / "record"
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A document root with a file or script of each kind."""
    path = new_root("/tmp")
    api = path / "api"
    for name in ("directory", "listing/api", "front", "cgi", "action"):
        (api / name).mkdir(parents=True)
    for name in ("open/index", "open/script", "open/added", "open/set", "front"):
        (path / name).mkdir(parents=True)
    for file in (
        api / "file.txt",
        api / "directory/index.html",
        path / "open.txt",
        api / "listing/file.txt",
    ):
        file.write_text("A file.\n")
    (api / "page.shtml").write_text(
        '<!--#include virtual="/api/file.txt" --><!--#include virtual="/api/cgi/echo" -->'
    )
    (path / "page.shtml").write_text('<!--#include virtual="/api/file.txt" -->')
    for name in ("action/some.echo", "action/set"):
        (api / name).touch()
    (api / "lost.txt").write_text("It is not here.\n")
    for script in (api / "cgi/echo", api / "front/index.cgi", api / "cgi/redirecting"):
        script.write_text(ECHO)
        script.chmod(0o755)
    (api / "cgi/redirecting").write_text(
        '#!/bin/sh\necho "Location: /api/file.txt?$QUERY_STRING"\necho\n'
    )
    (api / "application.wsgi").write_text(WSGI)
    (api / "front/.htaccess").write_text(
        "RewriteEngine On\nRewriteCond %{REQUEST_FILENAME} !-f\nRewriteRule . index.cgi [L]\n"
    )
    (path / "front/.htaccess").write_text("RewriteEngine On\nRewriteRule ^(.*) /api/$1 [L]\n")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    """The port of a server to which Apache forwards."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def everything(site: Path, backend: int) -> str:
    """The configuration of a server that has everything, in its main part."""
    return f"""
        ScriptAlias "/api/cgi/" "{site}/api/cgi/"
        ScriptAlias "/scripts/" "{site}/api/cgi/"
        Alias "/api/alias/" "{site}/api/"
        ProxyPass "/api/proxy/" "http://127.0.0.1:{backend}/"
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
        <Location "/api/missing">
            ErrorDocument 404 "/api/lost.txt"
        </Location>
        <Location "/open/index">
            DirectoryIndex "/api/none" "/api/file.txt"
        </Location>
        <Location "/open/script">
            DirectoryIndex "/api/cgi/echo"
        </Location>
        <Location "/open/added">
            DirectoryIndex "/api/front/index.cgi"
        </Location>
        <Location "/open/set">
            DirectoryIndex "/api/action/set"
        </Location>
        <Location "/api/action/set">
            SetHandler echoing
        </Location>
        <Location "/fallback">
            FallbackResource "/api/cgi/echo"
        </Location>
        <Location "/api/secret">
            AuthType Basic
            AuthName "mine"
            AuthUserFile "/nowhere"
            Require valid-user
        </Location>
    """


@pytest.fixture(scope="module")
def server(home: Path, site: Path, everything: str) -> Iterator[Server]:
    """A server that has everything, whose threads use the map."""
    with run(home, site, everything, "event", MORE_MODULES) as server:
        yield server


@pytest.fixture(scope="module", params=MPMS)
def either(
    request: pytest.FixtureRequest, server: Server, home: Path, site: Path, everything: str
) -> Iterator[Server]:
    """That server, and the same with processes that use the map."""
    if request.param == "event":
        yield server
        return
    with run(home, site, everything, request.param, MORE_MODULES) as other:
        yield other


@contextmanager
def run(
    home: Path,
    site: Path,
    after: str = "",
    mpm: str = "event",
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
    modules = (*MODULES, *modules)
    with apache(
        mpm, home, {**SETTINGS, **(settings or {})}, before, after=after, modules=modules
    ) as server:
        yield server


def remaining(reply: Reply) -> int:
    """Return the number of remaining hits in the answer."""
    match = re.fullmatch(rf'"{LIMIT}-per-3600s";r=(\d+);t=\d+', reply.headers["RateLimit"])
    assert match, reply.headers["RateLimit"]
    return int(match[1])


def exhaust(server: Server, app_id: str) -> None:
    """Use up the limit."""
    replies = [server.ask(f"/api/file.txt?app_id={app_id}") for _ in range(LIMIT)]
    assert [remaining(reply) for reply in replies] == list(range(LIMIT))[::-1]


def assert_denied(reply: Reply, status: int) -> None:
    """Compare an answer with the contract."""
    messages = {401: "Unauthorized", 429: "Too Many Requests", 500: "Internal Server Error"}
    assert reply.status == status
    assert reply.body == f'{{"message": "{messages[status]}"}}'.encode()
    assert reply.headers.get_all("Content-Type") == ["application/json; charset=utf-8"]
    assert reply.headers.get_all("Cache-Control") == ["no-store"]
    challenge = ['AppId realm="limiter"'] if status == 401 else None
    assert reply.headers.get_all("WWW-Authenticate") == challenge
    assert ("Retry-After" in reply.headers) == (status == 429)
    assert ("RateLimit" in reply.headers) == (status == 429)
    assert "Vary" not in reply.headers


def children(server: Server) -> set[int]:
    """Return the processes that a server has started."""
    return {
        int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    }


def maps(server: Server) -> list[int]:
    """Return the map programs of a server.  A program that has answered once is always among them."""
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in children(server)}
    return [pid for pid, command in commands.items() if b"/rewritemap\0" in contents(command)]


def contents(path: Path) -> bytes:
    """Return the contents of a file of a process, which may have ended."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def kill_map(server: Server) -> None:
    """End the map program with SIGKILL, and wait until it is gone."""
    server.ask("/api/file.txt", headers={"Host": "plain"})
    (pid,) = maps(server)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in maps(server))


@pytest.mark.parametrize("kind", HANDLED)
def test_whatever_handles_a_url_one_request_is_one_hit(server: Server, kind: str) -> None:
    path = f"{HANDLED[kind]}?app_id=one_{kind.replace('-', '_')}"
    replies = [server.ask(path) for _ in range(LIMIT + 1)]
    expected = 404 if kind == "error-document" else 200
    assert [reply.status for reply in replies] == [expected] * LIMIT + [429]
    assert [remaining(reply) for reply in replies] == [*range(LIMIT)[::-1], 0]
    assert replies[0].headers.get_all("RateLimit-Policy") == [POLICY]
    assert "Retry-After" not in replies[0].headers
    assert_denied(replies[-1], 429)


@pytest.mark.parametrize("kind", HANDLED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_who_is_nobody_is_denied_by_any_method(server: Server, kind: str, method: str) -> None:
    reply = server.ask(HANDLED[kind], method, BODY if method in ("POST", "PUT") else None)
    if method == "HEAD":
        assert (reply.status, reply.body) == (401, b"")
        assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    else:
        assert_denied(reply, 401)


@pytest.mark.parametrize("kind", ECHOING)
def test_body_of_an_admitted_request_arrives_byte_for_byte(either: Server, kind: str) -> None:
    reply = either.ask(f"{HANDLED[kind]}?app_id=body_{kind.replace('-', '_')}&status=200", "POST", BODY)
    assert (reply.status, reply.headers["X-Method"], reply.body) == (200, "POST", BODY)


@pytest.mark.parametrize("kind", ECHOING)
@pytest.mark.parametrize("status", [401, 429, 500])
def test_an_application_keeps_its_own_errors(server: Server, kind: str, status: int) -> None:
    path = f"{HANDLED[kind]}?app_id=own{status}_{kind.replace('-', '_')}&status={status}"
    reply = server.ask(path, "POST", b"Mine.")
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (status, b"Mine.", "text/plain")
    assert remaining(reply) == LIMIT - 1
    assert {"Retry-After", "Cache-Control", "WWW-Authenticate"}.isdisjoint(reply.headers)


def test_an_error_of_apache_is_none_of_ours(server: Server) -> None:
    reply = server.ask("/api/secret?app_id=secret")
    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Basic realm="mine"')
    assert reply.body.startswith(b"<!DOCTYPE HTML")


def test_the_limit_comes_before_authentication(server: Server) -> None:
    assert_denied(server.ask("/api/secret"), 401)
    exhaust(server, "before")
    assert_denied(server.ask("/api/secret?app_id=before"), 429)


@pytest.mark.parametrize(("app_id", "status"), [("kept", 429), ("", 401)])
def test_connection_outlives_a_body_that_nobody_reads(either: Server, app_id: str, status: int) -> None:
    if app_id:
        exhaust(either, app_id)
    connection = http.client.HTTPConnection("127.0.0.1", either.port, timeout=120)
    local = None
    for size in (0, 1, 100000, 0):
        connection.request("POST", f"/api/cgi/echo?app_id={app_id}", b"x" * size)
        response = connection.getresponse()
        assert_denied(Reply(response.status, response.headers, response.read()), status)
        assert local in (None, connection.sock.getsockname())
        local = connection.sock.getsockname()
    connection.close()


def test_other_urls_are_not_asked_about(server: Server) -> None:
    for path in ("/open.txt", "/nothing", "/cgi-bin/check.py?app_id=open"):
        reply = server.ask(path)
        assert reply.status == {"/open.txt": 200, "/nothing": 404}.get(path, 200)
        assert reply.headers["RateLimit"] is None or path.startswith("/cgi-bin")


@pytest.mark.parametrize("door", DOORS)
def test_who_comes_to_a_guarded_url_by_another_is_asked_once(server: Server, door: str) -> None:
    path = f"{door}?app_id=door{door.replace('/', '_')}"
    replies = [server.ask(path, "POST", b"A file.\n") for _ in range(LIMIT + 1)]
    assert [(reply.status, reply.body) for reply in replies[:LIMIT]] == [(200, b"A file.\n")] * LIMIT
    assert [remaining(reply) for reply in replies] == [*range(LIMIT)[::-1], 0]
    assert_denied(replies[-1], 429)
    assert_denied(server.ask(door), 401)


def test_what_a_page_includes_is_its_own_affair(server: Server) -> None:
    reply = server.ask("/page.shtml")
    assert (reply.status, reply.body, reply.headers["RateLimit"]) == (200, b"A file.\n", None)


def test_path_info_that_looks_guarded_is_not(server: Server, site: Path) -> None:
    reply = server.ask("/scripts/echo/api/file.txt?status=200")
    assert reply.status == 200
    assert reply.headers["X-Translated"] == f"{site}/api/file.txt"
    assert "RateLimit" not in reply.headers


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
    assert_denied(server.ask(path), 401)


def test_encoded_slash_finds_nothing(server: Server) -> None:
    assert server.ask("/api%2ffile.txt").status == 404
    assert server.ask("/open%2f..%2fapi/file.txt").status == 404


def test_client_cannot_bring_an_answer_of_its_own(server: Server) -> None:
    forged = "200|x|y|"
    names = ("LIMITER", "REDIRECT_LIMITER", "Redirect-Limiter", "Limiter", "REDIRECT-LIMITER-DENIED")
    reply = server.ask(f"/api/file.txt?LIMITER={forged}", headers=dict.fromkeys(names, forged))
    assert_denied(reply, 401)


def test_exactly_so_many_of_concurrent_requests_are_admitted(either: Server) -> None:
    kinds = [HANDLED[kind] for kind in ("file", "alias", "cgi", "wsgi", "proxy", "index")] * 5
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(either.ask, [f"{path}?app_id=together" for path in kinds]))
    assert sorted(reply.status for reply in replies) == [200] * LIMIT + [429] * (len(kinds) - LIMIT)


def test_server_that_starts_anew_asks_a_new_program(either: Server) -> None:
    assert_denied(either.ask("/api/file.txt"), 401)
    (before,) = maps(either)
    old = children(either)
    os.kill(either.pid, signal.SIGUSR1)
    wait_until(lambda: len(maps(either)) == 1 and not old & children(either))
    assert not Path(f"/proc/{before}").exists()
    assert_denied(either.ask("/api/file.txt"), 401)
    assert either.ask("/api/file.txt?app_id=anew").status == 200


def test_header_may_be_the_key(home: Path, site: Path) -> None:
    with run(home, site, settings={"LIMITER_HEADER": "X-Api-Key"}) as server:
        replies = [server.ask("/api/file.txt", headers={"X-Api-Key": "mine"}) for _ in range(LIMIT + 1)]
        assert_denied(server.ask("/api/file.txt?app_id=acme"), 401)
    assert [reply.status for reply in replies] == [200] * LIMIT + [429]
    assert "Vary" not in replies[0].headers


def test_two_keys_are_refused(home: Path, site: Path) -> None:
    both = {"LIMITER_HEADER": "X-Api-Key", "LIMITER_KEY": "app_id"}
    with (
        pytest.raises(RuntimeError, match="LIMITER_KEY or LIMITER_HEADER, not both"),
        run(home, site, settings=both),
    ):
        pass


@pytest.mark.parametrize("module", ["rewrite", "headers", "actions"])
def test_module_that_is_missing_is_named(home: Path, module: str) -> None:
    needed = f"LIMITER_PATHS needs mod_{module}"
    with (
        pytest.raises(RuntimeError, match=needed),
        apache("event", home, SETTINGS, without=(module,), modules=MODULES),
    ):
        pass


HOSTS = """
    <VirtualHost *>
        ServerName bare
    </VirtualHost>
    <VirtualHost *>
        ServerName plain
        RewriteEngine On
    </VirtualHost>
    <VirtualHost *>
        ServerName own
        RewriteEngine On
        RewriteRule "^/api/old$" "/api/file.txt" [L]
        RewriteRule "^/old$" "/api/file.txt" [PT]
        RewriteRule "^/api/gone$" "-" [G]
        RewriteRule "^/api/ended" "/open.txt" [END]
    </VirtualHost>
    <VirtualHost *>
        ServerName off
        RewriteEngine Off
    </VirtualHost>
    <VirtualHost *>
        ServerName ignoring
        RewriteEngine On
        RewriteOptions IgnoreInherit
    </VirtualHost>
    <VirtualHost *>
        ServerName local
        RewriteEngine On
        <Location "/api/">
            RewriteEngine Off
        </Location>
    </VirtualHost>
    <VirtualHost *>
        ServerName freed
        SetEnvIf Request_URI "^" LIMITER=admit
    </VirtualHost>
    <VirtualHost *>
        ServerName freed-with-rules
        RewriteEngine On
        SetEnvIf Request_URI "^" LIMITER=admit
    </VirtualHost>
"""


def test_virtual_hosts_are_limited_or_closed_or_freed_by_name(home: Path, site: Path) -> None:
    with run(home, site, HOSTS) as server:

        def ask(host: str, path: str = "/api/file.txt") -> Reply:
            return server.ask(path, headers={"Host": host})

        for host in ("plain", "own"):
            assert_denied(ask(host), 401)
            replies = [ask(host, f"/api/file.txt?app_id={host}") for _ in range(LIMIT + 1)]
            assert [reply.status for reply in replies] == [200] * LIMIT + [429]
            assert_denied(replies[-1], 429)
        assert ask("own", "/api/old?app_id=rules").status == 200
        assert ask("own", "/api/gone?app_id=rules").status == 410
        assert remaining(ask("own", "/api/ended?app_id=rules")) == LIMIT - 3
        for path in ("/api/old", "/api/gone", "/api/ended"):
            assert_denied(ask("own", path), 401)
        for host in ("freed", "freed-with-rules"):
            reply = ask(host)
            assert (reply.status, reply.headers["RateLimit"]) == (200, None)
        closed = [ask(host) for host in ("bare", "off", "ignoring", "local")]
        closed.append(ask("own", "/old"))
        assert [ask(host, "/open.txt").status for host in ("bare", "off", "ignoring")] == [200] * 3
    for reply in closed:
        assert_denied(reply, 500)
    assert len({line for line in server.log.splitlines() if "AH02557" in line and LEFT_OUT in line}) == 5


@pytest.mark.parametrize(("verdict", "status"), [("deny", 500), ("admit", 200)])
def test_dead_program_gives_the_configured_verdict_and_a_line(
    home: Path, site: Path, verdict: str, status: int
) -> None:
    paths = ["/api/file.txt?app_id=acme", "/api/file.txt", "/api/directory/", "/api/page.shtml"]
    with run(home, site, HOSTS, "event", ("include", "filter"), {"LIMITER_ON_ERROR": verdict}) as server:
        kill_map(server)
        replies = [
            server.ask(path, headers={"Host": host}) for path in paths for host in ("plain", "own")
        ]
        assert server.ask("/open.txt", headers={"Host": "own"}).status == 200
    assert [reply.status for reply in replies] == [status] * 8
    for reply in replies:
        if status == 500:
            assert_denied(reply, 500)
        else:
            assert {"RateLimit", "Retry-After", "Cache-Control"}.isdisjoint(reply.headers)
    assert server.log.count(DEAD) == 8
    assert LEFT_OUT not in server.log


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "NULL",
        "OK",
        "200",
        "200|",
        "200||",
        "200|||x",
        "403|||",
        " 200|||",
        "2000|||",
        "429|||\n\n" + "429|||",
    ],
)
def test_answer_out_of_order_is_an_error(installed: Path, site: Path, answer: str) -> None:
    with home_with(installed, ANSWERING.format(answer=answer)) as home, run(home, site) as server:
        assert_denied(server.ask("/api/file.txt?app_id=acme"), 500)
    assert (DEAD in server.log) == (not answer.startswith("429"))


def test_program_that_says_error_is_believed(home: Path, site: Path) -> None:
    with run(home, site, settings={"LIMITER_ROOT": "/nowhere/store"}) as server:
        assert_denied(server.ask("/api/file.txt?app_id=acme"), 500)
        assert_denied(server.ask("/api/file.txt"), 401)
    assert DEAD not in server.log


def test_program_gets_the_settings_and_the_very_bytes(installed: Path, site: Path, record: Path) -> None:
    settings = {
        "LIMITER_LIMIT": "10 per 2 seconds; 100/minute",
        "LIMITER_MODE": "shadow",
        "LIMITER_TIMEOUT": "1.5",
        "LIMITER_APPS": "/srv/some register",
        "LIMITER_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        "LIMITER_KEY": "env:REMOTE_ADDR",
    }
    queries = [
        b"",
        b"a=%0a&b=%0d%00",
        b"$0${limiter:x}%{REMOTE_ADDR}%{ENV:PATH}$1%1",
        rb"\\\"'`\n|<>^[]{}",
        bytes(range(0x21, 0x7F)).replace(b"#", b""),
        bytes(range(0x80, 0x100)),
        b"?a=1?",
        b"x" * 8000,
    ]
    header = b'"a, b" ${x} %{y} | \\\t\xe4'
    with home_with(installed, RECORDER.format(record=record)) as home:
        with run(home, site, settings=settings) as server:
            for query in queries:
                request = b"GET /api/file.txt?%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                reply = server.send(request % query + b"X-Forwarded-For: " + header + b"\r\n\r\n")
                assert reply.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 ")), query
                assert reply.startswith(b"HTTP/1.1 200 "), query
            server.ask("/api/file.txt")
        arguments, *lines = record.read_bytes().split(b"\n")
        root = server.root
    assert json.loads(arguments.replace(b"'", b'"')) == [
        f"LIMITER_ROOT={root}",
        f"LIMITER_LIMIT={settings['LIMITER_LIMIT']}",
        "LIMITER_ON_ERROR=deny",
        f"LIMITER_KEY={settings['LIMITER_KEY']}",
        f"LIMITER_APPS={settings['LIMITER_APPS']}",
        f"LIMITER_MODE={settings['LIMITER_MODE']}",
        f"LIMITER_TIMEOUT={settings['LIMITER_TIMEOUT']}",
        f"LIMITER_TRUSTED_PROXIES={settings['LIMITER_TRUSTED_PROXIES']}",
    ]
    assert lines == [*[b"127.0.0.1 %b %b" % (query, header) for query in queries], b"127.0.0.1  ", b""]


def test_program_is_told_which_header_is_the_key(installed: Path, site: Path, record: Path) -> None:
    with home_with(installed, RECORDER.format(record=record)) as home:
        with run(home, site, settings={"LIMITER_HEADER": "X-Api-Key"}) as server:
            server.ask("/api/file.txt?a=1", headers={"X-Api-Key": "my own"})
        arguments, *lines = record.read_bytes().split(b"\n")
    assert b"'LIMITER_KEY=header:X-Api-Key'" in arguments
    assert lines == [b"127.0.0.1 a=1 my own", b""]


def test_nothing_is_left_after_stop(home: Path, site: Path) -> None:
    with run(home, site) as server:
        server.ask("/api/file.txt")
        (pid,) = maps(server)
        kept = socket.create_connection(("127.0.0.1", server.port))
    kept.close()
    assert not Path(f"/proc/{pid}").exists()
