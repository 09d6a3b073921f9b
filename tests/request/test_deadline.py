"""The deadline of one request: it is kept, and the client sees that it is kept."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from limiter.request import deadline
from limiter.request.deadline import call_within
from tests.places import REPOSITORY


def test_what_returns_in_time_returns() -> None:
    assert call_within(60, divmod, 7, 3) == (2, 1)


def test_what_raises_in_time_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        call_within(60, divmod, 7, 0)


def test_even_an_exit_is_handed_on() -> None:
    with pytest.raises(SystemExit):
        call_within(60, sys.exit, 3)


def test_a_call_in_time_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    call_within(60, divmod, 7, 3)
    assert set(threading.enumerate()) <= before
    assert not deadline.is_stuck()


SILENT = """\
import time
from limiter.request import deadline
from limiter.core.store import StoreError
from _thread import allocate_lock

never = allocate_lock()
never.acquire()
begin = time.monotonic()
try:
    deadline.call_within(0.1, never.acquire)
except StoreError as error:
    print(time.monotonic() - begin, deadline.is_stuck(), error.errno, error)
"""


def test_silence_is_an_error_of_the_store_at_the_deadline() -> None:
    """The call itself would never return."""
    ended = subprocess.run(
        [sys.executable, "-c", SILENT], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    took, _, said = ended.stdout.partition(" ")
    assert float(took) >= 0.1
    silent = "[Errno 110] The store did not answer within 0.1 s (LIMITER_TIMEOUT)"
    assert said == f"True {errno.ETIMEDOUT} {silent}\n"
    assert ended.stderr == ""


def test_hanging_up_is_seen_before_the_process_ends() -> None:
    """The process goes on until the test ends it: only its files are closed."""
    told, tell = os.pipe()
    script = (
        "import os\nfrom limiter.request import deadline\n"
        f"os.write(1, b'answer'); deadline.hang_up(); os.read({told}, 1)"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        pass_fds=[told],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == (b"answer", b"")
        assert process.poll() is None
        os.write(tell, b"x")
        assert process.wait(timeout=60) == 0
    for file in (told, tell):
        os.close(file)
