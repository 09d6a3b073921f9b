"""tests/run itself: whether it fails exactly when one of its parts does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

# Whatever is run, as python3, pip, ruff, mypy or pytest: all is well but the part that $FAILS names.
_TOOL = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && for tool in python pip ruff mypy; do cp "$0" "$3/bin/$tool"; done ;;
  "-c ") ;;
  "-c "*) echo 3.11 ;;
  "-m pytest "*"not one_python"*) echo "with $0"; case "$0" in .venv-"$FAILS"/*) exit 1 ;; esac ;;
  "-m pytest "*--ignore*) [ "$FAILS" != tests ] ;;
  "-m pytest tests/cluster"*) [ "$FAILS" != cluster ] ;;
  "-m pytest "*) echo 'two machines'; [ "$FAILS" != laboratories ] ;;
  "") [ "$FAILS" != "${0##*/}" ] ;;
  "check "*) [ "$FAILS" != ruff ] ;;
esac
"""


def _run(directory: Path, fails: str) -> subprocess.CompletedProcess[str]:
    script = directory / "project/tests/run"
    script.parent.mkdir(parents=True)
    script.write_bytes((REPOSITORY / "tests/run").read_bytes())
    tools = directory / "bin"
    tools.mkdir()
    for name in ("python3", "python3.12", "python3.13"):
        (tools / name).write_text(_TOOL)
        (tools / name).chmod(0o755)
    return subprocess.run(
        ["bash", script],
        env={"PATH": f"{tools}:/usr/bin:/bin", "FAILS": fails, "PYENV_ROOT": str(directory)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_is_well_when_each_part_is(tmp_path: Path) -> None:
    """The exit of what runs in the background and has ended is no failure of its own."""
    done = _run(tmp_path, "none")
    assert (done.returncode, done.stderr) == (0, "")
    assert "== Several machines on this one\ntwo machines\n" in done.stdout
    for version in ("3.12", "3.13"):
        assert done.stdout.count(f"with .venv-{version}/bin/python\n") == 1


@pytest.mark.parametrize("part", ["ruff", "mypy", "tests", "cluster", "3.12", "3.13", "laboratories"])
def test_a_part_that_fails_is_a_failure(tmp_path: Path, part: str) -> None:
    """Each of them."""
    assert _run(tmp_path, part).returncode == 1
