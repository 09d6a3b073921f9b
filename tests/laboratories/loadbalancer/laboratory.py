"""Web servers, two directors and a client, all of them namespaces, which have everything but LVS."""

from __future__ import annotations

import subprocess
from functools import partial

from tests.deploying import KEEPALIVED
from tests.laboratories.machines import (
    BOOT,
    DISK,
    KEEPALIVED_BOOT,
    VIP,
    Laboratory,
    Machine,
    begin,
    finish,
    line_of,
    wait_for,
)
from tests.places import PYTHON

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
_FIREWALLD = """
mkdir /run/dbus
dbus-daemon --system --fork --nopidfile
exec firewalld --nofork --nopid >/dev/null 2>&1
"""
_STATE = """
ip -o -4 address | sed 's/ *valid_lft.*//'
nft list ruleset
systemctl is-active keepalived && echo runs
sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce
cat /sys/module/net*
ss -Htln
"""


class Machines(Laboratory):
    """The control host is the client."""

    script = "loadbalancer"
    tools = (*Laboratory.tools, "keepalived", "nft", "curl")
    needs_real_time = True
    # Three times retrans_time_ms without an answer means that no machine has an address; the default is a
    # second.
    boot = f"""
mount -t tmpfs tmpfs /sys/module
echo 0 >/sys/module/net.ipv4.vs.expire_nodest_conn
rm -rf {KEEPALIVED} {KEEPALIVED}.packaged
sysctl -qw net.ipv4.neigh.eth0.retrans_time_ms=250
{KEEPALIVED_BOOT}{BOOT}"""

    def __init__(self, web_servers: int = 2) -> None:
        super().__init__()
        self.accept = "lo"
        self._web_servers = web_servers
        self._processes: list[subprocess.Popen[str]] = []

    def set_up(self) -> None:
        """Start the machines, with a web server on each of those that are web servers."""
        self.put_tools()
        self.web = [self.add_web_server() for _ in range(self._web_servers)]
        self.directors = [self.add(Machine(self, f"lb{it}", 20 + it)) for it in (1, 2)]
        self.servers = [self.serve(machine, 200) for machine in self.web]
        self.let_in(*self.web)

    def put_tools(self) -> None:
        """Let the machines find what stands for LVS."""
        for name, text in _TOOLS.items():
            self.put_program(f"{DISK}/bin/{name}", f"#!/bin/sh\n{text}\n")

    def serve(self, machine: Machine, status: int) -> subprocess.Popen[str]:
        """Start a web server there that answers with its name, and to health checks with this status."""
        command = machine.command(PYTHON, "-c", _WEB_SERVER, machine.name, str(status))
        server = begin(command, stderr=subprocess.DEVNULL)
        self._processes.append(server)
        assert line_of(server) == "ready\n"
        return server

    def start_firewalld(self, *machines: Machine) -> None:
        """Start firewalld: it lets in HTTP on web servers, and nothing else."""
        self._processes += [machine.begin("sh", "-ec", _FIREWALLD) for machine in machines]
        for machine in machines:
            wait_for(partial(_has_firewalld, machine), "firewalld runs")
            if machine in self.web:
                machine.do("firewall-cmd", "-q", "--permanent", "--add-service=http")
                machine.do("firewall-cmd", "-q", "--reload")

    def become(self, distribution: str, package_manager: str) -> None:
        """Make the machines look like that distribution, without the packages.

        Its package manager "installs" what was put away before.
        """
        install = (
            'test "$1" != install || for file in /usr/sbin/*.away; do mv "$file" "${file%.away}"; done'
        )
        self.put_program(f"{DISK}/bin/{package_manager}", f"#!/bin/sh\n{install}\n")
        for machine in self.machines:
            machine.do("mkdir", f"{machine.disk}/sbin", f"{machine.disk}/sbin.work")
            layers = f"lowerdir=/usr/sbin,upperdir={machine.disk}/sbin,workdir={machine.disk}/sbin.work"
            machine.do("mount", "-t", "overlay", "overlay", "-o", layers, "/usr/sbin")
            for program in ("keepalived", "nft"):
                machine.do("mv", f"/usr/sbin/{program}", f"/usr/sbin/{program}.away")
            machine.do("rm", "/etc/os-release")
            machine.path("/etc/os-release").write_text(distribution)

    def let_in(self, *machines: Machine) -> None:
        """Let LVS report that it passes connections to these."""
        lines = [f"  -> {it.address}:80  Route   1      0          0\n" for it in machines]
        self.path(f"{DISK}/in").write_text("".join(lines))

    def accept_by(self, way: str) -> None:
        """Write the inventory, with the way in which the web servers take the address."""
        self.accept = way
        roles = {"client": self.web, "director": self.directors}
        self.put_inventory(roles, vip=VIP, interface="eth0", accept=way)

    def holders(self) -> list[str]:
        """Return the names of the directors that have the address."""
        return [director.name for director in self.directors if director.holds()]

    def written(self) -> dict[str, tuple[int, bytes]]:
        """Return every file on the disks that a script may write, with its mode."""
        return {
            str(path): (path.stat().st_mode, path.read_bytes())
            for machine in self.machines
            for place in ("etc", "usr/local")
            for path in self.path(f"{machine.disk}/{place}").rglob("*")
            if path.is_file() and "laboratory.wants" not in str(path)
        }

    def look(self) -> tuple[dict[str, tuple[int, bytes]], list[str]]:
        """Return everything that the script may change: also addresses, rules, settings and services."""
        return self.written(), [machine.run("sh", "-c", _STATE).stdout for machine in self.machines]

    def request(self, machine: Machine, seconds: int = 60) -> str:
        """Return what the client gets from the address if the director passes it to that machine."""
        to = ("to", VIP, "dev", "switch")
        self.do("ip", "neigh", "replace", *to, "lladdr", machine.mac, "nud", "permanent")
        done = self.run("curl", "-sm", str(seconds), f"http://{VIP}/")
        self.do("ip", "neigh", "del", *to)
        return done.stdout

    def kill(self) -> None:
        """End all of it."""
        super().kill()
        finish([process for process in self._processes if process.returncode is None])


def _has_firewalld(machine: Machine) -> bool:
    return machine.run("firewall-cmd", "--state").returncode == 0
