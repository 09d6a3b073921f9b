"""What tests of the Limiter share: a clock that stands still, a counter of calls, a view of a store."""

from __future__ import annotations

import posix
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.core.hit import Decision
from limiter.core.limiter import Limiter

SECOND = 1_000_000
NOW = 1_513_123_440 * SECOND
"""The start of a minute and of a fraction of an hour: calendar windows of up to a minute start here."""

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
    """Counts the limiter's system calls on files, by name."""

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
        """Return the calls that ``act`` makes."""
        self.made.clear()
        act()
        return list(self.made)


def entries(root: str) -> list[str]:
    """Return every file and directory of a store."""
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*"))


def tree(root: str) -> dict[str, tuple[int, int, int]]:
    """Return inode, mtime and ctime of a store and all in it: they show whether it was touched."""
    found = [Path(root), *Path(root).rglob("*")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_ctime_ns)
            for path in found}  # fmt: skip


def admitted(limiter: Limiter, most: int, app: str = "acme") -> int:
    """Return how many of ``most`` hits are admitted."""
    return sum(limiter.hit(app).allowed for _ in range(most))


def microseconds(decision: Decision) -> int:
    """Return a finite retry_after in the clock's unit."""
    return round(decision.retry_after * SECOND)
