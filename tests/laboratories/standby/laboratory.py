"""A laboratory: two instances of EC2, their network, their cloud, and a client.

It builds on the laboratory of the cluster: machines are namespaces, and everything ends with the tests,
however they end.  Calls to the cloud go to the cloud of this laboratory, at the true names and
addresses.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.laboratories.cluster.laboratory import COPY, DISK, Done, Laboratory, Machine, wait_for
from tests.places import PYTHON, REPOSITORY

VIP = "10.77.0.100"
ELASTIC_IP = "203.0.113.10"
LOG = "/var/log/access-limiter-takeover.log"
TAKEOVER = "/usr/libexec/keepalived/access-limiter-takeover"
CONF = "/etc/keepalived/keepalived.conf"

_POLICY = (REPOSITORY / "deploy/standby/policy.json").read_text()
POLICY: dict[str, Any] = json.loads(_POLICY.replace("ELASTIC_IP", ELASTIC_IP))
"""The inventory as it is rendered."""

_NETWORK = "10.77.0.0/24"
_CLOUD = "10.77.0.254"
_HOST = "ec2.eu-central-1.amazonaws.com"
_METADATA = "169.254.169.254"
_DEPLOY = REPOSITORY / "deploy/standby/standby"
_DEADLINE = 300
_STORE = "/var/lib/access-limiter-laboratory"
_TOOLS = {
    "keepalived": "keepalived",
    "aws": "awscli",
    "ip": "iproute2",
    "curl": "curl",
    "apache2": "apache2-bin",
    "openssl": "openssl",
}
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What serves and what watches has real-time priority, as if each machine had a processor of its own.  It
# does not wait for the processes of other machines.  The AWS CLI works for long and has no such
# priority.  It also has no time-out that a busy machine could exceed, unless a test asks for one.
_OWN_PROCESSOR = "chrt --fifo 1"
_AWS = f"/usr/bin/python3 -I {DISK}/aws.py"
"""The AWS CLI, run by Debian's Python, which has it."""
_IMPATIENT = f"{DISK}/impatient"
_WRAPPERS = {
    "aws": f"""seconds=60
! rm {_IMPATIENT} 2>/dev/null || seconds=1
for word; do
  case $last in --cli-*-timeout) word=$seconds ;; esac
  shift
  set -- "$@" "$word"
  last=$word
done
exec {_AWS} call "$@"
""",
    "timeout": """shift 3  # -k 1 SECONDS
exec /usr/bin/timeout -k 1 300 "$@"
""",
    "curl": """for word; do
  test "$last" != --max-time || word=60
  shift
  set -- "$@" "$word"
  last=$word
done
exec /usr/bin/curl "$@"
""",
}

# The part that the script uses.  What is enabled is started when the machine starts.
_SYSTEMCTL = f"""#!/bin/sh
runs() {{
  test -e /run/keepalived.pid && kill -0 "$(cat /run/keepalived.pid)" 2>/dev/null
}}
start() {{
  runs && return
  rm -f /run/keepalived.pid
  setsid {_OWN_PROCESSOR} keepalived --dont-fork --log-console </dev/null >>/var/log/keepalived 2>&1 &
  until runs; do sleep 0.05; done
}}
stop() {{
  runs && kill "$(cat /run/keepalived.pid)"
  while runs; do sleep 0.05; done
}}
PATH={DISK}/bin:{_PATH}
case "$*" in
  "-q is-enabled keepalived") test -e /etc/enabled-keepalived ;;
  "-q is-active keepalived") runs ;;
  "enable --now keepalived") touch /etc/enabled-keepalived && start ;;
  "disable --now keepalived") rm /etc/enabled-keepalived && stop ;;
  "start keepalived") start ;;
  "stop keepalived") stop ;;
  "reload keepalived") kill -HUP "$(cat /run/keepalived.pid)" ;;
  *) echo "systemctl: not in this laboratory: $*" >&2; exit 1 ;;
esac
"""
_BOOT = f"""
ip link set eth0 address "$1"
ip route add {_METADATA} dev eth0 src "$2"
upper={DISK}/$3/libexec
mkdir -p "$upper" "$upper.work"
mount -t overlay overlay -o "lowerdir=/usr/libexec,upperdir=$upper,workdir=$upper.work" /usr/libexec
grep -q {_HOST} /etc/hosts || echo {_CLOUD} {_HOST} >>/etc/hosts
install -d -o www-data {_STORE}
{_OWN_PROCESSOR} apache2 -f {DISK}/$3/httpd.conf -k start
{_AWS} serve
test ! -e /etc/enabled-keepalived || systemctl start keepalived
"""
_APACHE = """\
ServerRoot "/run"
ServerName {name}
Listen 0.0.0.0:80
PidFile "/run/apache2.pid"
ErrorLog "/var/log/apache-error.log"
DefaultRuntimeDir "/run"
{modules}
ScriptSock "/run/cgid"
User www-data
Group www-data
<Directory />
    Require all denied
</Directory>
Header always set Served-By {name}
Define LIMITER_HOME "{home}"
Define LIMITER_ROOT "{store}"
Include "{home}/limiter.conf"
"""
_MODULES = "/usr/lib/apache2/modules"


class Instance(Machine):
    """A web server: ``name``, ``address``, and its network interface at EC2, ``eni``."""

    def __init__(self, vpc: Vpc, number: int) -> None:
        super().__init__(vpc, number)
        self._takeovers: list[subprocess.Popen[str]] = []
        self._mac = f"02:00:0a:4d:00:0{number}"
        self.eni: str = vpc.ask("add_instance", address=self.address, mac=self._mac)
        names = ("mpm_event", "authz_core", "alias", "env", "headers", "cgid")
        modules = "\n".join(f"LoadModule {it}_module {_MODULES}/mod_{it}.so" for it in names)
        text = _APACHE.format(name=self.name, modules=modules, home=COPY, store=_STORE)
        vpc.path(f"{DISK}/{self.name}/httpd.conf").write_text(text)

    def start(self) -> None:
        """Switch it on, with its web server, and with keepalived if that is enabled."""
        super().start()
        self.do("sh", "-ec", _BOOT, "sh", self._mac, self.address, self.name)

    def holds(self) -> bool:
        """Return whether it has the address, as far as it knows."""
        return f" {VIP}/" in self.do("ip", "-o", "-4", "address", "show", "dev", "eth0")

    def start_takeover(self, *options: str, soon: bool = False) -> subprocess.Popen[str]:
        """Begin to take over, by hand; with ``soon`` it looks again after a second."""
        text = (REPOSITORY / "deploy/standby/takeover").read_text()
        if soon:
            text = re.sub("^(LATE|WATCH)=.*", r"\1=1", text, flags=re.MULTILINE)
        program = self.path(f"{DISK}/bin/takeover")
        program.write_text(text)
        program.chmod(0o755)
        process = subprocess.Popen(
            self.command(f"{DISK}/bin/takeover", *options, VIP, ELASTIC_IP, "eth0"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self._takeovers.append(process)
        return process

    def takes_over(self, *options: str, soon: bool = False) -> Done:
        """Take over by hand, with any exit status."""
        return finish(self.start_takeover(*options, soon=soon))

    def be_impatient(self) -> None:
        """Wait only a second for the next answer from Amazon."""
        self.path(_IMPATIENT).touch()

    def logged(self, text: str) -> int:
        """Return how often its keepalived has logged this."""
        return self.path("/var/log/keepalived").read_text().count(text)

    def end_takeovers(self) -> None:
        """End the takeovers begun by hand, and their second look.  Calls under way may finish."""
        while self._takeovers:
            process = self._takeovers.pop()
            wait_for(partial(_end_but_for_calls, process.pid), "the last calls have come to their end")
            process.communicate()

    def log(self) -> str:
        """Return the log of the takeovers."""
        file = self.path(LOG)
        return file.read_text() if file.exists() else ""

    def lose_store(self) -> None:
        """Let its web server admit no requests."""
        self.do("mv", _STORE, f"{_STORE}.lost")

    def find_store(self) -> None:
        """Undo ``lose_store``."""
        self.do("mv", f"{_STORE}.lost", _STORE)


def _end_but_for_calls(session: int) -> bool:
    """Kill the processes of a session except AWS CLIs; return whether all have gone."""
    members = _members(session)
    # Kill no group: timeout(1) makes a group of its own for the CLI.
    for member in members:
        with suppress(FileNotFoundError, ProcessLookupError):
            words = Path(f"/proc/{member}/cmdline").read_bytes().split(b"\0")
            if b"aws.py" not in [word.rpartition(b"/")[2] for word in words]:
                os.kill(member, signal.SIGKILL)
    return not members


def _members(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended in the meantime
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(status.parent.name))
    return members


class Vpc(Laboratory):
    """The instances, by number from 1, the cloud, and the client, which is where the switch is."""

    def __init__(self) -> None:
        super().__init__()
        self._cloud: subprocess.Popen[str] | None = None
        self.instances: list[Instance] = []

    def build(self, instances: int) -> None:
        """Start the cloud, and so many instances in it."""
        self._write_tools()
        # Otherwise the switch has the address of a port, and another one when that machine is lost.
        self.do("ip", "link", "set", "switch", "address", "02:00:0a:4d:00:fe")
        self.do("ip", "address", "add", f"{_CLOUD}/24", "dev", "switch")
        self.do("ip", "address", "add", f"{_METADATA}/32", "dev", "switch")
        self.do("ip", "link", "set", "lo", "up")
        code = f"from pathlib import Path; from tests.places import install; install(Path('{COPY}'))"
        self.do("sh", "-ec", f'cd "$0"; exec {PYTHON} -Bc "$1"', REPOSITORY, code)
        shutil.copy(REPOSITORY / "deploy/apache/limiter.conf", self.path(COPY))
        self._start_cloud()
        self.ask("permit", policy=POLICY)
        self.let_in()
        for number in range(1, instances + 1):
            self.instances.append(Instance(self, number))
            self.machines.append(self.instances[-1])
            self.instances[-1].start()

    def _write_tools(self) -> None:
        shutil.copy(Path(__file__).with_name("aws.py"), self.path(DISK))
        tools = self.path(f"{DISK}/bin")
        (tools / "systemctl").write_text(_SYSTEMCTL)
        for name, text in _WRAPPERS.items():
            (tools / name).write_text(f"#!/bin/sh\n{text}")
            (tools / name).chmod(0o755)
        enter = (tools / "enter").read_text()
        exported = f"export PATH={DISK}/bin:{_PATH} AWS_CA_BUNDLE={DISK}/certificate TMPDIR=/tmp\n"
        (tools / "enter").write_text(
            "".join(
                exported if it.startswith("export ") else it for it in enter.splitlines(keepends=True)
            )
        )

    def _start_cloud(self) -> None:
        files = ("-keyout", f"{DISK}/key", "-out", f"{DISK}/certificate")
        name = ("-subj", f"/CN={_HOST}", "-addext", f"subjectAltName=DNS:{_HOST}")
        self.do("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *files, *name)
        arguments = (_CLOUD, f"{DISK}/certificate", f"{DISK}/key", ELASTIC_IP, _NETWORK)
        self._cloud = subprocess.Popen(
            [*self.inside, sys.executable, str(Path(__file__).with_name("cloud.py")), *arguments],
            env={**os.environ, "TMPDIR": DISK},  # a certificate left there goes with it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._cloud.stdout is not None
        assert self._cloud.stdout.readline() == "ready\n", "the cloud does not start"

    def ask(self, method: str, **arguments: object) -> Any:
        """Call a method of the cloud by its name."""
        assert self._cloud is not None
        assert self._cloud.stdin is not None
        assert self._cloud.stdout is not None
        print(json.dumps([method, arguments]), file=self._cloud.stdin, flush=True)
        return json.loads(self._cloud.stdout.readline())

    def let_in(self) -> None:
        """Put the rules that the pair needs into the security group."""
        web = ["tcp", 80, 80, "0.0.0.0/0"]
        self.ask("let_in", rules=[["112", -1, -1, _NETWORK], web])

    def write_pair(self, **changes: str) -> None:
        """Write the inventory of the pair; an empty value is left out."""
        lines = {
            "vip": VIP,
            "interface": "eth0",
            "port": "80",
            "health": "/cgi-bin/health.py",
            "elastic_ip": ELASTIC_IP,
            "remote": f"{DISK}/bin/reach %n",
            **changes,
        }
        pair = "".join(f"standby={it.name} {it.address}\n" for it in self.instances)
        text = pair + "".join(f"{name}={value}\n" for name, value in lines.items() if value)
        self.path(f"{DISK}/cluster.conf").write_text(text)

    def deploy(self, command: str, *arguments: str) -> Done:
        """Run the deploy script with this inventory, with any exit status."""
        inventory = ("--inventory", f"{DISK}/cluster.conf")
        return self.run(_DEPLOY, command, *arguments, *inventory, seconds=_DEADLINE)

    def served_by(self) -> str:
        """Return the name of the machine that answers a client at the address; empty if none does."""
        url = f"http://{VIP}/cgi-bin/check.py?app_id=acme"
        # A missing machine is noticed soon; a busy one may take its time to answer.
        limits = ("--connect-timeout", "1", "--max-time", "60")
        wanted = ("-w", "%header{served-by}")
        return self.run("curl", "-s", "-o", "/dev/null", *limits, *wanted, url).output

    def elastic_ip_is_at(self, instance: Instance) -> bool:
        """Return whether the Elastic IP is at the address there, and the interface has that address."""
        at = self.ask("elastic_ip")
        return bool(at == [instance.eni, VIP] and VIP in self.ask("addresses", eni=instance.eni))

    def is_at(self, instance: Instance) -> bool:
        """Return whether the address for clients and the Elastic IP are both there."""
        return self.served_by() == instance.name and self.elastic_ip_is_at(instance)

    def wait_until_at(self, instance: Instance) -> None:
        """Return when both are there."""
        wait_for(lambda: self.is_at(instance), f"all at {instance.name}")

    def keep_apart(self, apart: bool) -> None:
        """Let no instance hear another; each still has the cloud and the clients."""
        for it in self.instances:
            port = f"port{it.name.removeprefix('web')}"
            self.do(
                "ip", "link", "set", port, "type", "bridge_slave", "isolated", "on" if apart else "off"
            )

    def kill(self) -> None:
        """End all of it."""
        if self._cloud is not None:
            self._cloud.kill()
            self._cloud.communicate()
        super().kill()


def finish(process: subprocess.Popen[str]) -> Done:
    """Return how a takeover ends.

    It is not collected earlier: until then no other process gets the number of its group.
    """
    assert process.stdout is not None
    said = process.stdout.read()
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return Done(ended.si_status, said)


@contextmanager
def vpc(instances: int = 2) -> Iterator[Vpc]:
    """Make so many instances, with a web server each.  Skips the test where this is impossible."""
    if os.geteuid() != 0:
        pytest.skip("only root can make machines of namespaces")
    for tool, package in _TOOLS.items():
        if shutil.which(tool, path=_PATH) is None:
            pytest.skip(f"{tool} is missing (package {package})")
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is missing (pip install 'moto[ec2,server]')")
    with ExitStack() as stack:
        try:
            made = Vpc()
        except OSError as error:
            pytest.skip(f"namespaces cannot be made here: {error}")
        stack.callback(made.kill)
        made.build(instances)
        yield made
