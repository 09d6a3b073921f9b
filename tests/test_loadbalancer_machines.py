"""The load balancer's deploy script on machines of namespaces, where there is all but LVS itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from tests.cluster.laboratory import DISK, Done, Laboratory, Machine, wait_for
from tests.deploying import KEEPALIVED, Script, steps
from tests.places import PYTHON, REPOSITORY

pytestmark = pytest.mark.one_python

LOADBALANCER = Script("loadbalancer")

# As much of LVS as the script asks for, where the kernel may have none; the whole is proven in tests/balancer.
# And firewall-cmd, which takes a third of a second to find out that there is no D-Bus, hence no firewalld.
_TOOLS = {
    "firewall-cmd": 'test -S /run/dbus/system_bus_socket || exit 252\nexec /usr/bin/firewall-cmd "$@"',
    "modprobe": 'test "$1" = -nq || mkdir "/sys/module/$1"',
    "ipvsadm": f"cat {DISK}/in",
    "sysctl": """case "$*" in
  "-n net.ipv4.vs."*) cat "/sys/module/$2" ;;
  "-qw net.ipv4.vs."*) echo "${2#*=}" >"/sys/module/${2%%=*}" ;;
  *) exec /usr/sbin/sysctl "$@" ;;
esac""",
}
_KEEPALIVED_UNIT = """[Service]
Type=notify
ExecStart=/usr/sbin/keepalived --dont-fork --vrrp
ExecReload=/bin/kill -HUP $MAINPID
"""
_WEB_SERVER = """
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/" else int(sys.argv[2]))
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())

server = HTTPServer(("0.0.0.0", 80), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
_VIP = "10.77.0.100"
_FIREWALLD = """
mkdir /run/dbus
dbus-daemon --system --fork --nopidfile
exec firewalld --nofork --nopid >/dev/null 2>&1
"""
# What a package manager brings has only been put away before.
_PACKAGE_MANAGER = """#!/bin/sh
test "$1" != install || for file in /usr/sbin/*.away; do
  mv "$file" "${file%.away}"
done
"""
_APT_INSTALL = "env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends"
_EXAMPLE = "! the package's example"
_RHEL = {
    "dnf": f'{_PACKAGE_MANAGER}test -e {KEEPALIVED} || echo "{_EXAMPLE}" >{KEEPALIVED}\n',
    "rpm": f"#!/bin/sh\ntest $1 = -Vf || grep -qs '^! the' {KEEPALIVED}\n",
}
_DEBIAN = {"apt-get": _PACKAGE_MANAGER}


class Machines:
    """Two web servers, two directors, and the control host, which is the client."""

    def __init__(self, laboratory: Laboratory) -> None:
        self.laboratory = laboratory
        self.accept = "lo"
        for name, text in _TOOLS.items():
            self._put(f"{DISK}/bin/{name}", f"#!/bin/sh\n{text}\n")
        self._put(f"{DISK}/bin/systemctl", (REPOSITORY / "tests/balancer/systemctl.py").read_text())
        laboratory.do("ip", "addr", "add", "10.77.0.254/24", "dev", "switch")
        self.all = [laboratory.add_machine() for _ in range(4)]
        self.web, self.directors = self.all[:2], self.all[2:]
        self.names = ["web1", "web2", "lb1", "lb2"]
        for name, machine in zip(self.names, self.all):
            if name != machine.name:
                laboratory.path(f"{DISK}/{name}").symlink_to(machine.name)
            self._prepare(machine)
        self.servers = [self.serve(machine, 200) for machine in self.web]
        self.let_in(*self.web)

    def _put(self, path: str, text: str) -> None:
        file = self.laboratory.path(path)
        file.write_text(text)
        file.chmod(0o755)

    def _prepare(self, machine: Machine) -> None:
        disk = f"{DISK}/{machine.name}"
        machine.do("mkdir", f"{disk}/local", f"{disk}/local.work")
        layers = f"lowerdir=/usr/local,upperdir={disk}/local,workdir={disk}/local.work"
        machine.do("mount", "-t", "overlay", "overlay", "-o", layers, "/usr/local")
        machine.do("mount", "-t", "tmpfs", "tmpfs", "/sys/module")
        machine.path("/sys/module/net.ipv4.vs.expire_nodest_conn").write_text("0\n")
        machine.do("rm", "-rf", KEEPALIVED, f"{KEEPALIVED}.packaged")
        machine.path("/etc/systemd/system/keepalived.service").write_text(_KEEPALIVED_UNIT)

    def serve(self, machine: Machine, status: int) -> subprocess.Popen[str]:
        """Start a web server there, which says its name, and that it is well or not."""
        server = subprocess.Popen(
            machine.command(PYTHON, "-c", _WEB_SERVER, machine.name, str(status)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        return server

    def end(self) -> None:
        """Be done with all of it."""
        self.laboratory.kill()
        for server in self.servers:
            server.communicate()

    def start_firewalld(self) -> None:
        """On all machines: it lets HTTP in, as on any web server, and nothing else."""
        for machine in self.all:
            command = machine.command("sh", "-ec", _FIREWALLD)
            self.servers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True))
        for machine in self.all:
            wait_for(partial(_has_firewalld, machine), "firewalld runs")
        for machine in self.web:
            machine.do("firewall-cmd", "-q", "--permanent", "--add-service=http")
            machine.do("firewall-cmd", "-q", "--reload")

    def have(self, tools: dict[str, str]) -> None:
        """Find these before those of the system."""
        for name, text in tools.items():
            self._put(f"{DISK}/bin/{name}", text)

    def become(self, distribution: str, tools: dict[str, str]) -> None:
        """Be machines of that distribution, without the packages."""
        self.have(tools)
        for machine in self.all:
            disk = f"{DISK}/{machine.name}"
            machine.do("mkdir", f"{disk}/sbin", f"{disk}/sbin.work")
            layers = f"lowerdir=/usr/sbin,upperdir={disk}/sbin,workdir={disk}/sbin.work"
            machine.do("mount", "-t", "overlay", "overlay", "-o", layers, "/usr/sbin")
            for program in ("keepalived", "nft"):
                machine.do("mv", f"/usr/sbin/{program}", f"/usr/sbin/{program}.away")
            machine.do("rm", "/etc/os-release")
            machine.path("/etc/os-release").write_text(distribution)

    def let_in(self, *machines: Machine) -> None:
        """Have LVS say that it hands connections to these."""
        lines = [f"  -> {it.address}:80  Route   1      0          0\n" for it in machines]
        self.laboratory.path(f"{DISK}/in").write_text("".join(lines))

    def run(self, *arguments: str) -> Done:
        """Run the script, whatever it exits with."""
        inventory = self.laboratory.path(f"{DISK}/cluster.conf")
        roles = [("client", self.web), ("director", self.directors)]
        names = iter(self.names)
        lines = [f"{role}={next(names)} {it.address}" for role, machines in roles for it in machines]
        lines += [f"vip={_VIP}", "interface=eth0", f"accept={self.accept}"]
        lines += [f"remote={DISK}/bin/reach %n", ""]
        inventory.write_text("\n".join(lines))
        return self.laboratory.run(LOADBALANCER.path, *arguments, "--inventory", f"{DISK}/cluster.conf")

    def do(self, *arguments: str) -> str:
        """Run a command of the script that must succeed; what it says."""
        done = self.run(*arguments)
        assert done.status == 0, done.output
        return done.output

    def refusal(self, *arguments: str) -> str:
        """The last line of a command that must not succeed."""
        done = self.run(*arguments)
        assert done.status == 1, done.output
        return done.output

    def holders(self) -> list[str]:
        """Who of the directors has the address."""
        said = [it.do("ip", "-o", "address", "show", "to", _VIP) for it in self.directors]
        return [name for name, words in zip(self.names[2:], said) if words]

    def written(self) -> dict[str, tuple[int, bytes]]:
        """Every file on the disks that a script may write, with its mode."""
        found = {}
        for machine in self.all:
            for place in ("etc", "local"):
                there = self.laboratory.path(f"{DISK}/{machine.name}/{place}")
                for path in there.rglob("*"):
                    if path.is_file() and "laboratory.wants" not in str(path):
                        name = f"{machine.name} {place}/{path.relative_to(there)}"
                        found[name] = (path.stat().st_mode, path.read_bytes())
        return found

    def state(self) -> list[str]:
        """What is not written: addresses, rules and settings of the kernel, services."""
        look = (
            "ip -o -4 address | sed 's/ *valid_lft.*//'; nft list ruleset; systemctl is-active keepalived "
            "&& echo runs; sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce; "
            "cat /sys/module/net*; ss -Htln"
        )
        return [machine.run("sh", "-c", look).output for machine in self.all]

    def ask(self, machine: Machine) -> str:
        """What the client gets from the address if the director hands it to that machine."""
        mac = _mac(machine)
        to = ("to", _VIP, "dev", "switch")
        self.laboratory.do("ip", "neigh", "replace", *to, "lladdr", mac, "nud", "permanent")
        done = self.laboratory.run("curl", "-sm", "5", f"http://{_VIP}/")
        self.laboratory.do("ip", "neigh", "del", *to)
        return done.output


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Skips the test where they cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("only root can make machines of namespaces")
    packages = {
        "keepalived": "keepalived",
        "nft": "nftables",
        "ip": "iproute2",
        "arping": "arping",
        "curl": "curl",
    }
    for tool, package in packages.items():
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    try:
        laboratory = Laboratory()
    except OSError as error:
        pytest.skip(f"namespaces cannot be made here: {error}")
    try:
        made = Machines(laboratory)
    except BaseException:
        for machine in laboratory.machines:
            machine.end()
        laboratory.kill()
        raise
    yield made
    made.end()


def _has_firewalld(machine: Machine) -> bool:
    return machine.run("firewall-cmd", "--state").status == 0


def _mac(machine: Machine) -> str:
    return machine.do("ip", "-br", "link", "show", "dev", "eth0").split()[2]


def test_install_once_and_remove(machines: Machines) -> None:
    """A dry run says what will be done, the first run does it, the second nothing; and it can be undone."""
    written, state = machines.written(), machines.state()
    assert "ready" in machines.do("check")
    planned = machines.do("install", "--dry-run")
    assert planned.endswith("Nothing changed: this was a dry run.\n")
    assert (machines.written(), machines.state()) == (written, state)
    done = machines.do("install")
    assert steps(done) == steps(planned)
    assert len(machines.holders()) == 1
    for director in machines.directors:
        text = director.path(KEEPALIVED).read_text()
        assert text in machines.do("render")
        assert director.path("/usr/local/sbin/access-limiter-sorry").stat().st_mode & 0o777 == 0o755
        assert "503" in director.do("curl", "-si", f"http://{director.address}/")
    for server in machines.web:
        assert machines.ask(server) == server.name
    installed = machines.written()
    again = machines.do("install")
    assert again.endswith("Nothing changed: all is in order.\n")
    assert steps(again) == []
    assert machines.written() == installed
    assert machines.do("status").endswith("All is in order.\n")

    planned = machines.do("remove", "--dry-run")
    assert machines.written() == installed
    assert steps(machines.do("remove")) == steps(planned)
    assert (machines.written(), machines.state()) == (written, state)
    assert machines.do("remove").endswith("Nothing changed: all is in order.\n")
    assert machines.ask(machines.web[0]) == ""


def test_only_the_director_answers_for_the_address(machines: Machines) -> None:
    """A web server has it too, and never tells; without the ARP settings it would."""
    machines.do("install")
    holder = machines.directors[machines.holders() == ["lb2"]]

    def answers() -> set[str]:
        said = machines.laboratory.run("arping", "-c", "3", "-w", "1", "-i", "switch", _VIP).output
        return set(re.findall(r"from (\S+)", said))

    assert answers() == {_mac(holder)}
    machines.web[0].do("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0")
    assert len(answers()) == 2
    assert "net.ipv4.conf.all.arp_ignore=1 is not set" in machines.refusal("status")
    assert steps(machines.do("install")) == ["web1: + sysctl -qw net.ipv4.conf.all.arp_ignore=1"]
    assert answers() == {_mac(holder)}


def test_way_to_accept_can_be_changed(machines: Machines) -> None:
    """What the former way needed goes."""
    machines.do("install")
    machines.accept = "nftables"
    assert "does not take what is sent" in machines.refusal("status")
    planned = machines.do("install", "--dry-run")
    assert steps(machines.do("install")) == steps(planned)
    for server in machines.web:
        assert machines.ask(server) == server.name
        assert server.do("ip", "-o", "address", "show", "to", _VIP) == ""
        assert server.do("sysctl", "-n", "net.ipv4.conf.all.arp_ignore") == "0\n"
    assert steps(machines.do("install")) == []
    assert machines.do("status").endswith("All is in order.\n")
    machines.accept = "lo"
    machines.do("install")
    assert machines.web[0].do("nft", "list", "ruleset") == ""
    assert machines.ask(machines.web[0]) == "web1"


@pytest.mark.parametrize(
    ("accept", "loss"),
    [("lo", f"ip address del {_VIP}/32 dev lo"), ("nftables", "nft flush ruleset")],
)
def test_what_has_gone_though_its_service_runs_is_brought_back(
    machines: Machines, accept: str, loss: str
) -> None:
    """What status advises does help."""
    machines.accept = accept
    machines.do("install")
    server = machines.web[0]
    server.do(*loss.split())
    assert f'web1: does not take what is sent to {_VIP}: run "install"' in machines.refusal("status")
    expected = [
        "web1: + systemctl enable access-limiter-vip",
        "web1: + systemctl restart access-limiter-vip",
    ]
    assert steps(machines.do("install", "--dry-run")) == expected
    assert steps(machines.do("install")) == expected
    assert machines.ask(server) == "web1"
    assert machines.do("status").endswith("All is in order.\n")


@pytest.mark.parametrize("commands", [["reload"], ["restart"], ["stop", "start"], ["reload", "reload"]])
def test_rule_is_there_again_when_the_distributions_own_are_loaded(
    machines: Machines, commands: list[str]
) -> None:
    """Which takes all others away."""
    machines.accept = "nftables"
    server = machines.web[0]
    own = "table ip own {\n\tchain input {\n\t}\n}\n"
    server.path("/etc/nftables.conf").write_text(f"flush ruleset\n{own}")
    server.do("systemctl", "enable", "--now", "nftables")
    machines.do("install")
    for command in commands:
        server.do("systemctl", command, "nftables")
    assert own in server.do("nft", "list", "ruleset")
    assert server.do("nft", "list", "ruleset").count(f"ip daddr {_VIP} tcp dport 80 redirect") == 1
    assert machines.ask(server) == "web1"
    machines.do("remove")
    assert server.do("nft", "list", "ruleset") == own


def test_address_is_handed_over_and_stays(machines: Machines) -> None:
    """By hand, and when a director is lost; who comes back leaves it where it is."""
    machines.do("install")
    for _ in range(2):
        (before,) = machines.holders()
        (other,) = {"lb1", "lb2"} - {before}
        assert machines.do("failover").endswith(f"\n{other} holds {_VIP}\n")
        assert machines.do("status").endswith("All is in order.\n")
        assert machines.holders() == [other]
    (first,) = machines.holders()
    (second,) = {"lb1", "lb2"} - {first}
    lost = machines.directors[machines.names.index(first) - 2]
    lost.unplug()
    wait_for(lambda: second in machines.holders(), "the other director has the address")
    lost.plug_in()
    wait_for(lambda: len(machines.holders()) == 1, "only one has the address again")


def test_status_tells_what_is_wrong(machines: Machines) -> None:
    """And exits with 1."""
    machines.do("install")
    machines.let_in(machines.web[1])
    said = machines.refusal("status")
    assert "lb1: web1 is out\n" in said
    assert "lb2: web2 is in\n" in said
    machines.let_in(*machines.web)
    machines.web[0].do("systemctl", "stop", "access-limiter-vip")
    assert f"web1: does not take what is sent to {_VIP}" in machines.refusal("status")
    machines.do("install")
    first, second = machines.directors
    second.do("systemctl", "stop", "keepalived")
    assert "lb2: keepalived does not run" in machines.refusal("status")
    first.do("systemctl", "stop", "keepalived")
    assert f"no director holds {_VIP}" in machines.refusal("status")
    assert "neither lb1 nor lb2 holds" in machines.refusal("failover")
    machines.do("install")
    second.do("systemctl", "stop", "access-limiter-sorry")
    assert "lb2: access-limiter-sorry does not run" in machines.refusal("status")


def test_what_is_in_the_way_is_found(machines: Machines) -> None:
    """By check, which keepalived's own would not see; install refuses then, and has changed nothing."""
    web, director = machines.web[0], machines.directors[0]
    written, state = machines.written(), machines.state()

    def refused(why: str) -> None:
        assert why in machines.refusal("check")
        assert why in machines.refusal("install")

    web.do("ip", "address", "add", f"{_VIP}/32", "dev", "eth0")
    refused(f"web1: {_VIP} is on eth0: remove it from there")
    web.do("ip", "address", "del", f"{_VIP}/32", "dev", "eth0")

    web.do("ip", "address", "add", f"{_VIP}/32", "dev", "lo")
    refused(f"{_VIP} is in use: lb1 hears {_mac(web)} answer for it")
    web.do("ip", "address", "del", f"{_VIP}/32", "dev", "lo")

    web.do("mv", "/etc/os-release", "/etc/os-release.away")
    web.path("/etc/os-release").write_text("ID=arch\n")
    refused("web1: neither Debian's nor RHEL's family: 'arch'")
    web.do("mv", "/etc/os-release.away", "/etc/os-release")

    director.path("/etc/keepalived/keepalived.conf").write_text("global_defs {\n}\n")
    refused(f"lb1: {KEEPALIVED} was not made by this script, and is left alone")
    assert "Nothing changed" in machines.do("remove")
    director.do("rm", KEEPALIVED)

    director.do("ip", "address", "add", "10.78.0.1/24", "dev", "eth0")
    director.do("ip", "address", "del", f"{director.address}/24", "dev", "eth0")
    refused(f"lb1: eth0 does not have {director.address}")
    director.do("ip", "address", "add", f"{director.address}/32", "dev", "eth0")
    refused(f"lb1: {_VIP} is not in the network of eth0")
    director.do("ip", "route", "add", _VIP, "dev", "eth0")
    refused("lb1: web1 is not in the network of eth0")
    director.do("ip", "-4", "address", "flush", "dev", "eth0")
    director.do("ip", "address", "add", f"{director.address}/24", "dev", "eth0")

    other = machines.serve(director, 200)
    refused("lb1: port 80 is in use")
    other.communicate()

    modprobe = machines.laboratory.path(f"{DISK}/bin/modprobe")
    text = modprobe.read_text()
    modprobe.write_text("#!/bin/sh\nexit 1\n")
    refused("lb1: the kernel has no module ip_vs")
    modprobe.write_text(text)

    machines.servers[0].communicate()
    refused("web1: nothing listens on port 80")
    machines.servers[0] = machines.serve(web, 503)
    refused("lb1: web1 answers /cgi-bin/health.py with HTTP/1.0 503 Service Unavailable")
    assert (machines.written(), machines.state()) == (written, state)


# Once, after a look whether the address is there, it is, as if keepalived had just taken it.
_JUST_TAKEN = f"""#!/bin/sh
/usr/sbin/ip "$@" || exit
case "$*" in
  *"address show dev eth0 to {_VIP}")
    if rm /etc/look-1 2>/dev/null; then
      ! test -e /etc/look-2 || mv /etc/look-2 /etc/look-1
      test -e /etc/look-1 || /usr/sbin/ip address add {_VIP}/32 dev eth0
    fi
    ;;
esac
"""


@pytest.mark.parametrize(("taker", "looks"), [("lb2", 1), ("lb2", 2), ("lb1", 2), ("lb1", 3)])
def test_address_may_be_taken_between_two_looks(machines: Machines, taker: str, looks: int) -> None:
    """After the director's own first, and after the one of whoever compares both; just before the first asks
    who has it, and while it does."""
    machines.have({"ip": _JUST_TAKEN})
    for look in range(looks):
        machines.directors[taker == "lb2"].path(f"/etc/look-{look + 1}").touch()
    assert machines.do("check").endswith("lb2: ready\n")
    assert machines.holders() == [taker]


def test_firewalld_lets_in_what_it_must(machines: Machines) -> None:
    """A director hears the other one, a web server takes what is sent to the address; and nothing is left."""
    for tool, package in (("firewalld", "firewalld"), ("dbus-daemon", "dbus-daemon")):
        if shutil.which(tool, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    machines.start_firewalld()
    before = _rules(machines)
    for machines.accept in ("lo", "nftables", "firewalld"):
        machines.do("install")
        assert _rules(machines) == _rules(machines, "--permanent") != before
        assert [machines.ask(server) for server in machines.web] == ["web1", "web2"]
    assert steps(machines.do("install")) == []
    assert machines.do("status").endswith("All is in order.\n")
    assert "503" in machines.laboratory.do("curl", "-sim", "5", f"http://{_VIP}/")
    first, second = machines.directors
    for director, other in ((first, second), (second, first)):
        rule = f'rule family="ipv4" source address="{other.address}" protocol value="vrrp" accept'
        assert rule in director.do("firewall-cmd", "--list-rich-rules")
    machines.do("remove")
    assert _rules(machines) == _rules(machines, "--permanent") == before


def _rules(machines: Machines, *options: str) -> list[list[str]]:
    listed = [machine.do("firewall-cmd", *options, "--list-all") for machine in machines.all]
    return [sorted(text.splitlines()) for text in listed]


def test_debian_gets_the_packages_it_lacks(machines: Machines) -> None:
    """By apt-get, and all else as if they had been there."""
    machines.accept = "nftables"
    machines.become("ID=debian\n", _DEBIAN)
    planned = steps(machines.do("install", "--dry-run"))
    assert planned[:2] == ["web1: + apt-get update -q", f"web1: + {_APT_INSTALL} nftables"]
    assert f"lb2: + {_APT_INSTALL} keepalived" in planned
    assert steps(machines.do("install")) == planned
    assert steps(machines.do("install")) == []


def test_rhel_gets_the_packages_it_lacks(machines: Machines) -> None:
    """By dnf, and gets back the example that came with one of them."""
    machines.accept = "nftables"
    machines.become('ID="rocky"\nID_LIKE="rhel centos fedora"\n', _RHEL)
    planned = steps(machines.do("install", "--dry-run"))
    assert planned[0] == "web1: + dnf install -y nftables"
    assert "lb2: + dnf install -y keepalived" in planned
    done = steps(machines.do("install"))
    moved = [step for step in done if step not in planned]
    assert moved == [f"{name}: + mv {KEEPALIVED} {KEEPALIVED}.packaged" for name in ("lb1", "lb2")]
    assert [step for step in done if step not in moved] == planned
    assert steps(machines.do("install")) == []
    machines.do("remove")
    for director in machines.directors:
        assert director.path(KEEPALIVED).read_text() == f"{_EXAMPLE}\n"
        assert not director.path(f"{KEEPALIVED}.packaged").exists()
