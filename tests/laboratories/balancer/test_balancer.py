"""The load balancer as the deploy script leaves it, and through the loss of each of its parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from tests.deploying import wait_for_silence
from tests.laboratories.balancer.capture import capturing
from tests.laboratories.balancer.laboratory import (
    CLIENT,
    VIP,
    Balanced,
    Director,
    kill_apache,
    start_apache,
)
from tests.laboratories.balancer.play import PATIENCE, Outage, Play, asking, measure, now
from tests.laboratories.cluster.laboratory import MOUNT, Machine, wait_for

pytestmark = pytest.mark.one_python

CHECK = "/cgi-bin/check.py?app_id=acme"
UNAVAILABLE = 503


def _ask(whole: Balanced, requests: int, patience: int = PATIENCE) -> Play:
    with asking(whole.laboratory, CHECK, patience=patience) as play:
        play.wait_for_number(requests)
    return play


def _mac(server: Machine) -> str:
    (link,) = json.loads(server.do("ip", "-json", "link", "show", "eth0"))
    mac: str = link["address"]
    return mac


def _asked(server: Machine) -> int:
    """Return how many requests of the client are in the server's own log."""
    return server.path("/run/apache/access.log").read_text().count(f"{CLIENT} {VIP} ")


def test_a_second_installation_changes_nothing(whole: Balanced) -> None:
    assert "\nNothing changed: all is in order.\n" in whole.do("install")


def test_the_status_is_that_all_is_in_order(whole: Balanced) -> None:
    holder, other = whole.holder(), whole.other()
    said = whole.do("status").splitlines()
    assert f"{holder.name}: holds {VIP}" in said
    assert f"{other.name}: does not hold {VIP}" in said
    assert said[-1] == "All is in order."


def test_the_web_servers_are_asked_in_turn(whole: Balanced) -> None:
    before = [_asked(server) for server in whole.servers]

    def counts() -> list[int]:
        return [_asked(server) - count for server, count in zip(whole.servers, before)]

    play = _ask(whole, 30)
    assert not play.lost()
    # Apache writes its log after the answer.
    wait_for(lambda: sum(counts()) >= len(play.requests), "each request is in a log")
    assert sum(counts()) == len(play.requests)
    assert max(counts()) - min(counts()) <= 1


def test_the_replies_do_not_pass_the_director(whole: Balanced) -> None:
    judge_direct_return(whole)


def judge_direct_return(whole: Balanced) -> None:
    """Check the packets at the director's network card, and the senders of what the client gets."""
    expression = f"host {VIP} and tcp port 80"
    with (
        capturing(whole.holder().command(), "eth0", expression) as at_director,
        capturing(whole.laboratory.inside, "switch", expression) as at_client,
    ):
        play = _ask(whole, 15)
    assert not play.lost()
    assert {(packet.source, packet.target) for packet in at_director} == {(CLIENT, VIP)}
    macs = set(map(_mac, whole.servers))
    assert {packet.target_mac for packet in at_director} == {whole.holder().mac} | macs
    assert {packet.source_mac for packet in at_client if packet.source == VIP} == macs


def test_nobody_answers_where_no_web_server_takes_the_address(whole: Balanced) -> None:
    try:
        for server in whole.servers:
            server.do("systemctl", "stop", "access-limiter-vip")
        play = _ask(whole, 1, patience=1)
    finally:
        for server in whole.servers:
            server.do("systemctl", "start", "access-limiter-vip")
    assert {(it.status, it.error) for it in play.requests} == {(0, "TimeoutError")}


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


@contextmanager
def _without(director: Director) -> Iterator[None]:
    """Cut the power; switch it on again at the end."""
    director.kill()
    try:
        yield
    finally:
        director.start()


@contextmanager
def _cut_off(director: Director) -> Iterator[None]:
    """Pull the network cable; plug it in again at the end."""
    director.unplug()
    try:
        yield
    finally:
        director.plug_in()


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
    outages: list[Outage],
    number: int,
    without: Callable[[Machine], AbstractContextManager[None]],
    what: str,
) -> None:
    server = whole.servers[number]
    with asking(whole.laboratory, CHECK) as play:
        play.wait_until_served()
        lost = now()
        with without(server):
            play.wait_until_served()
            returned = now()
        play.wait_for_server(server.name, returned)
    _judge_departure(play, server, lost, returned)
    outages.append(measure(what, play, lost, returned, server.name))


def _judge_departure(play: Play, server: Machine, lost: int, returned: int) -> None:
    """Only requests to that server were lost.  Then the server was out, and it came back by itself.

    test_loadbalancer.py calculates from the configuration how soon it must be out.
    """
    unserved = play.lost()
    assert unserved
    assert {it.server for it in unserved} <= {server.name, ""}
    assert lost <= min(it.ended for it in unserved)
    last = max(it.begun for it in unserved)
    between = [it for it in play.requests if last < it.begun and it.ended < returned]
    assert between
    assert server.name not in {it.server for it in between}


def test_a_director_answers_while_no_web_server_can(whole: Balanced, outages: list[Outage]) -> None:
    with asking(whole.laboratory, CHECK) as play:
        play.wait_until_served()
        lost = now()
        with _without_apache(*whole.servers):
            play.wait_for_status(UNAVAILABLE)
            returned = now()
        for server in whole.servers:
            play.wait_for_server(server.name, returned)
    sorry = [it for it in play.requests if it.status == UNAVAILABLE]
    first = min(it.begun for it in sorry)
    assert {it.server for it in sorry} == {""}
    assert all(it.begun < first or it.status == UNAVAILABLE for it in play.lost())
    after = measure(
        'Apache of all web servers: "503" by the director', play, lost, returned, server.name
    )
    outages.append(after)


@dataclass
class Loss:
    """What happened when the director that had the address was lost and came back."""

    play: Play
    gone: int
    holder: Director
    after: Director
    in_the_end: Director


@pytest.fixture(scope="module")
def loss(whole: Balanced, outages: list[Outage]) -> Loss:
    """Cut the power; switch it on again when the other director serves."""
    holder = whole.holder()
    with asking(whole.laboratory, CHECK) as play:
        play.wait_until_served()
        time = now()
        with _without(holder):
            gone = now()
            play.wait_until_served()
            after = whole.holder()
        wait_for_silence(holder.do, lambda: holder in whole.holders())
    outages.append(measure("the director that has the address", play, time))
    return Loss(play, gone, holder, after, whole.holder())


def test_the_address_moves_when_its_director_is_lost(loss: Loss) -> None:
    assert loss.after is not loss.holder


def test_only_requests_under_way_are_lost_with_a_director(loss: Loss) -> None:
    """A connection begun while no director has the address is made when one has it."""
    assert not loss.play.lost(loss.gone)


def test_a_director_that_comes_back_leaves_the_address_where_it_is(loss: Loss) -> None:
    assert loss.in_the_end is loss.after


def test_the_address_moves_when_its_director_is_cut_off(whole: Balanced, outages: list[Outage]) -> None:
    holder, other = whole.holder(), whole.other()
    with asking(whole.laboratory, CHECK) as play:
        play.wait_until_served()
        lost = now()
        with _cut_off(holder):
            play.wait_until_served()
            assert whole.holder() is other
        wait_for(lambda: len(whole.holders()) == 1, "one director has the address")
        play.wait_until_served()
    assert [whole.holder()] == whole.holders()
    outages.append(measure("the network of the director that has the address", play, lost))


def test_failover_by_hand_moves_the_address_and_back(whole: Balanced, outages: list[Outage]) -> None:
    """Only requests that were under way when the address moved are lost."""
    holder, other = whole.holder(), whole.other()
    for there in (other, holder):
        with (
            capturing(whole.laboratory.inside, "switch", f"arp src host {VIP}") as announced,
            asking(whole.laboratory, CHECK) as play,
        ):
            play.wait_until_served()
            begun = now()
            assert f"{there.name} holds {VIP}\n" in whole.do("failover")
            assert whole.holder() is there
            play.wait_until_served()
        moved = min(packet.time for packet in announced if packet.source_mac == there.mac)
        assert begun < moved
        assert not play.lost(moved)
        assert not [it for it in play.lost() if it.ended < begun]
