"""What tests of the Limiter share: a clock that stands still, calls that are counted, and a look at a store."""

from __future__ import annotations

import posix
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.hit import Decision
from limiter.limiter import Limiter

SECOND = 1_000_000
NOW = 1_513_123_440 * SECOND
"""The begin of a minute and of an hour's fraction: calendar windows of up to a minute begin here."""

KINDS = ["3/minute", "3/minute fixed", "3/minute burst 3"]
FILE_CALLS = ("close", "listdir", "lstat", "mkdir", "open", "rename", "rmdir", "stat", "unlink")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        """Microseconds since the epoch."""
        return self.now


class Calls:
    """Counts the system calls on files that the limiter makes, by name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        for name in FILE_CALLS:
            patch.setattr(posix, name, self._counting(name, getattr(posix, name)))

    def _counting(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def counting(*arguments: object) -> object:
            self.made.append(name)
            return call(*arguments)

        return counting

    def of(self, act: Callable[[], object]) -> list[str]:
        """The calls that this makes."""
        self.made.clear()
        act()
        return list(self.made)


def entries(root: str) -> list[str]:
    """Every file and directory of a store."""
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*"))


def tree(root: str) -> dict[str, tuple[int, int, int]]:
    """Every file and directory of a store, the store itself too, and whether it has been touched."""
    found = [Path(root), *Path(root).rglob("*")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_ctime_ns)
            for path in found}  # fmt: skip


def admitted(limiter: Limiter, most: int, app: str = "acme") -> int:
    """How many of so many hits are allowed."""
    return sum(limiter.hit(app).allowed for _ in range(most))


def microseconds(decision: Decision) -> int:
    """A finite retry_after as the clock counts."""
    return round(decision.retry_after * SECOND)
