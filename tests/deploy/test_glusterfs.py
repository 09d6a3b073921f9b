"""The deploy script for GlusterFS, where it needs no cluster: what it renders, refuses and plans."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploying import Change, Script, line_of, steps, write_inventory, write_rocky

pytestmark = pytest.mark.one_python

GLUSTERFS = Script("glusterfs")
HEAL = GLUSTERFS.path.with_name("heal")
UNIT = GLUSTERFS.path.with_name("access-limiter-heal@.service")

_ROCKY_TOOLS = {
    "dnf": '[ "$2" != list ]',
    "firewall-cmd": '[ "$2" = --state ]',
    "getsebool": 'echo "httpd_use_fusefs --> off"',
    "systemctl": "exit 1",
    "gluster": "exit 1",
}


def test_render_shows_what_would_be_written(tmp_path: Path) -> None:
    """It shows names, mounts and volume of the example inventory."""
    rendered = GLUSTERFS.render(tmp_path)
    assert "192.0.2.12 web2\n" in rendered
    line = "/access-limiter /mnt/access-limiter glusterfs defaults,_netdev,backup-volfile-servers="
    assert f"web1:{line}web2:web3 0 0\n" in rendered
    assert f"web3:{line}web1:web2 0 0\n" in rendered
    bricks = " ".join(f"web{number}:/srv/access-limiter-brick/brick" for number in (1, 2, 3))
    assert f"+ gluster volume create access-limiter replica 3 {bricks} force\n" in rendered
    assert "+ gluster volume set access-limiter cluster.quorum-type auto\n" in rendered
    assert rendered.count(UNIT.read_text()) == 1
    off, heal = (
        "cluster.self-heal-daemon off\n",
        "+ systemctl enable --now access-limiter-heal@access-limiter\n",
    )
    assert f"+ gluster volume set access-limiter {off}" in rendered.partition("granular-entry-heal")[2]
    assert heal in rendered.partition("self-heal-daemon off")[2]


def test_web_server_that_only_mounts_uses_all_that_store(tmp_path: Path) -> None:
    """It mounts from the first, and from the others if the first is lost."""
    changes = [("#client", "client"), ("replica=3", "replica=3 arbiter 1")]
    rendered = GLUSTERFS.render(tmp_path, *changes)
    assert "== web4: /etc/fstab\n" in rendered
    assert rendered.count("web1:/access-limiter /mnt") == 2
    assert " replica 3 arbiter 1 web1:/srv" in rendered
    assert "peer probe web4" not in rendered


def test_replica_2_is_warned_of(tmp_path: Path) -> None:
    """It is made if it is requested by name."""
    changes = [("replica=3", "replica=2"), ("storage=web3 192.0.2.13\n", "")]
    done = GLUSTERFS.run("render", "--inventory", write_inventory(tmp_path, *changes))
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
    """Its line is named, and nothing in it is executed."""
    said = GLUSTERFS.refusal(tmp_path, (old, new))
    assert said.startswith(f"glusterfs: cluster.conf, line {line_of(old, new)}: {why}")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("storage=web3 192.0.2.13\n", "replica=3 needs 3 lines storage=, not 2"),
        ("mount=/mnt/access-limiter\n", "mount is missing"),
    ],
)
def test_missing_line_in_the_inventory_is_named(tmp_path: Path, line: str, why: str) -> None:
    """The message has its name."""
    assert GLUSTERFS.refusal(tmp_path, (line, "")) == f"glusterfs: cluster.conf: {why}\n"


def test_this_machine_is_not_reached_by_ssh(tmp_path: Path) -> None:
    """The script recognizes this machine by its address."""
    said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    addresses = [address for address in said if ":" not in address]
    if os.geteuid() != 0 or not addresses:
        pytest.skip("only root can do this, on a machine with an address")
    changes = [("192.0.2.11", addresses[0]), ("#user=www-data", "user=nobody")]
    changes += [("remote=ssh -o BatchMode=yes root@%a", "remote=false")]
    done = GLUSTERFS.run("check", "--inventory", write_inventory(tmp_path, *changes))
    assert done.stdout.startswith("web1: ready; clock +0 ms\n")
    assert done.stderr.startswith("glusterfs: web2 is not ready, or cannot be reached (remote=false)")


def test_rocky_is_told_what_would_be_done(tmp_path: Path) -> None:
    """These are its packages, its firewall and its SELinux."""
    rocky = write_rocky(tmp_path, _ROCKY_TOOLS, "glusterd mount.glusterfs")
    changes: list[Change] = [
        ("ssh -o BatchMode=yes root@%a", " ".join(map(str, rocky))),
        ("#user=www-data", "user=nobody"),
        ("#client", "client"),
    ]
    inventory = write_inventory(tmp_path, *changes)
    done = GLUSTERFS.run("install", "--dry-run", "--inventory", inventory)
    assert done.returncode == 0, done.stderr
    planned = steps(done.stdout)
    assert planned[0] == "web1: + dnf install -y centos-release-gluster9"
    assert planned[1] == "web1: + dnf install -y glusterfs-server glusterfs-fuse"
    assert "web1: + firewall-cmd -q --permanent --add-service=glusterfs" in planned
    assert "web1: + setsebool -P httpd_use_fusefs on" in planned
    assert "web1: + systemctl enable --now glusterd" in planned
    assert "web4: + dnf install -y glusterfs-fuse" in planned
    assert "web4: + systemctl enable --now glusterd" not in planned


def test_systemd_finds_no_fault_with_the_healer(tmp_path: Path) -> None:
    """The only fault is that it is not installed here."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    unit = tmp_path / "access-limiter-heal@volume.service"
    text = UNIT.read_text().replace("/usr/local/sbin/access-limiter-heal", str(HEAL))
    assert str(HEAL) in text
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_healer_is_told_one_volume() -> None:
    """Otherwise it prints its usage."""
    done = subprocess.run([HEAL], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"heal: usage: {HEAL} VOLUME\n")
