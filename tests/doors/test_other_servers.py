"""Other web servers ask before they forward: real nginx and Caddy, configured as docs/other-servers.md says."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.apache_server import THROUGH, Reply, back_end, free_port
from tests.conftest import clean_environ
from tests.doors.servers import Server as SocketServer
from tests.places import REPOSITORY, temporary
from tests.waiting import SAFETY, listens, wait_until

pytestmark = pytest.mark.one_python

CLIENTS = 8
DOCUMENT = (REPOSITORY / "docs/other-servers.md").read_text()
NGINX = """
user www-data;
daemon off;
pid {place}/pid;
error_log {place}/log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    upstream application {{ server 127.0.0.1:{back_end}; }}
    server {{
        listen 127.0.0.1:{port};
        {recipe}
    }}
}}
"""
CADDY = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    {recipe}
}}
"""
SERVERS = {
    "nginx": ("nginx", NGINX, ["nginx", "-c", "{file}"]),
    "caddy": ("caddyfile", CADDY, ["caddy", "run", "--adapter", "caddyfile", "--config", "{file}"]),
}
"""The name of the recipe, what stands around it, and how to start the server."""


@contextmanager
def checking(place: Path, root: str, **settings: str) -> Iterator[SocketServer]:
    """Run ``serve --check`` on a socket."""
    answers = SocketServer(str(place / "check.sock"), place / "check.log")
    command = [sys.executable, "-m", "limiter", "serve", "--check", "--socket", answers.socket]
    environ = clean_environ(
        PYTHONPATH=str(REPOSITORY), LIMITER_ROOT=root, LIMITER_TIMEOUT="60", **settings
    )
    with answers.log_file.open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().decode()
        assert said.startswith(f"Answering at {answers.socket}, limit"), answers.log_file.read_text()
        yield answers
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SAFETY)


class Server:
    """A web server that asks."""

    def __init__(self, port: int, checker: SocketServer) -> None:
        self.port = port
        self.checker = checker

    def ask(self, path: str, method: str = "GET", **headers: str) -> Reply:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SAFETY)
        client.request(
            method, path, headers={name.replace("_", "-"): it for name, it in headers.items()}
        )
        with client.getresponse() as response:
            reply = Reply(response.status, response.headers, response.read())
        client.close()
        return reply


@contextmanager
def serving(name: str, root: str, **settings: str) -> Iterator[Server]:
    language, around, command = SERVERS[name]
    if shutil.which(command[0], path="/usr/sbin:/usr/bin") is None:
        pytest.skip(f"{command[0]} is not installed")
    (recipe,) = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", DOCUMENT)
    with ExitStack() as stack:
        place = stack.enter_context(temporary("/tmp"))
        checker = stack.enter_context(checking(place, root, **settings))
        behind, port = stack.enter_context(back_end()), free_port()
        recipe = recipe.replace("/run/access-limiter/check.sock", checker.socket)
        recipe = recipe.replace("reverse_proxy application", f"reverse_proxy 127.0.0.1:{behind}")
        file = place / "configuration"
        file.write_text(around.format(place=place, back_end=behind, port=port, recipe=recipe))
        log = stack.enter_context((place / "server.log").open("wb"))
        process = subprocess.Popen(
            [word.format(file=file) for word in command],
            env={"PATH": "/usr/sbin:/usr/bin", "HOME": str(place)},
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: process.poll() is not None or listens(port), name)
            assert process.poll() is None, (place / "server.log").read_text()
            yield Server(port, checker)
        finally:
            process.terminate()
            process.wait(SAFETY)


@pytest.mark.parametrize("name", SERVERS)
def test_the_client_sees_what_the_limiter_says(name: str, root: str) -> None:
    with serving(name, root, LIMITER_LIMIT="2/hour") as server:
        first = server.ask("/page?app_id=acme")
        assert (first.status, first.body) == (200, THROUGH)
        assert first.headers.get_all("RateLimit") == ['"2-per-3600s";r=1;t=3600']
        assert first.headers.get_all("RateLimit-Policy") == ['"2-per-3600s";q=2;w=3600']
        assert server.ask("/page?app_id=acme", "POST").headers["X-Method"] == "POST"
        denied = server.ask("/page?app_id=acme")
        assert (denied.status, json.loads(denied.body)) == (429, {"message": "Too Many Requests"})
        assert 3500 < int(denied.headers["Retry-After"]) <= 3600
        assert denied.headers.get_all("RateLimit") == ['"2-per-3600s";r=0;t=3600']
        assert denied.headers.get_content_type() == "application/json"
        unknown = server.ask("/page")
        assert (unknown.status, unknown.headers["WWW-Authenticate"]) == (401, 'AppId realm="limiter"')
        assert server.ask("/page?app_id=other&status=500").status == 500  # the application's own


@pytest.mark.parametrize("name", SERVERS)
def test_it_is_exact_with_many_clients(name: str, root: str) -> None:
    with serving(name, root, LIMITER_LIMIT="20/hour") as server, ThreadPoolExecutor(CLIENTS) as clients:
        got = Counter(clients.map(lambda _: server.ask("/?app_id=acme").status, range(60)))
    assert got == {200: 20, 429: 40}


RULES = "/static/ * exempt\n/login POST login=1/hour\n/ * 3/hour\n"


@pytest.mark.parametrize("name", SERVERS)
def test_rules_apply_to_the_original_path_and_method(name: str, root: str, tmp_path: Path) -> None:
    """Whatever the client says of it."""
    (tmp_path / "rules").write_text(RULES)
    settings = {"LIMITER_RULES": str(tmp_path / "rules"), "LIMITER_KEY": "env:REMOTE_ADDR"}
    forged = {
        f"X_{name}_{part}": "/static/x" for name in ("Original", "Forwarded") for part in ("URI", "Uri")
    }
    with serving(name, root, LIMITER_TRUSTED_PROXIES="unix", **settings) as server:
        assert [server.ask("/login", "POST").status for _ in range(2)] == [200, 429]
        assert [server.ask("/static/picture").status for _ in range(4)] == [200] * 4
        assert [server.ask("/st%61tic/picture").status for _ in range(4)] == [200] * 4
        assert [server.ask("/page").status for _ in range(4)] == [200, 200, 200, 429]
        for field, value in forged.items():
            assert server.ask("/page", **{field: value}).status == 429, field
        assert server.ask("/page", X_Forwarded_Method="POST", X_Original_Method="POST").status == 429


@pytest.mark.parametrize("name", SERVERS)
def test_a_store_that_fails_is_a_500(name: str, root: str) -> None:
    with serving(name, root) as server:
        shutil.rmtree(root)
        try:
            reply = server.ask("/?app_id=acme")
            assert (reply.status, json.loads(reply.body)) == (500, {"message": "Internal Server Error"})
            assert "The store does not exist" in "".join(server.checker.log)
        finally:
            Path(root).mkdir()


def test_headers_that_contradict_each_other_are_a_400(root: str, tmp_path: Path) -> None:
    with checking(tmp_path, root) as checker:
        same = {"X_Original_URI": "/?app_id=a", "X_Forwarded_Uri": "/?app_id=a"}
        assert checker.ask("/", **same) == 200
        assert checker.ask("/", **{**same, "X_Forwarded_Uri": "/?app_id=b"}) == 400
        assert checker.ask("/", **same, X_Original_Method="GET", X_Forwarded_Method="POST") == 400
        assert checker.ask("/", X_Original_URI="http://elsewhere/") == 400
        assert checker.ask("/?app_id=a") == 200  # without them it is check.py
        assert "X-Original-Uri and X-Forwarded-Uri differ (let the proxy remove" in "".join(checker.log)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--socket", "/tmp/x"], "--socket: expected --check too"),
        (["--check", "--socket", "/nowhere/x"], "/nowhere/x"),
        (["--check", "--socket", "/etc/passwd"], "/etc/passwd"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments: list[str], said: str, root: str) -> None:
    command = [sys.executable, "-m", "limiter", "serve", *arguments]
    environ = clean_environ(PYTHONPATH=str(REPOSITORY), LIMITER_ROOT=root)
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_socket_of_a_server_that_was_killed_is_taken_over(root: str, tmp_path: Path) -> None:
    with checking(tmp_path, root) as checker:
        assert checker.ask("/?app_id=a") == 200
        with pytest.raises(AssertionError, match="in use"), checking(tmp_path, root):
            pass
    import socket

    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "check.sock"))
    with checking(tmp_path, root) as checker:
        assert checker.ask("/?app_id=a") == 200
    assert not (tmp_path / "check.sock").exists()
