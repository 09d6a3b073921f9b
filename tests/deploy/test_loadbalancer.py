"""The load balancer's deploy script, where it needs no machine: what it renders and refuses."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploying import KEEPALIVED, Change, Script, keepalived, line_of, parts_of

pytestmark = pytest.mark.one_python

LOADBALANCER = Script("loadbalancer")

_VARIANTS: dict[str, list[Change]] = {
    "lo": [],
    "nftables": [
        ("accept=lo", "accept=nftables"),
        ("balance=rr", "balance=wrr"),
        ("#weight=", "weight="),
    ],
    "firewalld": [("accept=lo", "accept=firewalld"), ("port=80", "port=8080"), ("#client=", "client=")],
}


@pytest.mark.parametrize("variant", _VARIANTS)
def test_what_is_rendered(tmp_path: Path, variant: str) -> None:
    """It is the output that a person has read and put into tests/deploy/rendered."""
    assert LOADBALANCER.render(tmp_path, *_VARIANTS[variant]) == LOADBALANCER.rendered(variant)


@pytest.mark.parametrize("variant", _VARIANTS)
@pytest.mark.parametrize("director", ["lb1", "lb2"])
def test_keepalived_takes_it(tmp_path: Path, variant: str, director: str) -> None:
    """keepalived prints nothing, and it refuses the same file with an error in it."""
    text = parts_of(LOADBALANCER.render(tmp_path, *_VARIANTS[variant]))[director, KEEPALIVED]
    file = tmp_path / "keepalived.conf"
    file.write_text(text)
    assert keepalived(file) == (0, "")
    file.write_text(text.replace("virtual_server", "virtusl_server"))
    assert keepalived(file)[0] == 5


@pytest.mark.parametrize(
    "mistake",
    [
        "^ *;",
        "virtusl_server",
        "nb_get_retry",
        "state MASTER",
        "authentication|auth_type|auth_pass",
        "persistence_timeout",
        "inhibit_on_failure",
        "ip_forward|rp_filter",
        "notify|vrrp_script|track_script|MISC_CHECK|misc_path",
        "vrrp_strict|vmac|preempt_delay",
    ],
)
def test_mistake_of_old_is_nowhere(tmp_path: Path, mistake: str) -> None:
    """No file of any variant has it.  A script that would be on only one machine is on none."""
    for changes in _VARIANTS.values():
        assert not re.search(mistake, LOADBALANCER.render(tmp_path, *changes), re.MULTILINE)


def test_directors_are_equals(tmp_path: Path) -> None:
    """They differ only in name, address and priority after both had it, and talk only to each other."""
    files = parts_of(LOADBALANCER.render(tmp_path))
    first, second = (files[director, KEEPALIVED] for director in ("lb1", "lb2"))
    for text, own, other in ((first, "21", "22"), (second, "22", "21")):
        assert "    state BACKUP\n    nopreempt\n" in text
        assert f"    unicast_src_ip 192.0.2.{own}\n    check_unicast_src\n" in text
        assert f"    unicast_peer {{\n        192.0.2.{other} min_ttl 255\n    }}\n" in text
    changes = [("router_id lb1", "router_id lb2"), ("priority 200", "priority 100")]
    changes += [("192.0.2.22 ", "PEER "), ("ip 192.0.2.21", "ip 192.0.2.22"), ("PEER ", "192.0.2.21 ")]
    for old, new in changes:
        assert first.count(old) == 1
        first = first.replace(old, new)
    assert first == second
    directories = [path for machine, path in files if machine == "lb1"]
    assert directories == [path for machine, path in files if machine == "lb2"]


def test_all_web_servers_are_asked(tmp_path: Path) -> None:
    """keepalived checks the health of each at its own address, directly and not by a ping."""
    changes = [("#client=", "client="), ("/cgi-bin/health.py", "/up"), ("port=80", "port=8080")]
    text = parts_of(LOADBALANCER.render(tmp_path, *changes))["lb1", KEEPALIVED]
    assert re.findall(r"real_server (\S+ \S+) {", text) == [
        f"192.0.2.{n} 8080" for n in (11, 12, 13, 14)
    ]
    assert text.count("HTTP_GET") == text.count("path /up\n") == text.count("status_code 200") == 4
    assert "\nvirtual_server 192.0.2.100 8080 {\n" in text
    assert "    lvs_method DR\n" in text
    assert "    sorry_server 127.0.0.1 8080\n" in text


def test_dead_web_server_is_out_within_5_seconds(tmp_path: Path) -> None:
    """A dead one can seem healthy for a loop, all tries, and the pauses between them, at the longest."""
    text = parts_of(LOADBALANCER.render(tmp_path))["lb1", KEEPALIVED]

    def seconds(key: str) -> int:
        (value,) = set(re.findall(rf"^ +{key} (\d+)$", text, re.MULTILINE))
        return int(value)

    retries = seconds("retry")
    tries = (retries + 1) * seconds("connect_timeout") + retries * seconds("delay_before_retry")
    assert seconds("delay_loop") + tries < 5


def test_weights(tmp_path: Path) -> None:
    """The weight is 1 by default, or that of the inventory."""
    changes = [("balance=rr", "balance=wlc"), ("#weight=web1 2", "weight=web3 7\nweight=web1 2")]
    text = parts_of(LOADBALANCER.render(tmp_path, *changes))["lb2", KEEPALIVED]
    assert "    lvs_sched wlc\n" in text
    assert re.findall(r"weight (\d+)", text) == ["2", "1", "7"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("vip=192.0.2.100", "vip=192.0.2.256", "'192.0.2.256' is no IPv4 address"),
        ("vip=192.0.2.100", "vip=2001:db8::1", "'2001:db8::1' is no IPv4 address"),
        ("interface=eth0", "interface=eth0;id", "'eth0;id' is no name of an interface"),
        ("port=80", "port=0", "expected a port, 1 to 65535"),
        ("port=80", "port=080", "expected a port, 1 to 65535"),
        ("port=80", "port=99999", "expected a port, 1 to 65535"),
        ("health=/cgi-bin/health.py", "health=health.py", "expected the path of a URL"),
        ("balance=rr", "balance=random", "expected rr, wrr, lc or wlc"),
        ("accept=lo", "accept=iptables", "expected lo, firewalld or nftables"),
        ("director=lb2", "director=lb1", "lb1 is there twice"),
        ("director=lb2", "director=web1", "web1 is there twice"),
        ("director=lb2 192.0.2.22", "director=lb2", "expected director=NAME ADDRESS"),
        ("#weight=web1 2", "weight=web9 2", "there is no machine web9 above"),
        ("#weight=web1 2", "weight=web1 x", "expected weight=NAME NUMBER, 1 to 65535"),
        ("accept=lo", "accept=lo\nvip=192.0.2.101", "vip is there twice"),
    ],
)
def test_mistake_in_the_inventory_is_named(tmp_path: Path, old: str, new: str, why: str) -> None:
    """Its line is named."""
    said = LOADBALANCER.refusal(tmp_path, (old, new))
    assert said.startswith(f"loadbalancer: cluster.conf, line {line_of(old, new)}: {why}")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("vip=192.0.2.100\n", "", "vip is missing"),
        ("interface=eth0\n", "", "interface is missing"),
        ("director=lb2 192.0.2.22\n", "", "a load balancer needs two lines director=, not 1"),
        ("vip=192.0.2.100", "vip=192.0.2.12", "vip=192.0.2.12 is the address of a machine"),
        ("#weight=", "weight=", "weight= needs balance=wrr or balance=wlc"),
        ("storage=", "#storage=", "there is no web server (lines storage= and client=)"),
    ],
)
def test_inventory_that_makes_no_load_balancer(tmp_path: Path, old: str, new: str, why: str) -> None:
    """The message says what is missing."""
    assert LOADBALANCER.refusal(tmp_path, (old, new)) == f"loadbalancer: cluster.conf: {why}\n"


@pytest.mark.parametrize("variant", _VARIANTS)
def test_systemd_takes_the_units(tmp_path: Path, variant: str) -> None:
    """systemd prints nothing: it exits with 0 even if it does not know a key."""
    for tool, package in (("systemd-analyze", "systemd"), ("nft", "nftables"), ("ip", "iproute2")):
        if shutil.which(tool, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    files = parts_of(LOADBALANCER.render(tmp_path, *_VARIANTS[variant]))
    units = [(path, text) for (_, path), text in files.items() if path.endswith(".service")]
    assert units
    for path, text in units:
        unit = tmp_path / Path(path).name
        unit.write_text(
            text.replace(
                "/usr/local/sbin/access-limiter-sorry", str(LOADBALANCER.path.with_name("sorry"))
            )
        )
        done = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
