"""A real Apache for tests: start it on a free port, send it requests, stop it, leave no trace."""

from __future__ import annotations

import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.places import REPOSITORY, new_root

MPMS = ("event", "prefork")
"""They run scripts with mod_cgid and with mod_cgi.  A test that need not try both uses the first."""

LONG = "60"
"""A LIMITER_TIMEOUT, in seconds.  A store that works always answers sooner."""

_PROGRAMS = ("/usr/sbin/apache2", "/usr/sbin/httpd")
_MODULES = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules")
_USERS = ("www-data", "apache")
_DEADLINE = 120
_ATTEMPTS = 10

# The modules that the limiter needs, as Debian and RHEL load them.  Debian has some of them built in.
_LOADED = ("unixd", "authz_core", "alias", "env", "headers")

_CONFIGURATION = """\
ServerRoot "{directory}"
ServerName localhost
Listen 127.0.0.1:{port}
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
Include "{limiter}"
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
        return ask(self.port, path, method, body, headers)

    def post(self, path: str, body: bytes) -> Reply:
        """Send a form."""
        return self.ask(path, "POST", body, {"Content-Type": "application/x-www-form-urlencoded"})

    def send(self, request: bytes) -> bytes:
        """Send exactly these bytes; return all that arrives until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_DEADLINE) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def apache(
    mpm: str,
    home: Path,
    settings: Mapping[str, str] | None = None,
    before: str = "",
    without: tuple[str, ...] = (),
    after: str = "",
    modules: tuple[str, ...] = (),
) -> Iterator[Server]:
    """Run a server that includes the limiter's configuration unchanged.

    LIMITER_HOME is ``home``, and ``settings`` are further definitions.  ``before`` and ``after`` are
    configuration that comes before and after the limiter's.  ``modules`` are loaded in addition,
    ``without`` are not loaded.  The time-out of the store is long unless the settings say otherwise,
    because a store can be slow on a busy machine.
    """
    program = _found(_PROGRAMS)
    directory = new_root("/tmp")
    try:
        root = directory / "store"
        root.mkdir()
        if os.geteuid() == 0:
            shutil.chown(root, _user())
        definitions = {
            "LIMITER_HOME": str(home),
            "LIMITER_ROOT": str(root),
            "LIMITER_TIMEOUT": LONG,
            **(settings or {}),
        }
        loaded = [name for name in (f"mpm_{mpm}", *_LOADED, _cgi(mpm), *modules) if name not in without]
        process, port = _start(program, directory, loaded, definitions, before, after)
        server = Server(root, port, process.pid)
        try:
            yield server
        finally:
            stop(process)
            server.log = _log(directory)
    finally:
        shutil.rmtree(directory)


def ask(
    port: int,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request to a loopback port, on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_DEADLINE)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


def free_port() -> int:
    """Return a loopback port that nobody listens on.  Another process may take it before you do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(is_so: Callable[[], Any]) -> None:
    """Poll until another process has got this far; use it where there is nothing else to wait for."""
    deadline = time.monotonic() + _DEADLINE
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"After {_DEADLINE} s this still does not hold: {is_so}")
        time.sleep(0.01)


def stop(process: subprocess.Popen[bytes]) -> str:
    """End a server and its whole process group, which it leads; return what it wrote to stderr."""
    process.terminate()
    try:
        _, said = process.communicate(timeout=_DEADLINE)
        wait_until(lambda: not _alive(process.pid))
    except BaseException:
        if _alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return (said or b"").decode(errors="backslashreplace")


def _start(
    program: str,
    directory: Path,
    modules: list[str],
    definitions: dict[str, str],
    before: str,
    after: str,
) -> tuple[subprocess.Popen[bytes], int]:
    configuration = directory / "httpd.conf"
    for _ in range(_ATTEMPTS):
        port = free_port()
        text = _configuration(directory, port, modules, definitions, before, after)
        configuration.write_text(text)
        process = subprocess.Popen(
            [program, "-DFOREGROUND", "-f", configuration],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if _comes_up(process, directory, modules):
            return process, port
        said = stop(process) + _log(directory)
        if "Address already in use" not in said:
            break
    raise RuntimeError(f"Apache does not start:\n{said}")


def _comes_up(process: subprocess.Popen[bytes], directory: Path, modules: list[str]) -> bool:
    """Wait until the server listens and accepts scripts; return False if it ends first or never does.

    It listens before it writes its pid file.  Scripts get 503 until mod_cgid's socket, which root
    creates, is given to Apache's user.
    """

    def is_up() -> bool:
        is_given = "cgid" not in modules or any(map(_is_given, directory.glob("cgid.*")))
        return is_given and (directory / "pid").exists()

    with suppress(TimeoutError):
        wait_until(lambda: process.poll() is not None or is_up())
    return process.poll() is None and is_up()


def _is_given(socket_file: Path) -> bool:
    return os.geteuid() != 0 or socket_file.owner() == _user()


def _configuration(
    directory: Path,
    port: int,
    modules: list[str],
    definitions: dict[str, str],
    before: str,
    after: str,
) -> str:
    there = Path(_found(_MODULES))
    files = {name: there / f"mod_{name}.so" for name in modules}
    return _CONFIGURATION.format(
        directory=directory,
        port=port,
        modules="\n".join(
            f"LoadModule {name}_module {file}" for name, file in files.items() if file.exists()
        ),
        user=f"User {_user()}\nGroup {_user()}" if os.geteuid() == 0 else "",
        before=before,
        after=after,
        definitions="\n".join(f'Define {name} "{value}"' for name, value in definitions.items()),
        limiter=REPOSITORY / "deploy/apache/limiter.conf",
    )


def _log(directory: Path) -> str:
    log = directory / "error.log"
    return log.read_text(errors="backslashreplace") if log.exists() else ""


def _alive(group: int) -> bool:
    """Whether any process of the group runs.  A zombie (ended, not yet waited for) does not count."""
    return any(_runs_in(group, process) for process in os.listdir("/proc") if process.isdigit())


def _runs_in(group: int, process: str) -> bool:
    try:
        status = Path("/proc", process, "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    state, _, its_group = status.rpartition(")")[2].split()[:3]
    return int(its_group) == group and state != "Z"


def _cgi(mpm: str) -> str:
    return "cgi" if mpm == "prefork" else "cgid"


def _user() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(user for user in _USERS if user in known)


def _found(places: tuple[str, ...]) -> str:
    for place in places:
        if Path(place).exists():
            return place
    pytest.skip(f"Apache is not installed (none of {', '.join(places)})")
