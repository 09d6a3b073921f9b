"""A real Apache for tests: start it on a free port, send it requests, stop it, leave no trace."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from tests.places import REPOSITORY, new_root, temporary
from tests.waiting import wait_until

MPMS = ("event", "prefork")
"""They run scripts with mod_cgid and with mod_cgi.  A test that need not try both uses the first."""

LONG = "60"
"""A LIMITER_TIMEOUT, in seconds.  A store that works always answers sooner."""

BASIC_AUTH = ("auth_basic", "authn_core", "authn_file", "authz_user")
"""The modules for a password."""

THROUGH = b"through"
"""What a back end answers to a request without a body."""

_PROGRAMS = ("/usr/sbin/apache2", "/usr/sbin/httpd")
_MODULES = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules")
_USERS = ("www-data", "apache")
_DEADLINE = 120
_ATTEMPTS = 10
_MESSAGES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    429: "Too Many Requests",
    500: "Internal Server Error",
}

# The modules that the limiter needs, as Debian and RHEL load them.  Debian has some of them built in.
_LOADED = ("unixd", "authz_core", "actions", "alias", "env", "headers", "macro")

_CONFIGURATION = """\
ServerRoot "{directory}"
ServerName localhost
PidFile "{directory}/pid"
ErrorLog "{directory}/error.log"
DefaultRuntimeDir "{directory}"
{modules}
<IfModule cgid_module>
    ScriptSock "{directory}/cgid"
</IfModule>
{user}
<Directory />
    AllowOverride None
    Require all denied
</Directory>
{before}
{definitions}
{limiter}
{after}
"""


class Reply(NamedTuple):
    """A response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass
class Server:
    """An Apache that runs or has run."""

    root: Path
    """Its store, unless the settings name LIMITER_ROOT.  The server's other files are beside it."""
    port: int
    pid: int = 0
    """The process that starts and stops all others."""
    log: str = ""
    """The error log, read after the server ended: it is not complete before."""

    def logged(self) -> str:
        """Return what the error log holds so far."""
        return _log(self.root.parent)

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request on a new connection."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_DEADLINE)) as client:
            client.request(method, path, body, headers or {})
            response = client.getresponse()
            return Reply(response.status, response.headers, response.read())

    def send(self, request: bytes) -> bytes:
        """Send exactly these bytes; return all that arrives until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_DEADLINE) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def maps(self) -> set[int]:
        """Return the programs of the map, and the copies that they have left, without their watchers."""
        found = {
            int(process.name): parent(process)
            for process in _processes(self.pid)
            if b"/rewritemap\0" in contents(process / "cmdline")
        }
        return {number for number, its_parent in found.items() if its_parent not in found}


@contextmanager
def apache(
    mpm: str,
    home: Path,
    settings: Mapping[str, str] | None = None,
    before: str = "",
    without: tuple[str, ...] = (),
    after: str = "",
    modules: tuple[str, ...] = (),
    limiter: bool = True,
) -> Iterator[Server]:
    """Run a server that includes the limiter's configuration unchanged.

    LIMITER_HOME is ``home``, and ``settings`` are further definitions.  ``before`` and ``after`` are
    configuration that comes before and after the limiter's.  ``modules`` are loaded in addition,
    ``without`` are not loaded.  Without ``limiter`` the
    limiter's configuration is not included.  The time-out of the store is long unless the settings say otherwise,
    because a store can be slow on a busy machine.
    """
    program = found_program()
    with temporary("/tmp") as directory:
        root = own_store(directory)
        default = {"LIMITER_HOME": home, "LIMITER_ROOT": root, "LIMITER_TIMEOUT": LONG}
        cgi = "cgi" if mpm == "prefork" else "cgid"
        loaded = [
            name
            for name in dict.fromkeys((f"mpm_{mpm}", *_LOADED, cgi, *modules))
            if name not in without
        ]
        configuration = _CONFIGURATION.format(
            directory=directory,
            modules=module_lines(loaded),
            user=f"User {_user()}\nGroup {_user()}" if os.geteuid() == 0 else "",
            before=before,
            definitions=_lines('Define {} "{}"', {**default, **(settings or {})}),
            limiter=f'Include "{REPOSITORY}/deploy/apache/limiter.conf"' if limiter else "",
            after=after,
        )
        process, port = _start(program, directory, configuration, "cgid" in loaded)
        server = Server(root, port, process.pid)
        try:
            yield server
        finally:
            stop(process)
            server.log = _log(directory)


def assert_answer(reply: Reply, status: int) -> None:
    """Compare an answer of the limiter itself, by any door, with the contract: status, fields, body."""
    assert (reply.status, json.loads(reply.body)) == (status, {"message": _MESSAGES[status]})
    assert reply.headers.get_all("Content-Type") == ["application/json; charset=utf-8"]
    assert reply.headers.get_all("Cache-Control") == ["no-store"]
    challenge = ['AppId realm="limiter"'] if status == 401 else None
    assert reply.headers.get_all("WWW-Authenticate") == challenge
    assert ("Retry-After" in reply.headers) == (status == 429)
    for name in ("RateLimit", "RateLimit-Policy"):
        assert len(reply.headers.get_all(name, [])) == (status in (200, 429)), name
    assert "Vary" not in reply.headers


def found_program() -> str:
    """Return the path of Apache's program, or skip the test."""
    return _found(_PROGRAMS)


def module_lines(names: Iterable[str]) -> str:
    """Return the configuration that loads these modules, without those that are built in."""
    files = {name: Path(_found(_MODULES), f"mod_{name}.so") for name in names}
    return _lines("LoadModule {}_module {}", {k: it for k, it in files.items() if it.exists()})


def own_store(place: Path) -> Path:
    """Make a store that belongs to Apache's user."""
    root = new_root(str(place))
    if os.geteuid() == 0:
        shutil.chown(root, _user())
    return root


def free_port() -> int:
    """Return a loopback port that nobody listens on.  Another process may take it before you do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(process: subprocess.Popen[bytes]) -> str:
    """End a server and its whole session, which it leads; return what it wrote to stderr."""
    process.terminate()
    try:
        _, said = process.communicate(timeout=_DEADLINE)
        wait_until(lambda: not _processes(process.pid))
    except BaseException:
        if _processes(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return (said or b"").decode(errors="backslashreplace")


class _BackEnd(BaseHTTPRequestHandler):
    """Answers with the body of the request, or THROUGH, and with the status that is in the query."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or THROUGH
        self.send_response(int(self.path.partition("status=")[2] or 200))
        self.send_header("Content-Type", "text/plain")
        self.send_header("X-Method", self.command)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def back_end() -> Iterator[int]:
    """Run a web server that knows nothing of limits; yield its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _BackEnd) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def parent(process: Path) -> int:
    """Return the parent of a process in /proc; 0 if the process has ended."""
    fields = contents(process / "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def contents(path: Path) -> bytes:
    """Return the contents of a file of a process; nothing if the process has ended."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _lines(form: str, pairs: Mapping[str, object]) -> str:
    return "\n".join([form.format(*pair) for pair in pairs.items()])


def _start(
    program: str, directory: Path, configuration: str, has_daemon: bool
) -> tuple[subprocess.Popen[bytes], int]:
    file = directory / "httpd.conf"
    for _ in range(_ATTEMPTS):
        port = free_port()
        file.write_text(f"{configuration}\nListen 127.0.0.1:{port}\n")
        process = subprocess.Popen(
            [program, "-DFOREGROUND", "-f", file],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if _comes_up(process, directory, has_daemon):
            return process, port
        said = stop(process) + _log(directory)
        if "Address already in use" not in said:
            break
    raise RuntimeError(f"Apache does not start:\n{said}")


def _comes_up(process: subprocess.Popen[bytes], directory: Path, has_daemon: bool) -> bool:
    """Wait until the server listens and accepts scripts; return False if it ends first or never does.

    It listens before it writes its pid file.  Scripts get 503 until mod_cgid's socket, which root
    creates, is given to Apache's user.
    """

    def is_up() -> bool:
        given = [it for it in directory.glob("cgid.*") if os.geteuid() != 0 or it.owner() == _user()]
        return bool(given or not has_daemon) and (directory / "pid").exists()

    with suppress(TimeoutError):
        wait_until(lambda: process.poll() is not None or is_up())
    return process.poll() is None and is_up()


def _log(directory: Path) -> str:
    return contents(directory / "error.log").decode(errors="backslashreplace")


def _processes(session: int) -> list[Path]:
    """Return the running processes of a session: all of Apache's are in one, named after its first.

    A zombie (ended, not yet waited for) does not count.
    """

    def is_one(process: Path) -> bool:
        status = contents(process / "stat").decode(errors="replace").rpartition(")")[2].split()
        return bool(status) and status[0] != "Z" and int(status[3]) == session

    return [process for process in Path("/proc").glob("[0-9]*") if is_one(process)]


def _user() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(user for user in _USERS if user in known)


def _found(places: tuple[str, ...]) -> str:
    for place in places:
        if Path(place).exists():
            return place
    pytest.skip(f"Apache is not installed (none of {', '.join(places)})")
