"""Clients in other languages on GlusterFS, one on each machine: they keep one limit together."""

from __future__ import annotations

import pytest

from limiter.core.limit import SECOND
from limiter.core.notation import parse
from tests.clients.judge import judge
from tests.clients.kit import FILES, flood
from tests.laboratories.cluster.laboratory import STORE, Cluster

pytestmark = pytest.mark.one_python

LIMIT = "10/second"
TIME = 20 * SECOND


def test_each_machine_has_another_language_and_the_laws_hold(cluster3: Cluster) -> None:
    processes = [
        (language, None, machine.command())
        for language, machine in zip(sorted(FILES), cluster3.machines)
    ]
    assert len(processes) == 3
    admitted, denied = flood(STORE, LIMIT, processes, TIME)
    judge(parse(LIMIT), admitted, denied)
    assert len(admitted) >= 100
