"""Sweeping the shared store, on several machines at once, while hits go on."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from limiter.core.limit import make, number_of
from tests.history import judge_l1, judge_s1, only
from tests.laboratories.cluster.laboratory import (
    AS_USER,
    BRICK,
    COPY,
    INSIDE,
    STORE,
    Laboratory,
    Machine,
    await_healed,
    wait_for,
)
from tests.laboratories.cluster.play import Play, playing
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

LIMIT = "2/second"
DIRECTORY = "2-per-1s"
APPS = [f"brief{number}" for number in range(20)]
"""More applications than get a hit within a second: each is idle for its window now and then."""

IDLE = [f"idle{number}" for number in range(20)]

LONG = "2/hour"
OLD = [f"old{number}" for number in range(60)]
"""So many that sweeping them takes seconds.  Each gets only two hits in a play, at any time."""

DAY = "86400"


@dataclass
class Sweepers:
    """The results of sweepers that have ended: applications removed, and failures of the store, of each.

    A sweeper that died has no result.
    """

    did: list[list[int]] = field(default_factory=list)


@contextmanager
def _sweeping(machines: Sequence[Machine], idle: str = "0", least: int = 0) -> Iterator[Sweepers]:
    """Sweep on these machines, without a pause, what was idle for so many seconds and its window.

    Each machine removes at least so many applications.
    """
    sweepers = Sweepers()
    processes = [
        subprocess.Popen(
            machine.command(*AS_USER, PYTHON, "-I", INSIDE, "sweep", COPY, STORE, idle, str(least)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for machine in machines
    ]
    try:
        yield sweepers
    finally:
        said = [process.communicate()[0] for process in processes]
    sweepers.did = [[int(number) for number in text.split()] for text in said]


def _sweep(machines: Sequence[Machine]) -> list[str]:
    """Run the sweep command on these machines at once; return the errors that each reports."""
    command = [
        *AS_USER,
        "env",
        f"PYTHONPATH={COPY}",
        f"LIMITER_ROOT={STORE}",
        PYTHON,
        "-m",
        "limiter",
        "sweep",
    ]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(machine.command(*command), **pipes) for machine in machines]
    errors = []
    for process in processes:
        said = process.communicate()[0]
        if process.returncode == 0:
            assert said.startswith(f"{STORE}: ")
        else:
            errors.append(said)
    return errors


def _leave_idle(machine: Machine, apps: Sequence[str], directory: str = DIRECTORY) -> None:
    """Leave applications whose last hit was two days ago."""
    then = int((time.time() - 2 * 86_400) * 1e6)
    places = [f"{STORE}/{app}/{directory}" for app in apps]
    machine.do_as_user("mkdir", "-p", *places)
    machine.do_as_user(
        "touch", *[f"{place}/{make(then, False, slot)}" for place in places for slot in range(2)]
    )


def _leave_a_leftover(machine: Machine) -> None:
    """Leave the remains of a process that died two hours ago while furnishing."""
    machine.do_as_user("mkdir", f"{STORE}/.new-dead")
    machine.do_as_user("touch", "-d", "2 hours ago", f"{STORE}/.new-dead")


def _names(place: Path) -> list[str]:
    """Return the names in a directory; none if it was removed in the meantime."""
    try:
        return os.listdir(place)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
            raise
        return []


def _entries(laboratory: Laboratory) -> list[list[str]]:
    """Return the store's entries of these tests, as each machine shows and each copy holds them."""
    return [
        sorted(entry for app in _names(place) for entry in _entries_of(place, app))
        for machine in laboratory.machines
        for place in (machine.path(STORE), machine.path(f"{BRICK}/brick/store"))
    ]


def _entries_of(place: Path, app: str) -> Iterator[str]:
    """Yield the entries of an application; only the name of a directory that is set aside."""
    if app.startswith("."):
        yield app
    elif app in APPS or app in IDLE or app in OLD:
        for directory in _names(place / app) or [""]:
            for slot in _names(place / app / directory) or [""]:
                yield f"{app}/{directory}/{slot}".rstrip("/")


def _applications(laboratory: Laboratory) -> list[list[str]]:
    return [
        [entry for entry in entries if not entry.startswith(".")] for entries in _entries(laboratory)
    ]


def _judge(play: Play, apps: Sequence[str], limit: str) -> None:
    for app in apps:
        judge_s1(only(limit), play.of(app).history())
        judge_l1(only(limit), play.of(app).full_history())


def _judge_store(laboratory: Laboratory, known: str = DIRECTORY) -> None:
    """Each application is there with all its slots, or is gone, and all machines and copies agree."""
    await_healed(laboratory)
    everywhere = _applications(laboratory)
    assert everywhere == [everywhere[0]] * 6
    by_app: dict[str, list[int]] = {}
    for entry in everywhere[0]:
        app, directory, slot = entry.split("/")
        assert directory == known
        by_app.setdefault(app, []).append(number_of(slot))
    for app, numbers in by_app.items():
        assert sorted(numbers) == [0, 1], app


def _sweep_the_rest(laboratory: Laboratory) -> None:
    """Everything that is idle by then is removed."""
    time.sleep(only(LIMIT).window / 1e6)  # the last hits are forgotten
    with _sweeping(laboratory.machines[:1]):
        wait_for(
            lambda: not any(_applications(laboratory)), f"no applications in {_entries(laboratory)}"
        )
    await_healed(laboratory)


def test_hits_go_on_while_two_machines_sweep(cluster3: Laboratory) -> None:
    """S1 and L1 hold.  An application in use stays whole, and of an idle one nothing is left."""
    _leave_idle(cluster3.machines[2], IDLE)
    _leave_a_leftover(cluster3.machines[2])
    pair = cluster3.machines[:2]
    with playing(cluster3, APPS, LIMIT) as play:
        assert not _sweep(pair)
        assert not _sweep(pair[:1])  # two sweeps at once may have hindered each other
        assert not [entry for entry in _entries(cluster3)[0] if entry.startswith(("idle", ".new-dead"))]
        with _sweeping(pair, least=1) as sweepers:
            time.sleep(8)
    _judge(play, APPS, LIMIT)
    assert play.statuses() == {"200", "429"}
    assert not [line for request in play.all() for line in request.log]
    assert not play.phantoms()
    assert not any(failed for _, failed in sweepers.did)
    _judge_store(cluster3)
    _sweep_the_rest(cluster3)


def test_a_machine_is_lost_while_it_sweeps(cluster3: Laboratory) -> None:
    """S1 and L1 also hold for what the lost machine was sweeping; nobody sweeps until it is back.

    What it was furnishing stays set aside, and GlusterFS may be unable to show it any more.
    """
    first, second, lost = cluster3.machines
    directory = only(LONG).directory(0)
    _leave_idle(first, OLD, directory)
    with _sweeping([second, lost], DAY) as sweepers, playing(cluster3, OLD, LONG) as play:
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
    assert [bool(did) for did in sweepers.did] == [True, False]
    _judge(play, OLD, LONG)
    assert {"200", "429"} <= play.statuses() <= {"200", "429", "500", ""}
    assert not set(IDLE) & set(os.listdir(first.path(STORE)))
