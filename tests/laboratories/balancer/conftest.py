"""One load balancer for all tests that leave it unchanged, and what losing its parts costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.laboratories.balancer.laboratory import Balanced, balanced
from tests.laboratories.balancer.play import Outage, table

_outages: list[Outage] = []


@pytest.fixture(scope="package")
def whole() -> Iterator[Balanced]:
    """Directors, web servers and client, set up by the deploy scripts."""
    with balanced() as made:
        made.write_inventory("lo")
        made.do("install")
        yield made


@pytest.fixture(scope="package")
def outages() -> list[Outage]:
    """The measurements so far; they are printed at the end."""
    return _outages


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table that is in docs/cluster.md."""
    if _outages:
        terminalreporter.section("what fails when a part fails")
        terminalreporter.write_line(table(_outages))
