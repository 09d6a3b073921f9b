"""The laws, with real requests on three machines at once, and through what can happen to a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from limiter.limit import number_of, time_of
from tests.cluster.laboratory import BRICK, STORE, VOLUME, Laboratory, Machine, await_healed, wait_for
from tests.cluster.play import TIMEOUT, Play, playing
from tests.history import judge_l1, judge_s1, only

pytestmark = pytest.mark.one_python

LIMIT = "10/second"
UNDISTURBED = 60  # seconds
BEFORE = AFTER = 2
FAULT = 10
NOBODY = "-"
"""No app_id: a request that does not turn to the store."""


def _judge(play: Play, limit: str = LIMIT) -> None:
    """S1 and L1, of a play in which both could have failed."""
    judge_s1(only(limit), play.history())
    judge_l1(only(limit), play.full_history())
    for name, requests in play.requests.items():
        assert {"200", "429"} <= {request.status for request in requests}, f"{name} did not take part"


def _judge_store(laboratory: Laboratory, app: str) -> None:
    """Nothing to repair: each machine shows the same ten slots, and each brick holds them."""
    await_healed(laboratory)
    directory = f"{app}/10-per-1s"
    listings = [
        sorted(os.listdir(machine.path(f"{place}/{directory}")))
        for machine in laboratory.machines
        for place in (STORE, f"{BRICK}/brick/store")
    ]
    assert sorted(map(number_of, listings[0])) == list(range(10))
    assert listings == [listings[0]] * 6


def _is_whole(laboratory: Laboratory) -> bool:
    """Whether all bricks are served, to each of the machines."""
    return all(
        machine.ask("volume", "status", VOLUME, "detail").output.count(": Y ") == 3
        for machine in laboratory.machines
    )


def _now() -> int:
    return time.time_ns() // 1000


def _admits(laboratory: Laboratory, machine: Machine, limit: str) -> bool:
    """Whether a request of another application is admitted there."""
    with playing(laboratory, "another", limit, machines=[machine]) as play:
        pass
    return "200" in play.statuses()


def _on_each(kinds: list[Laboratory], play: Callable[[Laboratory], None]) -> None:
    """Play it on all of them at once."""
    with ThreadPoolExecutor(len(kinds)) as pool:
        plays = [pool.submit(play, cluster) for cluster in kinds]
    for cluster, done in zip(kinds, plays):
        print(f"replica {cluster.replica}")
        done.result()


def test_s1_and_l1_hold_over_three_machines(kinds: list[Laboratory]) -> None:
    """Ten a second and no more, nobody denied too soon, and no error at all."""

    def undisturbed(cluster: Laboratory) -> None:
        with playing(cluster, "acme", LIMIT) as play:
            time.sleep(UNDISTURBED)
        _judge(play)
        assert play.statuses() == {"200", "429"}
        assert not [line for request in play.all() for line in request.log]
        assert not play.phantoms()
        _judge_store(cluster, "acme")

    _on_each(kinds, undisturbed)


def test_s1_and_l1_hold_through_the_loss_of_a_brick(kinds: list[Laboratory]) -> None:
    """SIGKILL; then the installer starts it again."""

    def lose_a_brick(cluster: Laboratory) -> None:
        with playing(cluster, "brick", LIMIT) as play:
            time.sleep(BEFORE)
            cluster.machines[1].kill_brick()
            wait_for(lambda: not _is_whole(cluster), "the loss is noticed")
            assert cluster.deploy("status").status == 1
            time.sleep(FAULT / 2)
            said = cluster.deploy("install")
            assert said.status == 0, said.output
            assert f"web1: + gluster volume start {VOLUME} force\n" in said.output
            wait_for(lambda: _is_whole(cluster), "the brick's return")
            time.sleep(AFTER)
        _judge(play)
        assert play.statuses() == {"200", "429"}
        _judge_store(cluster, "brick")

    _on_each(kinds, lose_a_brick)


def test_s1_and_l1_hold_through_the_loss_of_a_machine(kinds: list[Laboratory]) -> None:
    """SIGKILL of everything on it; then it starts again, and takes part again."""

    def lose_a_machine(cluster: Laboratory) -> None:
        lost = cluster.machines[2]
        with playing(cluster, "machine", LIMIT) as play:
            time.sleep(BEFORE)
            killed = _now()
            lost.kill()
            time.sleep(FAULT)
            started = _now()
            lost.start()
            wait_for(lambda: _is_whole(cluster), "the machine's return")
            with playing(cluster, "machine", LIMIT, machines=[lost]) as again:
                time.sleep(AFTER)
        assert {"200", "429"} <= {request.status for request in again.requests[lost.name]}
        play.requests[lost.name] += again.requests[lost.name]
        _judge(play)
        assert play.statuses() <= {"200", "429", "500", ""}
        _judge_rest(play, [it.name for it in cluster.machines[:2]], killed, started)
        _judge_store(cluster, "machine")

    _on_each(kinds, lose_a_machine)


def test_s1_and_l1_hold_through_a_cut(kinds: list[Laboratory]) -> None:
    """The majority goes on; whoever is alone refuses in time; afterwards all is as if nothing had been."""

    def cut_one_off(cluster: Laboratory) -> None:
        alone = cluster.machines[2]
        with playing(cluster, ["cut", NOBODY], LIMIT) as everybody:
            time.sleep(BEFORE)
            alone.unplug()
            cut = _now()
            time.sleep(FAULT)
            healed = _now()
            alone.plug_in()
            wait_for(lambda: _is_whole(cluster), "the cut's end")
            wait_for(lambda: _admits(cluster, alone, LIMIT), f"{alone.name} admits again")
            time.sleep(AFTER)
        play = everybody.of("cut")
        _judge(play)
        assert play.statuses() == {"200", "429", "500"}
        _judge_rest(play, [it.name for it in cluster.machines[:2]], cut, healed)
        during = [it for it in play.requests[alone.name] if cut <= it.begun and it.ended <= healed]
        assert "500" in {request.status for request in during}
        assert "200" not in {request.status for request in during}
        # What a process takes beside others to start and to end is no part of what LIMITER_TIMEOUT limits.
        start = max(it.ended - it.begun for it in everybody.of(NOBODY).requests[alone.name])
        assert max(it.ended - it.asked for it in during) <= TIMEOUT * 1e6 + start
        assert play.requests[alone.name][-1].status in {"200", "429"}
        _judge_store(cluster, "cut")

    _on_each(kinds, cut_one_off)


def _judge_rest(play: Play, names: list[str], begin: int, end: int) -> None:
    """The majority is not stopped: in the second half of a fault it admits and denies, without an error."""
    half = (begin + end) // 2
    late = [
        request
        for name in names
        for request in play.requests[name]
        if half <= request.begun and request.ended <= end
    ]
    assert {request.status for request in late} == {"200", "429"}


def test_c1_holds_with_clocks_two_seconds_apart(cluster3: Laboratory) -> None:
    """Any window shortened by these two seconds holds at most the quota, by one clock for all."""
    limit, apart = only("10 per 5 seconds"), 2_000_000
    offsets = {cluster3.machines[1].name: apart}
    with playing(cluster3, "clocks", "10 per 5 seconds", offsets) as play:
        time.sleep(12)
    true = sorted(
        time_of(request.claimed[-1]) - offsets.get(name, 0)
        for name, requests in play.requests.items()
        for request in requests
        if request.status == "200"
    )
    assert len(true) >= 2 * limit.quota
    for first, beyond in zip(true, true[limit.quota :]):
        assert beyond - first >= limit.window - apart
    assert {"200", "429"} == play.statuses()
