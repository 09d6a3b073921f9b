"""What the tests of all doors share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doors.staged import SCRIPT
from tests.places import new_root


@pytest.fixture
def script_root(root: str) -> str:
    """A root with a script in it, which the door for Apache's Action becomes."""
    script = Path(root, "script")
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return root


@pytest.fixture
def apps() -> Iterator[str]:
    """An empty register."""
    path = new_root("/dev/shm")
    yield str(path)
    shutil.rmtree(path)
