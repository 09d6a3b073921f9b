"""Processes that act at the same time: what they return, how they fail, and that none is left."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from limiter.doctor.processes import child, together


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_each_returns_its_own() -> None:
    """The results come in the order of the processes; each is a process of its own, and has ended."""
    answers = together(3, lambda me: (me, os.getpid()))
    assert [me for me, _ in answers] == [0, 1, 2]
    pids = {pid for _, pid in answers}
    assert len(pids | {os.getpid()}) == 4
    assert not any(map(_is_there, pids))


def test_all_are_there_at_once() -> None:
    """Each waits for the one before it, and the first waits for the last."""
    pipes = [os.pipe() for _ in range(3)]

    def work(me: int) -> bytes:
        os.write(pipes[(me + 1) % 3][1], bytes([me]))
        return os.read(pipes[me][0], 1)

    try:
        assert together(3, work) == [b"\2", b"\0", b"\1"]
    finally:
        for ends in pipes:
            for end in ends:
                os.close(end)


def test_error_of_one_is_raised() -> None:
    """The error says what it is about."""

    def work(me: int) -> int:
        return os.stat("/nonexistent").st_size if me else 0

    with pytest.raises(FileNotFoundError) as error:
        together(2, work)
    assert (error.value.errno, error.value.filename) == (errno.ENOENT, "/nonexistent")


def test_one_that_dies_is_missed() -> None:
    """It returns nothing, and the others do not wait for it."""

    def work(me: int) -> None:
        if me:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="A process that tried it has died"):
        together(2, work)


def test_child_ends_with_the_block() -> None:
    """This holds even for a child that would never end."""
    heard, told = os.pipe()

    def action() -> None:
        os.write(told, b"%d\n" % os.getpid())
        signal.pause()

    with child(action), os.fdopen(heard) as file:
        pid = int(file.readline())
        assert _is_there(pid)
    os.close(told)
    assert not _is_there(pid)
