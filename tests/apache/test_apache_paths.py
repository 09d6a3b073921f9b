"""Every spelling of a path that a back end may take for a guarded one, in a real Apache in front of one.

The back end reads paths as Tomcat does: it drops ``;parameters``, then resolves dot segments, and takes
repeated slashes for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from posixpath import normpath
from threading import Thread
from urllib.parse import unquote

import pytest

from tests.apache.test_apache_map import run
from tests.apache_server import Server, assert_answer

pytestmark = pytest.mark.one_python

SPELLINGS = [
    "/api;a=b/x",
    "/api;/x",
    "/x/..;/api/x",
    "/x/..;a=b/api/x",
    "/x;y/..;z/api/x",
    "/.;/api/x",
    "/;/api/x",
    "/;a=b/api;c=d/x;e=f",
    "/api/y/..;/x",
    "/%61pi%3Ba/x",
    "/x/..%3B/api/x",
    "/x/%2e%2e;/api/x",
    "http://localhost/x/..;/api/x",
    "/%2561pi/x",
    "/x/%252e%252e/api/x",
    "/x/..%5C..%5Capi/x",
]
REPEATED = ["//api/x", "/x/..;//api/x", "/x//..;/..;/api/x", "//api//x", "/;//api/x"]
ENCODED = ["/api%2Fx", "/x%2F..%2Fapi%2Fx", "/%2Fapi/x", "/x/..%2Fapi/x", "/x;%2F../api/x"]


class _BackEnd(BaseHTTPRequestHandler):
    """Answers with the path as it reads it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        path = re.sub(r";[^/]*", "", unquote(path)).replace("\\", "/")
        path = re.sub(";[^/]*", "", unquote(path))
        body = normpath(re.sub("/+", "/", path)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def proxying(home: Path, place: Path, more: str = "") -> Iterator[Server]:
    """Run a server that proxies everything, as it is written, to the back end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _BackEnd) as back_end:
        thread = Thread(target=back_end.serve_forever, args=(0.01,))
        thread.start()
        after = f'{more}\nProxyPass "/" "http://127.0.0.1:{back_end.server_port}/" nocanon'
        try:
            with run(home, place, after, ("proxy", "proxy_http")) as server:
                yield server
        finally:
            back_end.shutdown()
            thread.join()


def assert_no_way_in(server: Server, spellings: list[str]) -> None:
    """Each spelling is answered by the limiter, or by Apache, or the back end takes it for another path."""
    assert server.ask("/open").body == b"/open"
    assert server.ask("/api/x?app_id=acme").body == b"/api/x"
    for spelling in spellings:
        reply = server.ask(spelling)
        assert reply.status in (400, 401, 403, 404), (spelling, reply)
        assert b"/api" not in reply.body or reply.status != 200, spelling


def test_no_parameter_of_a_path_gets_around_the_limit(installed: Path, place: Path) -> None:
    with proxying(installed, place) as server:
        assert_no_way_in(server, SPELLINGS)
        assert_answer(server.ask("/api;a=b/x"), 401)
        reply = server.ask("/api;jsessionid=1/x?app_id=acme")
        assert (reply.status, reply.body) == (200, b"/api/x")
        for path in ("/open;jsessionid=1", "/.well-known/x", "/a%25b"):
            assert server.ask(path).status == 200
            assert server.ask(path).headers["RateLimit"] is None


def test_no_slash_that_apache_keeps_gets_around_the_limit(installed: Path, place: Path) -> None:
    more = "MergeSlashes Off\nAllowEncodedSlashes NoDecode"
    with proxying(installed, place, more) as server:
        assert_no_way_in(server, [*SPELLINGS, *REPEATED, *ENCODED])
    with proxying(installed, place, "AllowEncodedSlashes On") as server:
        assert_no_way_in(server, [*SPELLINGS, *REPEATED, *ENCODED])
