"""Concurrent sweeps and hits, in every order of their calls; also after one of them died."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from limiter.core.limit import Sliding, make, number_of, time_of
from tests.core.broken_sweep import claim_any, clear_all, remove_at_once
from tests.limiting import hit_at
from tests.turns import Scene

SWITCHES = 3
"""How often an action that could go on must wait.  Races need few (CHESS, Musuvathi et al. 2008)."""


Leave = Callable[[str], None]


@pytest.mark.parametrize("limits", ["1/minute", "2/minute", "2/minute fixed", "2/minute burst 2"])
def test_every_order_of_a_hit_and_a_sweep(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str
) -> None:
    """In every order, the hit is admitted and counted, and no slot is lost."""
    scene = Scene(root, monkeypatch, limits, [1], 1)
    scene.play_every_order()
    assert scene.orders > 100
    assert scene.ends == {"+", "-"}


@pytest.mark.one_python
@pytest.mark.one_python
@pytest.mark.parametrize(
    ("limits", "costs"),
    [
        *((limits, [1, 1]) for limits in ("1/minute", "2/minute", "2/minute fixed", "2/minute burst 2")),
        ("3/minute", [2, 2]),
        ("3/minute", [2, 1]),
        ("1/minute;2/hour", [1, 1]),
        ("2/minute;2/hour", [1, 1]),
    ],
)
def test_every_order_of_two_hits_and_a_sweep(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str, costs: list[int]
) -> None:
    scene = Scene(root, monkeypatch, limits, costs, 1)
    scene.play_every_order(SWITCHES)
    assert scene.orders > 200
    assert scene.ends == {"+", "-"}


@pytest.mark.one_python
def test_every_order_of_two_hits_and_a_sweep_of_the_last_segment(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first segment is full, the second is idle and has room for one."""
    leave = partial(hit_at, limits="17/minute", count=16)
    scene = Scene(root, monkeypatch, "17/minute", [1, 1], 1, leave, before=16)
    scene.play_every_order(SWITCHES)
    assert scene.allowed == {"+-", "-+"}
    assert scene.ends == {"+", "-"}


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("limits", "costs", "sweepers"),
    [
        ("2/minute", [1, 1, 1], 1),
        ("3/minute", [1, 1, 1, 1], 1),
        ("4/minute", [2, 1, 1], 2),
        ("2/minute fixed", [1, 1, 1], 1),
        ("1/minute", [1, 1], 2),
        ("2/minute", [1, 1, 1], 2),
        ("2/minute", [2], 1),
        ("2/minute", [1, 1], 3),
        ("2/minute;2/hour", [1, 1], 1),
        ("3/minute;3/hour", [1, 1, 1], 2),
        ("2/minute fixed;1/minute burst 2", [1, 1], 2),
    ],
)
def test_many_orders_of_several_hits_and_sweeps(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str, costs: list[int], sweepers: int
) -> None:
    """A hit that gives back a claim leaves a directory that is free, but not idle."""
    scene = Scene(root, monkeypatch, limits, costs, sweepers)
    scene.play_many_orders(500)
    assert len(scene.ends) > 1


# If a machine dies within a step, a replicated file system does the step in part.  After healing, it
# shows the state before and the state after: of a rename both names, which are one file.
STEPS = {
    "mark": "A=.gone-A B C",
    "marked": ".gone-A B C",
    "remove": ".gone-A C",
    "remove the last": ".gone-A",
    "unmark": "",
    "take the mark back": ".gone-A=A+ B C",
    "take": "A=A+ B C",
    "take another": "A B C=C+",
    "take one twice": "A=A+ A++ B C",
    "take one that is marked": "A=.gone-A A+ B C",
}


def _lay_out(step: str, store: str) -> None:
    """Make the directory of a limit of two or three look as it does after that step."""
    (directory,) = Path(store).iterdir()
    slots = dict(zip("ABC", sorted(os.listdir(directory), key=number_of)))
    for slot, name in list(slots.items()):
        (directory / name).unlink()
        for later in (1, 2):
            slots[slot + "+" * later] = make(time_of(name) + later, False, number_of(name))
    for file in step.split():
        first, *others = [_name(text, slots) for text in file.split("=")]
        (directory / first).touch()
        for other in others:
            os.link(directory / first, directory / other)


def _name(text: str, slots: dict[str, str]) -> str:
    kind, _, slot = text.rpartition("-")
    return f"{kind}-{slots[slot]}" if kind else slots[slot]


@pytest.mark.one_python
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_every_order_of_a_hit_and_a_sweep_after_a_machine_died(
    root: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The machine dies within each step: of a sweep, of its end, of a hit."""
    scene = Scene(root, monkeypatch, "3/minute", [1], 1, partial(_lay_out, step))
    scene.play_every_order(SWITCHES)
    assert scene.orders > 10


@pytest.mark.one_python
def test_every_order_of_a_hit_and_two_sweeps_that_find_a_void_mark(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the one removes as void is never the mark that the other has just made."""
    scene = Scene(root, monkeypatch, "2/minute", [1], 2, partial(_lay_out, "A=.gone-A B"))
    scene.play_every_order(5)
    assert scene.orders > 1000


@pytest.mark.one_python
@pytest.mark.parametrize("sweepers", [1, 2])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_many_orders_of_hits_and_sweeps_after_a_machine_died(
    root: str, monkeypatch: pytest.MonkeyPatch, step: str, sweepers: int
) -> None:
    """No two hits find the same slot twice."""
    scene = Scene(root, monkeypatch, "3/minute", [1, 1, 1], sweepers, partial(_lay_out, step))
    scene.play_many_orders(200)


# Each check is seen to fail.


@pytest.mark.parametrize(
    ("sabotaged", "instead"),
    [
        ("decision.View.add", claim_any),
        ("sweep.clear", clear_all),
        ("sweep._remove", remove_at_once),
    ],
)
def test_a_broken_sweep_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch, sabotaged: str, instead: object
) -> None:
    monkeypatch.setattr(f"limiter.core.{sabotaged}", instead)
    with pytest.raises(AssertionError):
        test_every_order_of_two_hits_and_a_sweep(root, monkeypatch, "2/minute", [1, 1])


@pytest.mark.parametrize("later", [0, 1], ids=["old-name", "idle-name"])
def test_a_claim_that_is_given_back_to_a_sweeper_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """Break L1: after giving back, the directory is idle, although other hits saw it taken."""
    back = lambda self, name, *_: make(time_of(name) + later, False, number_of(name))  # noqa: E731
    for method in ("released", "forgotten"):
        monkeypatch.setattr(Sliding, method, back)
    with pytest.raises(AssertionError):
        test_many_orders_of_several_hits_and_sweeps(root, monkeypatch, "2/minute;2/hour", [1, 1], 1)


def test_two_names_of_a_slot_that_can_both_be_claimed_are_seen(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "limiter.core.repair.one_each", lambda store, directory, limit, slots, now: slots
    )
    with pytest.raises(AssertionError):
        test_many_orders_of_hits_and_sweeps_after_a_machine_died(root, monkeypatch, STEPS["take"], 1)


@pytest.mark.one_python
def test_a_mark_that_is_removed_by_its_name_alone_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break L1: the lowest slot keeps the name of the void mark, so a new mark has it, too."""
    monkeypatch.setattr("limiter.core.repair._freed", lambda limit, name, now: name)
    with pytest.raises(AssertionError):
        test_every_order_of_a_hit_and_two_sweeps_that_find_a_void_mark(root, monkeypatch)
