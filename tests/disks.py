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
    if kind == "tmpfs":
        with mounted("tmpfs", "-t", "tmpfs", "-o", f"nr_inodes={inodes},mode=755") as path:
            yield Disk(path)
        return
    with temporary("/tmp") as place:
        make_image(place / "image", kind, inodes)
        with mounted(place / "image", "-o", "loop") as path:
            yield Disk(path)


def make_image(image: Path, kind: str, inodes: int) -> None:
    """Make a file that is a small disk.  Skip the test where this is impossible."""
    if not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"mkfs.{kind} is not installed")
    with image.open("wb") as file:
        file.truncate(_SIZES[kind])
    number = ["-N", str(inodes)] if kind == "ext4" else []
    subprocess.run([f"mkfs.{kind}", "-q", *number, image], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def mounted(source: str | Path, *options: str) -> Iterator[Path]:
    """Mount a file system.  Skip the test without root."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    with temporary("/tmp") as path:
        subprocess.run(["mount", *options, source, path], check=True)
        try:
            yield path
        finally:
            subprocess.run(["umount", path], check=True)
