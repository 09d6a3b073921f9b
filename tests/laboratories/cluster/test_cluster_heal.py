"""The healer: GlusterFS's self-heal daemon is on only while each client has all bricks."""

from __future__ import annotations

import os
import time

import pytest

from limiter.core.limit import make
from tests.laboratories.cluster.laboratory import (
    BRICK,
    COPY_OF_STORE,
    HEALER,
    HEALER_LOG,
    MOUNT,
    STORE,
    VOLUME,
    Cluster,
    are_one_file,
    await_healed,
    gluster,
    inside,
    kill_brick,
    start_brick,
    writes_to,
)
from tests.laboratories.machines import Machine, wait_for

pytestmark = pytest.mark.one_python

RECONNECT = 3
"""Seconds that one client may need more than another."""

FILES = 150
"""So many applications are not healed at once."""


def _log(machine: Machine) -> list[str]:
    return machine.path(HEALER_LOG).read_text().splitlines()


def _is_off(machine: Machine) -> bool:
    return "cluster.self-heal-daemon: off\n" in gluster(machine, "volume", "info", VOLUME)


def _await_line(machine: Machine, line: str, known: list[str]) -> list[str]:
    """Return what the healer has logged since, as soon as it includes this line."""
    wait_for(lambda: any(line in new for new in _log(machine)[len(known) :]), line)
    return _log(machine)[len(known) :]


def test_copies_are_healed_when_all_clients_are_back(cluster3: Cluster) -> None:
    """Healing waits until all clients have had time to reconnect; then the daemon is off again."""
    first, _, other = cluster3.machines
    known = _log(first)
    late = other.path(f"{BRICK}/brick/late")
    kill_brick(other)
    first.do("touch", f"{MOUNT}/late")
    assert not late.exists()
    assert _is_off(first)
    started = time.monotonic()
    start_brick(first)
    _await_line(first, "the daemon is on", known)
    assert time.monotonic() - started > RECONNECT
    lines = _await_line(first, "the daemon is off", known)
    assert [line.partition(" s:")[0].rstrip("0123456789") for line in lines[1:]] == [
        f"{VOLUME}: healed in "
    ]
    assert _is_off(first)
    assert late.exists()
    first.do("rm", f"{MOUNT}/late")
    await_healed(cluster3)


def test_a_copy_forgets_the_names_of_slots_that_were_renamed_without_it(cluster3: Cluster) -> None:
    """Slots are links of one file, of which GlusterFS, by default, forgets only one old name."""
    first, second, other = cluster3.machines
    first.do(*inside("leave", STORE, "5/second", "1513123456123456", "renamed"))
    directory = "renamed@5-per-1s"
    names = sorted(os.listdir(first.path(f"{STORE}/{directory}")))
    kill_brick(other)
    wait_for(lambda: not writes_to(first, other), "the loss is noticed")
    for number, name in enumerate(names[:4]):
        new = make(1600000000000000, False, number)
        first.do("mv", *[f"{STORE}/{directory}/{it}" for it in (name, new)])
    expected = sorted(os.listdir(first.path(f"{STORE}/{directory}")))
    start_brick(first)
    wait_for(lambda: writes_to(second, other), "the brick's return")
    await_healed(cluster3)
    for machine in cluster3.machines:
        for place in (STORE, COPY_OF_STORE):
            assert sorted(os.listdir(machine.path(f"{place}/{directory}"))) == expected
            assert are_one_file(machine.path(f"{place}/{directory}"))
    first.do("rm", "-r", f"{STORE}/{directory}")


def test_healer_that_ends_leaves_the_daemon_off(cluster3: Cluster) -> None:
    """SIGTERM in the middle of healing leaves the daemon off.

    A healer that starts and finds it on switches it off.
    """
    first, _, other = cluster3.machines
    known = _log(first)
    kill_brick(other)
    first.do("sh", "-ec", f"mkdir {MOUNT}/many; cd {MOUNT}/many; seq {FILES} | xargs touch")
    start_brick(first)
    _await_line(first, "the daemon is on", known)
    assert not _is_off(first)
    first.do("systemctl", "stop", HEALER)
    assert _is_off(first)
    assert len(_log(first)) == len(known) + 1, "it was healed already"
    gluster(first, "volume", "set", VOLUME, "cluster.self-heal-daemon", "on")
    known = _log(first)
    first.do("systemctl", "start", HEALER)
    assert _await_line(first, "watched: the daemon is off", known)
    assert _is_off(first)
    _await_line(first, "healed in ", known)
    assert len(list(other.path(f"{BRICK}/brick/many").iterdir())) == FILES
    first.do("rm", "-r", f"{MOUNT}/many")
    await_healed(cluster3)


def test_only_one_heals_a_volume(cluster3: Cluster) -> None:
    """A second healer on the same machine is refused."""
    done = cluster3.machines[0].run("/usr/local/sbin/access-limiter-heal", VOLUME)
    refusal = f"heal: the volume {VOLUME} is healed by another process\n"
    assert (done.returncode, done.stdout) == (1, refusal)
