"""The load balancer as the deploy script leaves it, and through the loss of each of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.deploying import wait_for_silence
from tests.laboratories.apache import kill_apache, start_apache
from tests.laboratories.balancer.capture import capturing
from tests.laboratories.balancer.laboratory import Balanced, requests_logged
from tests.laboratories.balancer.requesting import ClientRecording, cost, requesting
from tests.laboratories.cluster.laboratory import MOUNT
from tests.laboratories.machines import CONTROL, VIP, Machine, wait_for
from tests.laboratories.recording import now

pytestmark = pytest.mark.one_python

CHECK = "/cgi-bin/check.py?app_id=acme"
UNAVAILABLE = "503"


def _send(whole: Balanced, requests: int) -> ClientRecording:
    with requesting(whole, CHECK) as recording:
        recording.wait_for(lambda ended: len(ended) >= requests, f"{requests} requests")
    return recording


def test_a_second_installation_changes_nothing(whole: Balanced) -> None:
    assert "\nNothing changed: all is in order.\n" in whole.deploy("install")


def test_the_status_is_that_all_is_in_order(whole: Balanced) -> None:
    holder, other = whole.holder(), whole.other()
    lines = whole.deploy("status").splitlines()
    assert f"{holder.name}: holds {VIP}" in lines
    assert f"{other.name}: does not hold {VIP}" in lines
    assert lines[-1] == "All is in order."


def test_the_web_servers_take_turns(whole: Balanced) -> None:
    before = [requests_logged(server) for server in whole.machines]

    def counts() -> list[int]:
        return [requests_logged(server) - count for server, count in zip(whole.machines, before)]

    recording = _send(whole, 30)
    assert not recording.lost()
    # Apache writes its log after the answer.
    wait_for(lambda: sum(counts()) >= len(recording.requests), "each request is in a log")
    assert sum(counts()) == len(recording.requests)
    assert max(counts()) - min(counts()) <= 1


def test_the_replies_do_not_pass_the_director(whole: Balanced) -> None:
    judge_direct_return(whole)


def judge_direct_return(whole: Balanced) -> None:
    """Check the packets at the director's network card, and the senders of what the client gets."""
    holder = whole.holder()
    expression = f"host {VIP} and tcp port 80"
    with (
        capturing(whole, holder.port, expression) as at_director,
        capturing(whole, "switch", expression) as at_client,
    ):
        recording = _send(whole, 15)
    assert not recording.lost()
    assert {(packet.source, packet.target) for packet in at_director} == {(CONTROL, VIP)}
    macs = {server.mac for server in whole.machines}
    assert {packet.target_mac for packet in at_director} == {holder.mac} | macs
    assert {packet.source_mac for packet in at_client if packet.source == VIP} == macs


@contextmanager
def _without_apache(*servers: Machine) -> Iterator[None]:
    """SIGKILL Apache; start it again at the end."""
    for server in servers:
        kill_apache(server)
    try:
        yield
    finally:
        for server in servers:
            start_apache(server)


@contextmanager
def _without_store(server: Machine) -> Iterator[None]:
    """Unmount the store, even while it is in use; mount it again at the end."""
    server.do("umount", "-l", MOUNT)
    try:
        yield
    finally:
        server.do("mount", MOUNT)


@pytest.mark.parametrize(
    ("number", "without", "what"),
    [
        (0, _without_apache, "Apache of one web server"),
        (1, _without_store, "the store of one web server (its mount)"),
    ],
    ids=["apache", "store"],
)
def test_a_web_server_that_cannot_answer_leaves_and_comes_back(
    whole: Balanced,
    outages: list[str],
    number: int,
    without: Callable[[Machine], AbstractContextManager[None]],
    what: str,
) -> None:
    """Only requests to that server are lost.  Then the server is out, and it comes back by itself.

    test_loadbalancer.py calculates from the configuration how soon it must be out.
    """
    server = whole.machines[number]
    with requesting(whole, CHECK) as recording:
        recording.wait_until_served()
        lost = now()
        with without(server):
            recording.wait_until_served()
            returned = now()
        recording.wait_for_server(server.name, returned)
    unserved = recording.lost()
    assert unserved
    assert {it.server for it in unserved} <= {server.name, ""}
    assert lost <= min(it.ended for it in unserved)
    last = max(it.begun for it in unserved)
    between = [it for it in recording.requests if last < it.begun and it.ended < returned]
    assert between
    assert server.name not in {it.server for it in between}
    outages.append(cost(what, recording, lost, returned, server.name))


def test_a_director_answers_while_no_web_server_can(whole: Balanced, outages: list[str]) -> None:
    with requesting(whole, CHECK) as recording:
        recording.wait_until_served()
        lost = now()
        with _without_apache(*whole.machines):
            recording.wait_for(lambda ended: ended[-1].status == UNAVAILABLE, "the director answers")
            returned = now()
        for server in whole.machines:
            recording.wait_for_server(server.name, returned)
    sorry = [it for it in recording.requests if it.status == UNAVAILABLE]
    first = min(it.begun for it in sorry)
    assert {it.server for it in sorry} == {""}
    assert all(it.begun < first or it.status == UNAVAILABLE for it in recording.lost())
    what = 'Apache of all web servers: "503" by the director'
    outages.append(cost(what, recording, lost, returned, server.name))


def test_a_lost_director_is_replaced_and_takes_nothing_back(whole: Balanced, outages: list[str]) -> None:
    """Only requests that were under way are lost.

    A connection begun while no director has the address is made when one has it.
    """
    holder, other = whole.holder(), whole.other()
    with requesting(whole, CHECK) as recording:
        recording.wait_until_served()
        lost = now()
        holder.kill()
        try:
            gone = now()
            recording.wait_until_served()
            assert whole.holder() is other
        finally:
            holder.start()
        wait_for_silence(holder.do, holder.holds)
    assert whole.holder() is other
    assert not recording.lost(gone)
    outages.append(cost("the director that has the address", recording, lost))


def test_the_address_moves_when_its_director_is_cut_off(whole: Balanced, outages: list[str]) -> None:
    holder, other = whole.holder(), whole.other()
    with requesting(whole, CHECK) as recording:
        recording.wait_until_served()
        lost = now()
        holder.unplug()
        try:
            recording.wait_until_served()
            assert whole.holder() is other
        finally:
            holder.plug_in()
        wait_for(lambda: len(whole.holders()) == 1, "one director has the address")
        recording.wait_until_served()
    assert [whole.holder()] == whole.holders()
    outages.append(cost("the network of the director that has the address", recording, lost))


def test_failover_by_hand_moves_the_address_and_back(whole: Balanced) -> None:
    """Only requests that were under way when the address moved are lost."""
    holder, other = whole.holder(), whole.other()
    for there in (other, holder):
        with (
            capturing(whole, "switch", f"arp src host {VIP}") as announced,
            requesting(whole, CHECK) as recording,
        ):
            recording.wait_until_served()
            begun = now()
            assert f"{there.name} holds {VIP}\n" in whole.deploy("failover")
            assert whole.holder() is there
            moved = now()  # by then the client has heard of it, and not only the switch
            recording.wait_until_served()
        assert any(begun < it.time < moved for it in announced if it.source_mac == there.mac)
        assert not recording.lost(moved)
        assert not [it for it in recording.lost() if it.ended < begun]
