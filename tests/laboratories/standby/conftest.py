"""Two instances for all tests that leave them unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.laboratories.machines import running
from tests.laboratories.standby.laboratory import Vpc


@pytest.fixture(scope="package")
def pair() -> Iterator[Vpc]:
    """Two web servers, with nothing installed on them yet."""
    with running(Vpc) as made:
        yield made
