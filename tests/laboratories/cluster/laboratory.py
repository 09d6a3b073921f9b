"""A laboratory: several machines on this one, with a network of their own, set up by the deploy scripts.

A machine is a set of namespaces.  What it writes to /etc, /var and /run stays in a tmpfs of the
laboratory, which is its disk.  When it is killed and started again, it finds its bricks and its settings
there.  The first process of each machine, and of the laboratory, ends when its standard input is closed.
All else ends with it: processes, mounts, network and files.  So nothing is left behind, even if the
tests are killed.
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
"""Shared by the machines, unlike anything that real machines have: the tmpfs of the laboratory."""

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
"""Apache's user, on any distribution."""

AS_USER = ["setpriv", "--reuid", USER, "--clear-groups"]

_DEADLINE = 300  # seconds, after which something hangs, even on a busy machine
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

# $1: its name, $2: its address.  The directories of its disk exist already.
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

# For geo-replication, which is not used here: glusterd calls it twenty times, for 3 s, each time it
# starts.
_GSYNCD = """#!/bin/sh
echo gsyncd
"""

# The part that the scripts use.  What is enabled is started when the machine starts.
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
    """How a command ended, and what it printed on both outputs."""

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
        """SIGKILL; all that was in the namespaces is gone when this returns."""
        self._first.kill()
        # All processes in there held the other end of this pipe, or got it from a process that did.
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
        """Switch it on, with its network and the service that it had enabled."""
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
        """SIGKILL everything in it; it sends nothing more to the network."""
        self.unplug()
        self.end()
        # The kernel does this too, but later; it may already have done so.
        self._laboratory.run("ip", "link", "delete", f"port{self._number}")

    def end(self) -> None:
        """End it, in any state."""
        if self._space is not None:
            self._space.kill()
            self._space = None

    def unplug(self) -> None:
        """Let no packet in or out; no other machine is informed."""
        self._laboratory.do("ip", "link", "set", f"port{self._number}", "nomaster")

    def plug_in(self) -> None:
        """Undo ``unplug``."""
        self._laboratory.do("ip", "link", "set", f"port{self._number}", "master", "switch")

    def command(self, *command: str | Path) -> list[str]:
        """Return the command to run here in order to run a command there."""
        assert self._space is not None
        enter = f"{self._laboratory.path(DISK)}/bin/enter"
        return [enter, str(self._space.pid), *map(str, command)]

    def run(self, *command: str | Path, seconds: float = _DEADLINE) -> Done:
        """Run a command in it, with any exit status."""
        return _run(self.command(*command), seconds)

    def do(self, *command: str | Path) -> str:
        """Run a command that must succeed; return its output."""
        return _must(self.run(*command))

    def do_as_user(self, *command: str | Path, **environ: str) -> str:
        """The same as Apache's user, with these variables."""
        return self.do(
            *AS_USER, "env", *[f"{name}={value}" for name, value in environ.items()], *command
        )

    def ask(self, *arguments: str) -> Done:
        """Call GlusterFS, and accept any answer within a minute.  GlusterFS does one thing at a time."""
        command = ["timeout", "60", "gluster", "--mode=script", *arguments]
        end = time.monotonic() + _DEADLINE
        while True:
            done = self.run(*command)
            if "Another transaction" not in done.output or time.monotonic() > end:
                return done
            time.sleep(0.1)

    def gluster(self, *arguments: str) -> str:
        """Call GlusterFS with a command that must succeed."""
        return _must(self.ask(*arguments))

    def path(self, path: str) -> Path:
        """Return where a file of this machine is found."""
        assert self._space is not None
        return Path(f"/proc/{self._space.pid}/root{path}")

    def kill_brick(self) -> None:
        """SIGKILL the process that serves its brick."""
        (file,) = self.path(f"/run/gluster/vols/{VOLUME}").glob("*.pid")
        self.do("sh", "-c", f"kill -9 {int(file.read_text())}")


class Laboratory:
    """Machines on one network, and the control host: this machine, on which the scripts are run.

    ``replica`` is the inventory's setting for the copies; empty before there is an inventory.
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
        """Return where a file of the laboratory is found."""
        return Path(f"/proc/{self._space.pid}/root{path}")

    def run(self, *command: str | Path, seconds: float = _DEADLINE) -> Done:
        """Run a command on the control host, with any exit status."""
        return _run([*self.inside, *map(str, command)], seconds)

    def do(self, *command: str | Path) -> str:
        """Run a command there that must succeed; return its output."""
        return _must(self.run(*command))

    def add_machine(self) -> Machine:
        """Add a machine.  It runs, and has nothing but the packages."""
        machine = Machine(self, len(self.machines) + 1)
        self.machines.append(machine)
        machine.start()
        return machine

    def write_inventory(self, replica: str, **changes: str) -> None:
        """Write the inventory: all machines that exist now keep copies."""
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
        """Run the deploy script with this inventory, with any exit status."""
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
    """Return as soon as the condition holds: GlusterFS informs nobody when it is ready."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def writes_to(machine: Machine, other: Machine) -> bool:
    """Return whether what one machine makes arrives at the copy of the other."""
    probe = next(name for name in map(str, count()) if not machine.path(f"{STORE}/.{name}").exists())
    machine.do("mkdir", f"{STORE}/.{probe}")
    arrived = other.path(f"{BRICK}/brick/store/.{probe}").exists()
    machine.do("rmdir", f"{STORE}/.{probe}")
    return arrived


def await_healed(laboratory: Laboratory) -> None:
    """Return when the healer is done, and nothing is left to repair or in split-brain."""
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
    """Make so many machines, with nothing on them yet.  Skips the test where this is impossible."""
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
    """Three machines with the store and the program, as the scripts leave them."""
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
