"""End to end: the laws, as a client behind the address sees them while machines are lost."""

from __future__ import annotations

import os

import pytest

from tests.history import judge_l1, judge_s1, only
from tests.laboratories.balancer.laboratory import Balanced
from tests.laboratories.balancer.requesting import ClientRecording, cost, requesting
from tests.laboratories.cluster.laboratory import HISTORY, STORE
from tests.laboratories.recording import lines_of, now

pytestmark = pytest.mark.one_python

LIMIT = "10/second"
RATE = 30
BEFORE = 3 * RATE


def _add_what_requests_recorded(whole: Balanced, recording: ClientRecording) -> None:
    for request in recording.requests:
        file = whole.path(f"{HISTORY}/{request.number}")
        if file.exists():
            for what, value in lines_of(file):
                request.read(what, value)


def test_s1_and_l1_hold_through_the_loss_of_a_web_server_and_of_a_director(
    whole: Balanced, outages: list[str]
) -> None:
    """The web server that is lost has one of the three copies of the store."""
    server, holder, other = whole.machines[2], whole.holder(), whole.other()
    url = "/cgi-bin/recorded?app_id=whole&n={}"
    try:
        with requesting(whole, url, RATE) as recording:
            recording.wait_for(lambda ended: len(ended) >= BEFORE, f"{BEFORE} requests")
            killed = now()
            server.kill()
            recording.wait_until_served()
            holder_killed = now()
            holder.kill()
            recording.wait_until_served()
            assert whole.holder() is other
        slots = os.listdir(whole.machines[0].path(f"{STORE}/whole@10-per-1s"))
    finally:
        server.start()
        if not holder.is_on:
            holder.start()
    _add_what_requests_recorded(whole, recording)
    judge_s1(only(LIMIT), recording.history())
    judge_l1(only(LIMIT), recording.full_history())
    for survivor in whole.machines[:2]:
        assert {"200", "429"} <= recording.statuses(survivor.name)
    # Requests still under way at that time may be lost.
    first = [it for it in recording.requests if it.ended < killed]
    assert {it.server for it in first} == {it.name for it in whole.machines}
    assert all(it.is_decided for it in first)
    written = {name for it in recording.requests for name in it.claimed + it.maybe}
    assert set(slots) <= written | recording.phantoms()
    before = ClientRecording(RATE, [it for it in recording.requests if it.ended < holder_killed])
    outages.append(cost("a web server with its copy of the store", before, killed))
