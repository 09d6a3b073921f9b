"""A cluster of web servers behind a load balancer, whose directors each have a kernel, and a client.

The web servers and their store come from ``tests.laboratories.cluster.laboratory``: they are namespaces
of this machine.  The kernel of this machine may have no IPVS, but Debian's user-mode-linux has it.  So
each director runs user-mode-linux, with a network card in the same switch.  Like a real machine, a
director can be lost with all that its kernel knew.  The client is the control host, which has an address
in the switch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.laboratories.cluster.laboratory import (
    COPY,
    DISK,
    STORE,
    USER,
    Done,
    Laboratory,
    Machine,
    cluster,
    wait_for,
)
from tests.places import REPOSITORY

VIP = "10.77.0.100"
CLIENT = "10.77.0.254"
INVENTORY = f"{DISK}/cluster.conf"

_AGENT = Path(__file__).with_name("agent.py")
_SYSTEMCTL = Path(__file__).with_name("systemctl.py")
_RECORDED = Path(__file__).with_name("recorded.py")
_KERNEL = "/usr/bin/linux.uml"
_DEADLINE = 300
_BOOT = Path(__file__).with_name("boot.sh")

_DEPLOY = f"{REPOSITORY}/deploy/loadbalancer/loadbalancer"
_TOOLS = {
    "linux.uml": "user-mode-linux",
    "keepalived": "keepalived",
    "ipvsadm": "ipvsadm",
    "modprobe": "kmod",
    "nft": "nftables",
    "tcpdump": "tcpdump",
    "apache2": "apache2-bin",
}

_SITE = "/run/apache"
_APACHE_MODULES = ("mpm_event", "authz_core", "alias", "env", "headers", "cgid")
_LOAD = "\n".join(
    f"LoadModule {it}_module /usr/lib/apache2/modules/mod_{it}.so" for it in _APACHE_MODULES
)
_CONFIGURATION = f"""\
ServerRoot {_SITE}
ServerName {{name}}
Listen 80
User {USER}
Group nogroup
PidFile {_SITE}/pid
ErrorLog {_SITE}/error.log
DefaultRuntimeDir {_SITE}
ScriptSock {_SITE}/cgid
{_LOAD}
CustomLog {_SITE}/access.log "%a %A %U %>s"
Header always set X-Server {{name}}
<Directory />
    AllowOverride None
    Require all denied
</Directory>
Define LIMITER_HOME {COPY}
Define LIMITER_ROOT {STORE}
Include {COPY}/limiter.conf
<Location "/cgi-bin/recorded.py">
    ScriptAlias {COPY}/cgi-bin/recorded.py
</Location>
"""

# bash reads pipes byte by byte, which is slow where each system call is slow: half a second for a
# script.
_SPOOL = 'file=$(mktemp) && cat >"$file" && exec 3<"$file" && rm "$file" && exec "$@" <&3 3<&-'
_REACH = f"""#!/bin/sh
name=$1
shift
test ! -e "{DISK}/$name/address" ||
  exec {DISK}/bin/agent call "$(cat "{DISK}/$name/address")" sh -c '{_SPOOL}' sh "$@"
exec {DISK}/bin/enter "$(cat "{DISK}/$name/pid")" "$@"
"""
# A director must not wait for the processes of other machines: a real machine does not, either.
_OWN_PROCESSOR = ("chrt", "--fifo", "1", "taskset", "--cpu-list")
# The machine ends when its standard input is closed.
_MACHINE = '"$@" </dev/null >/dev/null 2>&1 & exec cat'


class Director:
    """A load balancer: ``name``, ``address``."""

    def __init__(self, laboratory: Laboratory, number: int) -> None:
        self.name = f"lb{number}"
        self.address = f"10.77.0.{20 + number}"
        self.mac = f"02:00:00:00:00:{20 + number}"
        self.disk = f"{DISK}/{self.name}"
        processors = sorted(os.sched_getaffinity(0))
        self._processor = str(processors[number % len(processors)])
        self._laboratory = laboratory
        self._first: subprocess.Popen[bytes] | None = None
        there = laboratory.path(self.disk)
        for place, name in (("/etc", "etc"), ("/usr/local/sbin", "sbin")):
            shutil.copytree(place, there / name, symlinks=True)
        shutil.copytree(laboratory.path(f"{DISK}/bin"), there / "bin")
        (there / "address").write_text(self.address)

    def start(self) -> None:
        """Switch it on, with its network and the services that it had enabled."""
        self.switch_on()
        self.wait_until_up()

    def switch_on(self) -> None:
        """Switch it on, without waiting."""
        self._laboratory.path(f"{self.disk}/console").unlink(missing_ok=True)
        self._laboratory.do("ip", "tuntap", "add", self.name, "mode", "tap")
        # Data larger than a packet of the network does not get through.
        self._laboratory.do("ip", "link", "set", self.name, "gso_max_segs", "1")
        self.plug_in()
        self._laboratory.do("ip", "link", "set", self.name, "up")
        kernel = [
            *(_KERNEL, "mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"),
            *("con=null", f"uml_dir={self.disk}/", f"init={_BOOT}", f"disk={self.disk}"),
            *(f"name={self.name}", f"address={self.address}"),
            f"vec0:transport=tap,ifname={self.name},depth=64,mac={self.mac}",
        ]
        machine = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            _MACHINE,
            "sh",
        ]
        self._first = subprocess.Popen(
            [*self._laboratory.inside, *_OWN_PROCESSOR, self._processor, *machine, *kernel],
            stdin=subprocess.PIPE,
        )

    def wait_until_up(self) -> None:
        """Return as soon as commands can be run on it."""
        console = self._laboratory.path(f"{self.disk}/console")
        up = f"{self.name} is up"
        wait_for(lambda: console.exists() and "agent: ready" in console.read_text(), up)

    def kill(self) -> None:
        """Cut its power: it sends nothing more to the network."""
        self.end()
        self._laboratory.do("ip", "link", "delete", self.name)

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._first is not None

    def end(self) -> None:
        """End it, in any state."""
        if self._first is not None:
            self._first.kill()
            self._first.communicate()
            self._first = None

    def unplug(self) -> None:
        """Let no packet in or out; no other machine is informed."""
        self._laboratory.do("ip", "link", "set", self.name, "nomaster")

    def plug_in(self) -> None:
        """Undo ``unplug``."""
        self._laboratory.do("ip", "link", "set", self.name, "master", "switch")

    def command(self, *command: str) -> list[str]:
        """Return the command to run on this machine in order to run a command there."""
        return [*self._laboratory.inside, *self._agent(), *command]

    def run(self, *command: str) -> Done:
        """Run a command in it, with any exit status."""
        return self._laboratory.run(*self._agent(), *command)

    def do(self, *command: str) -> str:
        """Run a command that must succeed; return its output."""
        done = self.run(*command)
        assert done.status == 0, done.output
        return done.output

    def _agent(self) -> list[str]:
        return [f"{DISK}/bin/agent", "call", self.address]


class Balanced:
    """All of it: three web servers with one store, two directors in front of them, and a client."""

    def __init__(self, laboratory: Laboratory) -> None:
        self.laboratory = laboratory
        self.servers = laboratory.machines
        for name, text in (
            ("reach", _REACH.encode()),
            ("agent", _AGENT.read_bytes()),
            ("systemctl", _SYSTEMCTL.read_bytes()),
        ):
            script = laboratory.path(f"{DISK}/bin/{name}")
            script.write_bytes(text)
            script.chmod(0o755)
        shutil.copy(REPOSITORY / "deploy/apache/limiter.conf", laboratory.path(COPY))
        shutil.copy(_RECORDED, laboratory.path(f"{COPY}/cgi-bin"))
        laboratory.path(f"{DISK}/history").chmod(0o777)
        laboratory.do("ip", "link", "set", "lo", "up")
        # Otherwise it would change with each machine that is plugged in.
        laboratory.do("ip", "link", "set", "switch", "address", "02:00:00:00:00:fe")
        laboratory.do("ip", "addr", "add", f"{CLIENT}/24", "dev", "switch")
        self.directors = [Director(laboratory, number) for number in (1, 2)]

    def start(self) -> None:
        """Switch on the directors, and start Apache."""
        for director in self.directors:
            director.switch_on()
        for server in self.servers:
            start_apache(server)
        for director in self.directors:
            director.wait_until_up()

    def restart(self, server: Machine) -> None:
        """Switch on a web server that was killed, with all that it had enabled, and start Apache."""
        server.start()
        # Otherwise it would announce on the network that it has the address.
        server.do(
            "find", "/etc/sysctl.d", "-name", "*access-limiter*", "-exec", "sysctl", "-qp", "{}", "+"
        )
        server.do("systemctl", "default")
        start_apache(server)

    def end(self) -> None:
        """End the directors, in any state."""
        for director in self.directors:
            director.end()

    def write_inventory(self, accept: str) -> None:
        """Add the directors, and the address that all of them serve, to the inventory of the store."""
        lines = {
            "vip": VIP,
            "interface": "eth0",
            "port": "80",
            "health": "/cgi-bin/health.py",
            "balance": "rr",
            "accept": accept,
        }
        self.laboratory.write_inventory("3", **lines)
        with self.laboratory.path(INVENTORY).open("a") as file:
            for director in self.directors:
                file.write(f"director={director.name} {director.address}\n")

    def deploy(self, command: str, *arguments: str) -> Done:
        """Run the deploy script with this inventory, with any exit status."""
        return self.laboratory.run(
            _DEPLOY, command, *arguments, "--inventory", INVENTORY, seconds=_DEADLINE
        )

    def do(self, command: str, *arguments: str) -> str:
        """Run a command of the deploy script that must succeed; return its output."""
        done = self.deploy(command, *arguments)
        assert done.status == 0, done.output
        return done.output

    def holder(self) -> Director:
        """Return the director that gets the client's packets."""
        mac = self._hardware_address()
        (holder,) = [director for director in self.directors if director.mac == mac]
        return holder

    def other(self) -> Director:
        """Return the director that does not get them."""
        holder = self.holder()
        (other,) = [director for director in self.directors if director is not holder]
        return other

    def holders(self) -> list[Director]:
        """Return the directors that report that they have the address."""
        return [it for it in self.directors if it.do("ip", "-oneline", "address", "show", "to", VIP)]

    def _hardware_address(self) -> str:
        self.laboratory.do("ip", "neighbour", "flush", "to", VIP)
        self.laboratory.do("bash", "-c", f"echo >/dev/udp/{VIP}/9")
        wait_for(lambda: "lladdr" in self._neighbour(), f"somebody has {VIP}")
        said = self._neighbour().split()
        return said[said.index("lladdr") + 1]

    def _neighbour(self) -> str:
        return self.laboratory.do("ip", "neighbour", "show", "to", VIP)


def start_apache(server: Machine) -> None:
    """Start Apache as the distribution does, with the limiter in it."""
    directory = server.path(_SITE)
    directory.mkdir(exist_ok=True)
    text = _CONFIGURATION.format(name=server.name)
    (directory / "httpd.conf").write_text(text)
    server.do("apache2", "-f", f"{_SITE}/httpd.conf")


def kill_apache(server: Machine) -> None:
    """SIGKILL all its processes, which are one group."""
    pid = server.path(f"{_SITE}/pid")
    server.do("kill", "-9", "--", f"-{int(pid.read_text())}")
    pid.unlink()


@contextmanager
def balanced() -> Iterator[Balanced]:
    """Run all of it; it is not yet set up as a load balancer.

    Skips the test where this is impossible.
    """
    for tool, package in _TOOLS.items():
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    if not Path("/dev/net/tun").exists():
        pytest.skip("/dev/net/tun is missing")
    permitted = subprocess.run(["chrt", "--fifo", "1", "true"], check=False, stderr=subprocess.DEVNULL)
    if permitted.returncode != 0:
        pytest.skip("a real-time priority is not permitted")
    with cluster("3") as made:
        all_of_it = Balanced(made)
        try:
            all_of_it.start()
            yield all_of_it
        finally:
            all_of_it.end()
