"""The deploy scripts, as their tests call them: inventories made from the example, and the output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.laboratories.machines import wait_for
from tests.places import REPOSITORY

Change = tuple[str, str]
"""A text of the example, and its replacement."""

EXAMPLE = REPOSITORY / "deploy/cluster.conf.example"
KEEPALIVED = "/etc/keepalived/keepalived.conf"


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command without input, and return its output and any exit status."""
    return subprocess.run(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


class Script:
    """One of the scripts, by name."""

    def __init__(self, name: str, deploy: Path = REPOSITORY / "deploy") -> None:
        self.name = name
        self.path = deploy / name / name

    def __str__(self) -> str:
        return self.name

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it, with any exit status."""
        return call(self.path, *arguments)

    def render(self, directory: Path, *changes: Change) -> str:
        """Return what it would write for the example with these changes; it must print no message."""
        done = self.run("render", "--inventory", write_inventory(directory, *changes))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


GLUSTERFS = Script("glusterfs")
LOADBALANCER = Script("loadbalancer")
STANDBY = Script("standby")

PAIR: list[Change] = [("#standby=", "standby="), ("director=", "#director=")]
"""A hot-standby pair: the example is the inventory of a load balancer."""


def write_inventory(directory: Path, *changes: Change) -> Path:
    """Write the example with these changes; return the file's path."""
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    inventory = directory / "cluster.conf"
    inventory.write_text(text)
    return inventory


def parts_of(rendered: str) -> dict[tuple[str, str], str]:
    """Return the rendered parts, by machine and path."""
    parts = re.split(r"^== (.*?): (.*)\n", rendered, flags=re.MULTILINE)
    return {(parts[at], parts[at + 1]): parts[at + 2] for at in range(1, len(parts), 3)}


def steps(text: str) -> list[str]:
    """Return the commands that it says it runs, without the names of scratch directories."""
    return [re.sub(r"/tmp/tmp\.\w+", "", line) for line in text.splitlines() if ": + " in line]


def keepalived(file: Path) -> tuple[int, str]:
    """Check a configuration with keepalived, in its own network with an eth0: (status, output)."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network")
    if not shutil.which("keepalived", path="/usr/sbin:/sbin"):
        pytest.skip("keepalived is missing (package keepalived)")
    # keepalived's check sends itself SIGTERM if a script's user is not root.
    script = "ip link add eth0 type bridge; trap '' TERM; exec keepalived -t -f \"$0\""
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    done = call("unshare", "--net", "env", path, "sh", "-ec", script, file)
    return done.returncode, done.stdout + done.stderr


_HEARD = """
rm -f /tmp/keepalived.stats
kill -USR2 "$(cat /run/keepalived.pid)"
until grep -qs Received: /tmp/keepalived.stats; do sleep 0.05; done
sed -n 's/.*Received: //p;T;q' /tmp/keepalived.stats
"""
_SILENCE = 5


def wait_for_silence(do: Callable[..., str], holds: Callable[[], bool]) -> None:
    """Return once keepalived holds the address, or would have taken it from a lower priority.

    That takes three advertisement intervals of the other node, and a little more.  Count its
    advertisements, because they follow its clock.  ``do`` runs a command on the machine.
    """
    end = int(do("sh", "-ec", _HEARD)) + _SILENCE
    wait_for(lambda: holds() or int(do("sh", "-ec", _HEARD)) >= end, "the other one is heard")
