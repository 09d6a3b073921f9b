"""The deploy scripts, as their tests call them: with an inventory made of the example, and what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.cluster.laboratory import wait_for
from tests.places import REPOSITORY

Change = tuple[str, str]
"""What of the example is replaced, and by what."""

EXAMPLE = REPOSITORY / "deploy/cluster.conf.example"
KEEPALIVED = "/etc/keepalived/keepalived.conf"

_RENDERED = REPOSITORY / "tests/rendered"

# Become a machine of RHEL's family, with the tools in $tools and without the programs in $lacks.
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
    """One of the scripts, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = REPOSITORY / "deploy" / name / name

    def __str__(self) -> str:
        return self.name

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it, whatever it exits with."""
        return subprocess.run(
            [self.path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def render(self, directory: Path, *changes: Change) -> str:
        """What would be written for the example with these changes; without a word beside it."""
        done = self.run("render", "--inventory", write_inventory(directory, *changes))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refusal(self, directory: Path, *changes: Change) -> str:
        """What it says of an inventory with these changes; nothing is made of it, and nothing executed."""
        inventory = write_inventory(directory, *changes)
        done = self.run("render", "--inventory", inventory)
        assert (done.returncode, done.stdout) == (1, "")
        assert os.listdir(directory) == [inventory.name]
        return done.stderr.replace(str(inventory), inventory.name)

    def rendered(self, variant: str) -> str:
        """What was looked at, and put into tests/rendered."""
        return (_RENDERED / f"{self.name}-{variant}").read_text()


def write_inventory(directory: Path, *changes: Change) -> Path:
    """The example with these changes."""
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    inventory = directory / "cluster.conf"
    inventory.write_text(text)
    return inventory


def line_of(old: str, new: str) -> int:
    """The number of the line that is the last one of a change."""
    return EXAMPLE.read_text().partition(old)[0].count("\n") + 1 + new.count("\n")


def parts_of(rendered: str) -> dict[tuple[str, str], str]:
    """What is rendered, by machine and path."""
    parts = re.split(r"^== (.*?): (.*)\n", rendered, flags=re.MULTILINE)
    return {(parts[at], parts[at + 1]): parts[at + 2] for at in range(1, len(parts), 3)}


def steps(text: str) -> list[str]:
    """The commands said to be run, without the names of scratch directories."""
    return [re.sub(r"/tmp/tmp\.\w+", "", line) for line in text.splitlines() if ": + " in line]


def keepalived(file: Path) -> tuple[int, str]:
    """What keepalived says of a configuration where there is an eth0, in a network of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network")
    if not shutil.which("keepalived", path="/usr/sbin:/sbin"):
        pytest.skip("keepalived is missing (package keepalived)")
    # Its test ends itself by SIGTERM where a script's user is not root.
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
    """Return when keepalived would have taken the address from one of lower priority, or has: ``holds``.

    That is after three intervals of the other one's advertisements, and a little more.  So these are counted, which
    come as that one's clock goes.  ``do`` runs a command on the machine.
    """
    end = int(do("sh", "-ec", _HEARD)) + _SILENCE
    wait_for(lambda: holds() or int(do("sh", "-ec", _HEARD)) >= end, "the other one is heard")


def write_rocky(
    directory: Path, tools: Mapping[str, str], lacks: str, after: str = ""
) -> list[str | Path]:
    """A command that runs another, given after it, on what seems to be a machine of RHEL's family.

    It has these tools, by their names, and none of the programs that it ``lacks``; ``after`` it has become that,
    these further lines are run.  Skips the test for whoever is not root.
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
