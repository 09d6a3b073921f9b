"""Clusters for all tests that leave them unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.laboratories.cluster.laboratory import Cluster
from tests.laboratories.machines import running


@pytest.fixture(scope="package")
def cluster3() -> Iterator[Cluster]:
    """Three machines with one store, installed: replica 3."""
    with running(partial(Cluster, "3")) as made:
        yield made


@pytest.fixture(scope="package")
def arbiter() -> Iterator[Cluster]:
    """The same with replica 3 arbiter 1: the third machine keeps only the names."""
    with running(partial(Cluster, "3 arbiter 1")) as made:
        yield made


@pytest.fixture
def kinds(cluster3: Cluster, arbiter: Cluster) -> list[Cluster]:
    """A cluster of each kind, for tests that use both at once."""
    return [cluster3, arbiter]
