"""Sweeping the shared store, on several machines at once, while hits go on."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.core.limit import number_of
from tests.history import judge_l1, judge_s1, only
from tests.laboratories.cluster.laboratory import (
    COPY_OF_STORE,
    STORE,
    Cluster,
    are_one_file,
    await_healed,
    inside,
)
from tests.laboratories.cluster.requesting import requesting
from tests.laboratories.machines import AS_USER, COPY, Machine, finish, wait_for
from tests.laboratories.recording import Recording
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

LIMIT = "3/second"
HITS = 100
SWEPT = 10
GRACE = 2_000_000
"""Microseconds after which a hit must have claimed what it saw, or a sweeper may have removed it."""

APPS = [f"brief{number}" for number in range(60)]
"""More applications than get a hit within their window and the grace: each is idle now and then."""

IDLE = [f"idle{number}" for number in range(20)]

LONG = "2/hour"
OLD = [f"old{number}" for number in range(60)]
"""So many that sweeping them takes seconds.  Each gets only two hits in a recording, at any time."""

DAY = "86400"


@contextmanager
def _sweeping(machines: Sequence[Machine], idle: str = "0", least: int = 0) -> Iterator[list[list[str]]]:
    """Sweep on these machines, without a pause, what was idle for so many seconds, its window and GRACE.

    Each machine removes at least so many directories.  After the block the list has what each printed: the
    failures of the store, and how many directories it removed; nothing if it died.
    """
    results: list[list[str]] = []
    command = inside("sweep", STORE, idle, str(GRACE), str(least))
    processes = [it.begin(*command) for it in machines]
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


def _leave_idle(machine: Machine, apps: Sequence[str], limit: str = LIMIT) -> None:
    """Leave applications whose last hit was two days ago."""
    then = int((time.time() - 2 * 86_400) * 1e6)
    machine.do(*inside("leave", STORE, limit, str(then), *apps))


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
        sorted(entry for name in _names(place) for entry in _entries_of(place, name))
        for place in _stores(cluster)
    ]


def _stores(cluster: Cluster) -> list[Path]:
    return [it.path(place) for it in cluster.machines for place in (STORE, COPY_OF_STORE)]


def _entries_of(place: Path, name: str) -> Iterator[str]:
    """Yield the slots in a directory, or its name if it is empty or set aside."""
    if name.startswith(".new-"):
        yield name
    elif name.partition("@")[0] in {*APPS, *IDLE, *OLD}:
        for slot in _names(place / name) or [""]:
            yield f"{name}/{slot}"


def _applications(cluster: Cluster) -> list[list[str]]:
    return [[it for it in entries if not it.startswith(".")] for entries in _entries(cluster)]


def _judge(recording: Recording, apps: Sequence[str], limit: str) -> None:
    for app in apps:
        judge_s1(only(limit), recording.of(app).history())
        judge_l1(only(limit), recording.of(app).full_history())


def _judge_store(cluster: Cluster, apps: Sequence[str]) -> None:
    """Each of these has all its slots or no directory, and all machines and copies agree.

    The slots are links of one file everywhere.
    """
    await_healed(cluster)
    everywhere = _applications(cluster)
    assert everywhere == [everywhere[0]] * 6
    by_directory: dict[str, list[str]] = {}
    for entry in everywhere[0]:
        directory, _, slot = entry.partition("/")
        by_directory.setdefault(directory, []).append(slot)
    for directory, slots in by_directory.items():
        if directory.partition("@")[0] in apps:
            assert sorted(map(number_of, slots)) == [0, 1, 2], directory
            assert all(are_one_file(place / directory) for place in _stores(cluster)), directory


def _sweep_the_rest(cluster: Cluster) -> None:
    """Everything that is idle by then is removed."""
    time.sleep((only(LIMIT).window + GRACE) / 1e6)  # the last hits are forgotten
    with _sweeping(cluster.machines[:1]):
        wait_for(lambda: not any(_applications(cluster)), f"no applications in {_entries(cluster)}")
    await_healed(cluster)


def test_hits_go_on_while_two_machines_sweep(cluster3: Cluster) -> None:
    """S1 and L1 hold.  An application in use stays whole, and of an idle one nothing is left.

    Only S1 holds if a hit took longer than the grace, as on a busy machine: slots may be gone then.
    """
    _leave_idle(cluster3.machines[2], IDLE)
    _leave_a_leftover(cluster3.machines[2])
    pair = cluster3.machines[:2]
    with requesting(cluster3, APPS, LIMIT) as recording:
        # On a busy machine, GlusterFS may miss another one for a while.
        wait_for(lambda: not _sweep(pair), "both sweep without an error")
        assert not [entry for entry in _entries(cluster3)[0] if entry.startswith(("idle", ".new-dead"))]
        with _sweeping(pair, least=SWEPT) as results:
            wait_for(lambda: min(map(recording.count, ("200", "429"))) >= HITS, "hits go on")
    late = {it.app for it in recording.requests if it.ended - it.begun > GRACE}
    in_time = [app for app in APPS if app not in late]
    print(f"judged by L1, too: {len(in_time)} of {len(APPS)} applications; swept: {results}")
    _judge(recording, in_time, LIMIT)
    for app in late:
        judge_s1(only(LIMIT), recording.of(app).history())
    assert recording.statuses() == {"200", "429"}
    assert not [line for it in recording.requests for line in it.log if it.app not in late]
    assert not recording.phantoms()
    assert [failures for *failures, _ in results] == [[], []]
    _judge_store(cluster3, in_time)
    _sweep_the_rest(cluster3)


def test_a_machine_is_lost_while_it_sweeps(cluster3: Cluster) -> None:
    """S1 and L1 also hold for what the lost machine was sweeping; no machine sweeps until it is back.

    What it was furnishing stays set aside, and GlusterFS may be unable to show it any more.
    """
    first, second, lost = cluster3.machines
    idle = {f"{app}@{only(LIMIT).directory(0)}" for app in IDLE}
    numbers = itertools.count()

    def is_noticed() -> bool:
        # A sweep looks for lost copies only if there is something to remove.
        _leave_idle(first, [f"probe{next(numbers)}"])
        return "is away" in "".join(_sweep([first]))

    _leave_idle(first, OLD, LONG)
    with _sweeping([second, lost], DAY) as results, requesting(cluster3, OLD, LONG) as recording:
        time.sleep(1)
        lost.kill()
        wait_for(is_noticed, "the loss is noticed")
        _leave_idle(first, IDLE)
        (error,) = _sweep([first])
        assert "A copy of the store is away: nothing is removed" in error
        assert idle <= set(os.listdir(first.path(STORE)))
        lost.start()
        wait_for(lambda: not _sweep([first]), "the machine's return")
        await_healed(cluster3)
    assert list(map(bool, results)) == [True, False]
    everywhere = _applications(cluster3)
    assert everywhere == [everywhere[0]] * 6
    _judge(recording, OLD, LONG)
    assert {"200", "429"} <= recording.statuses() <= {"200", "429", "500", ""}
    assert not idle & set(os.listdir(first.path(STORE)))
