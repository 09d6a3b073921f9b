"""One file of rules under the servers that people run: it gives the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter import Limiter
from tests.doors.servers import COMMANDS, serving

pytestmark = pytest.mark.one_python

RULES = """
/login POST login=2/hour key=header:X-User count=401
/api/ * 2/hour
/static/ * exempt
/ * all=4/hour key=header:X-User
"""

# Each line: a request to the application, and the status that the client gets.
ANSWERS = """
POST /login?fail 401
POST /login 200
POST //login/?fail 401
POST /login 429
POST /login;a=b 429
GET /login 200
GET /api/x?app_id=acme 200
GET /api?app_id=acme 200
GET /api/y?app_id=acme 429
GET /api/y 401
GET /api/..;/login 400
GET /static/a.css 200
GET /static/..;/other 200
GET /static/%2e%2e;/other 200
GET /other 200
GET /other 429
HEAD /other 429
GET /static/b.css 200
""".strip().splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_rules_give_the_same_answers(name: str, place: Path, root: str) -> None:
    file = place / "rules"
    file.write_text(RULES)
    got = []
    with serving(name, place, LIMITER_ROOT=root, LIMITER_RULES=str(file)) as server:
        for line in ANSWERS:
            method, path, _ = line.split()
            got.append(f"{method} {path} {server.ask(path, method, X_User='ann')}")
    assert got == ANSWERS
    assert server.log == []
    assert Limiter(root, "login=2/hour").peek("ann").remaining == 0
