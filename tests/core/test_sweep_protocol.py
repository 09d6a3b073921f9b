"""The protocol of hits and sweepers, proven over every interleaving of a model."""

from __future__ import annotations

import pytest

from tests.core.sweep_protocol import Protocol


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(),
        Protocol(slots=3),
        Protocol(slots=1, hits=3),
        Protocol(slots=3, cost=2),
        Protocol(hits=1, sweepers=2),
        Protocol(sweepers=2),
        Protocol(several=True),
    ],
    ids=str,
)
def test_every_interleaving_admits_exactly_the_quota_and_loses_no_slot(protocol: Protocol) -> None:
    """Also after one of the processes was killed at any point."""
    states, most, short = protocol.play()
    assert states > 100
    assert (most, short) == (protocol.slots, 0)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(broken="any-slot"),
        Protocol(broken="zero-stamp"),
        Protocol(slots=3, cost=2, broken="same-name"),
        Protocol(several=True, broken="same-name"),
        Protocol(several=True, broken="idle-name"),
    ],
    ids=str,
)
def test_a_broken_protocol_is_seen(protocol: Protocol) -> None:
    _, most, short = protocol.play()
    assert most > protocol.slots or short > 0
