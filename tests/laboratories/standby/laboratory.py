"""Two instances of EC2, their network, their cloud, and a client.

Calls to the cloud go to the cloud of this laboratory, at the true names and addresses.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.laboratories.apache import START, configure_apache
from tests.laboratories.machines import (
    BOOT,
    CONTROL,
    DISK,
    KEEPALIVED_BOOT,
    NETWORK,
    REAL_TIME,
    USER,
    VIP,
    Done,
    Laboratory,
    Machine,
    begin,
    line_of,
    wait_for,
)
from tests.places import REPOSITORY

ELASTIC_IP = "203.0.113.10"
ASSIGN = "AssignPrivateIpAddresses"
ASSOCIATE = "AssociateAddress"
DESCRIBE = "DescribeAddresses"
TAKEOVER = "/usr/libexec/keepalived/access-limiter-takeover"

_POLICY = (REPOSITORY / "deploy/standby/policy.json").read_text()
POLICY: dict[str, Any] = json.loads(_POLICY.replace("ELASTIC_IP", ELASTIC_IP))
"""The policy as it is rendered."""

_HERE = Path(__file__).parent
_HOST = "ec2.eu-central-1.amazonaws.com"
_METADATA = "169.254.169.254"
_CERTIFICATE = f"{DISK}/certificate"
_KEY = f"{DISK}/key"
_STORE = "/var/lib/access-limiter-laboratory"
_LOG = "/var/log/access-limiter-takeover.log"

_AWS = f"/usr/bin/python3 -I {DISK}/aws.py"
"""The AWS CLI, run by Debian's Python, which has it."""

_IMPATIENT = f"{DISK}/impatient"
# No time-out that a busy machine could exceed, unless a test needs one.  The last of two is valid.
_WRAPPERS = {
    "aws": f"""seconds=60
! rm {_IMPATIENT} 2>/dev/null || seconds=1
exec {_AWS} call "$@" --cli-connect-timeout $seconds --cli-read-timeout $seconds
""",
    "timeout": """shift 3  # -k 1 SECONDS
exec /usr/bin/timeout -k 1 300 "$@"
""",
    "curl": 'exec /usr/bin/curl "$@" --connect-timeout 60 --max-time 60\n',
}


class Instance(Machine):
    """A web server, and its network interface at EC2, ``eni``."""

    def __init__(self, vpc: Vpc, number: int) -> None:
        super().__init__(vpc, f"web{number}", number)
        self._takeovers: list[subprocess.Popen[str]] = []
        self.eni: str = vpc.call("add_instance", address=self.address, mac=self.mac)
        configure_apache(vpc, self, _STORE)

    def start_takeover(self) -> subprocess.Popen[str]:
        """Begin to take over, by hand."""
        command = self.command(f"{DISK}/bin/takeover", VIP, ELASTIC_IP, "eth0")
        self._takeovers.append(begin(command))
        return self._takeovers[-1]

    def take_over(self) -> Done:
        """Take over by hand, with any exit status."""
        return end_of(self.start_takeover())

    def be_impatient(self) -> None:
        """Wait only a second for the next answer from Amazon."""
        self.path(_IMPATIENT).touch()

    def logged(self, text: str) -> int:
        """Return how often its keepalived has logged this."""
        return self.path("/var/log/keepalived.log").read_text().count(text)

    def end_takeovers(self) -> None:
        """End every takeover here, whoever began it, and its later looks.  Calls under way may finish."""
        wait_for(self._has_no_takeover, "the last calls have come to their end")
        while self._takeovers:
            self._takeovers.pop().communicate()

    def _has_no_takeover(self) -> bool:
        self.run("pkill", "-KILL", "-f", "access-limiter-takeover|bin/takeover")
        return self.run("pgrep", "-f", "takeover|timeout -k|bin/aws|aws.py call").returncode == 1

    def log(self) -> str:
        """Return the log of the takeovers."""
        file = self.path(_LOG)
        return file.read_text() if file.exists() else ""

    def forget_log(self) -> None:
        """Remove it."""
        self.path(_LOG).unlink(missing_ok=True)

    def lose_store(self) -> None:
        """Let its web server admit no requests."""
        self.do("mv", _STORE, f"{_STORE}.lost")

    def find_store(self) -> None:
        """Undo ``lose_store``."""
        self.do("mv", f"{_STORE}.lost", _STORE)


def end_of(process: subprocess.Popen[str]) -> Done:
    """Return how a takeover ends."""
    output = process.communicate()[0]
    return Done(process.args, process.returncode, output)


class Vpc(Laboratory):
    """Two instances with a web server each, the cloud, and the client, which is where the switch is."""

    script = "standby"
    tools = (*Laboratory.tools, "apache2", "keepalived", "aws", "curl", "openssl")
    needs_real_time = True
    environ = f"AWS_CA_BUNDLE={_CERTIFICATE}"
    # What serves and what watches does not wait for other machines.  The AWS CLI works for long, and does.
    boot = f"""
ip route add {_METADATA} dev eth0 src "$2"
upper={DISK}/$1/libexec
mkdir -p "$upper" "$upper.work"
mount -t overlay overlay -o "lowerdir=/usr/libexec,upperdir=$upper,workdir=$upper.work" /usr/libexec
grep -q {_HOST} /etc/hosts || echo {CONTROL} {_HOST} >>/etc/hosts
install -d -o {USER} {_STORE}
{REAL_TIME} {START}
{_AWS} serve
{KEEPALIVED_BOOT}{BOOT}"""

    def __init__(self) -> None:
        if importlib.util.find_spec("moto") is None:
            pytest.skip("moto is missing (pip install 'moto[ec2,server]')")
        super().__init__()
        self._cloud: subprocess.Popen[str] | None = None
        self.instances: list[Instance] = []

    def set_up(self) -> None:
        """Start the cloud, and the instances in it."""
        shutil.copy(_HERE / "aws.py", self.path(DISK))
        takeover = (REPOSITORY / "deploy/standby/takeover").read_text()
        self.put_program(f"{DISK}/bin/takeover", takeover)
        for name, text in _WRAPPERS.items():
            self.put_program(f"{DISK}/bin/{name}", f"#!/bin/sh\n{text}")
        self.do("ip", "address", "add", f"{_METADATA}/32", "dev", "switch")
        self.install_package()
        self._start_cloud()
        self.call("permit", policy=POLICY)
        self.let_in()
        for number in (1, 2):
            self.instances.append(self.add(Instance(self, number)))
        self.write_pair()

    def _start_cloud(self) -> None:
        files = ("-keyout", _KEY, "-out", _CERTIFICATE)
        name = ("-subj", f"/CN={_HOST}", "-addext", f"subjectAltName=DNS:{_HOST}")
        self.do("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *files, *name)
        arguments = (CONTROL, _CERTIFICATE, _KEY, ELASTIC_IP, NETWORK)
        # A certificate that it leaves in TMPDIR goes with the laboratory.
        python = ["env", f"TMPDIR={DISK}", sys.executable]
        command = [*self.inside, *python, str(_HERE / "cloud.py"), *arguments]
        self._cloud = begin(command, stderr=None)
        assert line_of(self._cloud) == "ready\n", "the cloud does not start"

    def call(self, method: str, **arguments: object) -> Any:
        """Call a method of the cloud by its name."""
        assert self._cloud is not None
        print(json.dumps([method, arguments]), file=self._cloud.stdin, flush=True)
        return json.loads(line_of(self._cloud))

    def let_in(self, vrrp_from: str = NETWORK) -> None:
        """Put the rules that the pair needs into the security group: VRRP from there, and clients."""
        self.call("let_in", rules=[["112", -1, -1, vrrp_from], ["tcp", 80, 80, "0.0.0.0/0"]])

    def write_pair(self, **changes: str) -> None:
        """Write the inventory of the pair; an empty value is left out."""
        settings = {"vip": VIP, "interface": "eth0", "elastic_ip": ELASTIC_IP, **changes}
        self.put_inventory({"standby": self.instances}, **settings)

    def served_by(self) -> str:
        """Return the name of the machine that answers a client at the address; empty if none does."""
        url = f"http://{VIP}/cgi-bin/check.py?app_id=acme"
        # A missing machine is noticed soon; a busy one may take its time to answer.
        limits = ("--connect-timeout", "1", "--max-time", "60")
        wanted = ("-w", "%header{x-server}")
        return self.run("curl", "-s", "-o", "/dev/null", *limits, *wanted, url).stdout

    def elastic_ip_is_at(self, instance: Instance) -> bool:
        """Return whether the Elastic IP is at the address there, and the interface has that address."""
        at = self.call("elastic_ip")
        return bool(at == [instance.eni, VIP] and VIP in self.call("addresses", eni=instance.eni))

    def is_at(self, instance: Instance) -> bool:
        """Return whether the address for clients and the Elastic IP are both there."""
        return self.served_by() == instance.name and self.elastic_ip_is_at(instance)

    def wait_until_at(self, instance: Instance) -> None:
        """Return when both are there."""
        wait_for(lambda: self.is_at(instance), f"all at {instance.name}")

    def keep_apart(self, apart: bool) -> None:
        """Let no instance hear another; each still has the cloud and the clients."""
        for it in self.instances:
            isolated = ("type", "bridge_slave", "isolated", "on" if apart else "off")
            self.do("ip", "link", "set", it.port, *isolated)

    def kill(self) -> None:
        """End all of it."""
        if self._cloud is not None:
            self._cloud.kill()
            self._cloud.communicate()
        super().kill()
