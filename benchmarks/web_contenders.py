"""The limiters in web servers that are compared: this one at Apache's map, nginx, mod_evasive and mod_qos.

Each limits a static file: 100 requests a second, as near as its own settings come to that.
"""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import EXACT, INEXACT
from benchmarks.contest import Hit
from tests.apache_server import apache, free_port
from tests.places import install, temporary
from tests.waiting import listens, wait_until

QUOTA = 100
_PAGE = "/page?app_id=flooded"
_REFUSALS = (403, 429, 503)
_MODULES = Path("/usr/lib/apache2/modules")

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
DOSHashTableSize 3097
DOSPageCount {QUOTA}
DOSPageInterval 1
DOSSiteCount 1000000
DOSBlockingPeriod 1
"""
_QOS = f"""
LoadModule qos_module "{_MODULES}/mod_qos.so"
QS_LocRequestPerSecLimit "/page" {QUOTA}
"""
_NGINX = f"""
daemon off;
worker_processes 2;
pid {{place}}/pid;
error_log {{place}}/error.log crit;
events {{{{ }}}}
http {{{{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {{place}}; proxy_temp_path {{place}}; fastcgi_temp_path {{place}};
    uwsgi_temp_path {{place}}; scgi_temp_path {{place}};
    limit_req_zone $arg_app_id zone=all:10m rate={QUOTA}r/s;
    limit_req_status 429;
    server {{{{
        listen 127.0.0.1:{{port}};
        root {{site}};
        limit_req zone=all burst={QUOTA - 1} nodelay;
    }}}}
}}}}
"""


@dataclass(frozen=True)
class WebContender:
    """A server with a limited page.

    ``serve`` runs it for a block, and gives its port.  Raises FileNotFoundError or RuntimeError, with the
    reason in its last line, if it cannot be had here.
    """

    name: str
    promise: str
    kind: str
    serve: Callable[[], AbstractContextManager[int]]
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
    with temporary("/tmp") as site:
        (site / "page").write_text("A page.\n")
        site.chmod(0o755)
        yield site


@contextmanager
def _map() -> Iterator[int]:
    settings = {"LIMITER_LIMIT": f"{QUOTA}/second", "LIMITER_PATHS": "^/page"}
    with _pages() as site, temporary("/tmp") as home:
        install(home)
        after = _SITE.format(site=site)
        with apache("event", home, settings, after=after, modules=("rewrite",)) as server:
            yield server.port


@contextmanager
def _apache_with(directives: str) -> Iterator[int]:
    with _pages() as site, temporary("/tmp") as home:
        after = _SITE.format(site=site) + directives
        with apache("event", home, after=after, limiter=False) as server:
            yield server.port


@contextmanager
def _nginx() -> Iterator[int]:
    with _pages() as site, temporary("/tmp") as place:
        place.chmod(0o755)
        port = free_port()
        (place / "nginx.conf").write_text(_NGINX.format(place=place, port=port, site=site))
        command = ["/usr/sbin/nginx", "-p", str(place), "-c", str(place / "nginx.conf")]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            try:
                wait_until(lambda: process.poll() is not None or listens(port), "nginx listens")
                if process.poll() is not None and process.stderr is not None:
                    raise RuntimeError(f"nginx does not start: {process.stderr.read()!r}")
                yield port
            finally:
                process.terminate()


WEB_CONTENDERS = (
    WebContender("this, Apache's map", EXACT, "sliding", _map),
    WebContender("nginx, limit_req", EXACT, "bucket", _nginx, "in the memory of one machine"),
    WebContender(
        *("Apache, mod_evasive", INEXACT, "fixed", lambda: _apache_with(_EVASIVE)),
        "counts in each process, by address, and then blocks",
    ),
    WebContender(
        *("Apache, mod_qos", INEXACT, "sliding", lambda: _apache_with(_QOS)),
        "delays requests until the rate is about right",
    ),
)
