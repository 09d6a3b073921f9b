"""Growth with the nodes of a cluster, 1 to 3, that hit one store on GlusterFS at once.

The laboratory of the tests makes the cluster: three machines of namespaces, on the cores of this one, with
the store in three copies.  So more nodes have no more processors here.  Needs root, and the packages
glusterfs-server and glusterfs-client.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.growth_processes import SCENES, Outcome, add, flood
from benchmarks.growth_series import NAMES, Axis
from benchmarks.in_process import Bare, batch
from benchmarks.report import progress

PROCESSES = 4
"""On each node."""

SECONDS = 2.0


def measure(rounds: int) -> Axis:
    """Make the cluster and measure in it; the reason is in ``left_out`` where it cannot be made."""
    try:
        # pytest is needed only here: the laboratory skips where a cluster cannot be made.
        from _pytest.outcomes import Skipped

        from tests.laboratories.cluster.laboratory import STORE, Cluster
        from tests.laboratories.machines import running
    except ImportError as error:
        return _axis(f"nodes: {error}")
    progress("nodes: making a cluster of three machines")
    try:
        with running(partial(Cluster, "3")) as cluster:
            return play(rounds, [machine.path(STORE) for machine in cluster.machines])
    except Skipped as why:
        return _axis(f"nodes: {why}")


def play(rounds: int, stores: list[Path]) -> Axis:
    """Measure with one store, as each node sees it."""
    axis = _axis()
    outcomes: dict[tuple[str, int], list[Outcome]] = {}
    bare: list[float] = []
    calls = batch(Bare(stores[0], NAMES).listdir_rename)
    for number in range(rounds):
        bare.append(median(calls() for _ in range(3)))
        for scene in [it for it in SCENES if not it.remembers]:
            for nodes in range(1, len(stores) + 1):
                progress(f"nodes: round {number + 1} of {rounds}: {nodes}, {scene.name}")
                played = flood(scene, PROCESSES * stores[:nodes], SECONDS)
                outcomes.setdefault((scene.name, nodes), []).append(played)
    progress("")
    add(axis, outcomes, bare, lambda outcome: outcome.wait)
    return axis


def _axis(*left_out: str) -> Axis:
    title = f"Nodes that hit one store on GlusterFS, {PROCESSES} processes on each"
    return Axis("nodes", title, "nodes", "wait for a hit", is_log=False, left_out=list(left_out))
