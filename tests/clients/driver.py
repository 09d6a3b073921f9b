"""The driver of the Python client: a JSON text on each line of standard input, and its answer on standard output."""

from __future__ import annotations

import base64
import errno
import json
import sys
from typing import Any

from limiter.core.hit import hit
from limiter.core.limit import clock
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError
from limiter.request.key import Key


def _arithmetic(it: dict[str, Any]) -> Any:
    (limit,) = parse(it["limit"])
    if it["do"] == "look":
        return limit.look(it["names"], it["now"], 1)
    if it["do"] == "taken":
        return limit.taken(it["name"], it["now"], 1, it["provisional"])
    return limit.returned(it["name"], it["claim"], it["now"], 1)


def _hits(it: dict[str, Any]) -> Any:
    store, limits = Store(it["root"]), parse(it["limits"])
    if it["do"] == "hit":
        return bool(hit(store, limits, it["app"], 1, clock, it["newcomers"])[0])
    found: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    while (begin := clock()) < it["until"] or not found[False]:
        is_admitted = bool(hit(store, limits, it["app"], 1, clock)[0])
        found[is_admitted].append((begin, clock()))
    return [found[True], found[False]]


def answer(it: dict[str, Any]) -> Any:
    """Do what the text says."""
    if it["do"] == "parse":
        return [[limit.name, limit.window] for limit in parse(it["text"])]
    if it["do"] == "app_id":
        variables = {name: base64.b64decode(value) for name, value in it["variables"].items()}
        return Key(it["key"]).find(
            lambda name: variables.get(name.decode()), variables.get("QUERY_STRING", b"")
        )
    return _arithmetic(it) if "limit" in it else _hits(it)


for line in sys.stdin:
    try:
        reply = {"is": answer(json.loads(line))}
    except StoreError as error:
        reply = {"errno": errno.errorcode[error.errno or 0]}
    except ValueError as error:
        reply = {"mistake": str(error)}
    print(json.dumps(reply), flush=True)
