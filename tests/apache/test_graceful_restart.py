"""Handing over: the program ends when it gets the signal, and a copy of it goes on answering."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import PYTHON, REPOSITORY, new_root

TOLD_WHILE_IT_ANSWERS = """\
import os, signal, sys

def main(handover):
    for _ in handover.lines(sys.stdin.buffer):
        process = os.getpid()
        os.kill(process, signal.SIGTERM)
        print(process, os.getpid(), flush=True)
"""
TOLD_WHILE_IT_STARTS = """\
import os, signal, sys

os.kill(os.getpid(), signal.SIGTERM)

def main(handover):
    for _ in handover.lines(sys.stdin.buffer):
        print(os.getpid(), flush=True)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """The program, with only those parts of the package that it starts with."""
    path = new_root("/tmp")
    shutil.copy(REPOSITORY / "deploy/apache/rewritemap", path)
    (path / "limiter/apache").mkdir(parents=True)
    for name in ("__init__.py", "apache/__init__.py", "apache/graceful_restart.py"):
        shutil.copy(REPOSITORY / "limiter" / name, path / "limiter" / name)
    yield path
    shutil.rmtree(path)


def started(place: Path, python: str) -> subprocess.Popen[str]:
    """Start the program with another Python than that of its first line, but with the same options."""
    program = place / "rewritemap"
    options = program.read_text().splitlines()[0].partition(" ")[2]
    return subprocess.Popen(
        [python, options, program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("python", sorted({PYTHON, sys.executable}))
def test_an_answer_is_finished_before_a_copy_is_left(place: Path, python: str) -> None:
    (place / "limiter/apache/rewrite_map.py").write_text(TOLD_WHILE_IT_ANSWERS)
    with started(place, python) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == f"{process.pid} {process.pid}\n"
        assert process.wait(timeout=60) == 0
        # The copy dies by the signal, as any program would.
        said, error = process.communicate("\n", timeout=60)
    assert (said, error) == ("", "")


@pytest.mark.parametrize("python", sorted({PYTHON, sys.executable}))
def test_a_copy_is_left_by_a_program_that_has_hardly_started(place: Path, python: str) -> None:
    (place / "limiter/apache/rewrite_map.py").write_text(TOLD_WHILE_IT_STARTS)
    with started(place, python) as process:
        assert process.wait(timeout=60) == 0
        said, error = process.communicate("\n", timeout=60)
    assert error == ""
    assert said not in ("", f"{process.pid}\n")
