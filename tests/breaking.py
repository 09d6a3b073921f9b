"""File systems that break what the limiter relies on: real mounts (FUSE), each with one flaw.

``python -m tests.breaking FLAW PLACE BACKING`` serves one, as ``tests.hanging`` does.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from limiter.doctor.meeting import PLACE
from tests.hanging import PassThrough, hanging_mount, serve

OLD = 10
_OLD_NEWS = 300
"""How often PLACE is listed as before: doctors that wait for messages list it every millisecond."""


class _SeveralWinners(PassThrough):
    """A rename succeeds although its name has just gone."""

    _renamed: ClassVar[dict[str, str]] = {}

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        try:
            return super().getattr(path, file)
        except FileNotFoundError:
            if path not in self._renamed:
                raise
            return super().getattr(self._renamed[path])

    def rename(self, old: str, new: str) -> None:
        try:
            super().rename(old, new)
        except FileNotFoundError:
            return
        self._renamed[old] = new

    def unlink(self, path: str) -> None:
        super().unlink(path)
        for old in [old for old, new in self._renamed.items() if new == path]:
            del self._renamed[old]


class _OldListings(PassThrough):
    """Listing a directory returns an old listing a fixed number of times before a new one is read."""

    _listed: ClassVar[dict[str, tuple[int, list[str]]]] = {}

    def readdir(self, path: str, file: int) -> list[str]:
        left, names = self._listed.get(path, (0, []))
        if not left:
            left, names = _OLD_NEWS if path.endswith(PLACE) else OLD, super().readdir(path, file)
        self._listed[path] = left - 1, names
        return names


class _NamesTwice(PassThrough):
    """A directory shows one name twice."""

    def readdir(self, path: str, file: int) -> list[str]:
        names = super().readdir(path, file)
        return [*names, names[-1]]


class _NamesMissing(PassThrough):
    """A directory does not show all its names."""

    def readdir(self, path: str, file: int) -> list[str]:
        names = super().readdir(path, file)
        return names[:-1] if len(names) > 4 else names


class _NoDirectoryRename(PassThrough):
    """A directory cannot be renamed, like one in a lower layer of an overlay."""

    def rename(self, old: str, new: str) -> None:
        if os.path.isdir(self._at(old)):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        super().rename(old, new)


class _ClocksApart(PassThrough):
    """The file system's clock is one minute behind."""

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        status = super().getattr(path, file)
        return {**status, "st_mtime": status["st_mtime"] - 60_000_000_000}


class _Slow(PassThrough):
    """Listing a directory that is measured takes long."""

    def readdir(self, path: str, file: int) -> list[str]:
        if "/latency-" in path:
            time.sleep(0.06)
        return super().readdir(path, file)


FLAWS = {
    "several winners": _SeveralWinners,
    "old listings": _OldListings,
    "names twice": _NamesTwice,
    "names missing": _NamesMissing,
    "no directory rename": _NoDirectoryRename,
    "clocks apart": _ClocksApart,
    "slow": _Slow,
    "none": PassThrough,
}


@contextmanager
def breaking_mount(flaw: str) -> Iterator[Path]:
    """Mount a new, empty file system with that flaw.  Skip the test without (permission for) FUSE."""
    with hanging_mount("tests.breaking", flaw) as mount:
        yield mount.path


if __name__ == "__main__":
    serve(FLAWS[sys.argv[1]], *sys.argv[2:])
