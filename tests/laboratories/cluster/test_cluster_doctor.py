"""The doctor on real volumes: on those that the script makes, and on one that nobody should rely on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.doctoring import JOINT, LATENCIES, TRIALS, levels
from tests.laboratories.cluster.laboratory import AS_USER, COPY, STORE, USER, VOLUME, Laboratory, Machine
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

OF_VOLUME = ["file system", "place", "replicas", "quorum", "ping-timeout", "directory"]
SPLIT = "split"
"""A volume of two bricks without a quorum."""


def _doctor(root: str, *options: str) -> list[str]:
    """Return the command that Apache's user runs on a machine."""
    return [*AS_USER, "env", f"PYTHONPATH={COPY}", PYTHON, "-m", "limiter", "doctor", *options, root]


def _judge(output: str, tried: list[str]) -> None:
    """Everything was tried, and everything is in order.  Slowness is accepted on a busy machine."""
    found = levels(output)
    assert [what for what, _ in found] == [*OF_VOLUME, *TRIALS, *LATENCIES, *tried]
    assert {level for what, level in found if what not in LATENCIES} == {"PASS"}, output
    assert f"PASS  file system     GlusterFS, volume {VOLUME}\n" in output
    assert "PASS  quorum          auto: more than half of the bricks\n" in output
    assert "PASS  clock           each node stamps its files itself: doctor --meet compares" in output


def test_two_machines_that_meet_find_all_in_order(cluster3: Laboratory) -> None:
    """Each machine alone and both together find no fault, and they leave nothing behind."""
    pair = cluster3.machines[:2]
    processes = [
        subprocess.Popen(
            machine.command(*_doctor(STORE, "--meet")),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in pair
    ]
    for process, machine, other in zip(processes, pair, reversed(pair)):
        output, log = process.communicate()
        assert (process.returncode, log) == (0, ""), output
        _judge(output, JOINT)
        assert "PASS  replicas        3\n" in output
        assert f"      two nodes: {machine.name} and {other.name}\n" in output
    assert not list(cluster3.machines[2].path(STORE).glob(".new-doctor-*"))


def test_an_arbiter_is_in_order(arbiter: Laboratory) -> None:
    """An arbiter counts for the quorum."""
    done = arbiter.machines[0].run(*_doctor(STORE))
    assert done.status == 0, done.output
    _judge(done.output, [])
    assert "PASS  replicas        3, one of them an arbiter\n" in done.output


@contextmanager
def _split_volume(machine: Machine, other: Machine) -> Iterator[str]:
    """Make a store on two machines without a quorum, by hand, as many tutorials do."""
    mount = f"/var/mnt/{SPLIT}"
    bricks = [f"{it.name}:/var/brick/{SPLIT}/brick" for it in (machine, other)]
    for it in (machine, other):
        it.do("mkdir", f"/var/brick/{SPLIT}")
    machine.gluster("volume", "create", SPLIT, "replica", "2", *bricks, "force")
    try:
        machine.gluster("volume", "set", SPLIT, "cluster.quorum-type", "none")
        machine.gluster("volume", "start", SPLIT)
        machine.do("mkdir", mount)
        machine.do("mount", "-t", "glusterfs", f"{other.name}:/{SPLIT}", mount)
        try:
            machine.do("install", "-d", "-o", USER, "-m", "700", f"{mount}/store")
            yield f"{mount}/store"
        finally:
            machine.do("umount", mount)
            machine.do("rmdir", mount)
    finally:
        machine.run("gluster", "--mode=script", "volume", "stop", SPLIT, "force")
        machine.gluster("volume", "delete", SPLIT)
        for it in (machine, other):
            it.do("rm", "-r", f"/var/brick/{SPLIT}")


def test_two_replicas_without_a_quorum_fail(cluster3: Laboratory) -> None:
    """They fail although every trial succeeds: the next network cut would break the store."""
    first, second = cluster3.machines[:2]
    with _split_volume(first, second) as store:
        done = first.run(*_doctor(store))
    found = levels(done.output)
    assert [what for what, level in found if level == "FAIL"] == ["quorum"], done.output
    assert done.status == 1
    assert ("replicas", "WARN") in found
    quorum, advice = done.output.partition("FAIL  ")[2].splitlines()[:2]
    assert quorum == "quorum          none"
    assert "use replica 3, or replica 3 arbiter 1" in advice
