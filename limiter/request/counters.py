"""What processes that stay have decided, in files mapped into memory: counting makes no system call.

Each process has a file of its own in LIMITER_METRICS, so that it needs no lock of the file system.  A reader
adds up all of them.  The file of a process that has ended is added to the file ``ended``, and removed.
"""

import errno
import fcntl
import json
import mmap
import os
from _thread import allocate_lock
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

METRICS = {
    "LIMITER_METRICS": (
        *(str, ""),
        "a directory for the counters of processes that stay: docs/metrics.md (default: none are kept)",
    ),
}
"""In the form of ``limiter.request.settings.REQUEST``."""

NAMES = ("admitted", "denied", "unauthorized", "failed", "shadow", "near", "nanoseconds")
"""Requests by their verdict; admitted ones that left less than a tenth, and the time that they took."""

PLACES = {name: place for place, name in enumerate(NAMES, 1)}
"""Where each of them is kept."""

_ERRORS = 32  # the place of errno 0; those above 200 are counted as 0
_ERRORS_MOST = 200
_CELLS = 256
_MAGIC = 0x4C494D4954455231  # LIMITER1
_SUFFIX = ".counters"
_ENDED = "ended"


class Counters:
    """The counters of this process in one directory.  Threads may share them, and a forked child has its own.

    ``cells`` is None until ``open``, and in a new child.  A directory that cannot be used is no error: requests
    matter more.  ``problem`` then says what is wrong.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.lock = allocate_lock()
        self.cells: memoryview | None = None
        self.problem = ""
        os.register_at_fork(after_in_child=self._forget)

    def add(self, place: int, number: int = 1) -> None:
        """Add to one of PLACES."""
        cells = self.cells or self.open()
        with self.lock:
            cells[place] += number

    def fail(self, number: int) -> None:
        """Count an error of the store by its errno, beside the verdict."""
        self.add(_ERRORS + (number if 0 < number < _ERRORS_MOST else 0))

    def open(self) -> memoryview:
        """The cells, with the lock held for each addition: ``cells[PLACES[...]] += 1``."""
        with self.lock:
            if self.cells is None:
                try:
                    self.cells = _mapped(self._directory)
                except OSError as error:
                    self.problem = f"LIMITER_METRICS={self._directory!r:.200}: {error.strerror}"
                    self.cells = memoryview(bytearray(8 * _CELLS)).cast("Q")
            return self.cells

    def _forget(self) -> None:
        self.lock = allocate_lock()
        self.cells = None


_kept: "dict[str, Counters]" = {}


def counters_of(directory: str) -> Counters:
    """The counters of this process in this directory: all gates share them."""
    counters = _kept.get(directory)
    if counters is None:
        counters = _kept.setdefault(directory, Counters(directory))
    return counters


def _mapped(directory: str) -> memoryview:
    """A new file for this process.  Raises OSError."""
    path = f"{directory}/{os.getpid()}-{os.urandom(8).hex()}{_SUFFIX}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        os.posix_fallocate(file, 0, 8 * _CELLS)  # a full file system must not kill the process later
        cells = memoryview(mmap.mmap(file, 8 * _CELLS)).cast("Q")
    finally:
        os.close(file)
    cells[0] = _MAGIC
    return cells


class Sums:
    """What all processes have counted: a number for each of NAMES, and the errors by errno."""

    def __init__(self) -> None:
        self.cells = [0] * _CELLS
        self.processes = 0

    def __getitem__(self, name: str) -> int:
        return self.cells[PLACES[name]]

    @property
    def errors(self) -> "dict[str, int]":
        """The errors by the name of their errno; ``other``: those that have none."""
        found = {
            errno.errorcode.get(number, "other"): self.cells[_ERRORS + number]
            for number in range(_ERRORS_MOST)
        }
        return {name: number for name, number in found.items() if number}

    def add(self, cells: "list[int]") -> None:
        """Add what a process has counted."""
        self.cells = [one + other for one, other in zip(self.cells, cells)]


def read_counters(directory: str) -> Sums:
    """Add up the counters in this directory, and put away those of processes that have ended.

    Raises OSError if it cannot be used.
    """
    with _locked(directory) as is_writable:
        sums = Sums()
        folded, ended = _ended(directory)
        sums.add(ended)
        gone = []
        for name in sorted(os.listdir(directory)):
            if not name.endswith(_SUFFIX):
                continue
            if name in folded:
                gone.append(name)  # a reader was killed before it could remove it
                continue
            with open(f"{directory}/{name}", "rb") as file:
                content = file.read(8 * _CELLS)
            cells = [*memoryview(content).cast("Q")] if len(content) == 8 * _CELLS else []
            if not cells or cells[0] != _MAGIC:
                continue
            sums.add([0, *cells[1:]])
            if os.path.exists(f"/proc/{name.partition('-')[0]}"):
                sums.processes += 1
            else:
                gone.append(name)
                ended = [one + other for one, other in zip(ended, [0, *cells[1:]])]
        if gone and is_writable:
            _put_away(directory, gone, ended)
        return sums


def _ended(directory: str) -> "tuple[set[str], list[int]]":
    """The files that were put away, and their sums."""
    try:
        with open(f"{directory}/{_ENDED}", encoding="utf-8") as file:
            text = json.load(file)
    except FileNotFoundError:
        return set(), [0] * _CELLS
    return set(text["files"]), text["cells"]


def _put_away(directory: str, files: "list[str]", cells: "list[int]") -> None:
    """Keep the sums of these files in their place.  Killed at any moment, it loses and doubles nothing."""
    aside = f"{directory}/{_ENDED}.new"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump({"files": files, "cells": cells}, file)
    os.replace(aside, f"{directory}/{_ENDED}")
    for name in files:
        os.unlink(f"{directory}/{name}")


@contextmanager
def _locked(directory: str) -> "Iterator[bool]":
    """Be the only reader.  Yields whether this user may put files away."""
    is_writable = os.access(directory, os.W_OK)
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if is_writable else fcntl.LOCK_SH)
        yield is_writable
    finally:
        os.close(file)
