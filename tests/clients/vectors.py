"""Writes vectors.json: what Python's client answers.  ``python -m tests.clients.vectors``, after a change of it.

Each vector is a command of the conformance kit and its answer; ``mistake`` is one that must be refused.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limiter.core.burst import Burst
from limiter.core.limit import SECOND, Limit, make
from limiter.core.notation import parse
from limiter.request.key import Key

FILE = Path(__file__).with_name("vectors.json")
VERSION = 1
"""The version of the store format (docs/store-format.md)."""

NOW = 1_700_000_000_123_456
GOOD = (
    *("10/second", "10 per second", "10per2sec", "10perminute", "  100 / Minute ", "007/HOUR"),
    *("1000/3 days", "9/month", "9 per 2 Years", "0/second", "0/second fixed", "0/second burst 5"),
    *("10/second fixed", "10001/hour Fixed", "5/second burst 20", "3/second burst 1", "login=5/minute"),
    *(
        " \tapi-v2 = 100 per HOUR fixed",
        "10/second;100/minute",
        "5/s,6/m|7/h",
        "a=1/s;b=1/s",
        "1/3660days",
    ),
    *("10000/day", "999999999999999/hour fixed", "64/s", "65/s", "16/s", "17/s", "1/s burst 7"),
)
BAD = (
    *(
        "",
        " ",
        "many",
        "10",
        "10/",
        "/second",
        "10 second",
        "10/fortnight",
        "10/0 seconds",
        "1.5/second",
    ),
    *(
        "-1/second",
        "10/second;",
        ";10/second",
        "10001/second",
        "10/3661 days",
        "10/second fast",
        "1/s1/m",
    ),
    *("10/second burst", "10/second burst 0", "1/day burst 999999", "1/s;1/s", "1/s;1 per second"),
    *(
        "A=1/s",
        "9=1/s",
        "=1/s",
        "a b=1/s",
        "a=1/s;a=2/s",
        f"{'a' * 33}=1/s",
        "10\u00a0/second",
        "\u0661/s",
    ),
    *("10/minutefixed", "9999999999999999/hour fixed", "10/second\n", "10/second\0", "1/s==1/s"),
)
QUERIES = (
    *("", "app_id", "app_id=", "app_ID=acme", "id=acme", "app_id=.", "app_id=..%2Facme", "app_id=acme"),
    *(
        "app_id=a%00",
        "app_id=a+b",
        "app_id=" + "a" * 64,
        "app_id=" + "a" * 65,
        "app_id=%E9",
        "app_id=.new-1",
    ),
    *("app_id=acme&app_id=acme", "app_id=acme&%61pp_id=other", "app_id=acme;", "app_id=a;app_id=b"),
    *("app_id=acme%0AStatus:%20200%20OK", "app_id=%61cme", "a%70p_id=acme", "x=1&app_id=acme&y"),
    *(
        "&&app_id=acme&",
        "app_id=a&app.id=b",
        "app_id=a&app%20id=b",
        "app_id=a&app+id=b",
        "app_id=a&app[id=b",
    ),
    *("app_id=a&+app_id=b", "app_id=a&_app_id=b", "app_id=a&app_id[]=b", "app_id=a&app_id%5B0%5D=b"),
    *("app_id=a&app_id%00=b", "app_id=a&APP_ID=b", "app_id=a&%u0061pp_id=b", "app_id=a&app_idx=b"),
    *(
        "app_id=a&xapp_id=b",
        "app_id=a&app-id=b",
        "app_id=a&app_id =b",
        "app_id=a&app_id\t=b",
        "app_id=a=b",
    ),
    *(
        "app_id=a%",
        "app_id=a%4",
        "app_id=a%4g",
        "app_id=%2561",
        "app_id=a&.app_id=b",
        "app_id=a&%5Fapp_id=b",
    ),
    *("app_id=a&app!id=b", "app_id=a&app~..id=b", "app_id=a&(app_id)=b", "app_id=a&app_id.x=b"),
    *(
        "app_id=a#b",
        "app_id=a/../b",
        "app_id='or 1=1",
        "app_id=<script>",
        "app_id=a\x7f",
        "app_id=a&&&app_id",
    ),
)
KEYS = (
    *(
        "header:X-Key",
        "header:authorization",
        "header:Content-Type",
        "env:REMOTE_USER",
        "env:REMOTE_ADDR",
    ),
    *("env:MY_NAME", "header:", "header:X_Key", "env:A-B", "cookie:a", "env:", "a:b", "header:a:b"),
)
VARIABLES = (
    *("HTTP_X_KEY", "HTTP_AUTHORIZATION", "CONTENT_TYPE", "REMOTE_USER", "REMOTE_ADDR", "MY_NAME"),
)
VALUES = (
    *(
        b"",
        b" \t ",
        b"acme",
        b"\t Acme ",
        b"a" * 64,
        b"a" * 65,
        b"a b",
        b"../acme",
        b"acme\n",
        b"\xff\x00",
    ),
    *(b"a,b", b"a;b", b"sha256-x", b"SHA256-x", b"192.0.2.1", b"::ffff:192.0.2.1", b"::FFFF:c000:201"),
    *(
        b"::192.0.2.1",
        b" 2001:DB8::1 ",
        b"2001:db8::192.0.2.1",
        b"2001:db8:0:1::1",
        b"64:ff9b::192.0.2.1",
    ),
    *(
        b"64:ff9b:0:0:1::192.0.2.1",
        b"64:ff9b:1::192.0.2.1",
        b"fe80::1%eth0",
        b"[2001:db8::1]",
        b"1:2",
        b":",
    ),
    *(
        b"::",
        b"2001:db8::1\x00",
        b"2001:db8::/64",
        b"localhost",
        b"unix:",
        b"unix:/socket",
        b"1.2.3",
        b"1.2.3.04",
    ),
    *(
        b"Basic",
        b"basic",
        b"Bearer",
        b"bearer ",
        b"Digest",
        b"Basic YTpi",
        b"basic  YTpi",
        b"Basic YTpi=",
        b"Basic Og==",
    ),
    *(
        b"Basic YTpj",
        b"Basic YQ==",
        b"Basic YWI6YzpkCg==",
        b"Basic IGEgOmI=",
        b"Basic YTpi YTpi",
        b"Basic YTpiZR==",
    ),
    *(
        b"Bearer abc",
        b"bearer abc==",
        b"Bearer a b",
        b"Bearer a=b",
        b"Bearer eyJh.eyJi.YWJj",
        b"Bearer eyJh.eyJi.YWJk",
    ),
    *(
        b"Bearer eyJh.eyJi.YWJj=",
        b"Bearer eyJh.e.YWJj",
        b"Bearer eyJh.YR.YWJj",
        b"Bearer eyJh",
        b"Bearer eyJh.a+b/",
    ),
    *(
        b"Digest a=b",
        b"key-1",
        b"key 1",
        b"key!",
        b"key=",
        b"=",
        b"a\x0bb",
        b"token\fabc",
        b"Bearer \xe9",
    ),
)
KINDS = (
    "3/second",
    "20/minute",
    "5/second fixed",
    "7 per 3 seconds fixed",
    "5/second burst 4",
    "7/minute burst 3",
)


def answers() -> Iterator[dict[str, Any]]:
    """Yield each vector."""
    for text in (*GOOD, *BAD):
        try:
            limits = [[limit.name, limit.window] for limit in parse(text)]
        except ValueError:
            yield {"do": "parse", "text": text, "mistake": True}
        else:
            yield {"do": "parse", "text": text, "is": limits}
    for query in QUERIES:
        yield _who("app_id", {"QUERY_STRING": query.encode("latin-1")})
    for key in KEYS:
        yield _who(key, {})
        for value in VALUES:
            yield _who(key, dict.fromkeys(VARIABLES, value))
    dice = random.Random(20171213)
    for text in KINDS:
        (limit,) = parse(text)
        for _ in range(60):
            yield from _of(limit, text, dice)


def _who(key: str, variables: dict[str, bytes]) -> dict[str, Any]:
    coded = {name: base64.b64encode(value).decode() for name, value in variables.items()}
    it = {"do": "app_id", "key": key, "variables": coded}
    try:
        found = Key(key).find(
            lambda name: variables.get(name.decode()), variables.get("QUERY_STRING", b"")
        )
    except ValueError:
        return {**it, "mistake": True}
    return {**it, "is": found}


def _of(limit: Limit, text: str, dice: random.Random) -> Iterator[dict[str, Any]]:
    """What the arithmetic of a limit answers for names at random, most near the ends of windows."""
    names = sorted(_name(limit, number, dice) for number in limit.numbers(0))
    it = {"limit": text, "now": NOW}
    yield {"do": "look", **it, "names": names, "is": list(limit.look(names, NOW, 1))}
    free = limit.look(names, NOW, 1)[0]
    for name in free[:1]:
        for provisional in (False, True):
            new = limit.taken(name, NOW, 1, provisional)
            yield {"do": "taken", **it, "name": name, "provisional": provisional, "is": new}
            if not limit.is_returnable:
                later = limit.taken(new, NOW + 5, 1, False)
                undone = limit.returned(later, new, NOW, 1)
                yield {"do": "returned", **it, "name": later, "claim": new, "is": undone}


def _name(limit: Limit, number: int, dice: random.Random) -> str:
    ahead = dice.choice((-2, -1, 0, 0, 1, 2)) * limit.window
    time = dice.choice((0, NOW + ahead + dice.randint(-2, 2), NOW - dice.randrange(2 * limit.window)))
    if limit.is_returnable:
        return make(time, dice.random() < 0.3, number)
    most = limit.rate if isinstance(limit, Burst) else limit.quota + 1
    return make(time, dice.random() < 0.3, dice.randrange(most))


def text() -> str:
    """The text of the file."""
    lines = ",\n".join(json.dumps(it) for it in answers())
    return f'{{"format": {VERSION}, "vectors": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    assert SECOND == 1_000_000
    FILE.write_text(text())
