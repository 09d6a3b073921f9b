"""A load balancer for all tests that leave it as it was, and what the losses of its parts cost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.balancer.laboratory import Balanced, balanced
from tests.balancer.play import Outage, table

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
    """What was measured so far: it is printed in the end."""
    return _outages


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table that deploy/README.md carries."""
    if _outages:
        terminalreporter.section("what fails when a part fails")
        terminalreporter.write_line(table(_outages))
