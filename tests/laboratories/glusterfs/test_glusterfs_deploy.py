"""The deploy script, run on real machines that have nothing but the packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.deploying import steps
from tests.laboratories.cluster.laboratory import (
    BRICK,
    COPY_OF_STORE,
    HEALER,
    MOUNT,
    STORE,
    VOLUME,
    Gluster,
    are_one_file,
    gluster,
    kill_brick,
)
from tests.laboratories.machines import INVENTORY, USER, Machine, run, running, wait_for
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

SLOTS = f"{STORE}/acme@10-per-1s"
COPIED_SLOTS = f"{COPY_OF_STORE}/acme@10-per-1s"


def _written(made: Gluster) -> dict[str, float]:
    """Return the files that the script may write on the machines, with their times; not those of
    GlusterFS.
    """
    return {
        str(path): path.lstat().st_mtime
        for machine in made.machines
        for place in ("etc", "var/mnt", "brick")
        for path in made.path(f"{machine.disk}/{place}").rglob("*")
        if "/brick/limiter/brick/" not in str(path)
    }


def _healers(made: Gluster) -> list[int]:
    """Return 0 for each machine on which the healer runs."""
    return [it.run("systemctl", "is-active", HEALER).returncode for it in made.machines]


@dataclass
class Installation:
    """The output of a dry run, and of the first run."""

    made: Gluster
    planned: str
    done: str


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """Make a dry run that changes nothing, and then a cluster."""
    with running(Gluster) as made:
        made.write_inventory("3")
        written = _written(made)
        planned = made.deploy("install", "--dry-run")
        assert _written(made) == written
        yield Installation(made, planned, made.deploy("install"))


@pytest.fixture
def made(installation: Installation) -> Gluster:
    """The cluster."""
    return installation.made


def test_first_run_does_what_the_dry_run_says(installation: Installation) -> None:
    made, done = installation.made, installation.done
    assert "Nothing changed: this was a dry run.\n" in installation.planned
    assert steps(done) == steps(installation.planned)
    assert f"LIMITER_ROOT is {STORE}" in done
    for machine in made.machines:
        assert f"{machine.name}: a file made here is seen everywhere" in done
        assert machine.do("stat", "-c", "%U %a", STORE) == f"{USER} 700\n"
        assert machine.do("findmnt", "-rno", "SOURCE", MOUNT) == f"{machine.name}:/{VOLUME}\n"
        assert machine.path("/etc/fstab").read_text().count("defaults,_netdev,backup-volfile") == 1
        hosts = machine.path("/etc/hosts").read_text()
        assert all(f"{it.address} {it.name}" in hosts for it in made.machines)
    info = gluster(made.machines[2], "volume", "info", VOLUME)
    assert "Number of Bricks: 1 x 3 = 3\n" in info
    assert "network.ping-timeout: 3\n" in info
    assert "cluster.quorum-type: auto\n" in info
    assert "cluster.use-anonymous-inode: off\n" in info
    assert "cluster.self-heal-daemon: off\n" in info
    assert _healers(made) == [0, 1, 1]


def test_second_run_finds_nothing_to_do(made: Gluster) -> None:
    info = gluster(made.machines[0], "volume", "info", VOLUME)
    written = _written(made)
    again = made.deploy("install")
    assert "Nothing changed: all is in order.\n" in again
    assert steps(again) == []
    assert _written(made) == written
    assert gluster(made.machines[0], "volume", "info", VOLUME) == info
    assert made.deploy("status").endswith("All is in order.\n")


def test_files_are_seen_and_removed_everywhere(made: Gluster) -> None:
    assert "removed by web1" in made.deploy("test")
    changed = made.machines[0].do("stat", "-c", "%y", MOUNT)
    planned = made.deploy("test", "--dry-run")
    assert [step.partition(f" {MOUNT}/.replication-test-")[0] for step in steps(planned)] == [
        f"{name}: + {what}"
        for maker, remover in (("web1", "web2"), ("web2", "web3"), ("web3", "web1"))
        for name, what in ((maker, "touch"), (remover, "rm"))
    ]
    assert planned.endswith("Nothing changed: this was a dry run.\n")
    assert made.machines[0].do("stat", "-c", "%y", MOUNT) == changed


def test_healer_runs_on_the_first_machine_of_the_inventory(made: Gluster) -> None:
    made.machines[0].do("systemctl", "stop", HEALER)
    assert f"web1: {HEALER} does not run" in made.refusal("status")
    assert steps(made.deploy("install")) == [f"web1: + systemctl enable --now {HEALER}"]
    made.machines.reverse()
    made.write_inventory("3")
    assert f"web1: + systemctl disable --now {HEALER}" in steps(made.deploy("install"))
    assert _healers(made) == [0, 1, 1]


def test_a_machine_joins_and_another_takes_the_place_of_a_lost_one(made: Gluster) -> None:
    """The store stays the same on every machine, and the copy on the new machine becomes complete.

    Slots stay links of one file.
    """
    first = made.machines[0]
    made.write_inventory("3", weight=f"{first.name} 2")
    first.do("mkdir", "-p", SLOTS)
    first.do("touch", f"{SLOTS}/1513123456.123456-0")
    for slot in range(1, 10):
        first.do("ln", *[f"{SLOTS}/1513123456.123456-{it}" for it in (0, slot)])
    slots = _names(first, SLOTS)
    client, new = made.add_web_server(), made.add_web_server()
    joined = made.deploy("add-node", client.name, client.address)
    assert f"{client.name}: a file made here is seen everywhere, and removed by {first.name}" in joined
    assert _names(client, SLOTS) == slots
    assert not client.path(BRICK).exists()
    assert "Nothing changed" in made.deploy("add-node", client.name, client.address)
    assert "Nothing changed" in made.deploy("install")

    first.end()
    made.refusal("status")
    replacement = ("replace-node", first.name, new.name, new.address)
    planned = made.deploy(*replacement, "--dry-run")
    assert steps(made.deploy(*replacement)) == steps(planned)
    wait_for(lambda: made.run_script("status").returncode == 0, "the new machine's copy is whole")
    assert _names(new, COPIED_SLOTS) == slots
    assert are_one_file(new.path(COPIED_SLOTS))
    for machine in (*made.machines[1:3], client, new):
        assert _names(machine, SLOTS) == slots
    assert first.name not in gluster(made.machines[1], "volume", "info", VOLUME)
    assert new.run("systemctl", "is-active", HEALER).returncode == 0
    assert f"\nweight={new.name} 2\n" in made.path(INVENTORY).read_text()
    assert "Nothing changed" in made.deploy("install")

    emptied = made.machines[2]
    itself = ("replace-node", emptied.name, emptied.name, emptied.address)
    assert f"{BRICK} is not empty: it is left alone" in made.refusal(*itself)
    kill_brick(emptied)
    emptied.do("rm", "-r", BRICK)
    assert f"the copy in {BRICK} is gone" in made.refusal("install")
    assert steps(made.deploy(*itself, "--dry-run")) == steps(made.deploy(*itself))
    wait_for(lambda: made.run_script("status").returncode == 0, "the copy is whole again")
    assert _names(emptied, COPIED_SLOTS) == slots
    assert are_one_file(emptied.path(COPIED_SLOTS))
    assert "Nothing changed" in made.deploy("install")


def _names(machine: Machine, directory: str) -> list[str]:
    return sorted(os.listdir(machine.path(directory)))


def test_what_it_did_not_make_is_left_alone() -> None:
    """It leaves alone a directory in use, a file system in the way, and a volume with the same name."""
    with running(Gluster) as made:
        made.write_inventory("3 arbiter 1")
        first, second = made.machines[:2]
        first.do("install", "-d", "-m", "750", f"{BRICK}/precious")
        written = _written(made)
        assert f"{BRICK} is not empty, and was not made" in made.refusal("install")
        assert _written(made) == written
        first.do("rm", "-r", BRICK)
        second.do("mkdir", "-p", MOUNT)
        second.do("mount", "-t", "tmpfs", "tmpfs", MOUNT)
        assert f"something else is mounted on {MOUNT}: tmpfs tmpfs" in made.refusal("check")
        second.do("umount", MOUNT)
        first.do("systemctl", "enable", "--now", "glusterd")
        wait_for(lambda: first.run("gluster", "pool", "list").returncode == 0, "glusterd answers")
        gluster(first, "volume", "create", VOLUME, f"{first.address}:/var/brick/other", "force")
        info = gluster(first, "volume", "info")
        written = _written(made)
        assert f"the volume {VOLUME} is not the inventory's, and left alone" in made.refusal("install")
        assert gluster(first, "volume", "info") == info
        assert _written(made) == written


_KILLED_OWNER = """
import os, signal
from tests.laboratories.machines import Laboratory, running
with running(Laboratory) as made:
    made.add_web_server().do('sh', '-c', 'setsid sleep 1000 >/dev/null 2>&1 &')
    pids = [made._space.pid, made.machines[0]._space.pid]
    print(*[os.stat(f'/proc/{pid}/ns/mnt').st_ino for pid in pids], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_a_laboratory_whose_owner_is_killed(made: Gluster) -> None:
    """No process is left in its namespaces, and so no mount and no network."""
    command = [sys.executable, "-c", _KILLED_OWNER]
    owner = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    assert owner.returncode == -signal.SIGKILL
    spaces = set(owner.stdout.split())
    assert len(spaces) == 2

    def are_gone() -> bool:
        listed = run(["lsns", "--raw", "--noheadings", "--output", "NS"]).stdout
        return not spaces & set(listed.split())

    wait_for(are_gone, "everything in it has ended")
