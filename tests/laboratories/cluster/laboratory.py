"""Three machines with one store on GlusterFS, as the deploy script makes it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tests.laboratories.machines import (
    AS_USER,
    BOOT,
    COPY,
    DISK,
    USER,
    WANTED,
    Done,
    Laboratory,
    Machine,
    output_of,
    wait_for,
)
from tests.places import PYTHON

MOUNT = "/var/mnt/limiter"
STORE = f"{MOUNT}/store"
BRICK = "/var/brick/limiter"
COPY_OF_STORE = f"{BRICK}/brick/store"
"""The store in the brick of a machine."""

VOLUME = "limiter"
HEALER = f"access-limiter-heal@{VOLUME}"
HEALER_LOG = f"/var/log/{HEALER}.log"
HISTORY = f"{DISK}/history"
"""The directory for what requests record."""

_DEADLINE = 300

# For geo-replication, which is not used here: glusterd calls it twenty times, for 3 s, each time it
# starts.
_GSYNCD = """#!/bin/sh
echo gsyncd
"""


class Gluster(Laboratory):
    """Machines that have nothing yet but the packages."""

    script = "glusterfs"
    tools = (*Laboratory.tools, "glusterd", "mount.glusterfs")
    devices: tuple[str, ...] = ("/dev/fuse",)
    boot = f"""
mkdir -p /var/brick /var/mnt {DISK}/$1/brick
mount --bind {DISK}/$1/brick /var/brick
for program in /usr/lib/*/glusterfs/gsyncd /usr/libexec/glusterfs/gsyncd; do
  test ! -e "$program" || mount --bind {DISK}/bin/gsyncd "$program"
done
if test -e {WANTED}/glusterd.service; then
  systemctl start glusterd
  mount -a -t glusterfs
fi
{BOOT}"""

    def set_up(self) -> None:
        """Add the machines."""
        self.put_program(f"{DISK}/bin/gsyncd", _GSYNCD)
        for _ in range(3):
            self.add_web_server()

    def write_inventory(self, replica: str, **settings: str) -> None:
        """Write the inventory: all machines that exist now keep copies."""
        settings = {
            "replica": replica,
            "volume": VOLUME,
            "brick": BRICK,
            "mount": MOUNT,
            "store": "store",
            "user": USER,
            **settings,
        }
        self.put_inventory({"storage": self.machines}, **settings)


class Cluster(Gluster):
    """The same with the store and the program."""

    def __init__(self, replica: str) -> None:
        super().__init__()
        self.replica = replica

    def set_up(self) -> None:
        """Install it."""
        super().set_up()
        self.install_package()
        for name in ("inside.py", "recorder.py"):
            shutil.copy(Path(__file__).with_name(name), self.path(DISK))
        self.path(HISTORY).mkdir()
        self.path(HISTORY).chmod(0o777)
        self.write_inventory(self.replica)
        self.deploy("install")


def inside(function: str, *arguments: str, environ: Sequence[str] = ()) -> list[str]:
    """Return the command that calls a function of inside.py as Apache's user."""
    program = [PYTHON, "-I", f"{DISK}/inside.py", function, COPY, *arguments]
    return [*AS_USER, "env", *environ, *program]


def call_gluster(machine: Machine, *arguments: str) -> Done:
    """Call GlusterFS, and accept any answer within a minute.  GlusterFS does one thing at a time."""
    end = time.monotonic() + _DEADLINE
    while True:
        done = machine.run("timeout", "60", "gluster", "--mode=script", *arguments)
        if "Another transaction" not in done.stdout or time.monotonic() > end:
            return done
        time.sleep(0.1)


def gluster(machine: Machine, *arguments: str) -> str:
    """Call GlusterFS with a command that must succeed."""
    return output_of(call_gluster(machine, *arguments))


def kill_brick(machine: Machine) -> None:
    """SIGKILL the process that serves its brick."""
    (file,) = machine.path(f"/run/gluster/vols/{VOLUME}").glob("*.pid")
    machine.do("sh", "-c", f"kill -9 {int(file.read_text())}")


def start_brick(machine: Machine) -> None:
    """Start the bricks that do not run."""
    gluster(machine, "volume", "start", VOLUME, "force")


def is_whole(cluster: Cluster) -> bool:
    """Return whether each of the machines reaches all bricks."""
    return all(
        call_gluster(machine, "volume", "status", VOLUME, "detail").stdout.count(": Y ") == 3
        for machine in cluster.machines
    )


def writes_to(machine: Machine, other: Machine) -> bool:
    """Return whether what one machine makes arrives at the copy of the other."""
    probe = next(name for name in map(str, count()) if not machine.path(f"{STORE}/.{name}").exists())
    machine.do("mkdir", f"{STORE}/.{probe}")
    arrived = other.path(f"{COPY_OF_STORE}/.{probe}").exists()
    machine.do("rmdir", f"{STORE}/.{probe}")
    return arrived


def are_one_file(directory: Path) -> bool:
    """Whether all files in a directory are links of one."""
    return len({path.stat().st_ino for path in directory.iterdir()}) == 1


def await_healed(cluster: Cluster) -> None:
    """Return when the healer is done, and nothing is left to repair or in split-brain."""
    first = cluster.machines[0]

    def is_healed() -> bool:
        lines = gluster(first, "volume", "heal", VOLUME, "info").splitlines()
        entries = [line.split()[-1] for line in lines if line.startswith("Number of entries:")]
        options = gluster(first, "volume", "info", VOLUME)
        return entries == ["0"] * 3 and "cluster.self-heal-daemon: off\n" in options

    wait_for(is_healed, "healed")
    split = gluster(first, "volume", "heal", VOLUME, "info", "split-brain")
    assert split.count("Number of entries in split-brain: 0") == 3, split
