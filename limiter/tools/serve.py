"""The embedded web server: it serves the real cgi-bin to this machine only, without Apache.

Or it answers the question of another web server, whether a request may pass (``limiter.wsgi.check``).
"""

import errno
import os
import shlex
import signal
import socket
import socketserver
import stat
import sys
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from limiter.core.limiter import Limiter
from limiter.request.default_store import VARIABLES
from limiter.request.key import Key
from limiter.request.settings import Settings
from limiter.tools.cgi_bridge import Bridge
from limiter.tools.shared import shared
from limiter.wsgi import check

HOST = "127.0.0.1"
_PASSED_ON = ("PATH", *VARIABLES, "LD_LIBRARY_PATH")


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """One thread for each request.  No thread outlives the server."""

    daemon_threads = True
    request_queue_size = 1024  # a unix socket refuses whoever comes when 5 wait


class _SocketServer(_Server):
    """The same on a unix socket, which all may use who may enter its directory."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """Take the place of a server that has ended without removing its socket."""
        path = str(self.server_address)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode) and not _answers(path):
                os.unlink(path)
        except FileNotFoundError:
            pass
        socketserver.TCPServer.server_bind(self)
        os.chmod(path, 0o666)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> "tuple[socket.socket, tuple[str, int]]":
        """The next connection.  Its peer has no address."""
        return super().get_request()[0], ("", 0)


class _SilentHandler(WSGIRequestHandler):
    """Logs no request."""

    def log_message(self, *_: object) -> None:
        """Log nothing: the web server that asks has a log."""


def serve(port: int) -> None:
    """Serve until interrupted, or until SIGTERM.  Prints commands to try.  With port 0, it takes a free port.

    Raises ValueError and StoreError for bad settings.  Raises OSError if the port is taken, or if the
    scripts are missing or cannot run here.
    """
    script = shared("cgi-bin/check.py")
    directory = script.parent
    _check_script(script)
    settings = Settings(os.environb)
    Key(settings.key, settings.trusted_proxies)
    root, limits = settings.store("acme"), settings.share(settings.limit)
    Limiter(root, limits).peek("acme")
    chosen = {name: value for name, value in os.environ.items() if name.startswith("LIMITER_")}
    inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    application = Bridge(str(directory), {**inherited, **chosen})
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as process 1, nothing else ends it
    with make_server(HOST, port, application, _Server) as server:
        url = f"http://{HOST}:{server.server_port}/cgi-bin/check.py?app_id=acme"
        with_settings = "".join(f"{name}={shlex.quote(chosen[name])} " for name in sorted(chosen))
        try:
            print(
                f"Serving {directory}, limit {limits}, store {root}.  Press Ctrl-C to end.\n"
                "Try, in another terminal:\n\n"
                f"  curl -i '{url}'\n"
                f"  curl -s -w ' %{{http_code}}\\n' '{url}&n=[1-11]'\n"
                f"  {with_settings}python3 -m limiter show acme\n",
                flush=True,
            )
            server.serve_forever()
        except KeyboardInterrupt:
            print("Ended.", file=sys.stderr)


def serve_check(port: int, path: str) -> None:
    """Answer web servers that ask whether a request may pass, on a port or a unix socket, until interrupted.

    Raises ValueError and StoreError for bad settings, and OSError if the port or the socket cannot be had.
    """
    settings = Settings(os.environb)
    Key(settings.key, settings.trusted_proxies)
    root, limits = settings.store("check"), settings.share(settings.limit)
    Limiter(root, limits).peek("check")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server: WSGIServer
        if path:
            server = _SocketServer(path, _SilentHandler)  # type: ignore[arg-type]
        else:
            server = _Server((HOST, port), _SilentHandler)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path or f"port {port}") from error
    with server:
        server.set_app(check)
        where = path or f"http://{HOST}:{server.server_port}"
        print(f"Answering at {where}, limit {limits}, store {root}.  Press Ctrl-C to end.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Ended.", file=sys.stderr)
        finally:
            if path:
                Path(path).unlink(missing_ok=True)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _check_script(script: Path) -> None:
    """Check that the script can run, before the first request.  Raises FileNotFoundError."""
    with script.open("rb") as file:
        first = file.readline()
    interpreter = first[2:].split()[0]
    if not os.access(interpreter, os.X_OK):
        why = f"Its first line names {interpreter.decode()}, which is missing: install it"
        raise FileNotFoundError(errno.ENOENT, why, str(script))
