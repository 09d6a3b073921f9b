"""A cluster of web servers behind a load balancer, whose directors each have a kernel, and a client.

The web servers and their store come from ``tests.laboratories.cluster.laboratory``: they are namespaces
of this machine.  The kernel of this machine may have no IPVS, but Debian's user-mode-linux has it.  So
each director runs user-mode-linux, with a network card in the same switch.  Like a real machine, a
director can be lost with all that its kernel knew.  The client is the control host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.laboratories.apache import ACCESS_LOG, START, configure_apache, start_apache
from tests.laboratories.cluster.laboratory import HISTORY, STORE, Cluster
from tests.laboratories.machines import (
    CONTROL,
    COPY,
    DISK,
    REAL_TIME,
    VIP,
    Host,
    Machine,
    wait_for,
)
from tests.places import PYTHON

_HERE = Path(__file__).parent
# The CGI script check.py, which also records what it does.  ``n`` in the query is the number of the request.
_RECORDED = f"""#!/bin/sh
exec {PYTHON} -IS {DISK}/recorder.py {COPY}/cgi-bin/check.py 0 3>>"{HISTORY}/${{QUERY_STRING##*&n=}}"
"""
_LOCATION = f"""\
<Location "/cgi-bin/recorded">
    ScriptAlias {COPY}/cgi-bin/recorded
</Location>"""
# The machine ends when its standard input is closed.
_MACHINE = '"$@" </dev/null >/dev/null 2>&1 & exec cat'


class Director(Host):
    """A director, with a kernel of its own."""

    def __init__(self, laboratory: Balanced, number: int) -> None:
        super().__init__(laboratory, f"lb{number}", 20 + number)
        processors = sorted(os.sched_getaffinity(0))
        self._processor = str(processors[number % len(processors)])
        self._first: subprocess.Popen[bytes] | None = None
        disk = laboratory.path(self.disk)
        for place, name in (("/etc", "etc"), ("/usr/local/sbin", "sbin")):
            shutil.copytree(place, disk / name, symlinks=True)
        shutil.copytree(laboratory.path(f"{DISK}/bin"), disk / "bin")
        enter = f'#!/bin/sh\nexec {DISK}/bin/agent call {self.address} "$@"\n'
        laboratory.put_program(f"{self.disk}/enter", enter)

    def start(self) -> None:
        """Switch it on, with its network and the services that it had enabled."""
        self.switch_on()
        self.wait_until_up()

    def switch_on(self) -> None:
        """Switch it on, without waiting."""
        self._laboratory.path(f"{self.disk}/console").unlink(missing_ok=True)
        self._laboratory.do("ip", "tuntap", "add", self.port, "mode", "tap")
        # Data larger than a packet of the network does not get through.
        self._laboratory.do("ip", "link", "set", self.port, "gso_max_segs", "1")
        self.plug_in()
        self._laboratory.do("ip", "link", "set", self.port, "up")
        kernel = [
            *("/usr/bin/linux.uml", "mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/"),
            *("ro", "quiet", "con=null", f"uml_dir={self.disk}/", f"init={_HERE}/boot.sh"),
            *(f"disk={self.disk}", f"name={self.name}", f"address={self.address}"),
            f"vec0:transport=tap,ifname={self.port},depth=64,mac={self.mac}",
        ]
        # A director must not wait for the processes of other machines: a real machine does not, either.
        own_processor = [*REAL_TIME.split(), "taskset", "--cpu-list", self._processor]
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*own_processor, *unshare, "sh", "-c", _MACHINE, "sh", *kernel]
        self._first = subprocess.Popen([*self._laboratory.inside, *command], stdin=subprocess.PIPE)

    def wait_until_up(self) -> None:
        """Return as soon as commands can be run on it."""
        console = self._laboratory.path(f"{self.disk}/console")
        up = f"{self.name} is up"
        wait_for(lambda: console.exists() and "agent: ready" in console.read_text(), up)

    def kill(self) -> None:
        """Cut its power: it sends nothing more to the network."""
        self.end()
        self._laboratory.do("ip", "link", "delete", self.port)

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


class Balanced(Cluster):
    """All of it: three web servers with one store, two directors in front of them, and a client.

    It is not yet set up as a load balancer.
    """

    tools = (
        *(*Cluster.tools, "apache2", "linux.uml", "keepalived"),
        *("ipvsadm", "modprobe", "nft", "tcpdump"),
    )
    devices = (*Cluster.devices, "/dev/net/tun")
    needs_real_time = True
    boot = f"{Cluster.boot}test ! -e {DISK}/$1/httpd.conf || {START}\n"

    def __init__(self) -> None:
        super().__init__("3")
        self.directors: list[Director] = []

    def set_up(self) -> None:
        """Switch on the directors, and start Apache."""
        super().set_up()
        self.script = "loadbalancer"
        self.put_program(f"{DISK}/bin/agent", (_HERE / "agent.py").read_text())
        self.put_program(f"{COPY}/cgi-bin/recorded", _RECORDED)
        self.directors += [Director(self, number) for number in (1, 2)]
        for director in self.directors:
            director.switch_on()
        for server in self.machines:
            configure_apache(self, server, STORE, _LOCATION)
            start_apache(server)
        for director in self.directors:
            director.wait_until_up()

    def accept_by(self, way: str) -> None:
        """Write the inventory, with the way in which the web servers take the address."""
        roles: dict[str, Sequence[Host]] = {"storage": self.machines, "director": self.directors}
        self.put_inventory(roles, vip=VIP, interface="eth0", accept=way)

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
        return [director for director in self.directors if director.holds()]

    def _hardware_address(self) -> str:
        self.do("ip", "neighbour", "flush", "to", VIP)
        self.do("bash", "-c", f"echo >/dev/udp/{VIP}/9")
        wait_for(lambda: "lladdr" in self._neighbour(), f"a machine has {VIP}")
        words = self._neighbour().split()
        return words[words.index("lladdr") + 1]

    def _neighbour(self) -> str:
        return self.do("ip", "neighbour", "show", "to", VIP)

    def kill(self) -> None:
        """End all of it."""
        for director in self.directors:
            director.end()
        super().kill()


def requests_logged(server: Machine) -> int:
    """Return how many requests of the client are in the server's own log."""
    return server.path(ACCESS_LOG).read_text().count(f"{CONTROL} {VIP} ")
