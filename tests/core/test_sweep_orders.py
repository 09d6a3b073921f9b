"""Concurrent sweeps and hits, in every order of their calls; also after one of them died."""

from __future__ import annotations

import os
import posix
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from limiter.core.limit import is_name, make, number_of, time_of
from limiter.core.store import Store
from tests.turns import Scene

SWITCHES = 3
"""How often an action that could go on must wait.  Races need few (CHESS, Musuvathi et al. 2008)."""


Leave = Callable[[str], None]


def _leave_one_aside(store: str) -> None:
    """Leave the store as a sweeper that was stopped, seized one more slot, and died."""
    (directory,) = Path(store).glob("acme/*")
    name = min(os.listdir(directory))
    os.rename(directory / name, directory / f".slot-dead-{name}")


@pytest.mark.parametrize(
    ("limits", "leave"),
    [
        *((limits, None) for limits in ("1/minute", "2/minute", "2/minute fixed", "2/minute burst 2")),
        *((limits, _leave_one_aside) for limits in ("1/minute", "2/minute", "2/minute fixed")),
    ],
)
def test_every_order_of_a_hit_and_a_sweep(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str, leave: Leave | None
) -> None:
    """In every order, the hit is admitted and counted, and no slot is lost.

    What a dead sweeper left is given back.  What the live one seizes meanwhile is not.
    """
    scene = Scene(root, monkeypatch, limits, [1], 1, leave)
    scene.play_every_order(SWITCHES)
    assert scene.orders > 100
    assert scene.ends == {"+", "-"}


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("limits", "costs", "sweepers"),
    [
        ("1/minute", [1, 1], 1),
        ("2/minute", [1, 1, 1], 1),
        ("3/minute", [1, 1, 1, 1], 1),
        ("3/minute", [2, 2], 1),
        ("1/minute;2/hour", [1, 1], 1),
        ("2/minute fixed", [1, 1, 1], 1),
        ("1/minute", [1, 1], 2),
        ("2/minute", [1, 1, 1], 2),
        ("2/minute", [2], 1),
        ("2/minute", [1, 1], 3),
        ("2/minute fixed;1/minute burst 2", [1, 1], 2),
    ],
)
def test_many_orders_of_several_hits_and_sweeps(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str, costs: list[int], sweepers: int
) -> None:
    scene = Scene(root, monkeypatch, limits, costs, sweepers)
    scene.play_many_orders(500)
    assert len(scene.ends) > 1


# If a machine dies within a step, a replicated file system does the step in part.  After healing,
# it shows the state before and the state after: of a rename both names, which are one file, and
# removed files again.
STEPS = {
    "mark": "A B .sweep-dead",
    "seize": "A=.slot-dead-A B .sweep-dead",
    "seize the last": ".slot-dead-A B=.slot-dead-B .sweep-dead",
    "commit": ".slot-dead-A .slot-dead-B .sweep-dead=.gone-dead",
    "remove": ".slot-dead-A .slot-dead-B .gone-dead",
    "remove the last": ".slot-dead-B .gone-dead",
    "unmark": ".gone-dead",
    "remove the directory": "",
    "end": ".slot-dead-A B .sweep-dead=.back-dead",
    "give back": ".slot-dead-A=A+ .slot-dead-B .back-dead",
    "give back the last": "A+ .slot-dead-B=B+ .back-dead",
    "unmark what was given back": "A+ B+ .back-dead",
    "take": "A=A+ B",
    "take one that was given back": "A=A+ A++ B",
}


def _leave_half_done(step: str, store: str) -> None:
    """Make the directory of a limit of two look as it does after that step."""
    (directory,) = Path(store).glob("acme/*")
    slots = dict(zip("AB", sorted(os.listdir(directory))))
    for slot, name in list(slots.items()):
        (directory / name).unlink()
        for later in (1, 2):
            slots[slot + "+" * later] = make(time_of(name) + later, False, number_of(name))
    for file in STEPS[step].split():
        first, *others = [kind + slots.get(slot, slot) for kind, slot in map(_split, file.split("="))]
        (directory / first).touch()
        for other in others:
            os.link(directory / first, directory / other)


def _split(name: str) -> tuple[str, str]:
    kind, dash, slot = name.rpartition("-")
    return kind + dash, slot


@pytest.mark.one_python
@pytest.mark.parametrize("step", STEPS)
def test_every_order_of_a_hit_and_a_sweep_after_a_machine_died(
    root: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The machine dies within each step: of a sweep, of its end, of a hit."""
    scene = Scene(root, monkeypatch, "2/minute", [1], 1, partial(_leave_half_done, step))
    scene.play_every_order(SWITCHES)
    assert scene.orders > 100


@pytest.mark.one_python
@pytest.mark.parametrize("step", STEPS)
def test_many_orders_of_hits_and_sweeps_after_a_machine_died(
    root: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """No two hits find the same slot twice."""
    scene = Scene(root, monkeypatch, "2/minute", [1, 1, 1], 1, partial(_leave_half_done, step))
    scene.play_many_orders(200)


# Each check is seen to fail.


def _remove_nothing(
    store: Store, directory: str, names: list[str], size: int, since: int
) -> list[str] | None:
    """Break S1: claim the newest name while another hit may still claim an older one."""
    return sorted({number_of(name): name for name in names if is_name(name)}.values())


def test_two_names_of_a_slot_that_can_both_be_claimed_are_seen(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter.core.repair.one_each", _remove_nothing)
    with pytest.raises(AssertionError):
        test_many_orders_of_hits_and_sweeps_after_a_machine_died(root, monkeypatch, "give back")


def _remove_at_once(store: Store, directory: str, names: list[str]) -> bool:
    """Break S1: rename the directory away at once, trusting the listing."""
    away = f"{store.root}/.new-sweep-{posix.urandom(8).hex()}"
    posix.rename(f"{store.root}/{directory}", away)
    shutil.rmtree(away)
    return True


@pytest.mark.parametrize(
    ("sabotaged", "instead", "leave"),
    [
        ("sweep._seize", _remove_at_once, None),
        # A hit takes every seized slot for a lost one.
        ("repair._is_known", lambda *_: False, _leave_one_aside),
        # Nothing is given back.
        ("repair._marked", lambda *_: [], None),
    ],
)
def test_a_broken_sweep_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch, sabotaged: str, instead: object, leave: Leave | None
) -> None:
    monkeypatch.setattr(f"limiter.core.{sabotaged}", instead)
    with pytest.raises(AssertionError):
        test_every_order_of_a_hit_and_a_sweep(root, monkeypatch, "2/minute", leave)
