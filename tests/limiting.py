"""What tests of the core share: clocks, counted and failing system calls, views of a store."""

from __future__ import annotations

import os
import posix
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.core.decision import Decision
from limiter.core.limiter import Limiter

SECOND = 1_000_000
NOW = 1_513_123_440 * SECOND
"""The start of a minute and of a fraction of an hour: calendar windows of up to a minute start here."""
DAY = 86_400 * SECOND
LATER = NOW + 2 * DAY
"""The time at which an application hit at NOW counts as idle."""

KINDS = ["3/minute", "3/minute fixed", "3/minute burst 3"]
FILE_CALLS = (
    *("chmod", "chown", "close", "link", "listdir", "lstat", "mkdir", "open", "rename", "rmdir"),
    *("stat", "statvfs", "unlink"),
)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        """Microseconds since the epoch."""
        return self.now

    def move(self, microseconds: int) -> None:
        self.now += microseconds


class Calls:
    """Counts the limiter's system calls on files, by name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        for name in FILE_CALLS:
            before_each(patch, name, lambda *_, name=name: self.made.append(name))

    def of(self, act: Callable[[], object]) -> list[str]:
        """Return the calls that ``act`` makes."""
        self.made.clear()
        act()
        return list(self.made)


def before_each(patch: pytest.MonkeyPatch, name: str, act: Callable[..., object]) -> None:
    """Call ``act`` with the arguments just before each system call of that name."""
    call = getattr(posix, name)

    def instead(*arguments: object) -> object:
        act(*arguments)
        return call(*arguments)

    patch.setattr(posix, name, instead)


def before(patch: pytest.MonkeyPatch, name: str, act: Callable[..., object], at: int = 1) -> None:
    """Call ``act`` with the arguments just before the system call of that name with that number."""
    made = 0

    def count(*arguments: object) -> None:
        nonlocal made
        made += 1
        if made == at:
            act(*arguments)

    before_each(patch, name, count)


def failing(number: int) -> Callable[..., None]:
    """Return a system call that fails."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def entries(root: str | Path) -> list[str]:
    """Return every file and directory of a store."""
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*"))


def slots(root: str) -> list[str]:
    """Return the names of all slots in a store."""
    return [name.rpartition("/")[2] for name in entries(root) if name.count("/") == 1]


def tree(root: str, *more: str) -> dict[Path, list[int]]:
    """Return parts of the status of a store and all in it: they show whether anything was touched."""
    parts = ("st_ino", "st_mode", "st_nlink", "st_size", "st_mtime_ns", "st_ctime_ns", *more)
    paths = [Path(root), *Path(root).rglob("*")]
    return {path: [getattr(path.lstat(), part) for part in parts] for path in paths}


def admitted(limiter: Limiter, most: int, app: str = "acme") -> int:
    """Return how many of ``most`` hits are admitted."""
    return sum(limiter.hit(app).allowed for _ in range(most))


def hit_at(root: str, limits: str, app: str = "acme", count: int = 1, now: int = NOW) -> None:
    """Play this many hits, all at the same time.  Each must be admitted."""
    assert admitted(Limiter(root, limits, clock=lambda: now), count, app) == count


def used(root: str, limits: str, now: int) -> list[int]:
    """Return how many hits of the application each limit counts."""
    quotas = Limiter(root, limits, clock=lambda: now).peek("acme").quotas
    return [quota.limit.quota - quota.remaining for quota in quotas]


def microseconds(decision: Decision) -> int:
    """Return a finite retry_after in the clock's unit."""
    return round(decision.retry_after * SECOND)
