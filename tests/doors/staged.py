"""One scene at one door, again and again, with one call that fails each time; and how to judge the answer."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import limiter.apache.guard
import limiter.apache.rewrite_map
import limiter.asgi
import limiter.cgi
import limiter.request.response
import limiter.tools.cli
import limiter.wsgi
from limiter.apache.graceful_restart import Handover
from limiter.core.limiter import Limiter
from limiter.request.register import UNLIMITED, put
from tests.faults import HARD, PASSING, SOFT, Ended, fail, play, use

NOBODY = 65534
THROUGH = b"through"
"""The answer behind every door that guards something."""
TYPE = b"Content-Type: text/plain\n\n"
SCRIPT = f"#!/bin/sh\nprintf '{TYPE.decode()}{THROUGH.decode()}'\n".replace("\n\n", "\\n\\n")

Play = Callable[[dict[str, str]], None]
Message = MutableMapping[str, Any]


# The doors: each runs with some settings in a child, and writes its answer to standard output.


def _check(variables: dict[str, str]) -> None:
    use(variables)
    limiter.cgi.check()


def _guard(variables: dict[str, str]) -> None:
    use(variables)
    limiter.cgi.guard()
    os.write(1, TYPE + THROUGH)


def _action(variables: dict[str, str]) -> None:
    use(variables)
    sys.argv = ["guard.py"]
    limiter.apache.guard.run()


def _of_action(script: str) -> dict[str, str]:
    """Return the variables that mod_actions sets for a script."""
    url = f"/{os.path.basename(script)}"
    return {
        "REDIRECT_HANDLER": "limited",
        "REDIRECT_URL": url,
        "PATH_INFO": url,
        "PATH_TRANSLATED": script,
    }


def _wsgi(variables: dict[str, str]) -> None:
    use({})

    def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Any:
        _print_response(status, headers)

    def application(_: object, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [THROUGH]

    door = limiter.wsgi.RateLimit(application)
    environ: dict[str, Any] = {**variables, "wsgi.errors": sys.stderr}
    os.write(1, b"".join(door(environ, start_response)))


def _asgi(variables: dict[str, str]) -> None:
    use(variables)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            _print_response(str(message["status"]), headers)
        else:
            os.write(1, message["body"])

    async def receive() -> Message:
        raise AssertionError("nobody reads the body")

    async def application(_: object, __: object, send: Callable[[Message], Awaitable[None]]) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": THROUGH})

    door = limiter.asgi.RateLimit(application)
    query = variables["QUERY_STRING"].encode()
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": query}
    asyncio.run(door(scope, receive, send))


def _print_response(status: str, headers: list[tuple[str, str]]) -> None:
    fields = [("Status", status), *headers]
    os.write(1, "".join([f"{name}: {value}\n" for name, value in fields]).encode() + b"\n")


def _rewritemap(variables: dict[str, str]) -> None:
    use({})
    sys.argv = ["rewritemap", *[f"{name}={value}" for name, value in variables.items()]]
    line = f"192.0.2.1 {variables['QUERY_STRING']} \n".encode()
    sys.stdin = io.TextIOWrapper(io.BytesIO(line))
    limiter.apache.rewrite_map.main(Handover())


def _hit(variables: dict[str, str]) -> None:
    use(variables)
    sys.argv = ["limiter", "hit", "acme"]
    status = limiter.tools.cli.main()
    sys.stdout.flush()
    os._exit(status)


DOORS: dict[str, Play] = {
    "check": _check,
    "guard": _guard,
    "action": _action,
    "wsgi": _wsgi,
    "asgi": _asgi,
    "rewritemap": _rewritemap,
    "hit": _hit,
}
GUARDS = ("guard", "action", "wsgi", "asgi")
"""The doors with something behind them that answers admitted requests."""


def open_door(door: str, variables: dict[str, str]) -> None:
    """Run a door with the child's own standard output and error."""
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, closefd=False)
    DOORS[door](variables)


# What a door has answered


def status_of(door: str, ended: Ended) -> str:
    """Return the status that a door has answered; the answer must be complete, and nothing more."""
    assert not ended.killed
    assert b"Traceback" not in ended.output + ended.log
    assert b"<" not in ended.output
    if door == "hit":
        return _status_of_hit(ended)
    assert ended.code == 0
    if door == "rewritemap":
        found = re.fullmatch(rb'(200|401|429|500)\|((".*)?\|(".*)?)\|(\d*)\n', ended.output)
        assert found, ended.output
        assert bool(found[5]) == (found[1] == b"429")
        assert found[1] in (b"200", b"429") or found[2] == b"|"
        return found[1].decode()
    return _status_of_response(door, ended.output.decode())


def _status_of_hit(ended: Ended) -> str:
    if ended.code == 2:
        assert ended.output == b""
        return "401" if b"(401)" in ended.log else "500"
    assert re.fullmatch(
        rb"acme: unlimited\n|acme: (allowed|denied, retry after [\d.]+ s)\n(  .* used.*\n)+",
        ended.output,
    )
    assert (b"denied" in ended.output) == (ended.code == 1)
    return ["200", "429"][ended.code]


def _status_of_response(door: str, output: str) -> str:
    head, separator, body = output.partition("\n\n")
    assert separator, output
    pairs = [line.partition(": ")[::2] for line in head.split("\n")]
    assert all(re.fullmatch("[A-Za-z-]+", name) and value for name, value in pairs), head
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(pairs), head
    status = fields.get("status", "200")[:3]
    if door in GUARDS and status == "200":
        assert body == THROUGH.decode()
        assert fields["content-type"] == "text/plain"
        return status
    assert fields["content-type"] == "application/json; charset=utf-8"
    assert int(fields.get("content-length", len(body))) == len(body)
    message = {"200": "OK", "401": "Unauthorized", "404": "Not Found", "429": "Too Many Requests"}
    assert json.loads(body) == {"message": message.get(status, "Internal Server Error")}
    assert ("retry-after" in fields) == (status == "429")
    return status


# The scenes: what a request finds, and what it is then answered.


@dataclass
class Scene:
    """A request: the limits answer ``status``, with ``before`` hits counted already.

    ``calls`` are the calls to the store and the register.  ``entries`` are the register's; None means no
    register.
    """

    status: str
    limits: str
    before: int
    calls: str
    entries: dict[str, str] | None = None
    is_default_store: bool = False

    @property
    def in_force(self) -> str:
        """The limits that apply."""
        return next(iter(self.entries.values())) if self.entries else self.limits

    @property
    def counts(self) -> int:
        """The number of hits that are counted if nothing fails."""
        return int(self.status == "200" and self.in_force != UNLIMITED)


EVERYBODY = {"acme": "1/hour", ".default": "1/hour"}
FURNISH = "listdir mkdir open close rename lstat"
SCENES = {
    "fresh": Scene("200", "2/hour", 0, FURNISH),
    "furnished": Scene("200", "3/hour", 1, "listdir rename"),
    "full": Scene("429", "3/hour", 3, "listdir"),
    "segment": Scene("200", "65/hour", 64, FURNISH),
    "full-segments": Scene("429", "65/hour", 65, "listdir"),
    "two-limits": Scene("200", "3/hour;4/day burst 5", 1, "listdir rename"),
    "register-fresh": Scene("200", "0/second", 0, f"readlink {FURNISH}", EVERYBODY),
    "register-full": Scene("429", "9/second", 1, "readlink listdir", EVERYBODY),
    "register-default": Scene("200", "0/second", 1, "readlink listdir rename", {".default": "2/hour"}),
    "unlimited": Scene("200", "0/second", 0, "readlink", {"acme": UNLIMITED, ".default": UNLIMITED}),
    "stranger": Scene("401", "9/second", 0, "readlink stat", {}),
    "default-store": Scene("200", "1/hour", 0, FURNISH, is_default_store=True),
}


class Stage:
    """Plays one scene at one door again and again, each time as if for the first time."""

    def __init__(self, root: str, door: str, name: str, on_error: str) -> None:
        self.door = door
        self.scene = SCENES[name]
        self.on_error = on_error
        self._root = root
        self.place = root
        self._times = 0

    def play(self, call: int, number: int, is_lasting: bool = False) -> Ended:
        """Play it with this errno in that call, and, if lasting, in all later calls to the store."""
        variables = self.lay_out()
        played = partial(open_door, self.door, variables)
        return play(played, call, fail(number), self.place if is_lasting else None)

    def lay_out(self) -> dict[str, str]:
        """Create the store and the register; return the variables of a request."""
        self._times += 1
        self.place = f"{self._root}/{self._times}"
        for path in (self.place, f"{self.place}/store", f"{self.place}/register"):
            os.mkdir(path)
        for name, text in (self.scene.entries or {}).items():
            put(f"{self.place}/register", name, text)
        if self.scene.before:
            assert Limiter(self._store, self.scene.in_force).hit("acme", self.scene.before)
        _give_away(self.place)
        return {
            "LIMITER_ROOT": "" if self.scene.is_default_store else self._store,
            "LIMITER_LIMIT": self.scene.limits,
            "LIMITER_ON_ERROR": self.on_error,
            "LIMITER_APPS": "" if self.scene.entries is None else f"{self.place}/register",
            "LIMITER_TIMEOUT": "60",
            "TMPDIR": self.place,
            "REQUEST_METHOD": "GET",
            "QUERY_STRING": "app_id=acme",
            **_of_action(f"{self._root}/script"),
        }

    @property
    def _store(self) -> str:
        name = f"limiter-{os.geteuid()}" if self.scene.is_default_store else "store"
        return f"{self.place}/{name}"

    @property
    def counted(self) -> set[int]:
        """The numbers of hits that the limits count now."""
        if self.scene.in_force == UNLIMITED or not os.path.exists(self._store):
            return {0}
        quotas = Limiter(self._store, self.scene.in_force).peek("acme").quotas
        return {quota.limit.quota - quota.remaining for quota in quotas}

    @property
    def rubbish(self) -> list[str]:
        """What an attempt to furnish has left behind."""
        return [
            name for _, names, _ in os.walk(self.place) for name in names if name.startswith(".new-")
        ]


def _give_away(place: str) -> None:
    """Give everything to the user nobody: as root, the RewriteMap's program touches no store that root owns."""
    if os.geteuid() == 0:
        for path in [Path(place), *Path(place).rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


# The law


def judge(stage: Stage, ended: Ended, number: int, is_lasting: bool = False) -> None:
    """Whichever call was struck, the answer is whole, its status is right, and a failure is logged."""
    if (ended.struck, ended.target) == ("write", "1"):
        _judge_unwritten(ended)
        return
    if (stage.door, ended.struck, ended.target) == ("hit", "write", "2"):
        assert (ended.code, ended.output, ended.log) == (2, b"", b""), "the status tells it all the same"
        return
    status = status_of(stage.door, ended)
    if not ended.struck:
        _judge_undisturbed(stage, status, ended)
    elif ended.target.startswith(f"{stage.place}/"):
        _judge_store_failed(stage, status, ended, number, is_lasting)
    else:
        _judge_own_failed(stage, status, ended, number)


def _judge_unwritten(ended: Ended) -> None:
    """No answer is possible: nothing is written, the process ends normally, and one line says why."""
    assert ended.output == b""
    assert ended.code == 0
    assert ended.log.count(b"\n") == 1
    assert b"Traceback" not in ended.log


def _reason(ended: Ended) -> bytes:
    """Return what the log says of a failure.  A 401, which the command line logs, too, is none."""
    return b"" if b"(401)" in ended.log else ended.log


def _judge_undisturbed(stage: Stage, status: str, ended: Ended) -> None:
    assert status == stage.scene.status
    assert not _reason(ended)
    assert stage.counted == {stage.scene.before + stage.scene.counts}


def _judge_store_failed(stage: Stage, status: str, ended: Ended, number: int, is_lasting: bool) -> None:
    """Expect the configured verdict, or the usual answer after a lost race or temporary fault."""
    if number in PASSING and not is_lasting:
        _judge_undisturbed(stage, status, ended)
        assert stage.rubbish == []
        return
    if number in SOFT and not _reason(ended) and not is_lasting:
        is_default = ended.struck.startswith("readlink") and ended.target.endswith("/.default")
        if is_default and number == errno.ENOENT:
            assert status == "401", "the entry for everybody is gone"
            return
        _judge_undisturbed(stage, status, ended)
        return
    admits = stage.on_error == "admit" and stage.door != "hit"
    assert status == ("200" if admits else "500")
    assert b"RateLimit" not in ended.output, "nobody knows where the limits stand"
    assert ended.log.count(b"\n") == 1
    assert b"[Errno " in ended.log
    assert stage.place.encode() in ended.log, "the line names the path"
    if number in HARD + PASSING:
        assert b"[Errno %d] " % number in ended.log
    if not is_lasting:
        assert stage.counted == {stage.scene.before}
        assert stage.rubbish == []


def _judge_own_failed(stage: Stage, status: str, ended: Ended, number: int) -> None:
    """What the server or its script needs does not concern the store or LIMITER_ON_ERROR."""
    assert stage.door == "action"
    if ended.struck == "stat" and number in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        assert (status, ended.log) == ("404", b"")
        return
    assert status == "500"
    assert ended.log.count(b"\n") == 1
    assert b"[Errno %d] " % number in ended.log


WHOLE = ("check", "wsgi", "hit")
"""Doors at which every scene is played: one for each way to the store.  The others share these ways, and differ in how
they answer.
"""
ANSWERS = ("fresh", "furnished", "full", "register-fresh", "stranger")
"""Scenes with every call and every answer."""

CASES = [(door, name) for door in DOORS for name in SCENES if door in WHOLE or name in ANSWERS]


def errnos(at: int, on_error: str) -> list[int]:
    """Return some errnos for this place: all would take too long (test_laws.py tries all for check).

    They are all that may be temporary, two that may only mean a lost race, and one that cannot; the
    choice changes from place to place.  Where failures are admitted, they are detected in the same way,
    so two are enough: the last one and one of the others.
    """
    soft = [SOFT[(2 * at + one) % len(SOFT)] for one in (0, 1)]
    numbers = [*PASSING, *soft, HARD[at % len(HARD)]]
    return numbers if on_error == "deny" else [numbers[at % 4], numbers[-1]]
