"""The deploy script of the hot-standby pair, as far as it needs no machine: what it writes, says and refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

STANDBY = REPOSITORY / "deploy/standby/standby"
EXAMPLE = REPOSITORY / "deploy/cluster.conf.example"
RENDERED = REPOSITORY / "tests/rendered"
KEEPALIVED = "/etc/keepalived/keepalived.conf"
TAKEOVER = "/usr/libexec/keepalived/access-limiter-takeover"

# Becomes both machines, of RHEL's family and without keepalived: $1 has the tools of such a one.
_ROCKY = """
printf 'ID="rocky"\\nID_LIKE="rhel centos fedora"\\n' >"$1/os-release"
mount --bind "$1/os-release" "$(realpath /etc/os-release)"
mkdir "$1/sbin"
mount -t tmpfs tmpfs "$1/sbin"
mkdir "$1/sbin/upper" "$1/sbin/work"
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$1/sbin/upper,workdir=$1/sbin/work" /usr/sbin
rm -f /usr/sbin/keepalived
umount -l "$1/sbin"
rmdir "$1/sbin"
ip link add eth0 type bridge
ip address add 192.0.2.11/24 dev eth0
ip address add 192.0.2.12/24 dev eth0
ip link set eth0 up
PATH=$1:/usr/sbin:/usr/bin:/sbin:/bin exec "$2" install --dry-run --inventory "$3"
"""
_ROCKY_TOOLS = {"firewall-cmd": '[ "$2" = --state ]', "curl": "exit 0", "systemctl": "exit 1"}

Change = tuple[str, str]

# The example is a load balancer's.
_PAIR: list[Change] = [("#standby=", "standby="), ("director=", "#director=")]
_VARIANTS: dict[str, list[Change]] = {
    "aws": [*_PAIR, ("#elastic_ip=", "elastic_ip=")],
    "premises": [*_PAIR, ("port=80", "port=8080")],
}


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [STANDBY, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _write(path: Path, *changes: Change) -> Path:
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    inventory = path / "cluster.conf"
    inventory.write_text(text)
    return inventory


def _render(path: Path, *changes: Change) -> str:
    done = _run("render", "--inventory", _write(path, *changes))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _parts(rendered: str) -> dict[tuple[str, str], str]:
    """What is rendered, by machine and path."""
    parts = re.split(r"^== (.*?): (.*)\n", rendered, flags=re.MULTILINE)
    return {(parts[at], parts[at + 1]): parts[at + 2] for at in range(1, len(parts), 3)}


def _keepalived(file: Path) -> tuple[int, str]:
    """What keepalived says of it, where there is such an interface, in a network of its own."""
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


@pytest.mark.parametrize("variant", _VARIANTS)
def test_what_is_rendered(tmp_path: Path, variant: str) -> None:
    """It is what was looked at, and put into tests/rendered."""
    assert _render(tmp_path, *_VARIANTS[variant]) == (RENDERED / f"standby-{variant}").read_text()


@pytest.mark.parametrize("variant", _VARIANTS)
@pytest.mark.parametrize("machine", ["web1", "web2"])
def test_keepalived_takes_it(tmp_path: Path, variant: str, machine: str) -> None:
    """Without a word, and it refuses the same with an error in it."""
    text = _parts(_render(tmp_path, *_VARIANTS[variant]))[machine, KEEPALIVED]
    file = tmp_path / "keepalived.conf"
    file.write_text(text)
    assert _keepalived(file) == (0, "")
    file.write_text(text.replace("vrrp_instance", "vrrp_instanze"))
    assert _keepalived(file)[0] == 5


@pytest.mark.parametrize("variant", _VARIANTS)
@pytest.mark.parametrize(
    "mistake",
    [
        r"^\s*;",
        r"state MASTER",
        r"auth_(type|pass)",
        r"(?s)\A(?!.*nopreempt)",
        r"(?s)\A(?!.*unicast_peer)",
        r"(?s)\A(?!.*check_unicast_src)",
        r"(?s)\A(?!.*min_ttl 255)",
        r"(?s)\A(?!.*script_user)",
        r"(?s)\A(?!.*enable_script_security)",
        r"(?s)\A(?!.*track_script)",
        r"persistence_timeout|inhibit_on_failure|nb_get_retry|virtusl_server",
        r"ip_forward|rp_filter",
    ],
)
def test_mistake_of_the_first_description_is_not_there(
    tmp_path: Path, variant: str, mistake: str
) -> None:
    """Nor is what it lacked missing, on either machine."""
    parts = _parts(_render(tmp_path, *_VARIANTS[variant]))
    for machine in ("web1", "web2"):
        assert not re.search(mistake, parts[machine, KEEPALIVED], re.MULTILINE)


def test_both_machines_run_the_same_script_and_after_a_split_brain_again(tmp_path: Path) -> None:
    """Under one name, with the same arguments; and it is the script that is installed."""
    parts = _parts(_render(tmp_path, *_VARIANTS["aws"]))
    notified = [re.findall(r"notify\S* .*", parts[it, KEEPALIVED]) for it in ("web1", "web2")]
    call = f'"{TAKEOVER} 192.0.2.100 203.0.113.10 eth0" root'
    assert notified[0] == notified[1] == [f"notify_master {call}", f"notify_master_rx_lower_pri {call}"]
    assert {("web1", TAKEOVER), ("web2", TAKEOVER)} <= parts.keys()


def test_takeover_has_no_mistake_of_the_first_description() -> None:
    """Metadata by a token and with errors seen; reassignment in one step each; then a look."""
    text = re.sub(r"\\\n\s*", "", (STANDBY.parent / "takeover").read_text())
    assert "-X PUT" in text
    assert all(" -fsS " in line for line in text.splitlines() if re.match(r"\s+curl ", line))
    assert "placement/region" in text
    assert re.search(r"call assign-private-ip-addresses .*--allow-reassignment", text)
    assert re.search(r"call associate-address .*--allow-reassociation", text)
    assert "unassign" not in text
    assert "disassociate" not in text


def test_policy_is_json_that_names_calls_and_resources(tmp_path: Path) -> None:
    """Only what reads may name everything: there AWS knows no resources."""
    rendered = _parts(_render(tmp_path, *_VARIANTS["aws"]))
    policy = json.loads(rendered["AWS", "policy of the role of both instances"])
    assert policy == json.loads((STANDBY.parent / "policy.json").read_text())
    for statement in policy["Statement"]:
        actions = statement["Action"]
        reads = all(":Describe" in it for it in ([actions] if isinstance(actions, str) else actions))
        assert "*" not in "".join(actions)
        assert (statement["Resource"] == "*") == reads


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("standby=web2 192.0.2.12", "standby=web1 192.0.2.11", "web1 is there twice"),
        ("standby=web2 192.0.2.12", "standby=web2 192.0.2.14", "web2 is 192.0.2.12 elsewhere"),
        ("elastic_ip=203.0.113.10", "elastic_ip=eipalloc-1", "'eipalloc-1' is no IPv4 address"),
        ("interface=eth0", "interface=eth0;id", "'eth0;id' is no name of an interface"),
    ],
)
def test_mistake_in_the_inventory_is_named(tmp_path: Path, old: str, new: str, why: str) -> None:
    """With its line."""
    inventory = _write(tmp_path, *_VARIANTS["aws"], (old, new))
    line = inventory.read_text().rpartition(f"{new}\n")[0].count("\n") + 1
    done = _run("render", "--inventory", inventory)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"standby: {inventory}, line {line}: {why}\n"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([("standby=web2 192.0.2.12\n", "")], "expected two lines standby=NAME ADDRESS, not 1"),
        ([("vip=192.0.2.100\n", "")], "vip is missing"),
        ([("interface=eth0\n", "")], "interface is missing"),
        ([("vip=192.0.2.100", "vip=192.0.2.13")], "vip=192.0.2.13 is a machine's own address"),
        (
            [("#director=", "director=")],
            "directors hold 192.0.2.100 already: a load balancer or a hot-standby pair, not both",
        ),
    ],
)
def test_inventory_that_makes_no_pair_is_refused(
    tmp_path: Path, changes: list[Change], why: str
) -> None:
    """With what it lacks."""
    inventory = _write(tmp_path, *_VARIANTS["aws"], *changes)
    done = _run("render", "--inventory", inventory)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"standby: {inventory}: {why}\n"


def test_rocky_gets_its_own_packages_and_its_firewall_is_opened(tmp_path: Path) -> None:
    """What would be done, on a machine that is as RHEL's family is."""
    if os.geteuid() != 0:
        pytest.skip("only root can make such a machine")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in _ROCKY_TOOLS.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    inventory = _write(tmp_path, *_VARIANTS["premises"])
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-ec", _ROCKY, "sh", tools, STANDBY, inventory],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for machine, peer in (("web1", "192.0.2.12"), ("web2", "192.0.2.11")):
        assert f"{machine}: + dnf install -y keepalived\n" in done.stdout
        for rule in (
            f'source address="{peer}" protocol value="vrrp"',
            'port port="8080" protocol="tcp"',
        ):
            quoted = rule.replace(" ", "\\ ").replace('"', '\\"')
            added = rf"{machine}: \+ firewall-cmd -q (--permanent )?--add-rich-rule=.*{re.escape(quoted)}.*\n"
            assert len(re.findall(added, done.stdout)) == 2
        assert f"{machine}: + systemctl enable --now keepalived\n" in done.stdout
    assert done.stdout.endswith("Nothing changed: this was a dry run.\n")
