"""The limiters in web servers that are compared: this one at Apache's map, nginx, mod_evasive and mod_qos.

Each limits a static file: 100 requests a second, as near as its own settings come to that.  The servers without
a limit stand beside them, for the CPU time.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.contest import Hit
from tests.apache_server import apache, free_port, stop
from tests.places import install, temporary
from tests.waiting import listens, wait_until

QUOTA = 100
_PAGE = "/page?app_id=flooded"
_REFUSALS = (403, 429, 503)
_MODULES = Path("/usr/lib/apache2/modules")
_NGINX_PROGRAM = "/usr/sbin/nginx"

_SITE = """
DocumentRoot "{site}"
<Directory "{site}">
    Require all granted
</Directory>
KeepAlive On
MaxKeepAliveRequests 0
"""
_EVASIVE = f"""
LoadModule evasive20_module "{_MODULES}/mod_evasive20.so"
DOSLogDir "{{site}}"
DOSHashTableSize 3097
DOSPageCount {QUOTA}
DOSPageInterval 1
DOSSiteCount 1000000
DOSBlockingPeriod 1
"""
# Debian's module needs that library, and does not load it.
_QOS = f"""
LoadFile libpcre.so.3
LoadModule qos_module "{_MODULES}/mod_qos.so"
SetEnvIf Request_URI "^/page" counted
QS_EventLimitCount counted {QUOTA} 1
QS_ErrorResponseCode 429
"""
_NGINX = """
daemon off;
worker_processes 2;
pid {place}/pid;
error_log {place}/error.log crit;
events {{ }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place};
    uwsgi_temp_path {place}; scgi_temp_path {place};
    {zone}
    server {{
        listen 127.0.0.1:{port};
        root {site};
        {limit}
    }}
}}
"""
_ZONE = f"limit_req_zone $arg_app_id zone=all:10m rate={QUOTA}r/s; limit_req_status 429;"
_LIMIT = f"limit_req zone=all burst={QUOTA - 1} nodelay;"


@dataclass(frozen=True)
class WebServer:
    """A server that runs.  ``pid`` leads its session, in which all its processes are."""

    port: int
    pid: int


@dataclass(frozen=True)
class WebContender:
    """A server with a page that is limited, unless ``kind`` is "".

    ``serve`` runs it for a block.  Raises FileNotFoundError or RuntimeError, with the reason in its last line, if
    it cannot be had here.
    """

    name: str
    kind: str
    serve: Callable[[], AbstractContextManager[WebServer]]
    note: str = ""


def open_client(port: int) -> Hit:
    """A client with one connection.  A hit is a request: whether it got 200."""
    connections: list[http.client.HTTPConnection] = []

    def hit(_: str) -> bool:
        if not connections:
            connections.append(http.client.HTTPConnection("127.0.0.1", port, timeout=60))
        try:
            connections[0].request("GET", _PAGE)
            with connections[0].getresponse() as response:
                response.read()
                status = response.status
        except (OSError, http.client.HTTPException):
            connections.pop().close()
            raise
        if status != 200 and status not in _REFUSALS:
            raise RuntimeError(f"status {status}")
        return status == 200

    return hit


@contextmanager
def _pages() -> Iterator[Path]:
    """A directory with a page, in which Apache's user may write."""
    with temporary("/tmp") as site:
        (site / "page").write_text("A page.\n")
        site.chmod(0o777)
        yield site


@contextmanager
def _map() -> Iterator[WebServer]:
    settings = {"LIMITER_LIMIT": f"{QUOTA}/second", "LIMITER_PATHS": "^/page"}
    with _pages() as site, temporary("/tmp") as home:
        install(home)
        after = _SITE.format(site=site)
        with apache("event", home, settings, after=after, modules=("rewrite",)) as server:
            yield WebServer(server.port, server.pid)


@contextmanager
def _apache_with(directives: str) -> Iterator[WebServer]:
    with _pages() as site, temporary("/tmp") as home:
        after = (_SITE + directives).format(site=site)
        with apache("event", home, after=after, modules=("setenvif",), limiter=False) as server:
            yield WebServer(server.port, server.pid)


@contextmanager
def _nginx(zone: str, limit: str) -> Iterator[WebServer]:
    if shutil.which(_NGINX_PROGRAM) is None:
        raise FileNotFoundError("nginx is not installed")
    with _pages() as site, temporary("/tmp") as place:
        port = free_port()
        file = place / "nginx.conf"
        file.write_text(_NGINX.format(place=place, port=port, site=site, zone=zone, limit=limit))
        command = [_NGINX_PROGRAM, "-p", str(place), "-c", str(file)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
        said = ""
        try:
            wait_until(lambda: process.poll() is not None or listens(port), "nginx listens")
            if process.poll() is None:
                yield WebServer(port, process.pid)
                return
        finally:
            said = stop(process)
        raise RuntimeError(f"nginx does not start: {said}")


WEB_CONTENDERS = (
    WebContender("this, Apache's map", "sliding", _map),
    WebContender("Apache, mod_qos", "fixed", partial(_apache_with, _QOS), "all clients together"),
    WebContender(
        "Apache, mod_evasive", "fixed", partial(_apache_with, _EVASIVE), "by address, in each process"
    ),
    WebContender("Apache, no limit", "", partial(_apache_with, "")),
    WebContender("nginx, limit_req", "bucket", partial(_nginx, _ZONE, _LIMIT), "on one machine"),
    WebContender("nginx, no limit", "", partial(_nginx, "", "")),
)
