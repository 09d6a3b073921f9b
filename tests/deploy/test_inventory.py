"""The inventory: how little is enough, and how each mistake in it is reported."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.deploying import (
    EXAMPLE,
    GLUSTERFS,
    LOADBALANCER,
    PAIR,
    STANDBY,
    Change,
    Script,
    write_inventory,
)

pytestmark = pytest.mark.one_python

_OWN: dict[Script, list[Change]] = {
    GLUSTERFS: [],
    LOADBALANCER: [],
    STANDBY: [*PAIR, ("#elastic_ip=", "elastic_ip=")],
}
"""What each script needs changed in the example."""


@pytest.mark.parametrize(
    ("script", "words", "rendered"),
    [
        (
            GLUSTERFS,
            "storage=a/192.0.2.1 storage=b/192.0.2.2 replica=2 volume=v brick=/b mount=/m store=s",
            "+ gluster volume create v replica 2 a:/b/brick b:/b/brick force\n",
        ),
        (
            LOADBALANCER,
            "client=a/192.0.2.1 director=b/192.0.2.2 director=c/192.0.2.3 vip=192.0.2.4 interface=eth0",
            "    real_server 192.0.2.1 80 {\n        weight 1\n",
        ),
        (
            STANDBY,
            "standby=a/192.0.2.1 standby=b/192.0.2.2 vip=255.255.255.255 interface=eth0 port=65535",
            " http://127.0.0.1:65535/cgi-bin/health.py",
        ),
    ],
    ids=str,
)
def test_few_lines_are_enough(tmp_path: Path, script: Script, words: str, rendered: str) -> None:
    """The last line may have no end."""
    inventory = tmp_path / "cluster.conf"
    lines = [word.replace("/192", " 192") for word in words.split()]
    inventory.write_text("\n".join(lines))
    done = script.run("render", "--inventory", inventory)
    assert done.returncode == 0
    assert rendered in done.stdout
    assert ("WARNING: with replica 2 the loss of a stops" in done.stderr) == (script is GLUSTERFS)


def test_inventory_beside_the_scripts_is_the_default(tmp_path: Path) -> None:
    deploy = shutil.copytree(EXAMPLE.parent, tmp_path / "deploy", ignore=lambda *_: ["cluster.conf"])
    copy = Script("loadbalancer", deploy)
    done = copy.run("render")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{deploy}/cluster.conf (copy and edit {deploy}/cluster.conf.example)" in done.stderr
    write_inventory(deploy)
    assert copy.run("render").stdout == LOADBALANCER.render(tmp_path)


_NO_ADDRESSES = ("1.2.3", "1.2.3.4.5", ".1.2.3.4", "256.1.1.1", "01.2.3.4", "1.2.3.x", "2001:db8::1")
_NO_PORTS = ("0", "080", "8x", "-1", "65536", "99999999999999999999")
ON_A_LINE = [
    (GLUSTERFS, "replica=3", "replica=4", "expected 3, 3 arbiter 1 or 2"),
    (GLUSTERFS, "replica=3", "replica", "expected NAME=VALUE"),
    (GLUSTERFS, "web3 192", "web2 192", "web2 is listed twice"),
    (GLUSTERFS, "192.0.2.13", "192.0.2.12", "192.0.2.12 is listed twice"),
    (GLUSTERFS, "192.0.2.13", "web.example", "'web.example' is no IPv4 address"),
    (GLUSTERFS, "web3", "$(id)", "'$(id)' is no machine's name"),
    (GLUSTERFS, "brick=/srv", "brick=srv", "expected an absolute path"),
    (GLUSTERFS, "brick=/srv", "brick=/srv/..", "expected an absolute path"),
    (GLUSTERFS, "mount=/mnt/", "mount=/mnt/$(touch x)/", "expected an absolute path"),
    (GLUSTERFS, "volume=access", "volume=a;b", "'a;b-limiter' is no name of a volume"),
    (GLUSTERFS, "store=store", "stor=store", "unknown: stor"),
    (GLUSTERFS, "mount=/mnt/access-limiter", "brick=/x", "brick is set twice"),
    (LOADBALANCER, "accept=lo", "accept=lo\nvip=192.0.2.101", "vip is set twice"),
    # It is a mistake even in another script's section.
    (GLUSTERFS, "port=80", "port=http", "expected a port, 1 to 65535"),
    *[(LOADBALANCER, "port=80", f"port={it}", "expected a port, 1 to 65535") for it in _NO_PORTS],
    *[(LOADBALANCER, "vip=192.0.2.100", f"vip={it}", f"'{it}' is no IPv4 add") for it in _NO_ADDRESSES],
    (LOADBALANCER, "interface=eth0", "interface=eth0;id", "'eth0;id' is no name of an interface"),
    (LOADBALANCER, "health=/cgi-bin/health.py", "health=up", "expected the path of a URL"),
    (LOADBALANCER, "balance=rr", "balance=random", "expected rr, wrr, lc or wlc"),
    (LOADBALANCER, "accept=lo", "accept=iptables", "expected lo, firewalld or nftables"),
    (LOADBALANCER, "director=lb2", "director=web1", "web1 is listed twice"),
    (LOADBALANCER, "director=lb2", "director=lb1", "lb1 is listed twice"),
    (LOADBALANCER, "director=lb2 192.0.2.22", "director=lb2", "expected director=NAME ADDRESS"),
    (LOADBALANCER, "#weight=web1 2", "weight=web9 2", "there is no machine web9 above"),
    (LOADBALANCER, "#weight=web1 2", "weight=web1 x", "expected weight=NAME NUMBER, 1 to 65535"),
    (STANDBY, "standby=web2 192.0.2.12", "standby=web1 192.0.2.11", "web1 is listed twice"),
    (
        STANDBY,
        "standby=web2 192.0.2.12",
        "standby=web2 192.0.2.14",
        "web2 has the address 192.0.2.12 on",
    ),
    (STANDBY, "elastic_ip=203.0.113.10", "elastic_ip=eipalloc-1", "'eipalloc-1' is no IPv4 address"),
]
IN_ALL = [
    (GLUSTERFS, "storage=web3 192.0.2.13\n", "", "replica=3 needs 3 lines storage=, not 2"),
    (GLUSTERFS, "mount=/mnt/access-limiter\n", "", "mount is missing"),
    (LOADBALANCER, "vip=192.0.2.100\n", "", "vip is missing"),
    (LOADBALANCER, "director=lb2 192.0.2.22\n", "", "expected two lines director=NAME ADDRESS, not 1"),
    (LOADBALANCER, "vip=192.0.2.100", "vip=192.0.2.12", "vip=192.0.2.12 is a machine's own address"),
    (LOADBALANCER, "#weight=", "weight=", "weight= needs balance=wrr or balance=wlc"),
    (LOADBALANCER, "storage=", "#storage=", "there is no web server (lines storage= and client=)"),
    (STANDBY, "interface=eth0\n", "", "interface is missing"),
    (STANDBY, "standby=web2 192.0.2.12\n", "", "expected two lines standby=NAME ADDRESS, not 1"),
    (STANDBY, "#director=", "director=", "directors hold 192.0.2.100 already"),
]


@pytest.mark.parametrize(
    ("script", "old", "new", "why", "is_on_a_line"),
    [*[(*it, True) for it in ON_A_LINE], *[(*it, False) for it in IN_ALL]],
    ids=str,
)
def test_a_mistake_is_reported_with_its_line(
    tmp_path: Path, script: Script, old: str, new: str, why: str, is_on_a_line: bool
) -> None:
    """Nothing in it is executed, rendered or written."""
    inventory = write_inventory(tmp_path, *_OWN[script], (old, new))
    done = script.run("render", "--inventory", inventory)
    assert (done.returncode, done.stdout) == (1, "")
    assert os.listdir(tmp_path) == [inventory.name]
    line = EXAMPLE.read_text().partition(old)[0].count("\n") + 1 + new.count("\n")
    place = f"{inventory}, line {line}" if is_on_a_line else f"{inventory}"
    assert done.stderr.startswith(f"{script}: {place}: {why}")
