"""Real servers behind a unix socket: who asks is known by X-Forwarded-For alone, and only if that is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doors.doors import clients
from tests.doors.servers import COMMANDS, serving

pytestmark = pytest.mark.one_python


@pytest.mark.parametrize("name", COMMANDS)
def test_a_trusted_unix_socket_reports_the_address(name: str, root: str, tmp_path: Path) -> None:
    settings = {
        "LIMITER_ROOT": root,
        "LIMITER_KEY": "env:REMOTE_ADDR",
        "LIMITER_TRUSTED_PROXIES": "unix, 10.0.0.0/8",
        "LIMITER_LIMIT": "2/hour",
    }
    with serving(name, tmp_path, **settings) as server:
        forwarded = [
            *("198.51.100.7", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
            *("2001:db8::1", "203.0.113.9, 10.0.0.2"),
        ]
        assert [server.ask("/", X_Forwarded_For=it) for it in forwarded] == [200, 200, 429, 200, 200]
        assert server.log == []
        assert server.ask("/") == 500
    assert "let the proxy send X-Forwarded-For, ending with an address" in server.log[0]
    names = clients(root)
    assert names[:2] == ["198.51.100.7", "203.0.113.9"]
    assert len(names) == 3


@pytest.mark.parametrize("name", COMMANDS)
def test_without_trust_the_address_is_an_error_with_a_reason(
    name: str, root: str, tmp_path: Path
) -> None:
    """Else all clients would get 401, or be one client."""
    with serving(name, tmp_path, LIMITER_ROOT=root, LIMITER_KEY="env:REMOTE_ADDR") as server:
        assert server.ask("/", X_Forwarded_For="198.51.100.7") == 500
    (line,) = server.log
    assert "the server is behind a unix socket" in line
    assert "LIMITER_TRUSTED_PROXIES=unix" in line
    assert clients(root) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_other_keys_need_no_address(name: str, root: str, tmp_path: Path) -> None:
    with serving(name, tmp_path, LIMITER_ROOT=root, LIMITER_LIMIT="1/hour") as server:
        paths = ["/?app_id=acme", "/?app_id=acme", "/?app_id=emca", "/"]
        assert [server.ask(path) for path in paths] == [200, 429, 200, 401]
    assert server.log == []
