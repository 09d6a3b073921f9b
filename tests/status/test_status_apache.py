"""status.py and metrics.py under a real Apache: for this machine alone, and without the keys of the map."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.apache_server import apache
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

MACROS = f'Include "{REPOSITORY}/deploy/apache/macros.conf"\n'


@pytest.mark.parametrize(
    ("rules", "settings", "is_shown"),
    [
        ("", {"LIMITER_PATHS": "^/map"}, True),
        ("", {"LIMITER_PATHS": "^/map", "LIMITER_HEADER": "X-Key"}, False),
        ('Use RateLimit "/map" * "5/hour key=header:X-Key"\n', {"LIMITER_HEADER": "X-Key"}, False),
        ('Use RateLimit "/map" * "5/hour"\n', {}, True),
    ],
)
def test_the_page_hides_what_the_map_takes_from_a_header(
    installed: Path, rules: str, settings: dict[str, str], is_shown: bool
) -> None:
    before = MACROS + rules if rules else ""
    with apache("event", installed, settings, before=before, modules=("rewrite",)) as server:
        assert server.ask("/map?app_id=key-17", headers={"X-Key": "key-17"}).status == 403  # admitted
        reply = server.ask("/cgi-bin/status.py", headers={"Accept": "application/json"})
        assert (reply.status, reply.headers.get_content_type()) == (200, "application/json")
        assert (b'"app_id": "key-17"' in reply.body) == is_shown
        assert b'"used": 1' in reply.body
        text = server.ask("/cgi-bin/metrics.py").body
        assert text.startswith(b"# HELP limiter_build_info")


def test_others_do_not_see_it(installed: Path) -> None:
    """mod_remoteip says who asks, as behind a proxy that Apache trusts."""
    before = "RemoteIPHeader X-From\n"
    with apache("event", installed, before=before, modules=("remoteip",)) as server:
        for page in ("status", "metrics"):
            path = f"/cgi-bin/{page}.py"
            assert server.ask(path).status == 200
            assert server.ask(path, headers={"X-From": "192.0.2.7"}).status == 403
