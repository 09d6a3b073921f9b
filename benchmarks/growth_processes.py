"""Growth with the processes that hit at once, 1 to 64: most hits of one key wait for each other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from subprocess import PIPE

from benchmarks.growth_clients import working
from benchmarks.growth_series import NAMES, Axis, Point, cpu_batch
from benchmarks.in_process import MEMORY, Bare
from benchmarks.report import Row, progress
from limiter.core.notation import parse
from tests.places import temporary

PROCESSES = (1, 2, 4, 8, 16, 32, 64)
SECONDS = 0.5

FLOODED = "100/second"
ROOMY = "1000000/second burst 1000000"
"""It admits every hit.  Its state is one name, so hits of one key must win it one after the other."""

BEYOND = "admitted beyond the limit"

_numbers = count()


@dataclass(frozen=True)
class Scene:
    """What processes do: they hit these limits, as long-running ones or not, of one key or a key each."""

    name: str
    limits: str
    remembers: bool = False
    own_keys: bool = False


ONE, OWN, OVER, LONG = "admitted", "admitted, a key each", "flood", "flood, long-running"
SCENES = (
    Scene(ONE, ROOMY),
    Scene(OWN, ROOMY, own_keys=True),
    Scene(OVER, FLOODED),
    Scene(LONG, FLOODED, remembers=True),
)


@dataclass(frozen=True)
class Outcome:
    """What processes did together: their hits, those per second, and those admitted beyond the limit.

    ``cpu`` and ``wait``: the CPU time of a hit, and how long it takes, in microseconds.
    """

    hits: int
    rate: float
    beyond: int
    cpu: float
    wait: float


def flood(scene: Scene, roots: Sequence[str | Path], seconds: float) -> Outcome:
    """Let a process on each of these roots, all of one store, hit as fast as it can."""
    key = f"key{next(_numbers)}"
    memory = "yes" if scene.remembers else ""
    with ExitStack() as stack:
        players = []
        for number, root in enumerate(roots):
            app = f"{key}-{number}" if scene.own_keys else key
            arguments = ["play", str(root), scene.limits, app, memory, str(seconds)]
            players.append(stack.enter_context(working(arguments, PIPE)))
        for player in players:
            assert player.stdout is not None
            if not player.stdout.readline():
                raise RuntimeError("A process did not begin")
        start = time.monotonic_ns() + 20_000_000
        for player in players:
            assert player.stdin is not None
            player.stdin.write(f"{start}\n")
            player.stdin.flush()
        results = [json.loads(player.communicate()[0]) for player in players]
    began, end = min(each["first"] for each in results), max(each["last"] for each in results)
    (limit,) = parse(scene.limits)
    allowed = limit.quota * (1 + (end - began) // limit.window)
    beyond = sum(each["admitted"] for each in results) - allowed * (len(roots) if scene.own_keys else 1)
    hits = sum(each["hits"] for each in results)
    took = end - began
    return Outcome(
        hits=hits,
        rate=1e6 * hits / took,
        beyond=max(0, beyond),
        cpu=sum(each["cpu"] for each in results) / hits,
        wait=took * len(roots) / hits,
    )


def measure(rounds: int) -> Axis:
    """Measure so many processes at once."""
    axis = Axis("processes", "Processes that hit at once, on one machine", "processes")
    outcomes: dict[tuple[str, int], list[Outcome]] = {}
    bare: list[float] = []
    with temporary(MEMORY) as root:
        calls = cpu_batch(Bare(root, NAMES).listdir_rename)
        for number in range(rounds):
            bare.append(median(calls() for _ in range(5)))
            for scene in SCENES:
                for size in PROCESSES:
                    progress(f"processes: round {number + 1} of {rounds}: {size}, {scene.name}")
                    outcome = flood(scene, [root] * size, SECONDS)
                    outcomes.setdefault((scene.name, size), []).append(outcome)
    progress("")
    add(axis, outcomes, bare, lambda outcome: outcome.cpu)
    return axis


def add(
    axis: Axis,
    outcomes: dict[tuple[str, int], list[Outcome]],
    bare: list[float],
    time_of: Callable[[Outcome], float],
) -> None:
    """Add a point for each list of outcomes, and how many hits in all were admitted beyond the limit."""
    for (name, size), played in outcomes.items():
        axis.add(name, size, Point(list(map(time_of, played)), bare, [it.rate for it in played]))
    every = [outcome for played in outcomes.values() for outcome in played]
    hits = sum(outcome.hits for outcome in every)
    axis.further.append(Row(BEYOND, sum(outcome.beyond for outcome in every), f"of {hits:,} hits"))
