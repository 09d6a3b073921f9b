"""A cluster for all tests that leave it as it was, once with each kind of replica."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.laboratory import Laboratory, cluster


@pytest.fixture(scope="package", params=["3", "3 arbiter 1"], ids=["replica3", "arbiter"])
def cluster3(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """Three machines with one store, installed."""
    with cluster(request.param) as made:
        yield made
