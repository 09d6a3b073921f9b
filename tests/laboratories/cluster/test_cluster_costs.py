"""What a hit costs on the mount, and what happens when two machines furnish the same application."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limiter.core.limit import number_of
from tests.laboratories.cluster.laboratory import (
    AS_USER,
    BRICK,
    COPY,
    INSIDE,
    MOUNT,
    STORE,
    USER,
    Laboratory,
    Machine,
    await_healed,
)
from tests.laboratories.cluster.play import CHECK
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

LATENCY_MOST = 1.15
NEW = 250
FURNISHED = f"{MOUNT}/furnished"
"""A store of its own: so many applications would slow down tests that look at a whole store."""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_hit_lists_and_renames_and_a_denied_one_lists_only(cluster3: Laboratory) -> None:
    """The mount is used like a local file system: no extra lookup, and no file is opened."""
    machine = cluster3.machines[1]
    traced = [_traced(machine) for _ in range(3)]
    listing = ["openat", "getdents64", "getdents64", "close"]  # the second says that there is no more
    assert traced[1:] == [("200 OK", [*listing, "rename"]), ("429 Too Many Requests", listing)]


def _traced(machine: Machine) -> tuple[str, list[str]]:
    """Return the status of a request, and its calls that name anything on the mount, by path or
    descriptor.
    """
    environ = {"LIMITER_ROOT": STORE, "LIMITER_LIMIT": "2/day", "QUERY_STRING": "app_id=traced"}
    trace = "/tmp/trace"
    command = ["strace", "-f", "-y", "-s", "4096", "-o", trace, CHECK]
    answer = machine.do_as_user(*command, **environ)
    calls = []
    for line in machine.path(trace).read_text().splitlines():
        call, _, arguments = line.partition(" ")[2].strip().partition("(")
        # opendir(3) uses the descriptor of a directory to get its type and the size of its blocks.
        of_opendir = call == "fstat" or (call == "newfstatat" and arguments[:1].isdigit())
        if STORE in arguments and not of_opendir and call != "execve":
            calls.append("rename" if call.startswith("renameat") else call)
    return answer.splitlines()[0].removeprefix("Status: "), calls


def test_a_hit_takes_as_long_as_its_two_calls(cluster3: Laboratory) -> None:
    """The trace above shows that a hit makes no other calls.

    The rest is CPU time, which load does not increase.
    """
    said = cluster3.machines[0].do_as_user(PYTHON, "-I", INSIDE, "latency", COPY, STORE, "30")
    own, of_calls = map(float, said.split())
    print(f"a listing and a rename {of_calls:.0f} us, a hit's own work {own:.0f} us")
    assert of_calls + own <= LATENCY_MOST * of_calls


def test_two_machines_furnish_the_same_applications(cluster3: Laboratory) -> None:
    """All slots are there, once, no matter which machine comes first."""
    first = cluster3.machines[0]
    first.do("install", "-d", "-o", USER, FURNISHED)
    processes = []
    ends = socket.socketpair()
    for machine, end in zip(cluster3.machines, ends):
        inside = [PYTHON, "-I", INSIDE, "furnish", COPY, FURNISHED, "2/day", str(NEW)]
        command = machine.command(*AS_USER, *inside)
        processes.append(
            subprocess.Popen(command, stdin=end.fileno(), stdout=subprocess.PIPE, text=True)
        )
        end.close()
    assert [process.communicate()[0] for process in processes] == [f"{NEW}\n", f"{NEW}\n"]
    places = [machine.path(FURNISHED) for machine in cluster3.machines]
    places += [machine.path(f"{BRICK}/brick/furnished") for machine in cluster3.machines]
    with ThreadPoolExecutor(len(places)) as pool:
        for place, slots in zip(places, pool.map(_slots, places)):
            assert slots == {f"new{number}": [0, 1] for number in range(NEW)}, place
    await_healed(cluster3)


def _slots(place: Path) -> dict[str, list[int]]:
    """Return the slot numbers of each application, and of what furnishing has left unfinished."""
    return {
        name: sorted(map(number_of, os.listdir(place / name / "2-per-86400s")))
        for name in os.listdir(place)
    }
