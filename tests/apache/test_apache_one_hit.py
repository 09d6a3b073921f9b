"""One request, one hit, in a real Apache: the guard and error documents, the guard and the map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter import Limiter
from tests.apache_server import MPMS, Server, apache
from tests.places import temporary

pytestmark = pytest.mark.one_python

TELL = """\
#!/usr/bin/python3 -IS
import posix
status = posix.environ.get(b"REDIRECT_STATUS", b"none").decode()
print(f"Content-Type: text/plain\\n\\nscript, {status}")
"""

SITE = """
DocumentRoot "{site}"
<Directory "{site}">
    Require all granted
</Directory>
<Directory "{site}/app">
    SetHandler limited
</Directory>
ErrorDocument 404 "/app/lost"
<Location "/denied">
    Require all denied
</Location>
ErrorDocument 403 "/app/lost"
"""


@pytest.fixture
def site() -> Iterator[Path]:
    with temporary("/tmp") as path:
        (path / "app").mkdir()
        for name in ("page", "lost"):
            (path / "app" / name).write_text(TELL)
            (path / "app" / name).chmod(0o755)
        yield path


@pytest.fixture(params=MPMS)
def server(request: pytest.FixtureRequest, installed: Path, site: Path) -> Iterator[Server]:
    settings = {"LIMITER_LIMIT": "2/hour"}
    after = SITE.format(site=site)
    with apache(request.param, installed, settings, after=after, modules=("actions",)) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "status"), [("/missing", 404), ("/denied", 403), ("/app/missing", 404)]
)
def test_an_error_document_behind_the_guard_keeps_its_status(
    server: Server, path: str, status: int
) -> None:
    """It was answered already.  Without an app_id, a 404 became a 401."""
    for query in ("", *4 * ["?app_id=acme"]):
        reply = server.ask(path + query)
        assert (reply.status, reply.body) == (status, f"script, {status}\n".encode())
    assert Limiter(server.root, "2/hour").peek("acme").remaining == 2
    assert [server.ask("/app/page?app_id=acme").status for _ in range(3)] == [200, 200, 429]
    assert server.ask("/app/lost").status == 401
