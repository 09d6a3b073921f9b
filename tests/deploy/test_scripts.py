"""The shell scripts: checked by tools that find common mistakes, and by tests of their own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.deploying import call
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

_PLACES = (".ci", "deploy", "tests")


def _run(*command: str | Path) -> tuple[int, str]:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed (apt-get install {command[0]})")
    done = call(*command)
    return done.returncode, done.stdout + done.stderr


def test_layout() -> None:
    assert _run("shfmt", "-d", "-i", "2", "-ci", *_PLACES) == (0, "")


def test_no_common_mistakes() -> None:
    """shfmt finds the shell scripts, also those without an ending."""
    scripts = _run("shfmt", "-f", *_PLACES)[1].split()
    assert {".ci/run", "tests/run", "deploy/cluster.bash", "deploy/standby/takeover"} <= set(scripts)
    assert _run("shellcheck", "-x", "-P", "SCRIPTDIR", *scripts) == (0, "")


@pytest.mark.parametrize(
    "tests", sorted((REPOSITORY / "tests/deploy/bats").glob("*.bats")), ids=lambda it: it.stem
)
def test_functions(tests: Path) -> None:
    """No test fails, and nothing else is printed."""
    status, output = _run("bats", tests)
    assert status == 0, output
    assert re.fullmatch(r"1\.\.\d+\n(ok .*\n)+", output), output
