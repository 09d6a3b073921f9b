"""A laboratory: several machines on this one, with a network of their own, set up by the deploy scripts.

A machine is a set of namespaces.  What it writes to /etc, /var and /run stays in a tmpfs of the
laboratory's, which is its disk: killed and started again, it finds its bricks and its settings there.
The first process of each machine, and of the laboratory, ends as soon as nobody holds its standard input any
more, and takes everything with it: processes, mounts, network and files.  So nothing is left behind, even if
the tests are killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.places import PYTHON, REPOSITORY

DISK = "/dev/shm"
"""What the machines share, as no real ones do: the laboratory's tmpfs."""

COPY = f"{DISK}/limiter"
"""An installed copy of the package and cgi-bin."""

INSIDE = f"{DISK}/inside.py"

MOUNT = "/var/mnt/limiter"
STORE = f"{MOUNT}/store"
BRICK = "/var/brick/limiter"
VOLUME = "limiter"
HEALER = f"access-limiter-heal@{VOLUME}"
HEALER_LOG = f"/var/log/{HEALER}"
USER = "nobody"
"""Apache's, whatever the distribution."""

AS_USER = ["setpriv", "--reuid", USER, "--clear-groups"]

_DEADLINE = 300  # seconds, after which something hangs, however busy the machine is
_DEPLOY = f"{REPOSITORY}/deploy/glusterfs/glusterfs"
_NETWORK = "10.77.0."
_TOOLS = {"glusterd": "glusterfs-server", "mount.glusterfs": "glusterfs-client", "ip": "iproute2"}

_UNSHARE = ("unshare", "--propagation", "private")
_LABORATORY = f"""
mount -t tmpfs tmpfs {DISK}
ip link add switch type bridge
ip link set switch up
echo made
exec cat
"""

# $1: its name, $2: its address.  The disk's directories are there already.
_MACHINE = f"""
ip link set lo up
hostname "$1"
disk={DISK}/$1
for place in etc usr/local var; do
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$disk/$place,workdir=$disk/$place.work" "/$place"
done
printf '127.0.1.1 %s.example.org %s\n' "$1" "$1" >>/etc/hosts  # as Debian's installation leaves it
mkdir -p /var/brick /var/mnt
mount --bind "$disk/brick" /var/brick
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
for program in /usr/lib/*/glusterfs/gsyncd /usr/libexec/glusterfs/gsyncd; do
  test ! -e "$program" || mount --bind {DISK}/bin/gsyncd "$program"
done
echo made
exec env --ignore-signal=CHLD cat  # whoever is orphaned here vanishes when it ends, as under any init
"""

# Of geo-replication, which nothing here uses: whenever glusterd starts, it calls it twenty times, for 3 s.
_GSYNCD = """#!/bin/sh
echo gsyncd
"""

# As much of it as the scripts ask for.  What is enabled is started when the machine starts.
_SYSTEMCTL = """#!/bin/sh
[ "$1" != -q ] || shift
verb=$1
[ "$2" != --now ] || shift
unit=$2
pid=$(cat "/run/$unit.pid" 2>/dev/null)
case "$verb $unit" in
  "is-enabled "*) test -e "/etc/enabled/$unit" ;;
  "is-active "*) [ "$pid" ] && kill -0 "$pid" 2>/dev/null ;;
  "enable glusterd") mkdir -p /etc/enabled && touch "/etc/enabled/$unit" && exec glusterd "--pid-file=/run/$unit.pid" ;;
  "enable "*@*)
    command=$(sed -n "s/^ExecStart=//;T;s/%i/${unit#*@}/p" "/etc/systemd/system/${unit%%@*}@.service")
    mkdir -p /etc/enabled && touch "/etc/enabled/$unit"
    setsid $command </dev/null >>"/var/log/$unit" 2>&1 &
    echo $! >"/run/$unit.pid"
    ;;
  "disable "*) rm "/etc/enabled/$unit" && "$0" stop "$unit" ;;
  "stop "*)
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    ;;
  "restart "*) "$0" stop "$unit" && "$0" enable "$unit" ;;
  "daemon-reload ") ;;
  *) echo "systemctl: not in this laboratory: $*" >&2; exit 1 ;;
esac
"""
_BOOT = """
if test -e /etc/enabled/glusterd; then
  systemctl enable glusterd && mount -a -t glusterfs
  for unit in /etc/enabled/*@*; do
    test ! -e "$unit" || systemctl enable "${unit##*/}"
  done
fi
"""
_REACH = f"""#!/bin/sh
name=$1
shift
pid=$(cat "{DISK}/$name/pid") || exit
exec {DISK}/bin/enter "$pid" "$@"
"""
_ENTER = f"""#!/bin/sh
pid=$1
shift
export PATH={DISK}/bin:/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/tmp
exec nsenter --mount=/proc/$pid/ns/mnt --net=/proc/$pid/ns/net --uts=/proc/$pid/ns/uts \\
  --pid=/proc/$pid/ns/pid_for_children "$@"
"""


@dataclass
class Done:
    """How a command ended, and what it said on both outputs."""

    status: int
    output: str


class _Space:
    """Namespaces that last as long as their first process, which reads our pipe."""

    def __init__(
        self, namespaces: str, script: str, *arguments: str, inside: Sequence[str] = ()
    ) -> None:
        self._first = subprocess.Popen(
            [*inside, *_UNSHARE, *namespaces.split(), "sh", "-ec", script, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._first.pid
        assert self._first.stdout is not None
        said = self._first.stdout.readline()
        if said != "made\n":
            said += self._first.stdout.read()
            self.kill()
            raise OSError(said.strip())

    def kill(self) -> None:
        """SIGKILL; what is in the namespaces is gone when it returns."""
        self._first.kill()
        # Whoever was in there held its end of this pipe, or had it from a process that did.
        self._first.communicate()


class Machine:
    """One of the machines: ``name``, ``address``."""

    def __init__(self, laboratory: Laboratory, number: int) -> None:
        self.name = f"web{number}"
        self.address = f"{_NETWORK}{number}"
        self._laboratory = laboratory
        self._number = number
        self._space: _Space | None = None
        for place in ("etc", "etc.work", "usr/local", "usr/local.work", "var", "var.work", "brick"):
            laboratory.path(f"{DISK}/{self.name}/{place}").mkdir(parents=True)

    def start(self) -> None:
        """Switch it on: with its network, and with the service that it had enabled."""
        namespaces = "--mount --net --uts --pid --fork --kill-child --mount-proc"
        inside = self._laboratory.inside
        self._space = _Space(namespaces, _MACHINE, self.name, self.address, inside=inside)
        pid = str(self._space.pid)
        self._laboratory.path(f"{DISK}/{self.name}/pid").write_text(pid)
        port = f"port{self._number}"
        init = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        self._laboratory.do(
            "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", init
        )
        self._laboratory.do("ip", "link", "set", port, "up")
        self.plug_in()
        self.do("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.do("ip", "link", "set", "eth0", "up")
        self.do("sh", "-ec", _BOOT)

    def kill(self) -> None:
        """SIGKILL of everything in it, and no farewell to anyone on the network."""
        self.unplug()
        self.end()
        # The kernel does so too, but in its own time: it may have done so by now.
        self._laboratory.run("ip", "link", "delete", f"port{self._number}")

    def end(self) -> None:
        """Be done with it, in whatever state it is."""
        if self._space is not None:
            self._space.kill()
            self._space = None

    def unplug(self) -> None:
        """Let no packet in or out; nobody is told."""
        self._laboratory.do("ip", "link", "set", f"port{self._number}", "nomaster")

    def plug_in(self) -> None:
        """End what ``unplug`` began."""
        self._laboratory.do("ip", "link", "set", f"port{self._number}", "master", "switch")

    def command(self, *command: str | Path) -> list[str]:
        """What to run here in order to run a command there."""
        assert self._space is not None
        enter = f"{self._laboratory.path(DISK)}/bin/enter"
        return [enter, str(self._space.pid), *map(str, command)]

    def run(self, *command: str | Path, seconds: float = _DEADLINE) -> Done:
        """Run a command in it, whatever it exits with."""
        return _run(self.command(*command), seconds)

    def do(self, *command: str | Path) -> str:
        """Run a command that must succeed; what it says."""
        return _must(self.run(*command))

    def do_as_user(self, *command: str | Path, **environ: str) -> str:
        """The same as Apache's user, with these variables."""
        return self.do(
            *AS_USER, "env", *[f"{name}={value}" for name, value in environ.items()], *command
        )

    def ask(self, *arguments: str) -> Done:
        """Ask GlusterFS, whatever it says within a minute; but it does one thing at a time."""
        command = ["timeout", "60", "gluster", "--mode=script", *arguments]
        end = time.monotonic() + _DEADLINE
        while True:
            done = self.run(*command)
            if "Another transaction" not in done.output or time.monotonic() > end:
                return done
            time.sleep(0.1)

    def gluster(self, *arguments: str) -> str:
        """Ask GlusterFS what it must be able to answer."""
        return _must(self.ask(*arguments))

    def path(self, path: str) -> Path:
        """Where a file of it is to be found."""
        assert self._space is not None
        return Path(f"/proc/{self._space.pid}/root{path}")

    def kill_brick(self) -> None:
        """SIGKILL of the process that serves its brick."""
        (file,) = self.path(f"/run/gluster/vols/{VOLUME}").glob("*.pid")
        self.do("sh", "-c", f"kill -9 {int(file.read_text())}")


class Laboratory:
    """Machines on one network, and the control host: this one, from which the scripts are run.

    ``replica``: what the inventory says of the copies; empty before there is one.
    """

    def __init__(self) -> None:
        self.replica = ""
        self._space = _Space("--mount --net", _LABORATORY)
        pid = self._space.pid
        self.inside = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--net=/proc/{pid}/ns/net"]
        self.machines: list[Machine] = []
        self.path(f"{DISK}/bin").mkdir()
        scripts = {"systemctl": _SYSTEMCTL, "reach": _REACH, "enter": _ENTER, "gsyncd": _GSYNCD}
        for name, text in scripts.items():
            script = self.path(f"{DISK}/bin/{name}")
            script.write_text(text)
            script.chmod(0o755)

    def path(self, path: str) -> Path:
        """Where a file of the laboratory's is to be found."""
        return Path(f"/proc/{self._space.pid}/root{path}")

    def run(self, *command: str | Path, seconds: float = _DEADLINE) -> Done:
        """Run a command on the control host, whatever it exits with."""
        return _run([*self.inside, *map(str, command)], seconds)

    def do(self, *command: str | Path) -> str:
        """Run a command there that must succeed; what it says."""
        return _must(self.run(*command))

    def add_machine(self) -> Machine:
        """One more machine, running, with nothing on it but the packages."""
        machine = Machine(self, len(self.machines) + 1)
        self.machines.append(machine)
        machine.start()
        return machine

    def write_inventory(self, replica: str, **changes: str) -> None:
        """Write the inventory: the machines that there are by now keep the copies."""
        self.replica = replica
        lines = {
            "replica": replica,
            "volume": VOLUME,
            "brick": BRICK,
            "mount": MOUNT,
            "store": "store",
            "user": USER,
            "remote": f"{DISK}/bin/reach %n",
            **changes,
        }
        storage = "".join(f"storage={it.name} {it.address}\n" for it in self.machines)
        text = storage + "".join(f"{name}={value}\n" for name, value in lines.items())
        self.path(f"{DISK}/cluster.conf").write_text(text)

    def deploy(self, command: str, *arguments: str) -> Done:
        """Run the deploy script with this inventory, whatever it exits with."""
        return self.run(_DEPLOY, command, *arguments, "--inventory", f"{DISK}/cluster.conf")

    def kill(self) -> None:
        """End all of it."""
        for machine in self.machines:
            machine.end()
        self._space.kill()


def _run(command: Sequence[str], seconds: float) -> Done:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    return Done(done.returncode, done.stdout)


def _must(done: Done) -> str:
    assert done.status == 0, done.output
    return done.output


def wait_for(condition: Callable[[], bool], what: str, seconds: float = _DEADLINE) -> None:
    """Return as soon as it holds: GlusterFS tells nobody when it is ready."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def writes_to(machine: Machine, other: Machine) -> bool:
    """Whether what a machine makes arrives at the other one's copy."""
    probe = next(name for name in map(str, count()) if not machine.path(f"{STORE}/.{name}").exists())
    machine.do("mkdir", f"{STORE}/.{probe}")
    arrived = other.path(f"{BRICK}/brick/store/.{probe}").exists()
    machine.do("rmdir", f"{STORE}/.{probe}")
    return arrived


def await_healed(laboratory: Laboratory) -> None:
    """Return when the healer is done, and has left nothing to repair or in split-brain."""
    first = laboratory.machines[0]

    def is_healed() -> bool:
        said = first.gluster("volume", "heal", VOLUME, "info")
        entries = [
            line.split()[-1] for line in said.splitlines() if line.startswith("Number of entries:")
        ]
        options = first.gluster("volume", "info", VOLUME)
        return entries == ["0"] * 3 and "cluster.self-heal-daemon: off\n" in options

    wait_for(is_healed, "healed")
    said = first.gluster("volume", "heal", VOLUME, "info", "split-brain")
    assert said.count("Number of entries in split-brain: 0") == 3, said


@contextmanager
def laboratory(machines: int = 3) -> Iterator[Laboratory]:
    """So many machines, with nothing on them yet.  Skips the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("only root can make machines of namespaces")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"FUSE is missing, or not permitted: {error}")
    for tool, package in _TOOLS.items():
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"{tool} is missing (package {package})")
    with ExitStack() as stack:
        try:
            made = Laboratory()
            stack.callback(made.kill)
            for _ in range(machines):
                made.add_machine()
        except OSError as error:
            pytest.skip(f"namespaces cannot be made here: {error}")
        yield made


@contextmanager
def cluster(replica: str) -> Iterator[Laboratory]:
    """Three machines, with the store and the program on them as the scripts leave them."""
    with laboratory() as made:
        install = f"from pathlib import Path; from tests.places import install; install(Path('{COPY}'))"
        made.do("sh", "-ec", f'cd "$0"; exec {PYTHON} -Bc "$1"', REPOSITORY, install)
        for name in ("inside.py", "player.py", "recorder.py"):
            shutil.copy(Path(__file__).with_name(name), made.path(DISK))
        made.path(f"{DISK}/history").mkdir()
        made.write_inventory(replica)
        done = made.deploy("install")
        assert done.status == 0, done.output
        yield made
