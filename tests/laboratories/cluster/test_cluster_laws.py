"""The laws, with real requests on three machines at once, and through the faults of a cluster."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from limiter.core.limit import number_of, time_of
from tests.faults import PASSING
from tests.history import judge_l1, judge_s1, only
from tests.laboratories.cluster.laboratory import (
    AS_USER,
    BRICK,
    COPY,
    INSIDE,
    STORE,
    VOLUME,
    Laboratory,
    Machine,
    await_healed,
    wait_for,
    writes_to,
)
from tests.laboratories.cluster.play import Play, Request, playing
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

LIMIT = "10/second"
UNDISTURBED = 10  # seconds
AFTER = 2
ANSWERS = 10
"""The number of answers of each status to wait for, on each machine that goes on."""
LOSSES = 10
THREADS = 32
"""On each machine: the listings under way when a brick dies are those that fail."""


def _judge(play: Play, limit: str = LIMIT) -> None:
    """S1 and L1 hold, in a play in which both could have failed."""
    judge_s1(only(limit), play.history())
    judge_l1(only(limit), play.full_history())
    for name, requests in play.requests.items():
        assert {"200", "429"} <= {request.status for request in requests}, f"{name} did not take part"


def _judge_store(laboratory: Laboratory, app: str) -> None:
    """Nothing is left to repair: each machine shows the same ten slots, and each brick holds them."""
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
    """Return whether each of the machines reaches all bricks."""
    return all(
        machine.ask("volume", "status", VOLUME, "detail").output.count(": Y ") == 3
        for machine in laboratory.machines
    )


def _now() -> int:
    return time.time_ns() // 1000


def _on_each(kinds: list[Laboratory], play: Callable[[Laboratory], None]) -> None:
    """Play it on all clusters at once."""
    with ThreadPoolExecutor(len(kinds)) as pool:
        plays = [pool.submit(play, cluster) for cluster in kinds]
    for cluster, done in zip(kinds, plays):
        print(f"replica {cluster.replica}")
        done.result()


class Fault:
    """A part of a play: the answers from the time when something is lost until it is back.

    Times are in microseconds.  The fault lasts until answers have come, since GlusterFS and a busy
    machine are slow.
    """

    def __init__(self, play: Play) -> None:
        self._play = play
        self._begin = self._end = _now()

    def is_over(self) -> None:
        """End the part: what was lost may be back from now on."""
        self._end = _now()

    def of(self, machine: Machine) -> list[Request]:
        """Return the requests that a machine began and ended during the fault, or so far."""
        end = self._end if self._end > self._begin else _now()
        requests = sorted(self._play.so_far()[machine.name], key=lambda it: it.begun)
        return [it for it in requests if self._begin <= it.begun and it.ended and it.ended <= end]

    def go_on(self, machine: Machine) -> list[Request]:
        """Return the requests after the first admission; before it GlusterFS may wait for the lost."""
        requests = self.of(machine)
        first = next((at for at, it in enumerate(requests) if it.status == "200"), len(requests))
        return requests[first:]

    def await_others(self, machines: Sequence[Machine]) -> None:
        """Return when each of these machines has admitted and denied again."""
        for machine in machines:
            for status in ("200", "429"):
                wait_for(
                    lambda machine=machine, status=status: (  # type: ignore[misc]
                        [it.status for it in self.go_on(machine)].count(status) >= ANSWERS
                    ),
                    f"{status} on {machine.name}",
                )

    def judge_others(self, machines: Sequence[Machine]) -> None:
        """The majority goes on: after its first admission it admits and denies without an error."""
        for machine in machines:
            assert {it.status for it in self.go_on(machine)} == {"200", "429"}, _told(
                self.go_on(machine)
            )


def _told(requests: Iterable[Request]) -> list[tuple[str, list[str], list[str]]]:
    """Return what went wrong: statuses, errors of calls, and the log."""
    return [
        (it.status, it.errors, it.log) for it in requests if it.log or it.status not in {"200", "429"}
    ]


def _undisturbed(cluster: Laboratory, app: str) -> Play:
    """An undisturbed play; then SIGKILL of a brick, without effect, and the installer restarts it."""
    with playing(cluster, app, LIMIT) as play:
        time.sleep(UNDISTURBED)
        lost = _now()
        cluster.machines[1].kill_brick()
        wait_for(lambda: not _is_whole(cluster), "the loss is noticed")
        assert cluster.deploy("status").status == 1
        said = cluster.deploy("install")
        assert said.status == 0, said.output
        assert f"web1: + gluster volume start {VOLUME} force\n" in said.output
        wait_for(lambda: _is_whole(cluster), "the brick's return")
        time.sleep(AFTER)
    assert play.statuses() == {"200", "429"}, _told(play.all())
    assert not _told(play.all())
    assert not [name for name in play.phantoms() if time_of(name) < lost]
    return play


def _machine_lost(cluster: Laboratory, app: str) -> Play:
    """SIGKILL everything on a machine; it starts again, and takes part again."""
    *others, lost = cluster.machines
    with playing(cluster, app, LIMIT) as play:
        Fault(play).await_others(cluster.machines)
        lost.kill()
        fault = Fault(play)
        fault.await_others(others)
        fault.is_over()
        lost.start()
        wait_for(lambda: _is_whole(cluster), "the machine's return")
        with playing(cluster, app, LIMIT, machines=[lost]) as again:
            time.sleep(AFTER)
    fault.judge_others(others)
    assert {"200", "429"} <= again.statuses(), _told(again.all())
    play.add(again)
    return play


def _cut_off(cluster: Laboratory, app: str) -> Play:
    """The majority goes on.

    The machine that is alone refuses in time, and takes part again afterwards.
    """
    *others, alone = cluster.machines
    with playing(cluster, app, LIMIT) as play:
        Fault(play).await_others(cluster.machines)
        alone.unplug()
        fault = Fault(play)
        fault.await_others(others)
        wait_for(lambda: len(fault.of(alone)) >= ANSWERS, f"{alone.name} answers")
        fault.is_over()
        alone.plug_in()
        wait_for(lambda: _is_whole(cluster), "the cut's end")
        after = Fault(play)
        wait_for(lambda: bool(after.go_on(alone)), f"{alone.name} admits again")
        time.sleep(AFTER)
    fault.judge_others(others)
    statuses = {it.status for it in fault.of(alone)}
    assert "500" in statuses
    assert "200" not in statuses
    return play


def test_s1_and_l1_hold_over_three_machines_whatever_is_lost(kinds: list[Laboratory]) -> None:
    """Ten per second are admitted and no more, and nobody is denied too soon.

    Nothing is left to repair.
    """

    def play_all(cluster: Laboratory) -> None:
        for number, lose in enumerate((_undisturbed, _machine_lost, _cut_off)):
            print(lose.__name__)
            play = lose(cluster, f"acme{number}")
            _judge(play)
            assert play.statuses() <= {"200", "429", "500", ""}
            _judge_store(cluster, f"acme{number}")

    _on_each(kinds, play_all)


def test_c1_holds_with_clocks_two_seconds_apart(cluster3: Laboratory) -> None:
    """Any window that is shorter by these two seconds has at most the quota, by one clock for all."""
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


def test_f1_listings_under_way_when_a_brick_dies_are_made_again(kinds: list[Laboratory]) -> None:
    """GlusterFS lets some listings fail although other bricks could answer; no hit fails."""
    passing = {errno.errorcode[number] for number in PASSING}

    def play(cluster: Laboratory) -> None:
        # Not every loss causes such errors; a busy machine sees fewer.
        assert any(passing & _faults_of_a_dying_brick(cluster) for _ in range(LOSSES))

    _on_each(kinds, play)


def _faults_of_a_dying_brick(cluster: Laboratory) -> set[str]:
    """Return the errors of listings, when a brick dies while many are under way; no hit reports them."""
    command = [*AS_USER, PYTHON, "-I", INSIDE, "list_at_once", COPY, STORE, str(THREADS)]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(machine.command(*command), stdin=pipe, stdout=pipe, text=True)
        for machine in cluster.machines
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    lost = cluster.machines[1]
    lost.kill_brick()
    wait_for(lambda: not _is_whole(cluster), "the loss is noticed")
    told = [process.communicate()[0].splitlines() for process in processes]
    print(*[met for met, _ in told], sep="; ")
    assert [ended for _, ended in told] == [""] * len(processes)
    lost.gluster("volume", "start", VOLUME, "force")
    wait_for(lambda: all(writes_to(it, lost) for it in cluster.machines), "the brick's return")
    await_healed(cluster)
    return {fault for met, _ in told for fault in met.split()}
