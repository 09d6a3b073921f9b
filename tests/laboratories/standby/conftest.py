"""Two instances for all tests that leave them unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.laboratories.standby.laboratory import Vpc, vpc


@pytest.fixture(scope="package")
def pair() -> Iterator[Vpc]:
    """Two web servers, with nothing installed on them yet."""
    with vpc() as made:
        made.write_pair()
        yield made
