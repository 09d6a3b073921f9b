"""The tests of a library are left out where it is not installed: only the main Python has all of them."""

from __future__ import annotations

from importlib.util import find_spec

MISSING = [name for name in ("flask_limiter", "rest_framework", "slowapi") if find_spec(name) is None]
collect_ignore_glob = ["test_*"] if MISSING else []


def pytest_report_header() -> str:
    """Say what is left out."""
    return f"tests/contrib is left out: {', '.join(MISSING)} missing" if MISSING else ""
