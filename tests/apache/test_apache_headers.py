"""What clients of the map read, in a real Apache: which header fields, a message or problem details."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apache_server import MPMS, Server, apache
from tests.places import temporary

pytestmark = pytest.mark.one_python

SETTINGS = {
    "LIMITER_PATHS": "^/api/",
    "LIMITER_LIMIT": "login=1/hour;9/day fixed",
    "LIMITER_HEADERS": "both",
    "LIMITER_PROBLEM": "1",
}
SITE = """
DocumentRoot "{site}"
<Directory "{site}">
    Require all granted
</Directory>
"""
TYPES = "https://iana.org/assignments/http-problem-types#"


@pytest.fixture
def site() -> Iterator[Path]:
    with temporary("/tmp") as path:
        (path / "api").mkdir()
        (path / "api/page").write_text("page")
        yield path


@pytest.fixture(params=MPMS)
def server(request: pytest.FixtureRequest, installed: Path, site: Path) -> Iterator[Server]:
    after = SITE.format(site=site)
    with apache(request.param, installed, SETTINGS, after=after, modules=("rewrite",)) as server:
        yield server


def problem_of(server: Server, path: str) -> dict[str, object]:
    reply = server.ask(path)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["Cache-Control"] == "no-store"
    found: dict[str, object] = json.loads(reply.body)
    assert found["status"] == reply.status
    return found


def test_the_map_gives_the_fields_and_the_problems_that_the_settings_ask_for(server: Server) -> None:
    page = "/api/page?app_id=acme"
    admitted, denied = server.ask(page), server.ask(page)
    assert (admitted.status, admitted.body, denied.status) == (200, b"page", 429)
    for reply in (admitted, denied):
        assert reply.headers["RateLimit"].startswith('"login";r=0;t=')
        assert (reply.headers["X-RateLimit-Limit"], reply.headers["X-RateLimit-Remaining"]) == ("1", "0")
        assert int(reply.headers["X-RateLimit-Reset"]) > 1_700_000_000
    assert problem_of(server, page) == {
        "type": f"{TYPES}quota-exceeded",
        "title": "Quota Exceeded",
        "violated-policies": ["login"],
        "status": 429,
    }
    assert problem_of(server, "/api/page")["title"] == "Unauthorized"
    assert problem_of(server, "/api/..;/api/%2e%2e;/x")["status"] == 401
    shutil.rmtree(server.root)
    assert problem_of(server, "/api/page?app_id=other")["type"] == f"{TYPES}temporary-reduced-capacity"


def test_without_an_answer_of_the_program_the_problem_is_its_status(installed: Path, site: Path) -> None:
    host = f'<VirtualHost *:*>\nServerName own\nDocumentRoot "{site}"\n</VirtualHost>'
    after = SITE.format(site=site) + host
    with apache("event", installed, SETTINGS, after=after, modules=("rewrite",)) as server:
        assert problem_of(server, "/api/page?app_id=acme") == {"status": 500}
