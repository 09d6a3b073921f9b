"""Sweeping the shared store, on several machines at once, while hits go on."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.core.limit import make, number_of
from tests.history import judge_l1, judge_s1, only
from tests.laboratories.cluster.laboratory import COPY_OF_STORE, STORE, Cluster, await_healed, inside
from tests.laboratories.cluster.requesting import requesting
from tests.laboratories.machines import AS_USER, COPY, Machine, finish, wait_for
from tests.laboratories.recording import Recording
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

LIMIT = "2/second"
HITS = 100
DIRECTORY = "2-per-1s"
APPS = [f"brief{number}" for number in range(20)]
"""More applications than get a hit within a second: each is idle for its window now and then."""

IDLE = [f"idle{number}" for number in range(20)]

LONG = "2/hour"
OLD = [f"old{number}" for number in range(60)]
"""So many that sweeping them takes seconds.  Each gets only two hits in a recording, at any time."""

DAY = "86400"


@contextmanager
def _sweeping(machines: Sequence[Machine], idle: str = "0", least: int = 0) -> Iterator[list[list[str]]]:
    """Sweep on these machines, without a pause, what was idle for so many seconds and its window.

    Each machine removes at least so many applications.  After the block the list has what each printed: the
    failures of the store, and how many applications it removed; nothing if it died.
    """
    results: list[list[str]] = []
    processes = [it.begin(*inside("sweep", STORE, idle, str(least))) for it in machines]
    try:
        yield results
    finally:
        results += [printed.splitlines() for printed in finish(processes)]


def _sweep(machines: Sequence[Machine]) -> list[str]:
    """Run the sweep command on these machines at once; return the errors that each reports."""
    settings = (f"PYTHONPATH={COPY}", f"LIMITER_ROOT={STORE}")
    command = (*AS_USER, "env", *settings, PYTHON, "-m", "limiter", "sweep")
    processes = [machine.begin(*command) for machine in machines]
    errors = []
    for process, printed in zip(processes, finish(processes)):
        if process.returncode == 0:
            assert printed.startswith(f"{STORE}: ")
        else:
            errors.append(printed)
    return errors


def _leave_idle(machine: Machine, apps: Sequence[str], directory: str = DIRECTORY) -> None:
    """Leave applications whose last hit was two days ago."""
    then = int((time.time() - 2 * 86_400) * 1e6)
    places = [f"{STORE}/{app}/{directory}" for app in apps]
    slots = [f"{place}/{make(then, False, slot)}" for place in places for slot in range(2)]
    machine.do(*AS_USER, "mkdir", "-p", *places)
    machine.do(*AS_USER, "touch", *slots)


def _leave_a_leftover(machine: Machine) -> None:
    """Leave the remains of a process that died two hours ago while furnishing."""
    machine.do(*AS_USER, "mkdir", f"{STORE}/.new-dead")
    machine.do(*AS_USER, "touch", "-d", "2 hours ago", f"{STORE}/.new-dead")


def _names(place: Path) -> list[str]:
    """Return the names in a directory; none if it was removed in the meantime."""
    try:
        return os.listdir(place)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
            raise
        return []


def _entries(cluster: Cluster) -> list[list[str]]:
    """Return the store's entries of these tests, as each machine shows and each copy holds them."""
    return [
        sorted(entry for app in _names(place) for entry in _entries_of(place, app))
        for machine in cluster.machines
        for place in (machine.path(STORE), machine.path(COPY_OF_STORE))
    ]


def _entries_of(place: Path, app: str) -> Iterator[str]:
    """Yield the entries of an application; only the name of a directory that is set aside."""
    if app.startswith("."):
        yield app
    elif app in {*APPS, *IDLE, *OLD}:
        for directory in _names(place / app) or [""]:
            for slot in _names(place / app / directory) or [""]:
                yield f"{app}/{directory}/{slot}".rstrip("/")


def _applications(cluster: Cluster) -> list[list[str]]:
    return [[it for it in entries if not it.startswith(".")] for entries in _entries(cluster)]


def _judge(recording: Recording, apps: Sequence[str], limit: str) -> None:
    for app in apps:
        judge_s1(only(limit), recording.of(app).history())
        judge_l1(only(limit), recording.of(app).full_history())


def _judge_store(cluster: Cluster) -> None:
    """Each application has all its slots or none, and all machines and copies agree.

    Two sweepers at once may leave an empty directory: each finds the mark of the other in it.
    """
    await_healed(cluster)
    everywhere = _applications(cluster)
    assert everywhere == [everywhere[0]] * 6
    by_app: dict[str, list[int]] = {}
    for entry in everywhere[0]:
        app, *rest = entry.split("/")
        assert rest[:1] in ([], [DIRECTORY])
        by_app.setdefault(app, []).extend(map(number_of, rest[1:]))
    for app, numbers in by_app.items():
        assert sorted(numbers) in ([], [0, 1]), app


def _sweep_the_rest(cluster: Cluster) -> None:
    """Everything that is idle by then is removed."""
    time.sleep(only(LIMIT).window / 1e6)  # the last hits are forgotten
    with _sweeping(cluster.machines[:1]):
        wait_for(lambda: not any(_applications(cluster)), f"no applications in {_entries(cluster)}")
    await_healed(cluster)


def test_hits_go_on_while_two_machines_sweep(cluster3: Cluster) -> None:
    """S1 and L1 hold.  An application in use stays whole, and of an idle one nothing is left."""
    _leave_idle(cluster3.machines[2], IDLE)
    _leave_a_leftover(cluster3.machines[2])
    pair = cluster3.machines[:2]
    with requesting(cluster3, APPS, LIMIT) as recording:
        assert not _sweep(pair)
        assert not _sweep(pair[:1])  # two sweeps at once may have hindered each other
        assert not [entry for entry in _entries(cluster3)[0] if entry.startswith(("idle", ".new-dead"))]
        with _sweeping(pair, least=1) as results:
            wait_for(lambda: min(map(recording.count, ("200", "429"))) >= HITS, "hits go on")
    _judge(recording, APPS, LIMIT)
    assert recording.statuses() == {"200", "429"}
    assert not [line for request in recording.requests for line in request.log]
    assert not recording.phantoms()
    assert [failures for *failures, _ in results] == [[], []]
    _judge_store(cluster3)
    _sweep_the_rest(cluster3)


def test_a_machine_is_lost_while_it_sweeps(cluster3: Cluster) -> None:
    """S1 and L1 also hold for what the lost machine was sweeping; no machine sweeps until it is back.

    What it was furnishing stays set aside, and GlusterFS may be unable to show it any more.
    """
    first, second, lost = cluster3.machines
    _leave_idle(first, OLD, only(LONG).directory(0))
    with _sweeping([second, lost], DAY) as results, requesting(cluster3, OLD, LONG) as recording:
        time.sleep(1)
        lost.kill()
        wait_for(lambda: "is away" in "".join(_sweep([first])), "the loss is noticed")
        _leave_idle(first, IDLE)
        (error,) = _sweep([first])
        assert "A copy of the store is away: nothing is removed" in error
        assert set(IDLE) <= set(os.listdir(first.path(STORE)))
        lost.start()
        wait_for(lambda: not _sweep([first]), "the machine's return")
        await_healed(cluster3)
    assert list(map(bool, results)) == [True, False]
    _judge(recording, OLD, LONG)
    assert {"200", "429"} <= recording.statuses() <= {"200", "429", "500", ""}
    assert not set(IDLE) & set(os.listdir(first.path(STORE)))
