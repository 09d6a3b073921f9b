"""What the tests of all doors share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doors.staged import SCRIPT


@pytest.fixture
def script_root(root: str) -> str:
    """A root with a script in it, which the door for Apache's Action becomes."""
    script = Path(root, "script")
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return root
