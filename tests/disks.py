"""A small disk of its own, to be filled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.places import temporary

_SIZES = {"ext4": 16 << 20, "xfs": 300 << 20}  # bytes; on disk only what is used


@dataclass
class Disk:
    """A file system with room for few files, that all users may enter."""

    path: Path

    @property
    def used(self) -> int:
        """How many inodes are in use.  On tmpfs, each hard link counts as one."""
        status = os.statvfs(self.path)
        return status.f_files - status.f_ffree

    def fill(self) -> None:
        """Leave no room for another file."""
        for number in range(os.statvfs(self.path).f_ffree):
            (self.path / f"{number}.file").touch()

    def empty(self) -> None:
        """Remove the files that fill it."""
        for file in self.path.glob("*.file"):
            file.unlink()


@contextmanager
def small_disk(inodes: int = 200, kind: str = "tmpfs") -> Iterator[Disk]:
    """Mount one with so many inodes (xfs: very many).  Skip the test without root."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if kind != "tmpfs" and not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"mkfs.{kind} is not installed")
    with temporary("/tmp") as place, temporary("/tmp") as path:
        source, options = "tmpfs", ["-t", "tmpfs", "-o", f"nr_inodes={inodes},mode=755"]
        if kind != "tmpfs":
            source, options = str(place / "image"), ["-o", "loop"]
            with open(source, "wb") as image:
                image.truncate(_SIZES[kind])
            number = ["-N", str(inodes)] if kind == "ext4" else []
            subprocess.run(
                [f"mkfs.{kind}", "-q", *number, source], check=True, stdout=subprocess.DEVNULL
            )
        subprocess.run(["mount", *options, source, path], check=True)
        try:
            yield Disk(path)
        finally:
            subprocess.run(["umount", path], check=True)
