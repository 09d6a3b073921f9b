"""What the tests of reports share: the log, and a mail server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mailbox import Mailbox, mailbox

DEADLINE = 60


def entries(place: Path) -> list[dict[str, Any]]:
    """Return the entries of the log in that directory."""
    file = place / "log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def box() -> Iterator[Mailbox]:
    """A mail server."""
    with mailbox() as it:
        yield it
