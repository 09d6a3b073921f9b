"""The deploy scripts, as their tests call them: inventories made from the example, and the output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.laboratories.cluster.laboratory import wait_for
from tests.places import REPOSITORY

Change = tuple[str, str]
"""A text of the example, and its replacement."""

EXAMPLE = REPOSITORY / "deploy/cluster.conf.example"
KEEPALIVED = "/etc/keepalived/keepalived.conf"

_RENDERED = REPOSITORY / "tests/deploy/rendered"

# Imitate a machine of RHEL's family, with the tools in $tools and without the programs in $lacks.
_ROCKY = """
printf 'ID="rocky"\\nID_LIKE="rhel centos fedora"\\n' >"$tools/os-release"
mount --bind "$tools/os-release" "$(realpath /etc/os-release)"
mkdir "$tools/sbin"
mount -t tmpfs tmpfs "$tools/sbin"
mkdir "$tools/sbin/upper" "$tools/sbin/work"
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$tools/sbin/upper,workdir=$tools/sbin/work" /usr/sbin
(cd /usr/sbin && rm -f $lacks)
umount -l "$tools/sbin"
rmdir "$tools/sbin"
PATH=$tools:/usr/sbin:/usr/bin:/sbin:/bin
"""


class Script:
    """One of the scripts, by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = REPOSITORY / "deploy" / name / name

    def __str__(self) -> str:
        return self.name

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it, with any exit status."""
        return subprocess.run(
            [self.path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def render(self, directory: Path, *changes: Change) -> str:
        """Return what it would write for the example with these changes; it must print no message."""
        done = self.run("render", "--inventory", write_inventory(directory, *changes))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refusal(self, directory: Path, *changes: Change) -> str:
        """Return its error for an inventory with these changes; it must render and write nothing."""
        inventory = write_inventory(directory, *changes)
        done = self.run("render", "--inventory", inventory)
        assert (done.returncode, done.stdout) == (1, "")
        assert os.listdir(directory) == [inventory.name]
        return done.stderr.replace(str(inventory), inventory.name)

    def rendered(self, variant: str) -> str:
        """Return the output in tests/deploy/rendered, which a person has checked."""
        return (_RENDERED / f"{self.name}-{variant}").read_text()


def write_inventory(directory: Path, *changes: Change) -> Path:
    """Write the example with these changes; return the file's path."""
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    inventory = directory / "cluster.conf"
    inventory.write_text(text)
    return inventory


def line_of(old: str, new: str) -> int:
    """Return the number of the last line of a change."""
    return EXAMPLE.read_text().partition(old)[0].count("\n") + 1 + new.count("\n")


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
    done = subprocess.run(
        ["unshare", "--net", "env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-ec", script, file],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
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


def write_rocky(
    directory: Path, tools: Mapping[str, str], lacks: str, after: str = ""
) -> list[str | Path]:
    """Return a command prefix that runs a command on an imitated machine of RHEL's family.

    The machine has these tools, by name, and none of the programs that it ``lacks``.  The lines
    ``after`` run when it is set up.  Skip the test if the user is not root.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can make such a machine")
    place = directory / "tools"
    place.mkdir()
    for name, script in tools.items():
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)
    rocky = place / "rocky"
    rocky.write_text(f'tools={place} lacks="{lacks}"\n{_ROCKY}{after}exec "$@"\n')
    return ["unshare", "--net", "--mount", "sh", "-e", rocky]
