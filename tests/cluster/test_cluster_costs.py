"""What a hit costs on the mount, and what happens when two machines furnish the same."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from limiter.limit import number_of
from tests.cluster.laboratory import (
    AS_USER,
    BRICK,
    COPY,
    DISK,
    INSIDE,
    STORE,
    Laboratory,
    Machine,
    await_healed,
)
from tests.cluster.play import CHECK
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

LATENCY_MOST = 1.15
NEW = 1000


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_hit_lists_and_renames_and_a_denied_one_lists_only(cluster3: Laboratory) -> None:
    """On the mount as on a local file system: no lookup of its own, no file opened."""
    machine = cluster3.machines[1]
    traced = [_traced(machine) for _ in range(3)]
    listing = ["openat", "getdents64", "getdents64", "close"]  # the second says that there is no more
    assert traced[1:] == [("200 OK", [*listing, "rename"]), ("429 Too Many Requests", listing)]


def _traced(machine: Machine) -> tuple[str, list[str]]:
    """The status of a request, and its calls that name anything on the mount, by path or by descriptor."""
    environ = {"LIMITER_ROOT": STORE, "LIMITER_LIMIT": "2/day", "QUERY_STRING": "app_id=traced"}
    trace = "/tmp/trace"
    command = ["strace", "-f", "-y", "-s", "4096", "-o", trace, CHECK]
    answer = machine.do_as_user(*command, **environ)
    calls = []
    for line in machine.path(trace).read_text().splitlines():
        call, _, arguments = line.partition(" ")[2].strip().partition("(")
        # By its descriptor opendir(3) asks a directory for its type and the size of its blocks.
        of_opendir = call == "fstat" or (call == "newfstatat" and arguments[:1].isdigit())
        if STORE in arguments and not of_opendir and call != "execve":
            calls.append("rename" if call.startswith("renameat") else call)
    return answer.splitlines()[0].removeprefix("Status: "), calls


def test_a_hit_takes_as_long_as_its_two_calls(cluster3: Laboratory) -> None:
    """Measured in one process, in turn."""
    said = cluster3.machines[0].do_as_user(PYTHON, "-I", INSIDE, "latency", COPY, STORE, "30")
    of_hit, of_calls = map(float, said.split())
    print(f"a hit {of_hit:.0f} us, a listing and a rename {of_calls:.0f} us: {of_hit / of_calls:.3f}")
    assert of_hit <= LATENCY_MOST * of_calls


def test_two_machines_furnish_the_same_applications(cluster3: Laboratory) -> None:
    """Whoever comes first, the slots are there, all of them, once."""
    files = [f"{DISK}/history/furnisher{number}" for number in (1, 2)]
    for file in files:
        cluster3.path(file).touch()
        cluster3.path(file).chmod(0o666)
    processes = []
    for machine, mine, others in zip(cluster3.machines, files, reversed(files)):
        inside = [PYTHON, "-I", INSIDE, "furnish", COPY, STORE, "2/day", str(NEW), mine, others]
        command = machine.command(*AS_USER, *inside)
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    assert [process.communicate()[0] for process in processes] == [f"{NEW}\n", f"{NEW}\n"]
    places = [machine.path(STORE) for machine in cluster3.machines]
    places += [machine.path(f"{BRICK}/brick/store") for machine in cluster3.machines]
    for place in places:
        entries = [name for name in os.listdir(place) if name.startswith(("new", ".new"))]
        assert len(entries) == NEW
        for name in entries:
            assert os.listdir(place / name) == ["2-per-86400s"]
            slots = os.listdir(place / name / "2-per-86400s")
            assert sorted(map(number_of, slots)) == [0, 1], (place, name, slots)
    await_healed(cluster3)
