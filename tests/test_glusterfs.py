"""The deploy script for GlusterFS, as far as it needs no cluster: what it reads, says and refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

GLUSTERFS = REPOSITORY / "deploy/glusterfs/glusterfs"
EXAMPLE = REPOSITORY / "deploy/cluster.conf.example"
UNIT = GLUSTERFS.with_name("access-limiter-heal@.service")

# Becomes a machine of RHEL's family, without GlusterFS: $1 has the tools of such a one.
_ROCKY = """
printf 'ID="rocky"\\nID_LIKE="rhel centos fedora"\\n' >"$1/os-release"
mount --bind "$1/os-release" "$(realpath /etc/os-release)"
mkdir "$1/sbin"
mount -t tmpfs tmpfs "$1/sbin"
mkdir "$1/sbin/upper" "$1/sbin/work"
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$1/sbin/upper,workdir=$1/sbin/work" /usr/sbin
rm -f /usr/sbin/glusterd /usr/sbin/mount.glusterfs
umount -l "$1/sbin"
rmdir "$1/sbin"
PATH=$1:/usr/bin:/bin exec bash
"""
_ROCKY_TOOLS = {
    "dnf": '[ "$2" != list ]',
    "firewall-cmd": '[ "$2" = --state ]',
    "getsebool": 'echo "httpd_use_fusefs --> off"',
    "systemctl": "exit 1",
    "gluster": "exit 1",
}


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GLUSTERFS, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _write(path: Path, *changes: tuple[str, str]) -> Path:
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    inventory = path / "cluster.conf"
    inventory.write_text(text)
    return inventory


def test_render_shows_what_would_be_written() -> None:
    """Names, mounts and volume, of the example as it comes."""
    done = _run("render", "--inventory", EXAMPLE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "192.0.2.12 web2\n" in done.stdout
    line = "/access-limiter /mnt/access-limiter glusterfs defaults,_netdev,backup-volfile-servers="
    assert f"web1:{line}web2:web3 0 0\n" in done.stdout
    assert f"web3:{line}web1:web2 0 0\n" in done.stdout
    bricks = " ".join(f"web{number}:/srv/access-limiter-brick/brick" for number in (1, 2, 3))
    assert f"+ gluster volume create access-limiter replica 3 {bricks} force\n" in done.stdout
    assert "+ gluster volume set access-limiter cluster.quorum-type auto\n" in done.stdout
    assert done.stdout.count(UNIT.read_text()) == 1
    off, heal = (
        "cluster.self-heal-daemon off\n",
        "+ systemctl enable --now access-limiter-heal@access-limiter\n",
    )
    assert (
        f"+ gluster volume set access-limiter {off}" in done.stdout.partition("granular-entry-heal")[2]
    )
    assert heal in done.stdout.partition("self-heal-daemon off")[2]


def test_web_server_that_only_mounts_uses_all_that_store(tmp_path: Path) -> None:
    """It mounts from the first, and from the others if that one is lost."""
    inventory = _write(tmp_path, ("#client", "client"), ("replica=3", "replica=3 arbiter 1"))
    done = _run("render", "--inventory", inventory)
    assert "== web4: /etc/fstab\n" in done.stdout
    assert done.stdout.count("web1:/access-limiter /mnt") == 2
    assert " replica 3 arbiter 1 web1:/srv" in done.stdout
    assert "peer probe web4" not in done.stdout


def test_replica_2_is_warned_of(tmp_path: Path) -> None:
    """It is made if it is asked for by name."""
    inventory = _write(tmp_path, ("replica=3", "replica=2"), ("storage=web3 192.0.2.13\n", ""))
    done = _run("render", "--inventory", inventory)
    assert done.returncode == 0
    assert "WARNING: with replica 2 the loss of web1 stops the limiter everywhere" in done.stderr
    assert " replica 2 web1:/srv/access-limiter-brick/brick web2:" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("replica=3", "replica=4", "expected 3, 3 arbiter 1 or 2"),
        ("replica=3", "replica", "expected NAME=VALUE"),
        ("web3 192", "web2 192", "web2 is there twice"),
        ("192.0.2.13", "192.0.2.12", "192.0.2.12 is there twice"),
        ("192.0.2.13", "web.example", "'web.example' is no IPv4 address"),
        ("web3", "$(id)", "'$(id)' is no machine's name"),
        ("brick=/srv", "brick=srv", "expected an absolute path"),
        ("brick=/srv", "brick=/srv/..", "expected an absolute path"),
        ("mount=/mnt/", "mount=/mnt/$(touch x)/", "expected an absolute path"),
        ("volume=access", "volume=a;b", "'a;b-limiter' is no name of a volume"),
        ("store=store", "stor=store", "unknown: stor"),
        ("mount=/mnt/access-limiter", "brick=/x", "brick is there twice"),
    ],
)
def test_mistake_in_the_inventory_is_named(tmp_path: Path, old: str, new: str, why: str) -> None:
    """With its line; nothing of it is executed."""
    inventory = _write(tmp_path, (old, new))
    line = EXAMPLE.read_text().partition(old)[0].count("\n") + 1
    done = _run("render", "--inventory", inventory)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"glusterfs: {inventory}, line {line}: {why}")
    assert os.listdir(tmp_path) == ["cluster.conf"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("storage=web3 192.0.2.13\n", "replica=3 needs 3 lines storage=, not 2"),
        ("mount=/mnt/access-limiter\n", "mount is missing"),
    ],
)
def test_missing_line_in_the_inventory_is_named(tmp_path: Path, line: str, why: str) -> None:
    """By its name."""
    inventory = _write(tmp_path, (line, ""))
    done = _run("render", "--inventory", inventory)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"glusterfs: {inventory}: {why}\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no command"),
        (["remove"], "no such command: remove"),
        (["install", "web1"], "no such command: install web1"),
        (["add-node", "web4"], "no such command: add-node web4"),
        (["install", "--force"], "unknown option --force"),
        (["install", "--inventory"], "--inventory needs a file"),
    ],
)
def test_error_of_usage(arguments: list[str], why: str) -> None:
    """It is told where to read more."""
    done = _run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"glusterfs: {why} (see {GLUSTERFS} --help)\n"


def test_help_and_missing_inventory() -> None:
    """Both name the inventory."""
    told = _run("--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert "--inventory FILE" in told.stdout
    missing = _run("render", "--inventory", "/nonexistent")
    assert missing.returncode == 1
    assert "cannot read the inventory /nonexistent" in missing.stderr


def test_machine_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    """Before anything is done."""
    inventory = _write(tmp_path, ("remote=ssh -o BatchMode=yes", "remote=false"))
    done = _run("install", "--dry-run", "--inventory", inventory)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("glusterfs: web1 is not ready, or cannot be reached (remote=false root@%a)\n")


def test_this_machine_is_not_reached_by_ssh(tmp_path: Path) -> None:
    """It is known by its address."""
    said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    addresses = [address for address in said if ":" not in address]
    if os.geteuid() != 0 or not addresses:
        pytest.skip("only root can do this, on a machine with an address")
    changes = [("192.0.2.11", addresses[0]), ("#user=www-data", "user=nobody")]
    inventory = _write(tmp_path, *changes, ("remote=ssh -o BatchMode=yes root@%a", "remote=false"))
    done = _run("check", "--inventory", inventory)
    assert done.stdout.startswith("web1: ready; clock +0 ms\n")
    assert done.stderr.startswith("glusterfs: web2 is not ready, or cannot be reached (remote=false)")


def test_rocky_is_told_what_would_be_done(tmp_path: Path) -> None:
    """Its packages, its firewall and its SELinux."""
    if os.geteuid() != 0:
        pytest.skip("only root can pretend to be another distribution")
    for name, script in _ROCKY_TOOLS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "rocky").write_text(_ROCKY)
    reach = f"unshare --mount sh -e {tmp_path}/rocky {tmp_path}"
    changes = [
        ("remote=ssh -o BatchMode=yes root@%a", f"remote={reach}"),
        ("#user=www-data", "user=nobody"),
    ]
    inventory = _write(tmp_path, *changes, ("#client", "client"))
    done = _run("install", "--dry-run", "--inventory", inventory)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if ": + " in line]
    assert steps[0] == "web1: + dnf install -y centos-release-gluster9"
    assert steps[1] == "web1: + dnf install -y glusterfs-server glusterfs-fuse"
    assert "web1: + firewall-cmd -q --permanent --add-service=glusterfs" in steps
    assert "web1: + setsebool -P httpd_use_fusefs on" in steps
    assert "web1: + systemctl enable --now glusterd" in steps
    assert "web4: + dnf install -y glusterfs-fuse" in steps
    assert "web4: + systemctl enable --now glusterd" not in steps


def test_systemd_finds_no_fault_with_the_healer(tmp_path: Path) -> None:
    """But that it is not installed here."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    heal = GLUSTERFS.with_name("heal")
    unit = tmp_path / "access-limiter-heal@volume.service"
    text = UNIT.read_text().replace("/usr/local/sbin/access-limiter-heal", str(heal))
    assert str(heal) in text
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_healer_is_told_one_volume() -> None:
    """Or it says how it is called."""
    heal = GLUSTERFS.with_name("heal")
    done = subprocess.run([heal], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"heal: usage: {heal} VOLUME\n")
