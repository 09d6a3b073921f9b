"""Sweeping the shared store: on several machines at once, while hits go on."""

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

from limiter.limit import make, number_of
from tests.cluster.laboratory import (
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
from tests.cluster.play import Play, playing
from tests.history import judge_l1, judge_s1, only
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

LIMIT = "2/second"
DIRECTORY = "2-per-1s"
APPS = [f"brief{number}" for number in range(20)]
"""More than are asked for in a second: each is idle for its window now and then."""

IDLE = [f"idle{number}" for number in range(20)]


@dataclass
class Sweepers:
    """When they are done: how many applications each has removed, and how often the store failed."""

    did: list[list[int]] = field(default_factory=list)


@contextmanager
def _sweeping(machines: Sequence[Machine]) -> Iterator[Sweepers]:
    """Sweep on these machines, without a pause, whatever has been idle for its window."""
    sweepers = Sweepers()
    processes = [
        subprocess.Popen(
            machine.command(*AS_USER, PYTHON, "-I", INSIDE, "sweep", COPY, STORE),
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


def _sweep(machines: Sequence[Machine]) -> None:
    """The command itself, on these machines at once."""
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
    for process in processes:
        said = process.communicate()[0]
        assert process.returncode == 0, said
        assert said.startswith(f"{STORE}: ")


def _leave_idle(machine: Machine) -> None:
    """Applications whose last hit was two days ago, and what a furnisher left that died then."""
    then = int((time.time() - 2 * 86_400) * 1e6)
    places = [f"{STORE}/{app}/{DIRECTORY}" for app in IDLE]
    machine.do_as_user("mkdir", "-p", *places, f"{STORE}/.new-dead")
    slots = [f"{place}/{make(then, False, slot)}" for place in places for slot in range(2)]
    machine.do_as_user("touch", *slots)
    machine.do_as_user("touch", "-d", "2 hours ago", f"{STORE}/.new-dead")


def _names(place: Path) -> list[str]:
    """None if it has been removed meanwhile."""
    try:
        return os.listdir(place)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
            raise
        return []


def _entries(laboratory: Laboratory) -> list[list[str]]:
    """What of these tests is in the store, as each machine shows it and each copy holds it."""
    return [
        sorted(entry for app in _names(place) for entry in _entries_of(place, app))
        for machine in laboratory.machines
        for place in (machine.path(STORE), machine.path(f"{BRICK}/brick/store"))
    ]


def _entries_of(place: Path, app: str) -> Iterator[str]:
    """Of what is aside the name alone."""
    if app.startswith("."):
        yield app
    elif app in APPS or app in IDLE:
        for directory in _names(place / app) or [""]:
            for slot in _names(place / app / directory) or [""]:
                yield f"{app}/{directory}/{slot}".rstrip("/")


def _applications(laboratory: Laboratory) -> list[list[str]]:
    return [
        [entry for entry in entries if not entry.startswith(".")] for entries in _entries(laboratory)
    ]


def _judge(play: Play) -> None:
    for app in APPS:
        judge_s1(only(LIMIT), play.of(app).history())
        judge_l1(only(LIMIT), play.of(app).full_history())


def _judge_store(laboratory: Laboratory) -> None:
    """Each application is there with all its slots, or has gone; alike everywhere."""
    await_healed(laboratory)
    everywhere = _applications(laboratory)
    assert everywhere == [everywhere[0]] * 6
    by_app: dict[str, list[int]] = {}
    for entry in everywhere[0]:
        app, directory, slot = entry.split("/")
        assert directory == DIRECTORY
        by_app.setdefault(app, []).append(number_of(slot))
    for app, numbers in by_app.items():
        assert sorted(numbers) == [0, 1], app


def _sweep_the_rest(laboratory: Laboratory) -> None:
    """What is idle then goes, all of it."""
    time.sleep(only(LIMIT).window / 1e6)  # the last hits are forgotten
    with _sweeping(laboratory.machines[:1]):
        wait_for(
            lambda: not any(_applications(laboratory)), f"no applications in {_entries(laboratory)}"
        )
    await_healed(laboratory)


@pytest.mark.parametrize("cluster3", ["3"], indirect=True, ids=["replica3"])
def test_hits_go_on_while_two_machines_sweep(cluster3: Laboratory) -> None:
    """S1 and L1; an application that is not idle stays whole, and of one that is nothing is left."""
    _leave_idle(cluster3.machines[2])
    pair = cluster3.machines[:2]
    with playing(cluster3, APPS, LIMIT) as play:
        _sweep(pair)
        _sweep(pair[:1])  # two may have hindered each other
        assert not [entry for entry in _entries(cluster3)[0] if entry.startswith(("idle", ".new-dead"))]
        with _sweeping(pair) as sweepers:
            time.sleep(8)
    _judge(play)
    assert play.statuses() == {"200", "429"}
    assert not [line for request in play.all() for line in request.log]
    assert not play.phantoms()
    for removed, failed in sweepers.did:
        assert removed
        assert not failed
    _judge_store(cluster3)
    _sweep_the_rest(cluster3)
