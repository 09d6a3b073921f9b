"""A small disk of its own (tmpfs), to be filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.places import temporary


@dataclass
class Disk:
    """A file system with room for 200 files, that all users may enter."""

    path: Path

    def fill(self) -> None:
        """Leave no room for another file."""
        for number in range(os.statvfs(self.path).f_ffree):
            (self.path / f"{number}.file").touch()

    def empty(self) -> None:
        """Remove the files that fill it."""
        for file in self.path.glob("*.file"):
            file.unlink()


@contextmanager
def small_disk() -> Iterator[Disk]:
    """Mount one.  Skip the test without root."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    with temporary("/tmp") as path:
        options = "nr_inodes=200,mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
        try:
            yield Disk(path)
        finally:
            subprocess.run(["umount", path], check=True)
