"""One Apache with every door: a file, a back end, scripts in four languages, applications."""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.apache_server import Server, apache
from tests.places import new_root

BODY = "through"
"""The answer behind every door but check.py."""

DOORS = {
    "check": "/cgi-bin/check.py",
    "file": "/map/file.txt",
    "proxy": "/map/proxy/",
    "php": "/guard/page.php",
    "ruby": "/guard/page.rb",
    "perl": "/guard/page.pl",
    "python": "/guard/page.py",
    "flask": "/flask/",
}
"""The name of each door, and its URL path."""

CGI = ("check", "php", "ruby", "perl", "python")
"""The doors that start a process for each request."""

_PAGES = {
    "page.php": "<?php header('Content-Type: text/plain'); echo 'through';",
    "page.rb": '#!/usr/bin/ruby\nprint "Content-Type: text/plain\\n\\nthrough"\n',
    "page.pl": '#!/usr/bin/perl\nprint "Content-Type: text/plain\\n\\nthrough";\n',
    "page.py": "#!/usr/bin/python3\nprint('Content-Type: text/plain\\n\\nthrough', end='')\n",
}
_NEEDED = ("/usr/bin/php-cgi", "/usr/bin/ruby", "/usr/bin/perl", "/usr/lib/apache2/modules/mod_wsgi.so")
_FLASK_NEEDS = ("flask", "werkzeug", "jinja2", "markupsafe", "click", "itsdangerous", "blinker")
_FLASK = """\
import flask
from limiter.wsgi import RateLimit

site = flask.Flask(__name__)

@site.route("/")
def page():
    return "through", {"Content-Type": "text/plain"}

application = RateLimit(site)
"""
_BEFORE = 'Define LIMITER_PATHS "^/map/"\n'
_SITE = """\
DocumentRoot "{site}"
<Directory "{site}">
    Require all granted
</Directory>
<Directory "{site}/guard">
    SetHandler limited
</Directory>
ProxyPass "/map/proxy/" "http://127.0.0.1:{port}/"
WSGIDaemonProcess flask processes=2 threads=4 python-path={home}:{site}/python
WSGIScriptAlias "/flask" "{site}/flask.wsgi" process-group=flask application-group=%{{GLOBAL}}
<Location "/flask">
    SetEnv LIMITER_ROOT "${{LIMITER_ROOT}}"
    SetEnv LIMITER_LIMIT "${{LIMITER_LIMIT}}"
    SetEnv LIMITER_ON_ERROR "${{LIMITER_ON_ERROR}}"
    SetEnv LIMITER_TIMEOUT "${{LIMITER_TIMEOUT}}"
</Location>
"""
_MODULES = ("actions", "proxy", "proxy_http", "rewrite", "wsgi")


@contextmanager
def doors(home: Path, settings: Mapping[str, str], mpm: str = "event") -> Iterator[Server]:
    """Run it with this installation and these definitions.  Skip the test if a language is missing."""
    for file in _NEEDED:
        if not Path(file).exists():
            pytest.skip(f"{file} is not installed")
    site = new_root("/tmp")
    try:
        _furnish(site)
        with _back_end() as port:
            after = _SITE.format(site=site, home=home, port=port)
            with apache(mpm, home, settings, _BEFORE, after=after, modules=_MODULES) as server:
                yield server
    finally:
        shutil.rmtree(site)


def _furnish(site: Path) -> None:
    for name in _FLASK_NEEDS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        # mod_wsgi may have another Python, but these modules work without their compiled parts.
        shutil.copytree(Path(spec.origin).parent, site / "python" / name)
    (site / "flask.wsgi").write_text(_FLASK)
    (site / "map").mkdir()
    (site / "map/file.txt").write_text(BODY)
    (site / "guard").mkdir()
    for name, text in _PAGES.items():
        page = site / "guard" / name
        page.write_text(text)
        page.chmod(0o755)
    for path in [site, *site.rglob("*")]:
        os.chmod(path, path.stat().st_mode | 0o055 if path.is_dir() else path.stat().st_mode | 0o044)


class _Page(BaseHTTPRequestHandler):
    """Answers every GET."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _back_end() -> Iterator[int]:
    """Run a web server that knows nothing of limits; yield its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
