"""The doctor on real volumes.  tests/doctor has volumes that it finds fault with."""

from __future__ import annotations

import pytest

from tests.doctoring import CONTENTS, JOINT, LATENCIES, TRIALS, levels
from tests.laboratories.cluster.laboratory import STORE, VOLUME, Cluster
from tests.laboratories.machines import AS_USER, COPY, finish
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

OF_VOLUME = [
    *("file system", "place", "replicas", "quorum", "old names", "ping-timeout", "directory"),
]


def _doctor(root: str, *options: str) -> list[str]:
    """Return the command that Apache's user runs on a machine."""
    return [*AS_USER, "env", f"PYTHONPATH={COPY}", PYTHON, "-m", "limiter", "doctor", *options, root]


def _judge(output: str, tried: list[str], replicas: str) -> None:
    """Everything was tried, and everything is in order.  Slowness is accepted on a busy machine."""
    found = levels(output)
    assert [what for what, _ in found] == [*OF_VOLUME, *CONTENTS, *TRIALS, *LATENCIES, *tried]
    assert {level for what, level in found if what not in LATENCIES} == {"PASS"}, output
    assert f"PASS  file system     GlusterFS, volume {VOLUME}\n" in output
    assert f"PASS  replicas        {replicas}\n" in output
    assert "PASS  quorum          auto: more than half of the bricks\n" in output
    assert "PASS  clock           each node stamps its files itself: doctor --meet compares" in output


def test_two_machines_that_meet_find_all_in_order(cluster3: Cluster) -> None:
    """Each machine alone and both together find no fault, and they leave nothing behind."""
    pair = cluster3.machines[:2]
    processes = [machine.begin(*_doctor(STORE, "--meet")) for machine in pair]
    outputs = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    for output, machine, other in zip(outputs, pair, reversed(pair)):
        _judge(output, JOINT, "3")
        assert f"      two nodes: {machine.name} and {other.name}\n" in output
    assert not list(cluster3.machines[2].path(STORE).glob(".new-doctor-*"))


def test_an_arbiter_is_in_order(arbiter: Cluster) -> None:
    """An arbiter counts for the quorum."""
    _judge(arbiter.machines[0].do(*_doctor(STORE)), [], "3, one of them an arbiter")
