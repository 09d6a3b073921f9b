"""Where things are, and an installed copy to try: shared by the tests and the benchmarks."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PYTHON = "/usr/bin/python3"
"""The interpreter that the CGI scripts name in their first line."""


def new_root(place: str) -> Path:
    """Make an empty directory in ``place`` that anyone may enter, Apache's user too."""
    root = Path(tempfile.mkdtemp(prefix="limiter-test-", dir=place))
    root.chmod(0o755)
    return root


@contextmanager
def temporary(place: str) -> Iterator[Path]:
    """Make such a directory, and remove it after the block."""
    root = new_root(place)
    try:
        yield root
    finally:
        shutil.rmtree(root)


def install(place: Path) -> None:
    """Copy the package and cgi-bin to ``place``, laid out and precompiled as the installer does it."""
    for name in ("limiter", "cgi-bin"):
        shutil.copytree(REPOSITORY / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("500.json", "guard.conf", "macros.conf", "map.conf", "rewritemap"):
        shutil.copy(REPOSITORY / "deploy/apache" / name, place)
    subprocess.run(
        [PYTHON, "-B", "-m", "limiter", "compile"], cwd=place, stdout=subprocess.DEVNULL, check=True
    )
