"""The commands of docs/apache.md, copied from there and run on a new machine, with the real port 80."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.apache.test_apache_install import Machine, machine
from tests.places import REPOSITORY

__all__ = ["machine"]

pytestmark = pytest.mark.one_python

# A network of its own, where port 80 is free.
NETWORK = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
os.chdir(sys.argv[1])
os.execvp("bash", ["bash", "-euo", "pipefail", "-c", sys.argv[2]])
"""

# No network is available: a package must be one that this machine has.
APT_GET = """
for word; do
    case $word in
        install | update | -*) ;;
        *) dpkg --status "$word" | grep -q '^Status: .* installed$' || exit 100 ;;
    esac
    # As the package does it.
    case $word in libapache2-mod-wsgi-py3) a2enmod -q wsgi ;; esac
done
"""

# The limit lasts long enough for all ten requests, and the store lies in the copy.
LASTING = """
echo '<Directory "/usr/lib/cgi-bin">
    SetEnv LIMITER_LIMIT 10/day
    SetEnv TMPDIR /var/tmp
</Directory>
<Location "/api">
    SetEnv LIMITER_LIMIT 10/day
</Location>' >/etc/apache2/conf-enabled/lasting.conf
"""


def commands(section: str) -> str:
    """Return the only shell block of a section."""
    text = (REPOSITORY / "docs/apache.md").read_text()
    _, _, rest = text.partition(f"\n## {section}\n")
    (block,) = re.findall(r"(?ms)^```sh\n(.*?)^```$", re.split("(?m)^##+ ", rest)[0])
    return str(block)


def expected(block: str) -> list[str]:
    """Return what the block says that its last command prints."""
    return [line[2:] for line in block.splitlines() if line.startswith("# ")]


def follow(machine: Machine, *blocks: str) -> list[str]:
    """Run the blocks one after the other, in one shell in the copy of the sources; return all output."""
    machine.add_command("sudo", 'exec "$@"')
    machine.add_command("systemctl", 'test "$*" = "enable --now httpd"')
    machine.path("/usr/bin/apt-get").unlink()
    machine.add_command("apt-get", APT_GET)
    machine.do("a2dismod", "-q", "-f", "wsgi")
    script = "\n".join(["service apache2 start", *blocks])
    return machine.do(
        "unshare", "--net", "python3", "-c", NETWORK, str(machine.sources), script
    ).splitlines()


def test_installation(machine: Machine) -> None:
    said = follow(machine, commands("Installation"))
    answer = said[max(index for index, line in enumerate(said) if line.startswith("HTTP/")) :]
    assert answer[0] == "HTTP/1.1 200 OK"
    assert answer[-1] == '{"message": "OK"}'


def test_by_hand(machine: Machine) -> None:
    block = commands("By hand, into an existing cgi-bin")
    said = follow(machine, LASTING, block)
    assert (
        said[-2:] == expected(block) == ['{"message": "OK"} 200', '{"message": "Too Many Requests"} 429']
    )
    (bundle,) = machine.path("/usr/lib/cgi-bin/limiter/__pycache__").glob("check.*.bundle")
    assert bundle.stat().st_size


def test_mod_wsgi(machine: Machine) -> None:
    if subprocess.run(
        ["dpkg", "--status", "libapache2-mod-wsgi-py3"], capture_output=True, check=False
    ).returncode:
        pytest.skip("mod_wsgi is not installed (apt-get install libapache2-mod-wsgi-py3)")
    block = commands("mod_wsgi")
    said = follow(machine, LASTING, "deploy/apache/install", block)
    assert said[-2:] == expected(block) == ["Hello 200", '{"message": "Too Many Requests"} 429']
