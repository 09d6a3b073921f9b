"""The packets that pass a network card: tcpdump, as long as a block lasts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_TCPDUMP = 'tcpdump -i "$1" -ttenlq --immediate-mode "$2" & cat; kill $!; wait'
_PACKET = re.compile(r"(\d+)\.(\d+) (\S+) > (\S+), (?:IPv4, length \d+: (\S+)\.\d+ > (\S+)\.\d+:|ARP, )")


@dataclass
class Packet:
    """The time in microseconds, and source and target: hardware and IP addresses.

    ARP has only the former.
    """

    time: int
    source_mac: str
    target_mac: str
    source: str | None
    target: str | None


@contextmanager
def capturing(command: Sequence[str], interface: str, expression: str) -> Iterator[list[Packet]]:
    """Capture the packets that match; the list is complete after the block.

    ``command`` runs a command on the machine.
    """
    packets: list[Packet] = []
    process = subprocess.Popen(
        [*command, "sh", "-c", _TCPDUMP, "sh", interface, expression],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = ""
        while "listening on" not in said:
            line = process.stderr.readline()
            assert line, f"tcpdump does not start: {said}"
            said += line
        yield packets
    finally:
        output, _ = process.communicate()
        packets += [
            Packet(int(found[1] + found[2]), *found.groups()[2:])
            for found in map(_PACKET.match, output.splitlines())
            if found
        ]
