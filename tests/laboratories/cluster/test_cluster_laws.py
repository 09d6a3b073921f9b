"""The laws, with real requests on three machines at once, and through the faults of a cluster."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from limiter.core.limit import number_of, time_of
from tests.faults import PASSING
from tests.history import judge_l1, judge_s1, only
from tests.laboratories.cluster.laboratory import (
    COPY_OF_STORE,
    STORE,
    VOLUME,
    Cluster,
    are_one_file,
    await_healed,
    inside,
    is_whole,
    kill_brick,
    start_brick,
    writes_to,
)
from tests.laboratories.cluster.requesting import requesting
from tests.laboratories.machines import Machine, finish, line_of, wait_for
from tests.laboratories.recording import Recording, Request, now

pytestmark = pytest.mark.one_python

LIMIT = "10/second"
ANSWERS = 10
"""The number of answers of each status to wait for, on each machine that goes on."""
LOSSES = 10
THREADS = 32
"""On each machine: the listings under way when a brick dies are those that fail."""


def _on_each(kinds: list[Cluster], test: Callable[[Cluster], None]) -> None:
    """Run the test on all clusters at once."""
    with ThreadPoolExecutor(len(kinds)) as pool:
        tests = [pool.submit(test, cluster) for cluster in kinds]
    for cluster, done in zip(kinds, tests):
        print(f"replica {cluster.replica}")
        done.result()


class Fault:
    """The requests from the time when something is lost until it is back.

    Times are in microseconds.  The fault lasts until answers have come, since GlusterFS and a busy
    machine are slow.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._begin = self._end = now()

    def is_over(self) -> None:
        """End it: what was lost may be back from now on."""
        self._end = now()

    def of(self, machine: Machine) -> list[Request]:
        """Return the requests that a machine began and ended during the fault, or so far."""
        end = self._end if self._end > self._begin else now()
        requests = sorted(self._recording.so_far(), key=lambda it: it.begun)
        return [
            it
            for it in requests
            if it.server == machine.name and self._begin <= it.begun and 0 < it.ended <= end
        ]

    def go_on(self, machine: Machine) -> list[Request]:
        """Return the requests after the first admission; before it GlusterFS may wait for the lost."""
        requests = self.of(machine)
        first = next((at for at, it in enumerate(requests) if it.status == "200"), len(requests))
        return requests[first:]

    def await_others(self, machines: Sequence[Machine]) -> None:
        """Return when each of these machines has admitted and denied again."""

        def goes_on(machine: Machine) -> bool:
            statuses = [it.status for it in self.go_on(machine)]
            return min(map(statuses.count, ("200", "429"))) >= ANSWERS

        for machine in machines:
            wait_for(lambda machine=machine: goes_on(machine), f"{machine.name} goes on")  # type: ignore[misc]

    def judge_others(self, machines: Sequence[Machine]) -> None:
        """The majority goes on: after its first admission it admits and denies without an error."""
        for machine in machines:
            requests = self.go_on(machine)
            assert {it.status for it in requests} == {"200", "429"}, _troubles(requests)


def _troubles(requests: Iterable[Request]) -> list[tuple[str, list[str], list[str]]]:
    """Return what went wrong: statuses, errors of calls, and the log."""
    return [(it.status, it.errors, it.log) for it in requests if it.log or not it.is_decided]


def _brick_lost(cluster: Cluster, app: str) -> Recording:
    """Nothing is lost, and then a brick (SIGKILL), without effect; the installer restarts it."""
    with requesting(cluster, app, LIMIT) as recording:
        Fault(recording).await_others(cluster.machines)
        lost = now()
        kill_brick(cluster.machines[1])
        wait_for(lambda: not is_whole(cluster), "the loss is noticed")
        cluster.refusal("status")
        assert f"web1: + gluster volume start {VOLUME} force\n" in cluster.deploy("install")
        wait_for(lambda: is_whole(cluster), "the brick's return")
        Fault(recording).await_others(cluster.machines)
    assert recording.statuses() == {"200", "429"}
    assert not _troubles(recording.requests)
    assert not [name for name in recording.phantoms() if time_of(name) < lost]
    return recording


def _machine_lost(cluster: Cluster, app: str) -> Recording:
    """SIGKILL everything on a machine; it starts again, and takes part again."""
    *others, lost = cluster.machines
    with requesting(cluster, app, LIMIT) as recording:
        Fault(recording).await_others(cluster.machines)
        lost.kill()
        fault = Fault(recording)
        fault.await_others(others)
        fault.is_over()
        lost.start()
        wait_for(lambda: is_whole(cluster), "the machine's return")
        with requesting(cluster, app, LIMIT, machines=[lost]) as again:
            Fault(again).await_others([lost])
    fault.judge_others(others)
    recording.requests += again.requests
    return recording


def _network_lost(cluster: Cluster, app: str) -> Recording:
    """The majority goes on.

    The machine that is alone refuses in time, and takes part again afterwards.
    """
    *others, alone = cluster.machines
    with requesting(cluster, app, LIMIT) as recording:
        Fault(recording).await_others(cluster.machines)
        alone.unplug()
        fault = Fault(recording)
        fault.await_others(others)
        wait_for(lambda: len(fault.of(alone)) >= ANSWERS, f"{alone.name} answers")
        fault.is_over()
        alone.plug_in()
        wait_for(lambda: is_whole(cluster), "the cut's end")
        after = Fault(recording)
        wait_for(lambda: bool(after.go_on(alone)), f"{alone.name} admits again")
        after.await_others(cluster.machines)
    fault.judge_others(others)
    statuses = {it.status for it in fault.of(alone)}
    assert "500" in statuses
    assert "200" not in statuses
    return recording


def _judge(recording: Recording, cluster: Cluster) -> None:
    """S1 and L1 hold, where both could have failed."""
    judge_s1(only(LIMIT), recording.history())
    judge_l1(only(LIMIT), recording.full_history())
    for machine in cluster.machines:
        assert {"200", "429"} <= recording.statuses(machine.name), machine.name


def _judge_store(cluster: Cluster, app: str) -> None:
    """Nothing is left to repair: each machine shows the same ten slots, and each brick holds them.

    They are links of one file everywhere.
    """
    await_healed(cluster)
    places = [
        machine.path(f"{place}/{app}@10-per-1s")
        for machine in cluster.machines
        for place in (STORE, COPY_OF_STORE)
    ]

    def listings() -> set[tuple[str, ...]]:
        return {tuple(sorted(os.listdir(place))) for place in places}

    # A copy that was just healed may still have an old name beside the new one.
    wait_for(lambda: len(listings()) == 1, "all copies are the same")
    assert all(map(are_one_file, places))
    (names,) = listings()
    assert sorted(map(number_of, names)) == list(range(10))


def test_s1_and_l1_hold_over_three_machines_whatever_is_lost(kinds: list[Cluster]) -> None:
    """Ten per second are admitted and no more, and none is denied too soon.

    Nothing is left to repair.
    """

    def test(cluster: Cluster) -> None:
        for number, lose in enumerate((_brick_lost, _machine_lost, _network_lost)):
            print(lose.__name__)
            recording = lose(cluster, f"acme{number}")
            _judge(recording, cluster)
            assert recording.statuses() <= {"200", "429", "500", ""}
            _judge_store(cluster, f"acme{number}")

    _on_each(kinds, test)


def test_c1_holds_with_clocks_two_seconds_apart(cluster3: Cluster) -> None:
    """Any window that is shorter by these two seconds has at most the quota, by one clock for all."""
    limit, apart = only("10 per 5 seconds"), 2_000_000
    offsets = {cluster3.machines[1].name: apart}
    with requesting(cluster3, "clocks", "10 per 5 seconds", offsets) as recording:
        wait_for(lambda: recording.count("200") >= 2 * limit.quota, "two windows are full")
    true = sorted(
        time_of(request.claimed[-1]) - offsets.get(request.server, 0)
        for request in recording.requests
        if request.status == "200"
    )
    for first, beyond in zip(true, true[limit.quota :]):
        assert beyond - first >= limit.window - apart
    assert recording.statuses() == {"200", "429"}


def test_f1_listings_under_way_when_a_brick_dies_are_made_again(kinds: list[Cluster]) -> None:
    """GlusterFS lets some listings fail although other bricks could answer; no hit fails."""
    passing = {errno.errorcode[number] for number in PASSING}

    def test(cluster: Cluster) -> None:
        # Not every loss causes such errors; a busy machine sees fewer.
        assert any(passing & _faults_of_a_dying_brick(cluster) for _ in range(LOSSES))

    _on_each(kinds, test)


def _faults_of_a_dying_brick(cluster: Cluster) -> set[str]:
    """Return the errors of listings, when a brick dies while many are under way; no hit reports them."""
    command = inside("list_at_once", STORE, str(THREADS))
    processes = [machine.begin(*command) for machine in cluster.machines]
    for process in processes:
        assert line_of(process) == "begun\n"
    lost = cluster.machines[1]
    kill_brick(lost)
    wait_for(lambda: not is_whole(cluster), "the loss is noticed")
    reports = [printed.splitlines() for printed in finish(processes)]
    print(*[listings for listings, _ in reports], sep="; ")
    assert [hits for _, hits in reports] == [""] * len(processes)
    start_brick(lost)
    wait_for(lambda: all(writes_to(it, lost) for it in cluster.machines), "the brick's return")
    await_healed(cluster)
    return {fault for listings, _ in reports for fault in listings.split()}
