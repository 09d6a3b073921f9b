"""Runs a script in a Python of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.places import REPOSITORY
from tests.waiting import SAFETY


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run the script, which may import from ``limiter``, until it ends."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SAFETY,
        check=False,
    )
