"""The deploy script of the hot-standby pair, where it needs no machine: what it renders, refuses and
plans.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.deploying import (
    KEEPALIVED,
    Change,
    Script,
    keepalived,
    line_of,
    parts_of,
    write_inventory,
    write_rocky,
)

pytestmark = pytest.mark.one_python

STANDBY = Script("standby")
TAKEOVER = "/usr/libexec/keepalived/access-limiter-takeover"

_ROCKY_TOOLS = {"firewall-cmd": '[ "$2" = --state ]', "curl": "exit 0", "systemctl": "exit 1"}
_ROCKY_ADDRESSES = """
ip link add eth0 type bridge
ip address add 192.0.2.11/24 dev eth0
ip address add 192.0.2.12/24 dev eth0
ip link set eth0 up
# That nobody has an address is known after three times this long, by default a second.
sysctl -qw net.ipv4.neigh.eth0.retrans_time_ms=250
"""

# The example inventory is that of a load balancer.
_PAIR: list[Change] = [("#standby=", "standby="), ("director=", "#director=")]
_VARIANTS: dict[str, list[Change]] = {
    "aws": [*_PAIR, ("#elastic_ip=", "elastic_ip=")],
    "premises": [*_PAIR, ("port=80", "port=8080")],
}


@pytest.mark.parametrize("variant", _VARIANTS)
def test_what_is_rendered(tmp_path: Path, variant: str) -> None:
    """It is the output that a person has read and put into tests/deploy/rendered."""
    assert STANDBY.render(tmp_path, *_VARIANTS[variant]) == STANDBY.rendered(variant)


@pytest.mark.parametrize("variant", _VARIANTS)
@pytest.mark.parametrize("machine", ["web1", "web2"])
def test_keepalived_takes_it(tmp_path: Path, variant: str, machine: str) -> None:
    """keepalived prints nothing, and it refuses the same file with an error in it."""
    text = parts_of(STANDBY.render(tmp_path, *_VARIANTS[variant]))[machine, KEEPALIVED]
    file = tmp_path / "keepalived.conf"
    file.write_text(text)
    assert keepalived(file) == (0, "")
    file.write_text(text.replace("vrrp_instance", "vrrp_instanze"))
    assert keepalived(file)[0] == 5


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
    """Neither machine has it, nor lacks what the first description lacked."""
    parts = parts_of(STANDBY.render(tmp_path, *_VARIANTS[variant]))
    for machine in ("web1", "web2"):
        assert not re.search(mistake, parts[machine, KEEPALIVED], re.MULTILINE)


def test_both_machines_run_the_same_script_and_after_a_split_brain_again(tmp_path: Path) -> None:
    """It has one name and the same arguments on both, and it is the script that is installed."""
    parts = parts_of(STANDBY.render(tmp_path, *_VARIANTS["aws"]))
    notified = [re.findall(r"notify\S* .*", parts[it, KEEPALIVED]) for it in ("web1", "web2")]
    call = f'"{TAKEOVER} 192.0.2.100 203.0.113.10 eth0" root'
    assert notified[0] == notified[1] == [f"notify_master {call}", f"notify_master_rx_lower_pri {call}"]
    assert {("web1", TAKEOVER), ("web2", TAKEOVER)} <= parts.keys()


@pytest.mark.parametrize(
    ("variant", "machine", "elastic_ip", "said"),
    [
        ("aws", "web1", "203.0.113.10", "wanted, higher, "),
        ("aws", "web2", "203.0.113.10", "wanted, "),
        ("aws", "web1", "203.0.113.11", "higher, "),
        ("premises", "web2", "203.0.113.10", ""),
    ],
)
def test_takeover_reads_in_keepalived_conf_what_is_written_there(
    tmp_path: Path, variant: str, machine: str, elastic_ip: str, said: str
) -> None:
    """It reads whether it must run with these arguments, and which of two masters this one is."""
    file = tmp_path / "keepalived.conf"
    file.write_text(parts_of(STANDBY.render(tmp_path, *_VARIANTS[variant]))[machine, KEEPALIVED])
    ask = """source "$1"
CONFIGURATION=$2 address=192.0.2.100 elastic_ip=$3 interface=eth0
! is_wanted || printf 'wanted, '
! has_higher_priority || printf 'higher, '"""
    words = ["bash", "-c", ask, "bash", str(STANDBY.path.parent / "takeover"), str(file), elastic_ip]
    assert subprocess.check_output(words, text=True) == said


def test_takeover_has_no_mistake_of_the_first_description() -> None:
    """It uses a token for metadata and handles errors, reassigns in one step each, and then checks."""
    text = re.sub(r"\\\n\s*", "", (STANDBY.path.parent / "takeover").read_text())
    assert "-X PUT" in text
    assert all(" -fsS " in line for line in text.splitlines() if re.match(r"\s+curl ", line))
    assert "placement/region" in text
    assert re.search(r"call assign-private-ip-addresses .*--allow-reassignment", text)
    assert re.search(r"call associate-address .*--allow-reassociation", text)
    assert "unassign" not in text
    assert "disassociate" not in text


def test_policy_is_json_that_names_calls_and_resources(tmp_path: Path) -> None:
    """Only calls that read may name all resources: for these AWS supports no resources."""
    rendered = parts_of(STANDBY.render(tmp_path, *_VARIANTS["aws"]))
    text = rendered["AWS", "policy of the role of both instances"]
    assert text.count("203.0.113.10") == 1
    assert (
        text.replace("203.0.113.10", "ELASTIC_IP") == (STANDBY.path.parent / "policy.json").read_text()
    )
    policy = json.loads(text)
    for statement in policy["Statement"]:
        actions = statement["Action"]
        reads = all(":Describe" in it for it in ([actions] if isinstance(actions, str) else actions))
        assert "*" not in "".join(actions)
        assert (statement["Resource"] == "*") == reads
        assert ("elastic-ip" in statement["Resource"]) == ("Condition" in statement)


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
    """Its line is named."""
    said = STANDBY.refusal(tmp_path, *_VARIANTS["aws"], (old, new))
    assert said == f"standby: cluster.conf, line {line_of(old, new)}: {why}\n"


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
    """The message says what is missing."""
    said = STANDBY.refusal(tmp_path, *_VARIANTS["aws"], *changes)
    assert said == f"standby: cluster.conf: {why}\n"


def test_rocky_gets_its_own_packages_and_its_firewall_is_opened(tmp_path: Path) -> None:
    """The plan for a machine like those of RHEL's family."""
    rocky = write_rocky(tmp_path, _ROCKY_TOOLS, "keepalived", _ROCKY_ADDRESSES)
    inventory = write_inventory(tmp_path, *_VARIANTS["premises"])
    done = subprocess.run(
        [*rocky, STANDBY.path, "install", "--dry-run", "--inventory", inventory],
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
