"""Furnishing by several machines at once, and while a copy of the store comes back."""

from __future__ import annotations

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limiter.core.limit import number_of
from tests.laboratories.cluster.laboratory import (
    BRICK,
    COPY_OF_STORE,
    MOUNT,
    STORE,
    Cluster,
    are_one_file,
    await_healed,
    inside,
    kill_brick,
    start_brick,
    writes_to,
)
from tests.laboratories.machines import USER, wait_for

pytestmark = pytest.mark.one_python

NEW = 250
FURNISHED = f"{MOUNT}/furnished"
"""A store of its own: so many applications would slow down tests that look at a whole store."""

LIMIT = "2/hour"
DIRECTORY = "returned@2-per-3600s"


def test_two_machines_furnish_the_same_applications(cluster3: Cluster) -> None:
    """All slots are there, once, no matter which machine comes first."""
    cluster3.machines[0].do("install", "-d", "-o", USER, FURNISHED)
    processes = []
    for machine, end in zip(cluster3.machines, socket.socketpair()):
        command = machine.command(*inside("furnish", FURNISHED, "2/day", str(NEW)))
        with end:
            processes.append(
                subprocess.Popen(command, stdin=end.fileno(), stdout=subprocess.PIPE, text=True)
            )
    assert [process.communicate()[0] for process in processes] == [f"{NEW}\n"] * 2
    places = [
        it.path(place) for it in cluster3.machines for place in (FURNISHED, f"{BRICK}/brick/furnished")
    ]
    with ThreadPoolExecutor(len(places)) as pool:
        for place, slots in zip(places, pool.map(_slots, places)):
            assert slots == {f"new{number}@2-per-86400s": [0, 1] for number in range(NEW)}, place
    await_healed(cluster3)


def _slots(place: Path) -> dict[str, list[int]]:
    """Return the slot numbers in each directory, and in what furnishing has left unfinished."""
    return {name: sorted(map(number_of, os.listdir(place / name))) for name in os.listdir(place)}


def test_a_returned_copy_lets_no_second_furnisher_win(cluster3: Cluster) -> None:
    """The copy lacks what was furnished without it.  Only there a rename to that name succeeds.

    A process furnishes a second time only if it looked before the first one was done.  In this test it
    does not look at all.  The slots stay links of one file.
    """
    first, second, lost = cluster3.machines
    arrive = inside("arrive", STORE, LIMIT, "returned")
    kill_brick(lost)
    wait_for(lambda: not writes_to(first, lost), "the loss is noticed")
    assert first.do(*arrive) == "True\n"
    listing = sorted(os.listdir(first.path(f"{STORE}/{DIRECTORY}")))
    taken = "1111111111.000000-0"
    first.do("mv", *[f"{STORE}/{DIRECTORY}/{name}" for name in (listing[0], taken)])
    start_brick(first)
    wait_for(lambda: writes_to(second, lost), "the brick's return")
    assert not lost.path(f"{COPY_OF_STORE}/{DIRECTORY}").exists(), "healed already"
    assert second.do(*arrive) == "False\n"
    await_healed(cluster3)
    for machine in cluster3.machines:
        for place in (STORE, COPY_OF_STORE):
            assert not list(machine.path(place).glob(".new-*"))
            assert sorted(os.listdir(machine.path(f"{place}/{DIRECTORY}"))) == [taken, listing[1]]
            assert are_one_file(machine.path(f"{place}/{DIRECTORY}"))
