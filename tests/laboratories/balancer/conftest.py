"""One load balancer for all tests that leave it unchanged, and what losing its parts costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.laboratories.balancer.laboratory import Balanced
from tests.laboratories.balancer.requesting import HEADER
from tests.laboratories.machines import running

_outages: list[str] = []


@pytest.fixture(scope="package")
def whole() -> Iterator[Balanced]:
    """Directors, web servers and client, set up by the deploy scripts."""
    with running(Balanced) as made:
        made.accept_by("lo")
        made.deploy("install")
        yield made


@pytest.fixture(scope="package")
def outages() -> list[str]:
    """What losing parts has cost so far; printed at the end."""
    return _outages


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table that is in docs/cluster.md."""
    if _outages:
        terminalreporter.section("what fails when a part fails")
        terminalreporter.write_line("\n".join([HEADER, *_outages]))
