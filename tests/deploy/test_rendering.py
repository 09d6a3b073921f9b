"""What the scripts write: each rendering as it was reviewed, and accepted by the programs that read it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploying import (
    GLUSTERFS,
    KEEPALIVED,
    LOADBALANCER,
    PAIR,
    STANDBY,
    Change,
    Script,
    call,
    keepalived,
    parts_of,
)
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

RENDERED = Path(__file__).with_name("rendered")
"""``SCRIPT`` is a whole rendering, but of machines with the same role it has only the first; other tests
compare the others with it.  ``SCRIPT-OPTION.diff`` is what an option changes in it: the new lines, and in which
lines of the whole rendering they stand.
"""

_ONE_WEB_SERVER: Change = ("storage=web2 192.0.2.12\nstorage=web3 192.0.2.13\n", "")

VARIANTS: dict[str, tuple[Script, list[Change]]] = {
    "glusterfs": (GLUSTERFS, []),
    "glusterfs-arbiter-client": (GLUSTERFS, [("#client", "client"), ("=3\n", "=3 arbiter 1\n")]),
    "loadbalancer": (LOADBALANCER, [_ONE_WEB_SERVER]),
    "loadbalancer-firewalld": (LOADBALANCER, [_ONE_WEB_SERVER, ("accept=lo", "accept=firewalld")]),
    "loadbalancer-nftables": (LOADBALANCER, [_ONE_WEB_SERVER, ("accept=lo", "accept=nftables")]),
    "standby": (STANDBY, PAIR),
    "standby-aws": (STANDBY, [*PAIR, ("#elastic_ip=", "elastic_ip=")]),
}

_LEFT_OUT = {GLUSTERFS: ("web2", "web3"), LOADBALANCER: ("lb2",), STANDBY: ("web2",)}
_COPIED = ("glusterfs/access-limiter-heal@.service", "standby/policy.json")
_WITH_VIP = [name for name, (script, _) in VARIANTS.items() if script is not GLUSTERFS]


def _render(directory: Path, variant: str, *changes: Change) -> str:
    script, own = VARIANTS[variant]
    return script.render(directory, *own, *changes)


def _reviewed(directory: Path, variant: str) -> str:
    text = _render(directory, variant)
    for name in _COPIED:
        copied = (REPOSITORY / "deploy" / name).read_text().replace("ELASTIC_IP", "203.0.113.10")
        text = text.replace(copied, f"(as {name} is here)\n")
    left_out = tuple(f"== {machine}: " for machine in _LEFT_OUT[VARIANTS[variant][0]])
    return "".join(it for it in re.split("(?m)^(?=== )", text) if not it.startswith(left_out))


@pytest.mark.parametrize("name", ["glusterfs", "loadbalancer", "standby"])
def test_whole_rendering(tmp_path: Path, name: str) -> None:
    assert _reviewed(tmp_path, name) == (RENDERED / name).read_text()


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "-" in name])
def test_what_an_option_changes(tmp_path: Path, variant: str) -> None:
    whole = VARIANTS[variant][0].name
    text = _reviewed(tmp_path, variant)
    diff: list[str | Path] = ["diff", "-U0", "-F", "^==", RENDERED / whole, "-"]
    done = subprocess.run(diff, input=text, capture_output=True, text=True, check=False)
    new = re.sub(r"(?m)^(-|\+\+\+ ).*\n", "", done.stdout)
    assert new == (RENDERED / f"{variant}.diff").read_text()


@pytest.mark.parametrize(
    ("variant", "names", "addresses"),
    [
        ("loadbalancer", "lb1 lb2", "192.0.2.21 192.0.2.22"),
        ("standby-aws", "web1 web2", "192.0.2.11 192.0.2.12"),
    ],
)
def test_the_second_of_a_pair_mirrors_the_first(
    tmp_path: Path, variant: str, names: str, addresses: str
) -> None:
    first, second = (
        re.findall(rf"(?ms)^== {name}: .*?(?=^== |\Z)", _render(tmp_path, variant))
        for name in names.split()
    )
    pairs = [names.split(), addresses.split(), ["priority 200", "priority 100"]]
    other = {old: new for a, b in pairs for old, new in ((a, b), (b, a))}
    assert re.sub("|".join(other), lambda it: other[it[0]], "".join(first)) == "".join(second)


def test_each_storage_machine_mounts_from_itself_first(tmp_path: Path) -> None:
    parts = parts_of(_render(tmp_path, "glusterfs"))
    first = parts["web1", "/etc/fstab"]
    for machine, others in (("web2", "web1:web3"), ("web3", "web1:web2")):
        own = first.replace("web1:/", f"{machine}:/").replace("web2:web3", others)
        assert parts[machine, "/etc/fstab"].startswith(own)
        assert parts[machine, "/etc/hosts"] == parts["web1", "/etc/hosts"]


@pytest.mark.parametrize("variant", _WITH_VIP)
def test_port_and_health_page_stand_wherever_they_matter(tmp_path: Path, variant: str) -> None:
    changes = [("port=80\n", "port=8080\n"), ("health=/cgi-bin/health.py", "health=/up")]
    text = _render(tmp_path, variant, *changes)
    assert not re.search(r"\b80\b", text)
    assert text.replace("8080", "80").replace("/up", "/cgi-bin/health.py") == _render(tmp_path, variant)


def test_every_web_server_is_checked_and_has_its_weight(tmp_path: Path) -> None:
    """The weight is 1 unless the inventory sets it."""
    weights = ("#weight=web1 2", "weight=web3 7\nweight=web1 2")
    changes = [("#client=", "client="), ("balance=rr", "balance=wlc"), weights]
    text = parts_of(LOADBALANCER.render(tmp_path, *changes))["lb2", KEEPALIVED]
    assert "    lvs_sched wlc\n" in text
    servers = re.findall(r"real_server 192.0.2.(\d+) 80 {\n +weight (\d+)\n +HTTP_GET", text)
    assert servers == [("11", "2"), ("12", "1"), ("13", "7"), ("14", "1")]


def test_a_dead_web_server_is_out_within_5_seconds(tmp_path: Path) -> None:
    """At the longest it takes a loop, all tries, and the pauses between them."""
    text = parts_of(LOADBALANCER.render(tmp_path))["lb1", KEEPALIVED]

    def seconds(key: str) -> int:
        (value,) = set(re.findall(rf"^ +{key} (\d+)$", text, re.MULTILINE))
        return int(value)

    retries = seconds("retry")
    tries = (retries + 1) * seconds("connect_timeout") + retries * seconds("delay_before_retry")
    assert seconds("delay_loop") + tries < 5


def test_only_reading_calls_may_name_all_resources(tmp_path: Path) -> None:
    """AWS supports no other resources for these.  Of all Elastic IPs, only the pair's own may move."""
    parts = parts_of(_render(tmp_path, "standby-aws"))
    own = {"StringEquals": {"ec2:PublicIpAddress": "203.0.113.10"}}
    for statement in json.loads(parts["AWS", "policy of the role of both instances"])["Statement"]:
        calls, resource = statement["Action"], statement["Resource"]
        calls = [calls] if isinstance(calls, str) else calls
        assert all(re.fullmatch(r"ec2:\w+", it) for it in calls)
        reads = all(it.startswith("ec2:Describe") for it in calls)
        named = r"\*" if reads else r"arn:aws:ec2:\*:\*:(elastic-ip|network-interface)/\*"
        assert re.fullmatch(named, resource)
        assert statement.get("Condition") == (own if "elastic-ip" in resource else None)


@pytest.mark.parametrize(
    ("variant", "machine"), [("loadbalancer", "lb1"), ("standby", "web1"), ("standby-aws", "web1")]
)
def test_keepalived_accepts_its_configuration(tmp_path: Path, variant: str, machine: str) -> None:
    """It prints nothing, and it refuses the same file with an error in it."""
    text = parts_of(_render(tmp_path, variant))[machine, KEEPALIVED]
    file = tmp_path / "keepalived.conf"
    file.write_text(text)
    assert keepalived(file) == (0, "")
    file.write_text(text.replace("vrrp_instance", "vrrp_instanze"))
    assert keepalived(file)[0] == 5


@pytest.mark.parametrize("variant", ["glusterfs", "loadbalancer", "loadbalancer-nftables"])
def test_systemd_accepts_the_units(tmp_path: Path, variant: str) -> None:
    """systemd prints nothing: it exits with 0 even if it does not know a key."""
    for tool, package in (("systemd-analyze", "systemd"), ("nft", "nftables"), ("ip", "iproute2")):
        if shutil.which(tool, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    text = _render(tmp_path, variant)
    for name, script in (("heal", GLUSTERFS), ("sorry", LOADBALANCER)):  # they are not installed here
        text = text.replace(f"/usr/local/sbin/access-limiter-{name}", str(script.path.with_name(name)))
    units = {
        path: text.partition("\n+ ")[0]
        for (_, path), text in parts_of(text).items()
        if "/systemd/" in path
    }
    assert units
    for path, own in units.items():
        unit = tmp_path / Path(path).name.replace("@", "@instance")
        unit.write_text(own)
        done = call("systemd-analyze", "verify", unit)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("variant", "machine", "elastic_ip", "found"),
    [
        ("standby-aws", "web1", "203.0.113.10", "configured, higher, "),
        ("standby-aws", "web2", "203.0.113.10", "configured, "),
        ("standby-aws", "web1", "203.0.113.11", "higher, "),
        ("standby", "web2", "203.0.113.10", ""),
    ],
)
def test_takeover_understands_the_configuration_of_keepalived(
    tmp_path: Path, variant: str, machine: str, elastic_ip: str, found: str
) -> None:
    """It reads whether it must run with these arguments, and which of two masters this one is."""
    file = tmp_path / "keepalived.conf"
    file.write_text(parts_of(_render(tmp_path, variant))[machine, KEEPALIVED])
    script = """source "$1"
CONFIGURATION=$2 address=192.0.2.100 elastic_ip=$3 interface=eth0
! is_configured || printf 'configured, '
! has_higher_priority || printf 'higher, '"""
    takeover = STANDBY.path.with_name("takeover")
    assert call("bash", "-c", script, "bash", takeover, file, elastic_ip).stdout == found
