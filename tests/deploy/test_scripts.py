"""The shell scripts: checked by tools that find common mistakes, and by tests of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

_SHELL = re.compile(rb"#!.*\b(ba)?sh\b|#!.*\bbats\b|# shellcheck shell=")


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline()


def _scripts() -> list[str]:
    """Return all shell scripts."""
    places = [REPOSITORY / place for place in (".ci", "deploy", "tests")]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return sorted(str(it.relative_to(REPOSITORY)) for it in files if _SHELL.match(_first_line(it)))


def _run(*command: str | Path) -> tuple[int, str]:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed (apt-get install {command[0]})")
    done = subprocess.run(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("script", _scripts())
@pytest.mark.parametrize("checker", ["shellcheck -x -P SCRIPTDIR", "shfmt -d -i 2 -ci"])
def test_script_is_clean(checker: str, script: str) -> None:
    """Neither tool finds anything."""
    assert _run(*checker.split(), script) == (0, "")


def test_no_script_is_overlooked() -> None:
    """The known names are among those found."""
    known = {".ci/run", "tests/run", "deploy/apache/install", "deploy/cluster.bash"}
    known |= {f"deploy/{name}/{name}" for name in ("glusterfs", "loadbalancer")}
    assert known <= set(_scripts())


@pytest.mark.parametrize(
    "tests", sorted((REPOSITORY / "tests/deploy/bats").glob("*.bats")), ids=lambda it: it.stem
)
def test_script_does_what_it_says(tests: Path) -> None:
    """No test fails, and nothing else is printed."""
    status, said = _run("bats", tests)
    assert status == 0, said
    assert re.fullmatch(r"1\.\.\d+\n(ok .*\n)+", said), said
