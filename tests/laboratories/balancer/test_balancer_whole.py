"""End to end: the laws, as a client behind the address sees them while machines are lost."""

from __future__ import annotations

import os

import pytest

from tests.history import judge_l1, judge_s1, only
from tests.laboratories.balancer import play as client
from tests.laboratories.balancer.laboratory import Balanced
from tests.laboratories.cluster.laboratory import DISK, STORE
from tests.laboratories.cluster.play import Play, Request, requests_of

pytestmark = pytest.mark.one_python

LIMIT = "10/second"
RATE = 30
BEFORE = 3 * RATE


def _told(asked: client.Request, text: str) -> Request:
    """Join the client's record of a request with what the request itself recorded."""
    begin, end = f"app whole\nbegin {asked.begun}\n", f"end {asked.ended}\nanswer {asked.status or ''}\n"
    # The last line may be incomplete, if the machine was killed.
    (request,) = requests_of(begin + text[: text.rfind("\n") + 1] + end)
    return request


def _joined(whole: Balanced, asked: client.Play) -> Play:
    play = Play()
    for request in asked.requests:
        file = whole.laboratory.path(f"{DISK}/history/{request.number}")
        told = _told(request, file.read_text() if file.exists() else "")
        play.requests.setdefault(request.server, []).append(told)
    return play


def test_s1_and_l1_hold_through_the_loss_of_a_web_server_and_of_a_director(
    whole: Balanced, outages: list[client.Outage]
) -> None:
    """The web server that is lost has one of the three copies of the store."""
    server, holder, other = whole.servers[2], whole.holder(), whole.other()
    url = "/cgi-bin/recorded.py?app_id=whole&n={}"
    try:
        with client.asking(whole.laboratory, url, RATE) as asked:
            asked.wait_for_number(BEFORE)
            killed = client.now()
            server.kill()
            asked.wait_until_served()
            holder_killed = client.now()
            holder.kill()
            asked.wait_until_served()
            assert whole.holder() is other
        slots = os.listdir(whole.servers[0].path(f"{STORE}/whole/10-per-1s"))
    finally:
        whole.restart(server)
        if not holder.is_on:
            holder.start()
    play = _joined(whole, asked)
    judge_s1(only(LIMIT), play.history())
    judge_l1(only(LIMIT), play.full_history())
    for survivor in whole.servers[:2]:
        assert {"200", "429"} <= {it.status for it in play.requests[survivor.name]}
    # Requests still under way at that time may be lost.
    first = [it for it in asked.requests if it.ended < killed]
    assert {it.server for it in first} == {it.name for it in whole.servers}
    assert all(it.is_served for it in first)
    written = {name for request in play.all() for name in request.claimed + request.maybe}
    assert set(slots) <= written | play.phantoms()
    before = client.Play(RATE, [it for it in asked.requests if it.ended < holder_killed])
    outages.append(client.measure("a web server with its copy of the store", before, killed))
