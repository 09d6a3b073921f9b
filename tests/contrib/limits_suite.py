"""Runs the own test suite of the library ``limits`` on our storage::

    git clone https://github.com/alisaifee/limits
    python3 -m venv .venv-suite && .venv-suite/bin/pip install --group suite
    .venv-suite/bin/python -m tests.contrib.limits_suite limits

All of its tests that are made for each storage run: storages, strategies and concurrency, sync and async.  The
tests are those of the checkout, the library is the installed one.  This module is also the plugin for pytest
that puts our storage in place of the others.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

FILES = (
    "tests/test_storage.py",
    "tests/test_strategy.py",
    "tests/aio/test_storage.py",
    "tests/aio/test_strategy.py",
    "tests/integration/test_concurrency.py",
)
_ROOT = "LIMITS_SUITE_ROOT"
_NAME = "access-limiter"


def pytest_configure() -> None:
    """Put our storage in place of all others, before the tests are collected."""

    import limiter.contrib.limits as ours

    suite = importlib.import_module("tests.utils")  # that of the library
    root = ours.uri(os.environ[_ROOT])
    for prefix, storages in (("", suite.ALL_STORAGES), ("async+", suite.ALL_STORAGES_ASYNC)):
        storages.clear()
        storages[_NAME] = pytest.param(f"{prefix}{root}", {}, None, id=_NAME)
    for name in ("moving_window_storage", "async_moving_window_storage"):
        every = name.replace("moving_window", "all")
        setattr(suite, name, getattr(suite, every))


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    """As the suite does for the others."""
    for path in Path(os.environ[_ROOT]).iterdir():
        shutil.rmtree(path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of single storages name them in a list of their own: it becomes ours."""
    import limiter.contrib.limits as ours

    for marker in metafunc.definition.iter_markers("parametrize"):
        if marker.args[0] == "uri, args, expected_instance, fixture":
            is_async = "aio" in str(metafunc.definition.path)
            uri = ours.uri(os.environ[_ROOT])
            kind = ours.AsyncFileStorage if is_async else ours.FileStorage
            row = pytest.param(f"async+{uri}" if is_async else uri, {}, kind, None, id=_NAME)
            marker.args[1][:] = [row]


def main(arguments: list[str] | None = None) -> int:
    """Run the suite.  Returns pytest's exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.contrib.limits_suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", type=Path, help="a checkout of the library's repository")
    checkout = parser.parse_args(arguments).checkout.resolve()
    if not (checkout / FILES[0]).exists():
        parser.error(f"{checkout}: no checkout of limits (it has no {FILES[0]})")
    here = Path(__file__)
    with tempfile.TemporaryDirectory(prefix="limiter-test-") as place:
        # Without the library beside it, which lacks what is made when it is built.
        shutil.copytree(checkout / "tests", f"{place}/tests")
        os.mkdir(f"{place}/store")
        environ = {
            **os.environ,
            # The suite is a package named tests, as ours is.  It comes first: it is in the working directory.
            "PYTHONPATH": f"{here.parents[2]}:{here.parent}",
            _ROOT: f"{place}/store",
        }
        options = [
            "-c",
            os.devnull,
            "--rootdir=.",
            "-o",
            "asyncio_mode=auto",
            "-p",
            here.stem,
            "-k",
            _NAME,
        ]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--disable-warnings",
            *options,
            *FILES,
        ]
        return subprocess.run(command, cwd=place, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
