"""A file system that hangs on command: a real mount (FUSE) that passes calls through to a directory.

Its own process serves it (``python -m tests.hanging PLACE BACKING``).  There, each call first needs a
shared lock on BACKING.  The test holds the exclusive one for as long as the file system shall hang.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.places import REPOSITORY, new_root

_DEADLINE = 60
_READY = "ready\n"


class Mount:
    """A directory on its own file system, which the kernel does not cache."""

    def __init__(self, path: Path, backing: int, daemon: subprocess.Popen[str]) -> None:
        self.path = path
        self._backing = backing
        self._daemon = daemon

    def hang(self) -> None:
        """Block every further call on the file system until ``release``."""
        fcntl.flock(self._backing, fcntl.LOCK_EX)

    def release(self) -> None:
        """Let the blocked calls, and all further ones, go on."""
        fcntl.flock(self._backing, fcntl.LOCK_UN)

    def wait_until_stuck(self) -> None:
        """Return as soon as a call, of any process, is blocked: it waits for the lock (proc_locks(5))."""
        status = os.fstat(self._backing)
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        waiting = re.compile(f"-> .* {device}:{status.st_ino} ")
        end = time.monotonic() + _DEADLINE
        while not waiting.search(Path("/proc/locks").read_text()):
            assert time.monotonic() < end, f"no call within {_DEADLINE} s"
            time.sleep(0.01)


@contextmanager
def hanging_mount(module: str = "tests.hanging", *arguments: str) -> Iterator[Mount]:
    """Mount a new, empty file system that does not hang yet; if root mounts it, all users can use it.

    Skip the test if FUSE is missing or not permitted.  In the end, the file system is unmounted, even if
    it is still in use.  Processes that still use it get errors.
    """
    path, backing = new_root("/tmp"), new_root("/dev/shm")
    lock = os.open(backing, os.O_RDONLY)
    pipe = subprocess.PIPE
    command: list[str | Path] = [sys.executable, "-m", module, *arguments, path, backing]
    daemon = subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        assert daemon.stdout is not None
        if daemon.stdout.readline() != _READY:
            import pytest  # the daemon never needs it, and starts in half the time without it

            pytest.skip(f"FUSE (packages fuse3, mfusepy) cannot mount here: {daemon.communicate()[1]}")
        yield Mount(path, lock, daemon)
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
        daemon.communicate()  # the end of its input ends it
        _unmount(path)  # a test may have killed it
        path.rmdir()
        shutil.rmtree(backing)


def _unmount(path: str | Path) -> None:
    command = ["fusermount3", "-u", "-z", "-q", path]
    subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


# The daemon


class PassThrough:
    """The calls of a FUSE file system that the tests need, passed on to another directory."""

    use_ns = True

    def __init__(self, backing: str) -> None:
        self._backing = backing

    def _at(self, path: str) -> str:
        """Wait until the file system does not hang; return the path in the other directory."""
        lock = os.open(self._backing, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.close(lock)
        return self._backing + path

    def init(self, _: str) -> None:
        sys.stdout.write(_READY)
        sys.stdout.flush()

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: str, user: int, group: int) -> None:
        os.chown(self._at(path), user, group, follow_symlinks=False)

    def create(self, path: str, mode: int, flags: int) -> int:
        file = os.open(self._at(path), flags | os.O_CREAT, mode)
        self._give_to_caller(path)
        return file

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        status = os.fstat(file) if file else os.lstat(self._at(path))
        # The names are sorted: st_mtime_ns replaces st_mtime.
        names = [name for name in dir(status) if name.startswith("st_")]
        return {name.replace("_ns", ""): getattr(status, name) for name in names}

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)
        self._give_to_caller(path)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags)

    def read(self, _: str, size: int, offset: int, file: int) -> bytes:
        return os.pread(file, size, offset)

    def readdir(self, path: str, _: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def release(self, _: str, file: int) -> None:
        os.close(file)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def write(self, _: str, data: bytes, offset: int, file: int) -> int:
        return os.pwrite(file, data, offset)

    def _give_to_caller(self, path: str) -> None:
        import mfusepy

        user, group, _ = mfusepy.fuse_get_context()
        os.chown(self._backing + path, user, group, follow_symlinks=False)


def serve(operations: type[PassThrough], path: str, backing: str) -> None:
    """Serve a file system until standard input ends, at the latest with the process of the test."""
    os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
    os.umask(0)
    import mfusepy

    threading.Thread(target=_end, args=(path,), daemon=True).start()
    mfusepy.FUSE(
        operations(backing),
        path,
        foreground=True,
        fsname="hanging",
        allow_other=os.geteuid() == 0,
        default_permissions=True,
        hard_remove=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )


def _end(path: str) -> None:
    sys.stdin.read()
    _unmount(path)
    os._exit(0)


if __name__ == "__main__":
    serve(PassThrough, *sys.argv[1:])
