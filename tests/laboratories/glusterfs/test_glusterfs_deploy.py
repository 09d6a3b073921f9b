"""The deploy script, run on real machines that have nothing but the packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploying import steps
from tests.laboratories.cluster.laboratory import (
    BRICK,
    DISK,
    HEALER,
    MOUNT,
    STORE,
    USER,
    VOLUME,
    Laboratory,
    laboratory,
    wait_for,
)
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

_PLACES = ("etc", "var/mnt", "brick")


def _written(made: Laboratory) -> dict[str, float]:
    """Return the files that the script may write on the machines, with their times; not those of
    GlusterFS.
    """
    return {
        str(path): path.lstat().st_mtime
        for machine in made.machines
        for place in _PLACES
        for path in made.path(f"{DISK}/{machine.name}/{place}").rglob("*")
        if "/brick/limiter/brick/" not in str(path)
    }


def _deploy(made: Laboratory, *arguments: str) -> str:
    done = made.deploy(*arguments)
    assert done.status == 0, done.output
    return done.output


def _refusal(made: Laboratory, *arguments: str) -> str:
    done = made.deploy(*arguments)
    assert done.status == 1
    return done.output


@dataclass
class Cluster:
    """The output of a dry run, and of the first run."""

    made: Laboratory
    planned: str
    done: str


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Make a dry run that changes nothing, and then a cluster."""
    with laboratory() as made:
        made.write_inventory("3")
        written = _written(made)
        planned = _deploy(made, "install", "--dry-run")
        assert _written(made) == written
        yield Cluster(made, planned, _deploy(made, "install"))


def test_cluster_comes_into_being_once(cluster: Cluster) -> None:
    """A dry run says what will be done, the first run does it, the second run finds nothing to do."""
    made, planned, done = cluster.made, cluster.planned, cluster.done
    assert "Nothing changed: this was a dry run.\n" in planned
    assert steps(done) == steps(planned)
    assert f"LIMITER_ROOT is {STORE}" in done
    for machine in made.machines:
        assert f"{machine.name}: a file made here is seen everywhere" in done
        assert machine.do("stat", "-c", "%U %a", STORE) == f"{USER} 700\n"
        assert machine.do("findmnt", "-rno", "SOURCE", MOUNT) == f"{machine.name}:/{VOLUME}\n"
        assert machine.path("/etc/fstab").read_text().count("defaults,_netdev,backup-volfile") == 1
        hosts = machine.path("/etc/hosts").read_text()
        assert [f"{it.address} {it.name}" in hosts for it in made.machines] == [True] * 3
    info = made.machines[2].gluster("volume", "info", VOLUME)
    assert "Number of Bricks: 1 x 3 = 3\n" in info
    assert "network.ping-timeout: 3\n" in info
    assert "cluster.quorum-type: auto\n" in info
    assert "cluster.self-heal-daemon: off\n" in info
    assert [it.run("systemctl", "is-active", HEALER).status for it in made.machines] == [0, 1, 1]
    written = _written(made)
    again = _deploy(made, "install")
    assert "Nothing changed: all is in order.\n" in again
    assert steps(again) == []
    assert _written(made) == written
    assert made.machines[0].gluster("volume", "info", VOLUME) == info.replace("\r", "")
    assert _deploy(made, "status").endswith("All is in order.\n")
    assert "removed by web1" in _deploy(made, "test")
    changed = made.machines[0].do("stat", "-c", "%y", MOUNT)
    planned = _deploy(made, "test", "--dry-run")
    assert [step.partition(f" {MOUNT}/.replication-test-")[0] for step in steps(planned)] == [
        f"{name}: + {what}"
        for maker, remover in (("web1", "web2"), ("web2", "web3"), ("web3", "web1"))
        for name, what in ((maker, "touch"), (remover, "rm"))
    ]
    assert planned.endswith("Nothing changed: this was a dry run.\n")
    assert made.machines[0].do("stat", "-c", "%y", MOUNT) == changed


def test_healer_runs_on_the_first_machine_of_the_inventory(cluster: Cluster) -> None:
    made = cluster.made
    made.machines[0].do("systemctl", "stop", HEALER)
    assert f"web1: {HEALER} does not run" in _refusal(made, "status")
    assert steps(_deploy(made, "install")) == [f"web1: + systemctl enable --now {HEALER}"]
    made.machines.reverse()
    made.write_inventory("3")
    assert f"web1: + systemctl disable --now {HEALER}" in steps(_deploy(made, "install"))
    assert [it.run("systemctl", "is-active", HEALER).status for it in made.machines] == [0, 1, 1]


def test_a_machine_joins_and_another_takes_the_place_of_a_lost_one(cluster: Cluster) -> None:
    """The store stays the same on every machine, and the copy on the new machine becomes complete."""
    made = cluster.made
    first = made.machines[0]
    made.write_inventory("3", weight=f"{first.name} 2")
    directory = "acme/10-per-1s"
    first.do("mkdir", "-p", f"{STORE}/{directory}")
    first.do("touch", *[f"{STORE}/{directory}/0000000000.000000-{slot}" for slot in range(10)])
    slots = sorted(os.listdir(first.path(f"{STORE}/{directory}")))
    client, new = made.add_machine(), made.add_machine()
    joined = _deploy(made, "add-node", client.name, client.address)
    assert f"{client.name}: a file made here is seen everywhere, and removed by {first.name}" in joined
    assert sorted(os.listdir(client.path(f"{STORE}/{directory}"))) == slots
    assert not client.path(BRICK).exists()
    assert "Nothing changed" in _deploy(made, "add-node", client.name, client.address)
    assert "Nothing changed" in _deploy(made, "install")

    first.end()
    assert _refusal(made, "status")
    plan = _deploy(made, "replace-node", first.name, new.name, new.address, "--dry-run")
    done = _deploy(made, "replace-node", first.name, new.name, new.address)
    assert steps(plan) == steps(done)
    wait_for(lambda: made.deploy("status").status == 0, "the new machine's copy is whole", 300)
    copy = new.path(f"{BRICK}/brick/store/{directory}")
    assert sorted(os.listdir(copy)) == slots
    for machine in (*made.machines[1:3], client, new):
        assert sorted(os.listdir(machine.path(f"{STORE}/{directory}"))) == slots
    assert first.name not in made.machines[1].gluster("volume", "info", VOLUME)
    assert new.run("systemctl", "is-active", HEALER).status == 0
    assert f"\nweight={new.name} 2\n" in made.path(f"{DISK}/cluster.conf").read_text()
    assert "Nothing changed" in _deploy(made, "install")

    emptied = made.machines[2]
    itself = ("replace-node", emptied.name, emptied.name, emptied.address)
    assert f"{BRICK} is not empty: it is left alone" in _refusal(made, *itself)
    emptied.kill_brick()
    emptied.do("rm", "-r", BRICK)
    assert f"the copy in {BRICK} is gone" in _refusal(made, "install")
    assert steps(_deploy(made, *itself, "--dry-run")) == steps(_deploy(made, *itself))
    wait_for(lambda: made.deploy("status").status == 0, "the copy is whole again", 300)
    assert sorted(os.listdir(emptied.path(f"{BRICK}/brick/store/{directory}"))) == slots
    assert "Nothing changed" in _deploy(made, "install")


def test_what_it_did_not_make_is_left_alone() -> None:
    """It leaves alone a directory in use, a file system in the way, and a volume with the same name."""
    with laboratory() as made:
        made.write_inventory("3 arbiter 1")
        first, second = made.machines[:2]
        first.do("install", "-d", "-m", "750", f"{BRICK}/precious")
        written = _written(made)
        assert f"{BRICK} is not empty, and was not made" in _refusal(made, "install")
        assert _written(made) == written
        first.do("rm", "-r", BRICK)
        second.do("mkdir", "-p", MOUNT)
        second.do("mount", "-t", "tmpfs", "tmpfs", MOUNT)
        assert f"something else is mounted on {MOUNT}: tmpfs tmpfs" in _refusal(made, "check")
        second.do("umount", MOUNT)
        first.do("systemctl", "enable", "--now", "glusterd")
        wait_for(lambda: first.run("gluster", "pool", "list").status == 0, "glusterd answers")
        first.gluster("volume", "create", VOLUME, f"{first.address}:/var/brick/other", "force")
        info = first.gluster("volume", "info")
        written = _written(made)
        assert f"the volume {VOLUME} is not the inventory's, and left alone" in _refusal(made, "install")
        assert first.gluster("volume", "info") == info
        assert _written(made) == written


def test_nothing_is_left_of_a_laboratory_whose_owner_is_killed(tmp_path: Path) -> None:
    """No process is left in its namespaces, and so no mount and no network."""
    script = (
        "import os, signal\n"
        "from tests.laboratories.cluster.laboratory import laboratory\n"
        "with laboratory() as made:\n"
        "    made.write_inventory('3')\n"
        "    assert made.deploy('install').status == 0\n"
        "    pids = [made._space.pid] + [it._space.pid for it in made.machines]\n"
        "    print(*[os.readlink(f'/proc/{pid}/ns/mnt') for pid in pids], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with laboratory(0):
        pass  # it can be made here, or the test is skipped
    owner = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False
    )
    assert owner.returncode == -signal.SIGKILL
    spaces = set(owner.stdout.split())
    assert len(spaces) == 4
    wait_for(lambda: not spaces & _mount_namespaces(), "everything in it has ended")


def _mount_namespaces() -> set[str]:
    """Return the mount namespaces of all processes."""
    spaces = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            spaces.add(os.readlink(process / "ns/mnt"))
        except (FileNotFoundError, PermissionError):
            pass  # it has ended in the meantime, or is not ours
    return spaces
