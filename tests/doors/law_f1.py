"""Law F1 at every door: what a request finds, and what it must be answered if a call fails.

A ``Stage`` plays one scene at one door again and again, with one more fault each time; ``judge`` decides
whether the answer is right.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from limiter.core.limiter import Limiter
from limiter.request.register import UNLIMITED, put
from tests.conftest import NOBODY
from tests.doors.doors import DOORS_AND_HIT, THROUGH, Door, Request
from tests.faults import HARD, PASSING, SOFT, Ended, fail, play


@dataclass
class Scene:
    """What a request finds: the limits answer ``status``, with ``before`` hits counted already.

    ``calls`` are the calls to the store and the register, without those of root and for a newcomer alone.
    ``entries`` are the register's, if there is one.  ``is_new``: the store and the register do not know
    the client; ``grows``: it needs a further directory.
    """

    status: str
    limits: str
    before: int
    calls: str
    entries: dict[str, str] | None = None
    is_default_store: bool = False
    is_new: bool = False
    grows: bool = False

    @property
    def in_force(self) -> str:
        """The limits that apply."""
        return next(iter(self.entries.values())) if self.entries else self.limits

    @property
    def counts(self) -> int:
        """The number of hits that are counted if nothing fails."""
        return int(self.status == "200" and self.in_force != UNLIMITED)


_EVERYBODY = {"acme": "1/hour", ".default": "1/hour"}
_FURNISH = "listdir rmdir stat mkdir open close rename lstat"
SCENES = {
    "fresh": Scene("200", "2/hour", 0, f"{_FURNISH} chmod link", is_new=True),
    "furnished": Scene("200", "3/hour", 1, "listdir rename"),
    "full": Scene("429", "3/hour", 3, "listdir"),
    "segment": Scene("200", "65/hour", 64, f"{_FURNISH} chmod", grows=True),
    "full-segments": Scene("429", "65/hour", 65, "listdir"),
    "two-limits": Scene("200", "3/hour;4/day burst 5", 1, "listdir rename"),
    "register-fresh": Scene("200", "0/second", 0, f"readlink {_FURNISH} chmod", _EVERYBODY),
    "register-full": Scene("429", "9/second", 1, "readlink listdir", _EVERYBODY),
    "register-default": Scene("200", "0/second", 1, "readlink listdir rename", {".default": "2/hour"}),
    "unlimited": Scene("200", "0/second", 0, "readlink", {"acme": UNLIMITED, ".default": UNLIMITED}),
    "stranger": Scene("401", "9/second", 0, "readlink stat", {}),
    "default-store": Scene("200", "1/hour", 0, _FURNISH, is_default_store=True, is_new=True),
}

_WHOLE = ("check", "wsgi", "hit")
"""Doors at which every scene is played, one for each way to the store.  The others differ only in how
they answer.
"""
_ANSWERS = ("fresh", "furnished", "full", "register-fresh", "stranger")
"""Scenes with every call and every answer."""

CASES = [(door, name) for door in DOORS_AND_HIT for name in SCENES if door in _WHOLE or name in _ANSWERS]


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMLINK)
"""Errors that mean that a store has no room."""

UNUSABLE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors that mean that the default store is elsewhere."""

_NOTE = b"limiter: The store is "


def errnos(at: int, on_error: str) -> list[int]:
    """Return some errnos for this place: all would take too long (test_laws.py tries all for check).

    They are all that may be temporary, two that may only mean a lost race, and one that cannot; the
    choice changes from place to place.  Where failures are admitted, they are detected in the same way,
    so two are enough: the last one and one of the others.
    """
    soft = [SOFT[(2 * at + one) % len(SOFT)] for one in (0, 1)]
    numbers = [*PASSING, *soft, HARD[at % len(HARD)]]
    return numbers if on_error == "deny" else [numbers[at % 4], numbers[-1]]


class Stage:
    """Plays one scene at one door again and again, each time as if for the first time."""

    def __init__(self, root: str, door: str, name: str, on_error: str) -> None:
        self.door = DOORS_AND_HIT[door]
        self.scene = SCENES[name]
        self.admits = on_error == "admit" and door != "hit"
        """Whether a request is admitted if the store fails."""
        self.is_stranger = self.scene.is_new and door != "hit"
        """Whether the client is a newcomer.  The command line counts none."""
        self._on_error = on_error
        self._root = root
        self.place = root
        self._times = 0

    def play(self, call: int, number: int, is_lasting: bool = False) -> Ended:
        """Play it with this errno in that call, and, if lasting, in all later calls to the store."""
        played = partial(self.door.open, Request(self.lay_out()))
        return play(played, call, fail(number), self.place if is_lasting else None)

    def lay_out(self) -> dict[str, str]:
        """Create the store and the register; return the settings."""
        self._times += 1
        self.place = f"{self._root}/{self._times}"
        for path in (self.place, f"{self.place}/store", f"{self.place}/register"):
            os.mkdir(path)
        os.chmod(f"{self.place}/store", 0o777)  # what is made in it needs chmod with any usual umask
        for name, text in (self.scene.entries or {}).items():
            put(f"{self.place}/register", name, text)
        if self.scene.before:
            assert Limiter(self.store, self.scene.in_force).hit("acme", self.scene.before)
        if os.geteuid() == 0:  # as root, the map's program touches no store that root owns
            for entry in [Path(self.place), *Path(self.place).rglob("*")]:
                os.chown(entry, NOBODY, NOBODY, follow_symlinks=False)
        return {
            "LIMITER_ROOT": "" if self.scene.is_default_store else self.store,
            "LIMITER_LIMIT": self.scene.limits,
            "LIMITER_ON_ERROR": self._on_error,
            "LIMITER_APPS": "" if self.scene.entries is None else f"{self.place}/register",
            "LIMITER_TIMEOUT": "60",
            "TMPDIR": self.place,
        }

    @property
    def store(self) -> str:
        name = f"limiter-{os.geteuid()}" if self.scene.is_default_store else "store"
        return f"{self.place}/{name}"

    @property
    def counted(self) -> set[int]:
        """The numbers of hits that the limits count now."""
        if self.scene.in_force == UNLIMITED or not os.path.exists(self.store):
            return {0}
        quotas = Limiter(self.store, self.scene.in_force).peek("acme").quotas
        return {quota.limit.quota - quota.remaining for quota in quotas}

    def is_in_store(self, ended: Ended) -> bool:
        """Whether the call that failed was one to the store or the register."""
        return ended.target.startswith(f"{self.place}/") or self._is_elsewhere(ended)

    def _is_elsewhere(self, ended: Ended) -> bool:
        """Whether the call that failed was one to a place where the default store may be, too."""
        is_outside = not ended.target.startswith(f"{self.place}/")
        return self.scene.is_default_store and is_outside and ended.struck in ("lstat", "mkdir")

    @property
    def calls(self) -> set[str]:
        """The calls to the store and the register, without those of root alone."""
        return {*self.scene.calls.split(), *(["statvfs"] if self.is_stranger else [])}

    def is_harmless(self, ended: Ended, number: int) -> bool:
        """Whether the request can do without the call that failed."""
        if self._is_elsewhere(ended):
            return ended.struck == "mkdir" or number in UNUSABLE
        # A file system may have no hard links, and no modes or owners.
        is_refused = number in (errno.EPERM, errno.EACCES)
        return ended.struck == "link" or (ended.struck in ("chmod", "chown") and is_refused)

    def is_refused(self, ended: Ended, number: int, is_lasting: bool) -> bool:
        """Whether the call that failed shows that there is no room for a newcomer, or for more slots."""
        is_bounded = self.is_stranger or self.scene.grows
        if not is_bounded or number not in FULL or not ended.target.startswith(self.store):
            return False
        name = ended.target[len(self.store) + 1 :]
        if ended.struck in ("listdir", "rename"):
            if name.startswith("acme@"):
                return False  # it is furnished, or nobody knows yet that it is not
        elif not name and ended.struck != "statvfs":
            return False  # the default store itself cannot be made
        # EMLINK may also mean that the directory is no longer missing.  Then the hit looks again.
        looks_again = number == errno.EMLINK and ended.struck == "rmdir"
        if is_lasting:
            return not (looks_again and name.startswith("acme@"))
        looks_again |= number == errno.EMLINK and (ended.struck, name[:5]) == ("rename", ".new-")
        return ended.struck != "link" and not looks_again

    def has_remains(self) -> bool:
        """Whether an attempt to furnish has left a directory behind."""
        return any(Path(self.place).rglob(".new-*"))


def status_of(door: Door, ended: Ended) -> str:
    """Return the status that a door has answered.  The answer must be complete, and nothing more."""
    answer = door.read(ended)
    assert b"<" not in ended.output
    if door.name == "hit":
        return answer.status
    assert ("retry-after" in answer.fields) == (answer.status == "429")
    if door.name == "rewritemap":
        assert answer.status in ("200", "429") or not answer.fields
    elif door.guards and answer.status == "200":
        assert (answer.fields["content-type"], answer.body) == ("text/plain", THROUGH)
    else:
        assert answer.fields["content-type"] == "application/json; charset=utf-8"
        assert int(answer.fields.get("content-length", len(answer.body))) == len(answer.body)
        messages = {"200": "OK", "401": "Unauthorized", "404": "Not Found", "429": "Too Many Requests"}
        assert json.loads(answer.body) == {
            "message": messages.get(answer.status, "Internal Server Error")
        }
    return answer.status


def judge(stage: Stage, ended: Ended, number: int, is_lasting: bool = False) -> None:
    """Whichever call failed, the answer is whole, its status is right, and the failure is logged."""
    if (ended.struck, ended.target) == ("write", "2") and stage.scene.is_default_store:
        assert (status_of(stage.door, ended), ended.log) == ("200", b""), "it was only a note"
        return
    if (ended.struck, ended.target) == ("write", "1"):
        assert ended.output == b"", "no answer is possible"
        assert ended.code == 0
        _judge_one_line(ended)
        return
    if (stage.door.name, ended.struck, ended.target) == ("hit", "write", "2"):
        assert (ended.code, ended.output, ended.log) == (2, b"", b""), "the exit status is enough"
        return
    status = status_of(stage.door, ended)
    if not ended.struck:
        _judge_unharmed(stage, status, ended)
    elif stage.is_in_store(ended):
        _judge_store_failed(stage, status, ended, number, is_lasting)
    else:
        _judge_own_failed(stage, status, ended, number)


def _reasons(ended: Ended) -> list[bytes]:
    """The lines of the log, without the note on where the default store has been made."""
    return [line for line in ended.log.splitlines() if not line.startswith(_NOTE)]


def _judge_one_line(ended: Ended) -> None:
    assert len(_reasons(ended)) == 1
    assert b"Traceback" not in ended.log


def _has_reason(ended: Ended) -> bool:
    """Whether a failure is logged.  A 401, which the command line logs, too, is none."""
    return _reasons(ended) != [] and b"(401)" not in ended.log


def _judge_unharmed(stage: Stage, status: str, ended: Ended) -> None:
    assert status == stage.scene.status
    assert not _has_reason(ended)
    assert ended.log.count(_NOTE) <= stage.scene.is_default_store
    assert ended.struck or ended.log.count(_NOTE) == stage.scene.is_default_store
    assert stage.counted == {stage.scene.before + stage.scene.counts}


def _judge_refused(stage: Stage, status: str, ended: Ended, is_lasting: bool) -> None:
    """There is no room.  This is no failure of the store."""
    assert status == "429"
    _judge_one_line(ended)
    who = "more hits of known clients" if stage.scene.grows else "new clients"
    line = f"{stage.store}: {who} are refused (429): few inodes or bytes are free"
    assert _reasons(ended) == [f"limiter: {line}".encode()]
    assert stage.counted == {stage.scene.before}
    assert is_lasting or not stage.has_remains()


def _judge_store_failed(stage: Stage, status: str, ended: Ended, number: int, is_lasting: bool) -> None:
    """Expect the configured verdict, or the usual answer after a lost race or temporary fault."""
    if stage.is_refused(ended, number, is_lasting):
        _judge_refused(stage, status, ended, is_lasting)
        return
    if stage.is_harmless(ended, number) and not is_lasting:
        _judge_unharmed(stage, status, ended)
        return
    is_lost = number in SOFT and not _has_reason(ended)
    if (is_lost or number in PASSING) and not is_lasting:
        is_default = ended.struck.startswith("readlink") and ended.target.endswith("/.default")
        if is_default and number == errno.ENOENT:
            assert status == "401", "the entry for everybody is gone"
            return
        _judge_unharmed(stage, status, ended)
        assert is_lost or not stage.has_remains()
        return
    assert status == ("200" if stage.admits else "500")
    assert b"RateLimit" not in ended.output, "nobody knows where the limits stand"
    _judge_one_line(ended)
    assert b"[Errno " in ended.log
    paths = (stage.place.encode(), ended.target.encode())
    assert any(path in ended.log for path in paths), "the line names the path"
    if number in HARD + PASSING:
        assert b"[Errno %d] " % number in ended.log
    if not is_lasting:
        assert stage.counted == {stage.scene.before}
        assert not stage.has_remains()


def _judge_own_failed(stage: Stage, status: str, ended: Ended, number: int) -> None:
    """What the server or its script needs does not concern the store or LIMITER_ON_ERROR."""
    assert stage.door.name == "action"
    if ended.struck == "stat" and number in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        assert (status, ended.log) == ("404", b"")
        return
    assert status == "500"
    _judge_one_line(ended)
    assert b"[Errno %d] " % number in ended.log
