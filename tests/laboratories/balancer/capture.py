"""The packets that pass a port of the switch, or the switch itself: tcpdump, as long as a block lasts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.laboratories.machines import Laboratory, begin, finish, line_of

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
def capturing(laboratory: Laboratory, interface: str, expression: str) -> Iterator[list[Packet]]:
    """Capture the packets that match; the list is complete after the block."""
    packets: list[Packet] = []
    process = begin([*laboratory.inside, "sh", "-c", _TCPDUMP, "sh", interface, expression])
    try:
        while "listening on" not in (line := line_of(process)):
            assert line, "tcpdump does not start"
        yield packets
    finally:
        (printed,) = finish([process])
        packets += [
            Packet(int(found[1] + found[2]), *found.groups()[2:])
            for found in map(_PACKET.match, printed.splitlines())
            if found
        ]
