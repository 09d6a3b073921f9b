"""Several machines on this one, on a network of their own, for the deploy scripts and the real programs.

A machine is a set of namespaces.  What it writes to /etc, /usr/local and /var stays in a tmpfs of the
laboratory, which is its disk.  When it is killed and started again, it finds its files there.  The first
process of each machine, and of the laboratory, ends when its standard input is closed.  All else ends with
it: processes, mounts, network and files.  So nothing is left behind, even if the tests are killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.places import PYTHON, REPOSITORY
from tests.waiting import wait_until

DISK = "/dev/shm"
"""Shared by the machines, unlike anything that real machines have: the tmpfs of the laboratory."""

COPY = f"{DISK}/limiter"
"""An installed copy of the package and cgi-bin."""

INVENTORY = f"{DISK}/cluster.conf"
NETWORK = "10.77.0.0/24"
CONTROL = "10.77.0.254"
"""The address of the control host, which is also the client."""

CONTROL_MAC = "02:00:00:00:00:fe"
VIP = "10.77.0.100"
"""The address that a load balancer or a pair serves."""

USER = "nobody"
"""Apache's user, on any distribution."""

AS_USER = ("setpriv", "--reuid", USER, "--clear-groups")
REAL_TIME = "chrt --fifo 1"
"""Runs a program as if its machine had a processor of its own: it does not wait for other machines."""

WANTED = "/etc/systemd/laboratory.wants"
"""The services that a machine has enabled (systemctl.py)."""

_PACKAGES = {
    "apache2": "apache2-bin",
    "aws": "awscli",
    "glusterd": "glusterfs-server",
    "ip": "iproute2",
    "linux.uml": "user-mode-linux",
    "modprobe": "kmod",
    "mount.glusterfs": "glusterfs-client",
    "nft": "nftables",
}
_DEADLINE = 300  # seconds, after which something hangs, even on a busy machine
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# The switch has a fixed address.  Otherwise it would change with each machine that is plugged in.
_LABORATORY = f"""
mount -t tmpfs tmpfs {DISK}
ip link set lo up
ip link add switch address {CONTROL_MAC} type bridge
ip address add {CONTROL}/24 dev switch
ip link set switch up
echo made
exec cat
"""

# $1: its name.  The directories of its disk exist already.
_MACHINE = f"""
ip link set lo up
hostname "$1"
disk={DISK}/$1
for place in etc usr/local var; do
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$disk/$place,workdir=$disk/$place.work" "/$place"
done
printf '127.0.1.1 %s.example.org %s\n' "$1" "$1" >>/etc/hosts  # as Debian's installation leaves it
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
echo made
exec env --ignore-signal=CHLD cat  # an orphan vanishes when it ends, as under any init
"""

_PLUG_IN = """
ip address add "$2/24" dev eth0
ip link set eth0 up
"""

# Settings come before services: a web server with the address must not announce it on the network.
BOOT = """
for file in /etc/sysctl.d/*access-limiter*; do
  test ! -e "$file" || sysctl -qp "$file"
done
systemctl default
"""
"""What a machine does last when it is switched on.  $1 is its name, $2 its address."""

# A keepalived that waits for other processes would seem to be lost.
KEEPALIVED_BOOT = f"""
cat >/etc/systemd/system/keepalived.service <<'END'
[Service]
Type=notify
ExecStart=/usr/bin/{REAL_TIME} /usr/sbin/keepalived --dont-fork --vrrp --log-console
ExecReload=/bin/kill -HUP $MAINPID
END
"""
"""What a machine with keepalived does before that."""

_ENTER = f"""#!/bin/sh
export PATH={DISK}/bin:{_PATH} TMPDIR=/tmp {{environ}}
exec nsenter --mount=/proc/{{pid}}/ns/mnt --net=/proc/{{pid}}/ns/net --uts=/proc/{{pid}}/ns/uts \\
  --pid=/proc/{{pid}}/ns/pid_for_children "$@"
"""

# As ssh ends if a machine does not answer.
_SWITCHED_OFF = "#!/bin/sh\nexit 255\n"


Done = subprocess.CompletedProcess[str]


def run(command: Sequence[str]) -> Done:
    """Run a command, with any exit status; its ``stdout`` has both outputs."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_DEADLINE,
        check=False,
    )


def output_of(done: Done, status: int = 0) -> str:
    """Return the output of a command that must have ended with this status."""
    assert done.returncode == status, done.stdout
    return done.stdout


def begin(command: Sequence[str], stderr: int | None = subprocess.STDOUT) -> subprocess.Popen[str]:
    """Start a command; its standard input and its outputs are pipes."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """End the standard input of all of them at once; return what each has printed when it has ended."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    printed = []
    for process in processes:
        with process:
            assert process.stdout is not None
            printed.append(process.stdout.read())
    return printed


def wait_for(condition: Callable[[], bool], what: str, seconds: float = _DEADLINE) -> None:
    """Return as soon as the condition holds."""
    wait_until(condition, what, seconds, pause=0.2)


class _Space:
    """Namespaces that last as long as their first process, which reads our pipe."""

    def __init__(
        self, namespaces: str, script: str, *arguments: str, inside: Sequence[str] = ()
    ) -> None:
        unshare = ["unshare", "--propagation", "private", *namespaces.split()]
        command = [*inside, *unshare, "sh", "-ec", script, "sh", *arguments]
        self._first = begin(command)
        self.pid = self._first.pid
        printed = line_of(self._first)
        if printed != "made\n":
            printed += self.kill()
            pytest.skip(f"namespaces cannot be made here: {printed.strip()}")

    def kill(self) -> str:
        """SIGKILL; all that was in the namespaces is gone when this returns the rest of its output."""
        self._first.kill()
        # All processes in there held the other end of this pipe, or got it from a process that did.
        return self._first.communicate()[0]


class Host:
    """A machine on the network: ``name``, ``address``, ``mac``, and its ``port`` in the switch."""

    def __init__(self, laboratory: Laboratory, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self.mac = f"02:00:00:00:00:{number:02}"
        self.port = f"port{number}"
        self.disk = f"{DISK}/{name}"
        self._laboratory = laboratory

    def command(self, *command: str | Path) -> list[str]:
        """Return the command to run here in order to run a command there."""
        return [*self._laboratory.inside, f"{self.disk}/enter", *map(str, command)]

    def run(self, *command: str | Path) -> Done:
        """Run a command on it, with any exit status."""
        return run(self.command(*command))

    def do(self, *command: str | Path) -> str:
        """Run a command that must succeed; return its output."""
        return output_of(self.run(*command))

    def begin(self, *command: str | Path) -> subprocess.Popen[str]:
        """Start a command on it; its standard input and its outputs are pipes."""
        return begin(self.command(*command))

    def holds(self) -> bool:
        """Return whether it has the address that is served, as far as it knows."""
        return bool(self.do("ip", "-oneline", "address", "show", "dev", "eth0", "to", VIP))

    def unplug(self) -> None:
        """Let no packet in or out; no other machine is informed."""
        self._laboratory.do("ip", "link", "set", self.port, "nomaster")

    def plug_in(self) -> None:
        """Undo ``unplug``."""
        self._laboratory.do("ip", "link", "set", self.port, "master", "switch")


class Machine(Host):
    """A machine of namespaces."""

    def __init__(self, laboratory: Laboratory, name: str, number: int) -> None:
        super().__init__(laboratory, name, number)
        self._space: _Space | None = None
        for place in ("etc", "etc.work", "usr/local", "usr/local.work", "var", "var.work"):
            laboratory.path(f"{self.disk}/{place}").mkdir(parents=True)

    def start(self) -> None:
        """Switch it on, with its network and the services that it had enabled."""
        laboratory = self._laboratory
        namespaces = "--mount --net --uts --pid --fork --kill-child --mount-proc"
        self._space = _Space(namespaces, _MACHINE, self.name, inside=laboratory.inside)
        pid = self._space.pid
        enter = _ENTER.format(pid=pid, environ=laboratory.environ)
        laboratory.put_program(f"{self.disk}/enter", enter)
        init = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        peer = ("peer", "name", "eth0", "address", self.mac, "netns", init)
        laboratory.do("ip", "link", "add", self.port, "type", "veth", *peer)
        laboratory.do("ip", "link", "set", self.port, "up")
        self.plug_in()
        self.do("sh", "-ec", _PLUG_IN + laboratory.boot, "sh", self.name, self.address)

    def kill(self) -> None:
        """SIGKILL everything in it; it sends nothing more to the network."""
        self.unplug()
        self.end()
        # The kernel does this too, but later; it may already have done so.
        self._laboratory.run("ip", "link", "delete", self.port)

    def end(self) -> None:
        """End it, in any state."""
        if self._space is not None:
            # Soon another process may have its number, and would answer in its place.
            self._laboratory.put_program(f"{self.disk}/enter", _SWITCHED_OFF)
            self._space.kill()
            self._space = None

    def path(self, path: str) -> Path:
        """Return where a file of this machine is found."""
        assert self._space is not None
        return Path(f"/proc/{self._space.pid}/root{path}")


_AnyMachine = TypeVar("_AnyMachine", bound=Machine)


class Laboratory:
    """Machines on one network, and the control host: this machine, on which the scripts are run."""

    script: str
    """The deploy script."""

    tools: tuple[str, ...] = ("ip",)
    devices: tuple[str, ...] = ()
    needs_real_time = False
    """Tests are skipped where these are missing."""

    boot = BOOT
    environ = ""
    """Variables of all commands on its machines."""

    def __init__(self) -> None:
        self._require()
        self._space = _Space("--mount --net", _LABORATORY)
        pid = self._space.pid
        self.inside = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--net=/proc/{pid}/ns/net"]
        self.machines: list[Machine] = []
        self.path(f"{DISK}/bin").mkdir()
        self.put_program(f"{DISK}/bin/systemctl", Path(__file__).with_name("systemctl.py").read_text())

    def _require(self) -> None:
        """Skip the test if this machine lacks something."""
        if os.geteuid() != 0:
            pytest.skip("only root can make machines of namespaces")
        for tool in self.tools:
            if shutil.which(tool, path=_PATH) is None:
                pytest.skip(f"{tool} is missing (package {_PACKAGES.get(tool, tool)})")
        for device in self.devices:
            try:
                os.close(os.open(device, os.O_RDWR))
            except OSError as error:
                pytest.skip(f"{device} is missing, or not permitted: {error}")
        if self.needs_real_time and run([*REAL_TIME.split(), "true"]).returncode:
            pytest.skip("a real-time priority is not permitted")

    def set_up(self) -> None:
        """Add its machines."""

    def path(self, path: str) -> Path:
        """Return where a file of the laboratory is found."""
        return Path(f"/proc/{self._space.pid}/root{path}")

    def put_program(self, path: str, text: str) -> None:
        """Write a program; the machines find those in bin before those of the system."""
        self.path(path).write_text(text)
        self.path(path).chmod(0o755)

    def install_package(self) -> None:
        """Make the copy of the package and cgi-bin."""
        install = f"from pathlib import Path; from tests.places import install; install(Path('{COPY}'))"
        self.do("sh", "-ec", f'cd "$0"; exec {PYTHON} -Bc "$1"', REPOSITORY, install)
        shutil.copy(REPOSITORY / "deploy/apache/limiter.conf", self.path(COPY))

    def run(self, *command: str | Path) -> Done:
        """Run a command on the control host, with any exit status."""
        return run([*self.inside, *map(str, command)])

    def do(self, *command: str | Path) -> str:
        """Run a command there that must succeed; return its output."""
        return output_of(self.run(*command))

    def add(self, machine: _AnyMachine) -> _AnyMachine:
        """Add a machine, and switch it on."""
        self.machines.append(machine)
        machine.start()
        return machine

    def add_web_server(self) -> Machine:
        """Add a web server.  It runs, and has nothing but the packages."""
        number = len(self.machines) + 1
        return self.add(Machine(self, f"web{number}", number))

    def put_inventory(self, roles: Mapping[str, Sequence[Host]], **settings: str) -> None:
        """Write the inventory: the machines of each role, and the settings but for empty ones."""
        lines = [f"{role}={it.name} {it.address}" for role, hosts in roles.items() for it in hosts]
        lines += [f"{name}={value}" for name, value in settings.items() if value]
        lines += [f"remote={DISK}/%n/enter", ""]
        self.path(INVENTORY).write_text("\n".join(lines))

    def run_script(self, *arguments: str) -> Done:
        """Run the deploy script with this inventory, with any exit status."""
        program = REPOSITORY / "deploy" / self.script / self.script
        return self.run(program, *arguments, "--inventory", INVENTORY)

    def deploy(self, *arguments: str) -> str:
        """Run a command of the script that must succeed; return its output."""
        return output_of(self.run_script(*arguments))

    def refusal(self, *arguments: str) -> str:
        """Run a command of the script that must exit with 1; return its output."""
        return output_of(self.run_script(*arguments), 1)

    def kill(self) -> None:
        """End all of it."""
        for machine in self.machines:
            machine.end()
        self._space.kill()


_AnyLaboratory = TypeVar("_AnyLaboratory", bound=Laboratory)


@contextmanager
def running(kind: Callable[[], _AnyLaboratory]) -> Iterator[_AnyLaboratory]:
    """Make a laboratory, and end it.  Skips the test where this is impossible."""
    made = kind()
    try:
        made.set_up()
        yield made
    finally:
        made.kill()
