"""Clients in other languages on GlusterFS, one on each machine: they keep one limit together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from limiter.core.limit import SECOND
from limiter.core.notation import parse
from tests.clients.judge import judge
from tests.clients.kit import FILES, HERE, flood
from tests.laboratories.cluster.laboratory import STORE, Cluster
from tests.laboratories.machines import COPY

pytestmark = pytest.mark.one_python

LIMIT = "10/second"
TIME = 20 * SECOND


def test_each_machine_has_another_language_and_the_laws_hold(cluster3: Cluster) -> None:
    place = Path(COPY)
    for file in (*FILES.values(), *HERE.glob("driver.*")):
        shutil.copy(file, cluster3.path(f"{COPY}/{file.name}"))
    processes = [
        (language, place / FILES[language].name, machine.command(), place)
        for language, machine in zip(sorted(FILES), cluster3.machines)
    ]
    assert len(processes) == 3
    admitted, denied = flood(STORE, LIMIT, processes, TIME)
    judge(parse(LIMIT), admitted, denied)
    assert len(admitted) >= 100
