"""mod_cache in front of the map: what it keeps is counted, too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.apache_server import apache, assert_answer
from tests.places import temporary

pytestmark = pytest.mark.one_python


@pytest.mark.parametrize("quick", ["", "CacheQuickHandler On"])
def test_what_the_cache_answers_is_counted(installed: Path, quick: str) -> None:
    """Its quick handler came before the rules: it answered without counting, and to anybody."""
    with temporary("/tmp") as site:
        (site / "file.txt").write_text("A file.\n")
        os.utime(site / "file.txt", (0, 0))  # an old file is kept for long
        (site / "cache").mkdir()
        (site / "cache").chmod(0o777)
        before = f"""
            {quick}
            CacheEnable disk "/"
            CacheRoot "{site}/cache"
            CacheIgnoreQueryString On
            CacheDefaultExpire 3600
        """
        after = f"""
            Alias "/api/" "{site}/"
            <Directory "{site}">
                Require all granted
            </Directory>
        """
        settings = {"LIMITER_PATHS": "^/api/", "LIMITER_LIMIT": "3/hour"}
        modules = ("rewrite", "cache", "cache_disk")
        with apache("event", installed, settings, before, after=after, modules=modules) as server:
            path = "/api/file.txt?app_id=acme"
            got = [server.ask(path) for _ in range(3)]
            assert [(it.status, it.body) for it in got] == [(200, b"A file.\n")] * 3
            # What the cache has kept has no such fields: those of the first request would be wrong.
            fields = [it.headers["RateLimit"] for it in got]
            assert fields == ['"3-per-3600s";r=2;t=3600', None, None]
            assert_answer(server.ask(path), 429)
            assert_answer(server.ask("/api/file.txt"), 401)
            assert any(path.is_file() for path in (site / "cache").rglob("*")), "it has kept nothing"
