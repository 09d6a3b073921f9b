"""Processes that act at the same time: what they return, how they fail, and that none is left."""

from __future__ import annotations

import errno
import os
import signal
from itertools import chain
from pathlib import Path

import pytest

from limiter.doctor.processes import child, together


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_results_come_in_the_order_of_the_processes() -> None:
    """Each is a process of its own, and has ended."""
    answers = together(3, lambda me: (me, os.getpid()))
    assert [me for me, _ in answers] == [0, 1, 2]
    pids = {pid for _, pid in answers}
    assert len(pids | {os.getpid()}) == 4
    assert not any(map(_exists, pids))


def test_all_processes_run_at_once() -> None:
    """Each waits for the one before it, and the first waits for the last."""
    pipes = [os.pipe() for _ in range(3)]

    def work(me: int) -> bytes:
        os.write(pipes[(me + 1) % 3][1], bytes([me]))
        return os.read(pipes[me][0], 1)

    assert together(3, work) == [b"\2", b"\0", b"\1"]
    for end in chain(*pipes):
        os.close(end)


def test_the_error_of_one_process_is_raised() -> None:
    def work(me: int) -> int:
        return os.stat("/nonexistent").st_size if me else 0

    with pytest.raises(FileNotFoundError) as error:
        together(2, work)
    assert (error.value.errno, error.value.filename) == (errno.ENOENT, "/nonexistent")


def test_the_death_of_one_process_is_an_error() -> None:

    def work(me: int) -> None:
        if me:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="A process of this check has died"):
        together(2, work)


def test_a_child_ends_with_the_block() -> None:
    reader, writer = os.pipe()

    def action() -> None:
        os.write(writer, b"%d\n" % os.getpid())
        signal.pause()

    with child(action), os.fdopen(reader) as file:
        pid = int(file.readline())
        assert _exists(pid)
    os.close(writer)
    assert not _exists(pid)
