"""The load balancer's deploy script, on machines that are namespaces and have everything but LVS."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from tests.deploying import KEEPALIVED, Script, steps, wait_for_silence
from tests.laboratories.cluster.laboratory import DISK, Done, Laboratory, Machine, wait_for
from tests.places import PYTHON, REPOSITORY

pytestmark = pytest.mark.one_python

LOADBALANCER = Script("loadbalancer")

# Stands for LVS, which the kernel may lack: the part that the script uses.  tests/laboratories/balancer
# tests all of it.  firewall-cmd needs a third of a second to find out that D-Bus, and so firewalld, is
# missing.  It also gets more time for an answer than a busy machine needs.
_TOOLS = {
    "firewall-cmd": 'test -S /run/dbus/system_bus_socket || exit 252\nexec /usr/bin/firewall-cmd "$@"',
    "timeout": 'shift\nexec /usr/bin/timeout 60 "$@"',
    "modprobe": 'test "$1" = -nq || mkdir "/sys/module/$1"',
    "ipvsadm": f"cat {DISK}/in",
    "sysctl": """case "$*" in
  "-n net.ipv4.vs."*) cat "/sys/module/$2" ;;
  "-qw net.ipv4.vs."*) echo "${2#*=}" >"/sys/module/${2%%=*}" ;;
  *) exec /usr/sbin/sysctl "$@" ;;
esac""",
}
# A keepalived that waits for other processes would seem to be lost.
_KEEPALIVED_UNIT = """[Service]
Type=notify
ExecStart=/usr/bin/chrt --fifo 1 /usr/sbin/keepalived --dont-fork --vrrp
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
_CLIENT = "10.77.0.254"
# Request an address, then those of all machines: when these answer, they have handled the first request.
_WHO_HAS = """
import os, socket, struct, sys

os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # what passes one processor stays in order
network = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
network.bind(("switch", 0x806))
network.settimeout(60)
mac = network.getsockname()[4]
client, address, *machines = map(socket.inet_aton, sys.argv[1:])
for target in (address, *machines):
    words = (b"\\xff" * 6, mac, 0x806, 1, 0x800, 6, 4, 1, mac, client, b"", target)
    network.send(struct.pack("!6s6sHHHBBH6s4s6s4s", *words))
while machines:
    packet = network.recv(1500)
    sender = packet[28:32]
    if sender == address:
        print(packet[22:28].hex(":"))
    elif sender in machines:
        machines.remove(sender)
"""
_FIREWALLD = """
mkdir /run/dbus
dbus-daemon --system --fork --nopidfile
exec firewalld --nofork --nopid >/dev/null 2>&1
"""
# A package manager "installs" what the tests have put away before.
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
    """Web servers, two directors, and the control host, which is the client."""

    def __init__(self, laboratory: Laboratory, web_servers: int) -> None:
        self.laboratory = laboratory
        self.accept = "lo"
        for name, text in _TOOLS.items():
            self._put(f"{DISK}/bin/{name}", f"#!/bin/sh\n{text}\n")
        self._put(
            f"{DISK}/bin/systemctl",
            (REPOSITORY / "tests/laboratories/balancer/systemctl.py").read_text(),
        )
        laboratory.do("ip", "addr", "add", f"{_CLIENT}/24", "dev", "switch")
        self.all = [laboratory.add_machine() for _ in range(web_servers + 2)]
        self.web, self.directors = self.all[:-2], self.all[-2:]
        self.names = [it.name for it in self.web] + ["lb1", "lb2"]
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
        # Three times this long without an answer means that nobody has an address; the default is a
        # second.
        machine.do("sysctl", "-qw", "net.ipv4.neigh.eth0.retrans_time_ms=250")

    def serve(self, machine: Machine, status: int) -> subprocess.Popen[str]:
        """Start a web server there that answers with its name, and to health checks with this status."""
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
        """End all of it."""
        self.laboratory.kill()
        for server in self.servers:
            server.communicate()

    def start_firewalld(self, *machines: Machine) -> None:
        """Start firewalld: it lets in HTTP on web servers, and nothing else."""
        for machine in machines:
            command = machine.command("sh", "-ec", _FIREWALLD)
            self.servers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True))
        for machine in machines:
            wait_for(partial(_has_firewalld, machine), "firewalld runs")
            if machine in self.web:
                machine.do("firewall-cmd", "-q", "--permanent", "--add-service=http")
                machine.do("firewall-cmd", "-q", "--reload")

    def have(self, tools: dict[str, str]) -> None:
        """Let the machines find these tools before those of the system."""
        for name, text in tools.items():
            self._put(f"{DISK}/bin/{name}", text)

    def become(self, distribution: str, tools: dict[str, str]) -> None:
        """Make the machines look like that distribution, without the packages."""
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
        """Let LVS report that it passes connections to these."""
        lines = [f"  -> {it.address}:80  Route   1      0          0\n" for it in machines]
        self.laboratory.path(f"{DISK}/in").write_text("".join(lines))

    def run(self, *arguments: str) -> Done:
        """Run the script, with any exit status."""
        inventory = self.laboratory.path(f"{DISK}/cluster.conf")
        roles = [("client", self.web), ("director", self.directors)]
        names = iter(self.names)
        lines = [f"{role}={next(names)} {it.address}" for role, machines in roles for it in machines]
        lines += [f"vip={_VIP}", "interface=eth0", f"accept={self.accept}"]
        lines += [f"remote={DISK}/bin/reach %n", ""]
        inventory.write_text("\n".join(lines))
        return self.laboratory.run(LOADBALANCER.path, *arguments, "--inventory", f"{DISK}/cluster.conf")

    def do(self, *arguments: str) -> str:
        """Run a command of the script that must succeed; return its output."""
        done = self.run(*arguments)
        assert done.status == 0, done.output
        return done.output

    def refusal(self, *arguments: str) -> str:
        """Run a command that must fail; return its last line."""
        done = self.run(*arguments)
        assert done.status == 1, done.output
        return done.output

    def holders(self) -> list[str]:
        """Return the names of the directors that have the address."""
        said = [it.do("ip", "-o", "address", "show", "to", _VIP) for it in self.directors]
        return [name for name, words in zip(self.names[-2:], said) if words]

    def written(self) -> dict[str, tuple[int, bytes]]:
        """Return every file on the disks that a script may write, with its mode."""
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
        """Return what is not in files: addresses, rules and settings of the kernel, services."""
        look = (
            "ip -o -4 address | sed 's/ *valid_lft.*//'; nft list ruleset; systemctl is-active keepalived "
            "&& echo runs; sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce; "
            "cat /sys/module/net*; ss -Htln"
        )
        return [machine.run("sh", "-c", look).output for machine in self.all]

    def look(self) -> tuple[dict[str, tuple[int, bytes]], list[str]]:
        """Return everything that the script may change."""
        return self.written(), self.state()

    def who_has(self) -> set[str]:
        """Return the hardware addresses that answer on the network for the address."""
        machines = [it.address for it in self.all]
        said = self.laboratory.do(PYTHON, "-c", _WHO_HAS, _CLIENT, _VIP, *machines)
        return set(said.split())

    def ask(self, machine: Machine, seconds: int = 60) -> str:
        """Return what the client gets from the address if the director passes it to that machine."""
        mac = _mac(machine)
        to = ("to", _VIP, "dev", "switch")
        self.laboratory.do("ip", "neigh", "replace", *to, "lladdr", mac, "nud", "permanent")
        done = self.laboratory.run("curl", "-sm", str(seconds), f"http://{_VIP}/")
        self.laboratory.do("ip", "neigh", "del", *to)
        return done.output


@contextmanager
def _made(web_servers: int = 2) -> Iterator[Machines]:
    """Make the machines.  Skips the test where this is impossible."""
    if os.geteuid() != 0:
        pytest.skip("only root can make machines of namespaces")
    packages = {"keepalived": "keepalived", "nft": "nftables", "ip": "iproute2", "curl": "curl"}
    for tool, package in packages.items():
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    permitted = subprocess.run(["chrt", "--fifo", "1", "true"], check=False, stderr=subprocess.DEVNULL)
    if permitted.returncode != 0:
        pytest.skip("a real-time priority is not permitted")
    try:
        laboratory = Laboratory()
    except OSError as error:
        pytest.skip(f"namespaces cannot be made here: {error}")
    try:
        made = Machines(laboratory, web_servers)
    except BaseException:
        laboratory.kill()
        raise
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Machines with nothing on them yet."""
    with _made() as made:
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
    with _made() as machines:
        before = machines.look()
        planned = machines.do("install", "--dry-run")
        assert machines.look() == before
        yield Installation(machines, before, planned, machines.do("install"))


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
        machines.accept = way
        machines.do("install")
    return machines


def _has_firewalld(machine: Machine) -> bool:
    return machine.run("firewall-cmd", "--state").status == 0


def _mac(machine: Machine) -> str:
    return machine.do("ip", "-br", "link", "show", "dev", "eth0").split()[2]


def test_install_once(installation: Installation, installed: Machines) -> None:
    """A dry run says what will be done, the first run does it, the second run does nothing."""
    assert installation.planned.endswith("Nothing changed: this was a dry run.\n")
    assert steps(installation.done) == steps(installation.planned)
    assert len(installed.holders()) == 1
    rendered = installed.do("render")
    for director in installed.directors:
        assert director.path(KEEPALIVED).read_text() in rendered
        assert director.path("/usr/local/sbin/access-limiter-sorry").stat().st_mode & 0o777 == 0o755
        assert "503" in director.do("curl", "-si", f"http://{director.address}/")
    for server in installed.web:
        assert installed.ask(server) == server.name
    written = installed.written()
    again = installed.do("install")
    assert again.endswith("Nothing changed: all is in order.\n")
    assert steps(again) == []
    assert installed.written() == written
    assert installed.do("status").endswith("All is in order.\n")


def test_only_the_director_answers_for_the_address(installed: Machines) -> None:
    """A web server also has it, but does not answer for it; without the ARP settings it would."""
    holder = installed.directors[installed.holders() == ["lb2"]]
    assert installed.who_has() == {_mac(holder)}
    installed.web[0].do("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0")
    assert installed.who_has() == {_mac(holder), _mac(installed.web[0])}
    assert "net.ipv4.conf.all.arp_ignore=1 is not set" in installed.refusal("status")
    assert steps(installed.do("install")) == ["web1: + sysctl -qw net.ipv4.conf.all.arp_ignore=1"]
    assert installed.who_has() == {_mac(holder)}


def test_address_is_handed_over_and_stays(installed: Machines) -> None:
    """It moves by hand and when a director is lost; a director that comes back leaves it there."""
    for _ in range(2):
        (before,) = installed.holders()
        (other,) = {"lb1", "lb2"} - {before}
        assert installed.do("failover").endswith(f"\n{other} holds {_VIP}\n")
        stopped = installed.directors[["lb1", "lb2"].index(before)]
        wait_for_silence(stopped.do, lambda before=before: before in installed.holders())  # type: ignore[misc]
        assert installed.holders() == [other]
    assert installed.do("status").endswith("All is in order.\n")
    (first,) = installed.holders()
    (second,) = {"lb1", "lb2"} - {first}
    lost = installed.directors[["lb1", "lb2"].index(first)]
    lost.unplug()
    wait_for(lambda: second in installed.holders(), "the other director has the address")
    lost.plug_in()
    wait_for(lambda: len(installed.holders()) == 1, "only one has the address again")


def test_status_tells_what_is_wrong(installed: Machines) -> None:
    """It exits with 1; "install" restarts what does not run."""
    first, second = installed.directors
    installed.let_in(installed.web[1])
    installed.web[0].do("systemctl", "stop", "access-limiter-vip")
    second.do("systemctl", "stop", "access-limiter-sorry")
    said = installed.refusal("status")
    # The other lines on lb1 come another way, and may stand in between.
    of_first = [line for line in said.splitlines() if line.startswith("lb1: web")]
    assert of_first == ["lb1: web1 is out", "lb1: web2 is in"]
    assert f"web1: does not take what is sent to {_VIP}" in said
    assert "lb2: access-limiter-sorry does not run" in said
    installed.let_in(*installed.web)
    second.do("systemctl", "stop", "keepalived")
    assert "lb2: keepalived does not run" in installed.refusal("status")
    first.do("systemctl", "stop", "keepalived")
    assert f"no director holds {_VIP}" in installed.refusal("status")
    assert "neither lb1 nor lb2 holds" in installed.refusal("failover")
    installed.do("install")
    assert installed.do("status").endswith("All is in order.\n")


def test_address_that_has_gone_though_its_service_runs_is_brought_back(installed: Machines) -> None:
    _judge_repair(installed, f"ip address del {_VIP}/32 dev lo")


def test_way_to_accept_can_be_changed(installed: Machines) -> None:
    """What only the former way needed is removed."""
    installed.accept = "nftables"
    assert "does not take what is sent" in installed.refusal("status")
    planned = installed.do("install", "--dry-run")
    assert steps(installed.do("install")) == steps(planned)
    for server in installed.web:
        assert installed.ask(server) == server.name
        assert server.do("ip", "-o", "address", "show", "to", _VIP) == ""
        assert server.do("sysctl", "-n", "net.ipv4.conf.all.arp_ignore") == "0\n"
    assert steps(installed.do("install")) == []
    assert installed.do("status").endswith("All is in order.\n")


def test_rule_that_has_gone_though_its_service_runs_is_brought_back(redirected: Machines) -> None:
    _judge_repair(redirected, "nft flush ruleset")


def _judge_repair(machines: Machines, loss: str) -> None:
    """Check that the advice of status helps."""
    server = machines.web[0]
    server.do(*loss.split())
    assert f'web1: does not take what is sent to {_VIP}: run "install"' in machines.refusal("status")
    assert steps(machines.do("install")) == [
        "web1: + systemctl enable access-limiter-vip",
        "web1: + systemctl restart access-limiter-vip",
    ]
    assert machines.ask(server) == "web1"


def test_rule_is_there_again_when_the_distributions_own_are_loaded(redirected: Machines) -> None:
    """Loading them removes all other rules."""
    server = redirected.web[0]
    own = "table ip own {\n\tchain input {\n\t}\n}\n"
    server.path("/etc/nftables.conf").write_text(f"flush ruleset\n{own}")
    server.do("systemctl", "enable", "--now", "nftables")
    for commands in (["reload"], ["restart"], ["stop", "start"], ["reload", "reload"]):
        for command in commands:
            server.do("systemctl", command, "nftables")
        assert own in server.do("nft", "list", "ruleset")
        assert server.do("nft", "list", "ruleset").count(f"ip daddr {_VIP} tcp dport 80 redirect") == 1
        assert redirected.ask(server) == "web1"
    server.do("systemctl", "stop", "access-limiter-vip")
    assert server.do("nft", "list", "ruleset") == own
    server.do("systemctl", "disable", "--now", "nftables")
    server.do("rm", "/etc/nftables.conf")
    server.do("systemctl", "start", "access-limiter-vip")


def test_former_way_can_be_had_again(installed: Machines) -> None:
    for server in installed.web:
        assert server.do("nft", "list", "ruleset") == ""
        assert installed.ask(server) == server.name


def test_removal_leaves_nothing(installation: Installation, installed: Machines) -> None:
    """A dry run says what will be removed, the first run removes it, the second run does nothing."""
    written = installed.written()
    planned = installed.do("remove", "--dry-run")
    assert installed.written() == written
    assert steps(installed.do("remove")) == steps(planned)
    assert installed.look() == installation.before
    assert installed.do("remove").endswith("Nothing changed: all is in order.\n")
    assert installed.ask(installed.web[0], seconds=1) == ""


def test_what_is_in_the_way_is_found(machines: Machines) -> None:
    """check finds what the check of keepalived would miss; install begins with check, and has changed
    nothing.
    """
    web, director = machines.web[0], machines.directors[0]
    before = machines.look()
    assert machines.do("check").count("ready\n") == 4

    def refused(why: str) -> None:
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
    unwell = "lb1: web1 answers /cgi-bin/health.py with HTTP/1.0 503 Service Unavailable"
    refused(unwell)
    assert unwell in machines.refusal("check")
    assert machines.look() == before


# After a number of looks, the address is there once, as if keepalived had just taken it.
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
    """It is taken after the first look of the director itself, or of the host that compares both.

    This is also just before the first director asks the network who has it, or while it does.
    """
    machines.have({"ip": _JUST_TAKEN})
    for look in range(looks):
        machines.directors[taker == "lb2"].path(f"/etc/look-{look + 1}").touch()
    assert machines.do("check").endswith("lb2: ready\n")
    assert machines.holders() == [taker]


def test_firewalld_lets_in_what_it_must() -> None:
    """A director hears the other one, a web server takes what is sent to the address, and nothing is
    left.
    """
    for tool, package in (("firewalld", "firewalld"), ("dbus-daemon", "dbus-daemon")):
        if shutil.which(tool, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    with _made(web_servers=1) as machines:
        (server,), (first, second) = machines.web, machines.directors
        # Half of the machines are enough: most of the time here goes into firewalld.
        closed = [server, second]
        machines.start_firewalld(*closed)
        before = _rules(closed)
        for machines.accept in ("lo", "nftables", "firewalld"):
            machines.do("install")
            assert _rules(closed) == _rules(closed, "--permanent") != before
            assert machines.ask(server) == "web1"
        assert machines.holders() == ["lb1"]  # the other director hears it
        assert steps(machines.do("install")) == []
        assert machines.do("status").endswith("All is in order.\n")
        rule = f'rule family="ipv4" source address="{first.address}" protocol value="vrrp" accept'
        assert rule in second.do("firewall-cmd", "--list-rich-rules")
        machines.do("failover")
        assert machines.holders() == ["lb2"]
        assert "503" in machines.laboratory.do("curl", "-sim", "60", f"http://{_VIP}/")
        machines.do("remove")
        assert _rules(closed) == _rules(closed, "--permanent") == before


def _rules(machines: list[Machine], *options: str) -> list[list[str]]:
    listed = [machine.do("firewall-cmd", *options, "--list-all") for machine in machines]
    return [sorted(text.splitlines()) for text in listed]


def test_debian_gets_the_packages_it_lacks(machines: Machines) -> None:
    """apt-get installs them; all else happens as if they had been there."""
    machines.accept = "nftables"
    machines.become("ID=debian\n", _DEBIAN)
    planned = steps(machines.do("install", "--dry-run"))
    assert planned[:2] == ["web1: + apt-get update -q", f"web1: + {_APT_INSTALL} nftables"]
    assert f"lb2: + {_APT_INSTALL} keepalived" in planned
    assert steps(machines.do("install")) == planned


def test_rhel_gets_the_packages_it_lacks(machines: Machines) -> None:
    """dnf installs them, and also brings back the example of one of them."""
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
