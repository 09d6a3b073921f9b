"""The tests of the browser are left out where its driver is not installed: only the main Python has it."""

from __future__ import annotations

from importlib.util import find_spec

MISSING = [name for name in ("axe_core_python", "selenium") if find_spec(name) is None]
collect_ignore = ["test_browser.py"] if MISSING else []


def pytest_report_header() -> str:
    """Say what is left out."""
    return f"tests/status/test_browser.py is left out: {', '.join(MISSING)} missing" if MISSING else ""
