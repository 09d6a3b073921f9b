"""Who asks, under a real Apache: a variable that only some requests have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.apache_server import apache, assert_answer

pytestmark = pytest.mark.one_python

CHECK = "/cgi-bin/check.py"
TENANT = "SetEnvIf X-Tenant (.+) TENANT=$1"


@pytest.mark.parametrize(
    ("first", "status"), [('SetEnvIf Request_URI "^()" TENANT=$1', 401), ("", 500)], ids=["set", "unset"]
)
def test_a_variable_of_some_requests_is_set_empty_for_the_others(
    installed: Path, first: str, status: int
) -> None:
    """As docs/who-asks.md says.  Otherwise the limiter cannot tell it from a typing error."""
    settings = {"LIMITER_KEY": "env:TENANT"}
    with apache(
        "event", installed, settings, after=f"{first}\n{TENANT}", modules=("setenvif",)
    ) as server:
        assert_answer(server.ask(CHECK, headers={"X-Tenant": "acme"}), 200)
        assert_answer(server.ask(CHECK), status)
    assert ("the server does not set this variable" in server.log) == (status == 500)
