"""The load balancer's deploy script, on machines that are namespaces and have everything but LVS.

tests/laboratories/balancer hands the address over, and loses directors.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.deploying import KEEPALIVED, steps
from tests.laboratories.loadbalancer.laboratory import Machines
from tests.laboratories.machines import DISK, VIP, Machine, finish, running

pytestmark = pytest.mark.one_python


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Machines with nothing on them yet."""
    with running(Machines) as made:
        made.accept_by("lo")
        yield made


@dataclass
class Installation:
    """The machines before the installation, and the output of a dry run and of the first run."""

    machines: Machines
    before: object
    planned: str
    done: str


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """Make a dry run that changes nothing, and then a load balancer."""
    with running(Machines) as made:
        made.accept_by("lo")
        before = made.look()
        planned = made.deploy("install", "--dry-run")
        assert made.look() == before
        yield Installation(made, before, planned, made.deploy("install"))


@pytest.fixture
def installed(installation: Installation) -> Machines:
    """A load balancer, for tests that leave it unchanged; each web server has the address on its lo."""
    return _accepting(installation.machines, "lo")


@pytest.fixture
def redirected(installation: Installation) -> Machines:
    """The same, but a firewall rule makes each web server take the address."""
    return _accepting(installation.machines, "nftables")


def _accepting(machines: Machines, way: str) -> Machines:
    if machines.accept != way:
        machines.accept_by(way)
        machines.deploy("install")
    return machines


def test_install_once(installation: Installation, installed: Machines) -> None:
    """A dry run shows what will be done, the first run does it, the second run does nothing."""
    assert installation.planned.endswith("Nothing changed: this was a dry run.\n")
    assert steps(installation.done) == steps(installation.planned)
    assert len(installed.holders()) == 1
    rendered = installed.deploy("render")
    for director in installed.directors:
        assert director.path(KEEPALIVED).read_text() in rendered
        assert director.path("/usr/local/sbin/access-limiter-sorry").stat().st_mode & 0o777 == 0o755
        assert "503" in director.do("curl", "-si", f"http://{director.address}/")
    for server in installed.web:
        assert installed.request(server) == server.name
    written = installed.written()
    again = installed.deploy("install")
    assert again.endswith("Nothing changed: all is in order.\n")
    assert steps(again) == []
    assert installed.written() == written
    assert installed.deploy("status").endswith("All is in order.\n")


def test_lost_arp_settings_are_reported_and_set_again(installed: Machines) -> None:
    installed.web[0].do("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0")
    assert "net.ipv4.conf.all.arp_ignore=1 is not set" in installed.refusal("status")
    assert steps(installed.deploy("install")) == ["web1: + sysctl -qw net.ipv4.conf.all.arp_ignore=1"]


def test_status_reports_what_is_wrong(installed: Machines) -> None:
    """It exits with 1; "install" restarts what does not run."""
    first, second = installed.directors
    installed.let_in(installed.web[1])
    installed.web[0].do("systemctl", "stop", "access-limiter-vip")
    second.do("systemctl", "stop", "access-limiter-sorry")
    output = installed.refusal("status")
    # The other lines on lb1 come another way, and may stand in between.
    of_first = [line for line in output.splitlines() if line.startswith("lb1: web")]
    assert of_first == ["lb1: web1 is out", "lb1: web2 is in"]
    assert f"web1: does not take what is sent to {VIP}" in output
    assert "lb2: access-limiter-sorry does not run" in output
    installed.let_in(*installed.web)
    second.do("systemctl", "stop", "keepalived")
    assert "lb2: keepalived does not run" in installed.refusal("status")
    first.do("systemctl", "stop", "keepalived")
    assert f"no director holds {VIP}" in installed.refusal("status")
    assert "neither lb1 nor lb2 holds" in installed.refusal("failover")
    installed.deploy("install")
    assert installed.deploy("status").endswith("All is in order.\n")


def test_the_way_to_accept_can_be_changed(installed: Machines) -> None:
    """What only the former way needed is removed."""
    installed.accept_by("nftables")
    assert "does not take what is sent" in installed.refusal("status")
    planned = installed.deploy("install", "--dry-run")
    assert steps(installed.deploy("install")) == steps(planned)
    for server in installed.web:
        assert installed.request(server) == server.name
        assert server.do("ip", "-o", "address", "show", "to", VIP) == ""
        assert server.do("sysctl", "-n", "net.ipv4.conf.all.arp_ignore") == "0\n"
    assert steps(installed.deploy("install")) == []
    assert installed.deploy("status").endswith("All is in order.\n")


def test_rule_is_there_again_when_the_distributions_own_are_loaded(redirected: Machines) -> None:
    """Loading them removes all other rules."""
    server = redirected.web[0]
    own = "table ip own {\n\tchain input {\n\t}\n}\n"
    server.path("/etc/nftables.conf").write_text(f"flush ruleset\n{own}")
    server.do("systemctl", "enable", "--now", "nftables")
    for commands in (["reload"], ["restart"], ["stop", "start"], ["reload", "reload"]):
        for command in commands:
            server.do("systemctl", command, "nftables")
        rules = server.do("nft", "list", "ruleset")
        assert own in rules
        assert rules.count(f"ip daddr {VIP} tcp dport 80 redirect") == 1
        assert redirected.request(server) == "web1"
    server.do("systemctl", "stop", "access-limiter-vip")
    assert server.do("nft", "list", "ruleset") == own
    server.do("systemctl", "disable", "--now", "nftables")
    server.do("rm", "/etc/nftables.conf")
    server.do("systemctl", "start", "access-limiter-vip")


@pytest.mark.parametrize(
    ("way", "loss"),
    [("nftables", "nft flush ruleset"), ("lo", f"ip address del {VIP}/32 dev lo")],
)
def test_what_has_gone_though_its_service_runs_is_brought_back(
    installation: Installation, way: str, loss: str
) -> None:
    """The advice of status helps."""
    machines = _accepting(installation.machines, way)
    server = machines.web[0]
    server.do(*loss.split())
    assert f'web1: does not take what is sent to {VIP}: run "install"' in machines.refusal("status")
    assert steps(machines.deploy("install")) == [
        "web1: + systemctl enable access-limiter-vip",
        "web1: + systemctl restart access-limiter-vip",
    ]
    assert machines.request(server) == "web1"


def test_former_way_can_be_had_again(installed: Machines) -> None:
    for server in installed.web:
        assert server.do("nft", "list", "ruleset") == ""
        assert installed.request(server) == server.name


def test_removal_leaves_nothing(installation: Installation, installed: Machines) -> None:
    """A dry run shows what will be removed, the first run removes it, the second run does nothing."""
    written = installed.written()
    planned = installed.deploy("remove", "--dry-run")
    assert installed.written() == written
    assert steps(installed.deploy("remove")) == steps(planned)
    assert installed.look() == installation.before
    assert installed.deploy("remove").endswith("Nothing changed: all is in order.\n")
    assert installed.request(installed.web[0], seconds=1) == ""


def test_what_is_in_the_way_is_found(machines: Machines) -> None:
    """check finds what the check of keepalived would miss; install begins with check, and has changed
    nothing.
    """
    web, director = machines.web[0], machines.directors[0]
    before = machines.look()
    assert machines.deploy("check").count("ready\n") == 4

    def refused(why: str) -> None:
        assert why in machines.refusal("install")

    web.do("ip", "address", "add", f"{VIP}/32", "dev", "eth0")
    refused(f"web1: {VIP} is on eth0: remove it from there")
    web.do("ip", "address", "del", f"{VIP}/32", "dev", "eth0")

    web.do("ip", "address", "add", f"{VIP}/32", "dev", "lo")
    refused(f"{VIP} is in use: lb1 hears {web.mac} answer for it")
    web.do("ip", "address", "del", f"{VIP}/32", "dev", "lo")

    web.do("sh", "-c", "mv /etc/os-release /etc/os-release.away; echo ID=arch >/etc/os-release")
    refused("web1: neither Debian's nor RHEL's family: 'arch'")
    web.do("mv", "/etc/os-release.away", "/etc/os-release")

    director.do("ip", "address", "add", "10.78.0.1/24", "dev", "eth0")
    director.do("ip", "address", "del", f"{director.address}/24", "dev", "eth0")
    refused(f"lb1: eth0 does not have {director.address}")
    director.do("ip", "address", "add", f"{director.address}/32", "dev", "eth0")
    refused(f"lb1: {VIP} is not in the network of eth0")
    director.do("ip", "route", "add", VIP, "dev", "eth0")
    refused("lb1: web1 is not in the network of eth0")
    director.do("ip", "-4", "address", "flush", "dev", "eth0")
    director.do("ip", "address", "add", f"{director.address}/24", "dev", "eth0")

    other = machines.serve(director, 200)
    refused("lb1: port 80 is in use")
    finish([other])

    machines.put_program(f"{DISK}/bin/modprobe", "#!/bin/sh\nexit 1\n")
    refused("lb1: the kernel has no module ip_vs")
    machines.put_tools()

    finish(machines.servers[:1])
    refused("web1: nothing listens on port 80")
    machines.serve(web, 503)
    unwell = "lb1: web1 answers /cgi-bin/health.py with HTTP/1.0 503 Service Unavailable"
    refused(unwell)
    assert unwell in machines.refusal("check")
    assert machines.look() == before


# After a number of looks, the address is there once, as if keepalived had just taken it.
_JUST_TAKEN = f"""#!/bin/sh
/usr/sbin/ip "$@" || exit
case "$*" in
  *"address show dev eth0 to {VIP}")
    if rm /etc/look-1 2>/dev/null; then
      ! test -e /etc/look-2 || mv /etc/look-2 /etc/look-1
      test -e /etc/look-1 || /usr/sbin/ip address add {VIP}/32 dev eth0
    fi
    ;;
esac
"""


@pytest.mark.parametrize(("taker", "looks"), [("lb2", 1), ("lb2", 2), ("lb1", 2), ("lb1", 3)])
def test_address_may_be_taken_between_two_looks(machines: Machines, taker: str, looks: int) -> None:
    """It is taken after the first look of the director itself, or of the host that compares both.

    This is also just before the first director looks who has it on the network, or while it does.
    """
    machines.put_program(f"{DISK}/bin/ip", _JUST_TAKEN)
    for look in range(looks):
        machines.directors[taker == "lb2"].path(f"/etc/look-{look + 1}").touch()
    assert machines.deploy("check").endswith("lb2: ready\n")
    assert machines.holders() == [taker]


def test_firewalld_lets_in_what_it_must() -> None:
    """A director hears the other one, a web server takes what is sent to the address, and nothing is
    left.
    """
    for tool, package in (("firewalld", "firewalld"), ("dbus-daemon", "dbus-daemon")):
        if shutil.which(tool, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    with running(partial(Machines, web_servers=1)) as machines:
        (server,), (first, second) = machines.web, machines.directors
        # Half of the machines are enough: most of the time here goes into firewalld.
        closed = [server, second]
        machines.start_firewalld(*closed)
        before = _rules(closed)
        for way in ("lo", "nftables", "firewalld"):
            machines.accept_by(way)
            machines.deploy("install")
            assert _rules(closed) == _rules(closed, "--permanent") != before
            assert machines.request(server) == "web1"
        assert machines.holders() == ["lb1"]  # the other director hears it
        assert steps(machines.deploy("install")) == []
        assert machines.deploy("status").endswith("All is in order.\n")
        rule = f'rule family="ipv4" source address="{first.address}" protocol value="vrrp" accept'
        assert rule in second.do("firewall-cmd", "--list-rich-rules")
        machines.deploy("failover")
        assert machines.holders() == ["lb2"]
        assert "503" in machines.do("curl", "-sim", "60", f"http://{VIP}/")
        machines.deploy("remove")
        assert _rules(closed) == _rules(closed, "--permanent") == before


def _rules(machines: list[Machine], *options: str) -> list[list[str]]:
    listed = [machine.do("firewall-cmd", *options, "--list-all") for machine in machines]
    return [sorted(text.splitlines()) for text in listed]


@pytest.mark.parametrize(
    ("distribution", "package_manager", "commands"),
    [
        (
            "ID=debian\n",
            "apt-get",
            [
                "apt-get update -q",
                "env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends",
            ],
        ),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf", ["dnf install -y"]),
    ],
    ids=["debian", "rhel"],
)
def test_a_distribution_gets_the_packages_it_lacks(
    machines: Machines, distribution: str, package_manager: str, commands: list[str]
) -> None:
    """Its package manager installs them; all else happens as if they had been there.

    tests/deploy/bats/cluster.bats shows what happens to the example that one of them brings.
    """
    *before, install = commands
    machines.become(distribution, package_manager)
    machines.accept_by("nftables")
    planned = steps(machines.deploy("install", "--dry-run"))
    assert planned[: len(commands)] == [f"web1: + {it}" for it in (*before, f"{install} nftables")]
    assert f"lb2: + {install} keepalived" in planned
    assert steps(machines.deploy("install")) == planned
    assert steps(machines.deploy("install")) == []
