"""The shell scripts: checked by the tools that know what goes wrong in them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python


@pytest.mark.parametrize(
    "script", ["deploy/apache/install", "deploy/glusterfs/glusterfs", "tests/run", ".ci/run"]
)
@pytest.mark.parametrize("checker", ["shellcheck", "shfmt -d -i 2 -ci"])
def test_script_is_clean(checker: str, script: str) -> None:
    """Neither finds anything."""
    command = checker.split()
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed (apt-get install {command[0]})")
    done = subprocess.run([*command, REPOSITORY / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
