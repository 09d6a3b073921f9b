"""Stores take in any number of clients here, so that they hold nothing but what is tested."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def any_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of the core but those of newcomers counts them."""
    monkeypatch.setattr("limiter.core.limiter.NEWCOMERS", "")
