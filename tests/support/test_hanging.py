"""The file system that hangs on command: it passes everything through, hangs, and leaves nothing."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hanging import Mount, hanging_mount
from tests.places import REPOSITORY

NOBODY = 65534


@pytest.fixture(name="mount", scope="module")
def _mount() -> Iterator[Mount]:
    with hanging_mount() as mount:
        yield mount


@pytest.fixture
def place(mount: Mount) -> Path:
    """A directory of the test's own on the file system."""
    path = mount.path / str(uuid.uuid4())
    path.mkdir()
    return path


def forked(action: Callable[[], object]) -> int:
    """Return the process id of a child that runs the action, and exits with 0 or the number of an
    OSError.
    """
    child = os.fork()
    if not child:
        status = 255
        try:
            action()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return child


def status_of(child: int) -> int:
    """Return the exit status of a child; negative: a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_files_are_as_on_any_file_system(place: Path) -> None:
    file = place / "a"
    file.write_bytes(b"some" * 50_000)
    with file.open("ab") as opened:
        opened.write(b"more")
    assert file.read_bytes() == b"some" * 50_000 + b"more"
    os.truncate(file, 4)
    assert file.read_bytes() == b"some"
    os.rename(file, place / "b")
    os.utime(place / "b", ns=(1_000_000_001, 2_000_000_002))
    (place / "b").chmod(0o640)
    status = (place / "b").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o7777, status.st_size) == (2_000_000_002, 0o640, 4)
    os.link(place / "b", place / "c")
    os.symlink("10/second", place / "link")
    assert os.readlink(place / "link") == "10/second"
    assert sorted(os.listdir(place)) == ["b", "c", "link"]
    for name in os.listdir(place):
        (place / name).unlink()
    place.rmdir()
    assert not place.exists()


def test_errors_are_passed_through(place: Path) -> None:
    (place / "full" / "of").mkdir(parents=True)
    (place / "empty").mkdir()
    with pytest.raises(OSError, match="not empty"):
        os.rename(place / "empty", place / "full")
    with pytest.raises(FileNotFoundError):
        os.rename(place / "nothing", place / "something")
    with pytest.raises(FileExistsError):
        (place / "full").mkdir()


def test_it_tells_how_full_it_is(place: Path) -> None:
    status, backing = os.statvfs(place), os.statvfs("/dev/shm")
    assert (status.f_blocks, status.f_bsize) == (backing.f_blocks, backing.f_bsize)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_other_users_have_what_is_theirs_and_no_more(place: Path) -> None:
    (place / "theirs").mkdir()
    os.chown(place / "theirs", NOBODY, NOBODY)
    (place / "not theirs").touch()

    def become_nobody_and_try() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        (place / "theirs" / "a").touch()
        os.rename(place / "theirs" / "a", place / "theirs" / "b")
        os.rename(place / "not theirs", place / "theirs" / "c")

    assert status_of(forked(become_nobody_and_try)) == errno.EACCES
    status = (place / "theirs" / "b").stat()
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    assert os.listdir(place / "theirs") == ["b"]


@pytest.mark.parametrize(
    "call",
    [os.listdir, os.stat, os.statvfs, lambda place: os.rename(f"{place}/a", f"{place}/b")],
    ids=["listdir", "stat", "statvfs", "rename"],
)
def test_a_call_hangs_until_released(mount: Mount, place: Path, call: Callable[[Path], object]) -> None:
    (place / "a").touch()
    call(place)
    (place / "a").touch()
    mount.hang()
    thread = threading.Thread(target=call, args=[place])
    thread.start()
    mount.wait_until_stuck()
    assert thread.is_alive()
    assert mount.stuck == 1
    mount.release()
    thread.join()
    assert mount.stuck == 0


def test_dozens_hang_at_once(mount: Mount) -> None:
    mount.hang()
    children = [forked(lambda: os.listdir(mount.path)) for _ in range(50)]
    mount.wait_until_stuck(len(children))
    mount.release()
    assert [status_of(child) for child in children] == [0] * len(children)


def test_a_process_that_hangs_dies_by_no_signal(mount: Mount) -> None:
    mount.hang()
    child = forked(lambda: os.listdir(mount.path))
    mount.wait_until_stuck()
    os.kill(child, signal.SIGKILL)
    while state_of(child) != "D":  # this state begins when the signal has been handled
        assert state_of(child) not in "XZ"
    mount.release()
    assert status_of(child) == -signal.SIGKILL


def state_of(process: int) -> str:
    """Return the state letter that ps shows."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_nothing_is_left_even_of_one_that_hangs_and_is_in_use() -> None:
    with hanging_mount() as mount:
        file = os.open(mount.path / "a", os.O_CREAT | os.O_WRONLY)
        mount.hang()
        child = forked(lambda: os.listdir(mount.path))
        mount.wait_until_stuck()
    status_of(child)
    with pytest.raises(OSError, match="not connected"):
        os.fstat(file)
    with suppress(OSError):  # closing calls the file system or not, depending on its earlier answers
        os.close(file)
    assert not mount.path.exists()


def test_nothing_is_left_of_one_whose_owner_is_killed() -> None:
    script = (
        "import signal\nfrom tests.hanging import hanging_mount\n"
        "with hanging_mount() as mount:\n"
        "    mount.hang()\n"
        "    print(mount._daemon.pid, *mount._daemon.args[-2:], flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        daemon, path, backing = process.stdout.readline().split()
        end = os.pidfd_open(int(daemon))
        process.kill()
    select.select([end], [], [])
    os.close(end)
    assert not Path(path).exists()
    assert not Path(backing).exists()
