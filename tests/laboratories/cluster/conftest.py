"""Clusters for all tests that leave them unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.laboratories.cluster.laboratory import Laboratory, cluster


@pytest.fixture(scope="package")
def cluster3() -> Iterator[Laboratory]:
    """Three machines with one store, installed: replica 3."""
    with cluster("3") as made:
        yield made


@pytest.fixture(scope="package")
def arbiter() -> Iterator[Laboratory]:
    """The same with replica 3 arbiter 1: the third machine keeps only the names."""
    with cluster("3 arbiter 1") as made:
        yield made


@pytest.fixture
def kinds(cluster3: Laboratory, arbiter: Laboratory) -> list[Laboratory]:
    """A cluster of each kind, for tests that use both at once."""
    return [cluster3, arbiter]
