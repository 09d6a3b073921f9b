"""The healer: GlusterFS's self-heal daemon is on only while each client has all bricks."""

from __future__ import annotations

import time

import pytest

from tests.laboratories.cluster.laboratory import (
    BRICK,
    HEALER,
    HEALER_LOG,
    MOUNT,
    VOLUME,
    Cluster,
    await_healed,
    gluster,
    kill_brick,
    start_brick,
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
