"""A file system that hangs on command: a real mount (FUSE) that passes calls through to a directory.

Its own process serves it (``python -m tests.hanging PLACE BACKING``).  It reads commands from standard
input, one a line, and answers each with the number of calls that hang.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tests.places import REPOSITORY, new_root

_DEADLINE = 60
_UNMOUNT = "fusermount3"
# How many calls the kernel may make at once.  From 3.12 on the library has its own limit, of 10.
_THREADS = 100
_THREADS_LIMITED = 12
_READY = "ready"
# No process waits for these: the kernel closes a file in the background.
_NEVER_WAITED_FOR = ("init", "release", "use_ns")


class Mount:
    """A directory on its own file system, which the kernel does not cache."""

    def __init__(self, path: Path, daemon: subprocess.Popen[str]) -> None:
        self.path = path
        self._daemon = daemon
        self._lock = threading.Lock()

    def hang(self) -> None:
        """Block every further call on the file system until ``release``."""
        self._tell("hang")

    def release(self) -> None:
        """Let the blocked calls, and all further ones, go on."""
        self._tell("release")

    @property
    def stuck(self) -> int:
        """The number of calls, of any process, that are blocked now."""
        return self._tell("count")

    def wait_until_stuck(self, number: int = 1) -> None:
        """Return as soon as this many calls are blocked."""
        assert self._tell(f"wait {number}") >= number, f"not {number} calls within {_DEADLINE} s"

    def _tell(self, command: str) -> int:
        assert self._daemon.stdin is not None
        assert self._daemon.stdout is not None
        with self._lock:
            self._daemon.stdin.write(command + "\n")
            self._daemon.stdin.flush()
            return int(self._daemon.stdout.readline())


@contextmanager
def mounted(*module: str) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Mount a new, empty file system, served by this module and arguments; yield path and process.

    Skip the test if FUSE is missing or not permitted.
    """
    _skip_without_fuse()
    path, backing = new_root("/tmp"), new_root("/dev/shm")
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", *module, path, backing],
            cwd=REPOSITORY,
            stdin=pipe,
            stdout=pipe,
            stderr=log,
            text=True,
        )
        try:
            assert daemon.stdout is not None
            if daemon.stdout.readline().strip() != _READY:
                daemon.wait()
                log.seek(0)
                _skip(f"FUSE cannot mount here: {log.read().strip()}")
            yield path, daemon
        finally:
            _end(daemon)
            if daemon.returncode != 0:
                _remove(path, backing)


@contextmanager
def hanging_mount() -> Iterator[Mount]:
    """Mount a new, empty file system that does not hang yet; if root mounts it, all users can use it.

    Skip the test if FUSE is missing or not permitted.  In the end, all calls are answered and the file
    system is unmounted, even if it is still in use.  Processes that still use it get errors.
    """
    with mounted("tests.hanging") as (path, daemon):
        yield Mount(path, daemon)


def _skip_without_fuse() -> None:
    if not Path("/dev/fuse").exists():
        _skip("/dev/fuse is missing")
    if shutil.which(_UNMOUNT) is None:
        _skip(f"{_UNMOUNT} is missing (package fuse3)")
    if importlib.util.find_spec("mfusepy") is None:
        _skip("the Python package mfusepy is missing")


def _skip(why: str) -> NoReturn:
    import pytest  # the daemon never needs it, and starts in half the time without it

    pytest.skip(why)


def _end(daemon: subprocess.Popen[str]) -> None:
    """End the daemon, and so all calls that hang: nothing else answers them."""
    try:
        daemon.communicate("end\n", timeout=_DEADLINE)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.communicate()


def _remove(path: Path, backing: Path) -> None:
    """Unmount the file system if it is mounted, even if it is in use, and remove its directories."""
    subprocess.run([_UNMOUNT, "-u", "-z", "-q", path], check=False, stderr=subprocess.DEVNULL)
    path.rmdir()
    shutil.rmtree(backing)


# The daemon


class _Gate:
    """The place where calls wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_closed = False
        self._waiting = 0

    def passing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that makes the call once the gate is open."""

        @functools.wraps(call)
        def instead(*arguments: Any) -> Any:
            with self._changed:
                self._waiting += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._is_closed)
                self._waiting -= 1
            return call(*arguments)

        return instead

    def obey(self, command: str, number: str = "1") -> int:
        """Obey a command; return the number of calls that are blocked then."""
        with self._changed:
            if command == "wait":
                self._changed.wait_for(lambda: self._count() >= int(number), _DEADLINE)
            elif command != "count":
                self._is_closed = command == "hang"
                self._changed.notify_all()
            return self._count()

    def _count(self) -> int:
        return self._waiting if self._is_closed else 0


class _Through:
    """The calls of a FUSE file system, passed on to another directory."""

    use_ns = True

    def __init__(self, backing: str, gate: _Gate, caller: Callable[[], tuple[int, int, int]]) -> None:
        self._backing = backing
        self._caller = caller
        for name in vars(_Through):
            if not name.startswith("_") and name not in _NEVER_WAITED_FOR:
                setattr(self, name, gate.passing(getattr(self, name)))

    def init(self, _: str) -> None:
        print(_READY, flush=True)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._backing + path, mode)

    def chown(self, path: str, user: int, group: int) -> None:
        os.chown(self._backing + path, user, group, follow_symlinks=False)

    def create(self, path: str, mode: int, flags: int) -> int:
        file = os.open(self._backing + path, flags | os.O_CREAT, mode)
        self._give_to_caller(path)
        return file

    def fsync(self, _: str, datasync: int, file: int) -> None:
        (os.fdatasync if datasync else os.fsync)(file)

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        status = os.fstat(file) if file else os.lstat(self._backing + path)
        times = {f"st_{time}": getattr(status, f"st_{time}_ns") for time in ("atime", "mtime", "ctime")}
        names = (
            "st_mode",
            "st_ino",
            "st_nlink",
            "st_uid",
            "st_gid",
            "st_size",
            "st_blksize",
            "st_blocks",
        )
        return {**times, **{name: getattr(status, name) for name in names}}

    def link(self, new: str, old: str) -> None:
        os.link(self._backing + old, self._backing + new)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._backing + path, mode)
        self._give_to_caller(path)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._backing + path, flags)

    def read(self, _: str, size: int, offset: int, file: int) -> bytes:
        return os.pread(file, size, offset)

    def readdir(self, path: str, _: int) -> list[str]:
        return [".", "..", *os.listdir(self._backing + path)]

    def readlink(self, path: str) -> str:
        return os.readlink(self._backing + path)

    def release(self, _: str, file: int) -> None:
        os.close(file)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._backing + old, self._backing + new)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._backing + path)

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._backing + path)
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_")}

    def symlink(self, path: str, text: str) -> None:
        os.symlink(text, self._backing + path)
        self._give_to_caller(path)

    def truncate(self, path: str, size: int, file: int | None = None) -> None:
        os.truncate(file or self._backing + path, size)

    def unlink(self, path: str) -> None:
        os.unlink(self._backing + path)

    def utimens(self, path: str, times: tuple[int, int]) -> None:
        os.utime(self._backing + path, ns=times, follow_symlinks=False)

    def write(self, _: str, data: bytes, offset: int, file: int) -> int:
        return os.pwrite(file, data, offset)

    def _give_to_caller(self, path: str) -> None:
        user, group, _ = self._caller()
        if os.geteuid() == 0:
            os.chown(self._backing + path, user, group, follow_symlinks=False)


def _serve(path: str, backing: str) -> None:
    os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
    os.umask(0)
    import mfusepy

    gate = _Gate()
    listener = threading.Thread(target=_listen, args=(gate, Path(path), Path(backing)), daemon=True)
    listener.start()
    limited = mfusepy.fuse_version_minor >= _THREADS_LIMITED
    mfusepy.FUSE(
        _Through(backing, gate, mfusepy.fuse_get_context),
        path,
        foreground=True,
        fsname="hanging",
        allow_other=os.geteuid() == 0,
        default_permissions=True,
        hard_remove=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        **({"max_threads": _THREADS} if limited else {}),
    )
    listener.join()


def _listen(gate: _Gate, path: Path, backing: Path) -> None:
    """Obey commands until "end", or until the commanding process has ended."""
    for line in sys.stdin:
        if line == "end\n":
            break
        print(gate.obey(*line.split()), flush=True)
    gate.obey("release")
    _remove(path, backing)
    os._exit(0)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
