"""Concurrent sweeps and hits, in every order of their calls; also after one of them died."""

from __future__ import annotations

import itertools
import os
import posix
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

import limiter.core.repair
import limiter.core.sweep
from limiter.core.hit import hit
from limiter.core.limit import Sliding, is_name, make, number_of, time_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store
from limiter.core.sweep import DAY, sweep_app
from tests.sweeping import LATER, hit_at
from tests.turns import play, wait

SWITCHES = 3
"""How often an action that could go on must wait.  Races need few (CHESS, Musuvathi et al. 2008)."""


class Ordered:
    """Plays actions whose calls on the file system run in a chosen order."""

    _CALLS = ("listdir", "rename", "rmdir", "mkdir", "open", "unlink")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._random = random.Random(0)
        self._rename: Callable[..., object] = posix.rename
        for name in self._CALLS:
            monkeypatch.setattr(posix, name, self._in_turn(getattr(posix, name)))
        monkeypatch.setattr(posix, "urandom", self._urandom)

    def _urandom(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def _in_turn(self, call: Callable[..., object]) -> Callable[..., object]:
        rename = self._rename

        def instead(path: str, *more: str) -> object:
            # No other action sees these directories.
            if call is rename or "/.new-" not in path:
                wait()
            return call(path, *more)

        return instead

    def play(
        self, actions: Sequence[Callable[[], object]], choose: Callable[[int, int], int]
    ) -> tuple[list[object], list[int]]:
        """Play as tests.turns does.  "Unique" names are the same each time an order is played."""
        self._random = random.Random(0)
        return play(actions, choose)


def _as_told(order: list[int], turn: int, _: int) -> int:
    return order[turn] if turn < len(order) else 0


def _every(choices_of: Callable[[Callable[[int, int], int]], list[int]]) -> int:
    """Play all orders with at most SWITCHES switches; return how many.

    ``choices_of`` plays one order and returns the choices that there were.
    """
    order: list[int] = []
    for number in itertools.count(1):
        choices = choices_of(partial(_as_told, order))
        order = order + [0] * (len(choices) - len(order))
        while order and (order[-1] + 1 == choices[len(order) - 1] or not _may_switch(order)):
            order.pop()
        if not order:
            return number
        order[-1] += 1
    raise AssertionError


def _may_switch(order: list[int]) -> bool:
    """Whether the last turn of an order may change to another action, or has changed already."""
    return order[-1] > 0 or sum(map(bool, order)) < SWITCHES


def _any(choices_of: Callable[[Callable[[int, int], int]], list[int]], orders: int) -> None:
    """Play this many random orders, the same ones in each run."""
    for seed in range(orders):
        choices_of(_Whim(seed).choose)


class _Whim:
    """Each action runs for a while before the next one has its turn: that is how races are lost."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._goes_on = self._random.random()

    def choose(self, _: int, ready: int) -> int:
        return 0 if self._random.random() < self._goes_on else self._random.randrange(ready)


def _leave_as_it_is(store: str) -> None:
    """Nobody has died."""


class Scene:
    """One application, idle for two days, that is hit and swept concurrently, once for each order.

    ``leave`` changes the store before that.
    """

    def __init__(
        self,
        root: str,
        ordered: Ordered,
        limits: str,
        costs: Sequence[int],
        sweepers: int,
        leave: Callable[[str], None] = _leave_as_it_is,
    ) -> None:
        self._root = root
        self._leave = leave
        self._ordered = ordered
        self._limits = limits
        self._costs = costs
        self._sweepers = sweepers
        self.ends: set[str] = set()

    def play(self, choose: Callable[[int, int], int]) -> list[int]:
        """Play and check one order; return the choices that there were."""
        store = f"{self._root}/store"
        os.mkdir(store)
        hit_at(store, self._limits)
        self._leave(store)
        # Clocks that differ by a microsecond make the hits' stamps different.
        hits = [partial(self._hit, store, cost, LATER + me) for me, cost in enumerate(self._costs)]
        sweeping = partial(sweep_app, Store(store), "acme", DAY, lambda: LATER)
        answers, choices = self._ordered.play([*hits, *[sweeping] * self._sweepers], choose)
        self._judge(store, answers)
        shutil.rmtree(store)
        return choices

    def _hit(self, store: str, cost: int, now: int) -> bool:
        return bool(hit(Store(store), parse(self._limits), "acme", cost, lambda: now)[0])

    def _judge(self, store: str, answers: list[object]) -> None:
        assert not [answer for answer in answers if isinstance(answer, Exception)], answers
        admitted = [cost for cost, answer in zip(self._costs, answers) if answer]
        quotas = [limit.quota for limit in parse(self._limits)]
        assert sum(admitted) <= min(quotas)
        if len(set(self._costs)) == 1 and ";" not in self._limits:
            assert len(admitted) == min(len(self._costs), min(quotas) // self._costs[0])
        after = Limiter(store, self._limits, clock=lambda: LATER + 9)
        more = 0
        while after.hit("acme"):
            more += 1
        assert more == min(quotas) - sum(admitted), "each hit is counted, and no slot is lost or new"
        for limit in parse(self._limits):
            names = os.listdir(f"{store}/acme/{limit.name}")
            if isinstance(limit, Sliding):
                assert sorted(set(map(number_of, names))) == list(range(limit.quota))
            if self._leave is _leave_as_it_is:
                assert len(names) == limit.size(0), "under one name each"
        self.ends.add("".join("-+"[bool(answer)] for answer in answers[len(self._costs) :]))


@pytest.mark.parametrize(
    ("limits", "cost"),
    [("1/minute", 1), ("2/minute", 1), ("2/minute fixed", 1), ("2/minute burst 2", 1)],
)
def test_every_order_of_a_hit_and_a_sweep(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str, cost: int
) -> None:
    """In every order, the hit is admitted and counted, and no slot is lost."""
    scene = Scene(root, Ordered(monkeypatch), limits, [cost], 1)
    assert _every(scene.play) > 100
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
    """The same holds with several hits, and with several sweepers at once."""
    scene = Scene(root, Ordered(monkeypatch), limits, costs, sweepers)
    _any(scene.play, 500)
    assert len(scene.ends) > 1


def _leave_one_aside(store: str) -> None:
    """Leave the store as a sweeper that was stopped, seized one more slot, and died."""
    (directory,) = Path(store).glob("acme/*")
    name = min(os.listdir(directory))
    os.rename(directory / name, directory / f".slot-dead-{name}")


@pytest.mark.parametrize("limits", ["1/minute", "2/minute", "2/minute fixed"])
def test_every_order_of_a_hit_and_a_sweep_after_a_sweeper_died(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str
) -> None:
    """What the dead sweeper left is given back.  What the live one seizes meanwhile is not."""
    scene = Scene(root, Ordered(monkeypatch), limits, [1], 1, _leave_one_aside)
    assert _every(scene.play) > 100
    assert scene.ends == {"+", "-"}


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
    scene = Scene(root, Ordered(monkeypatch), "2/minute", [1], 1, partial(_leave_half_done, step))
    assert _every(scene.play) > 100


@pytest.mark.one_python
@pytest.mark.parametrize("step", STEPS)
def test_many_orders_of_hits_and_sweeps_after_a_machine_died(
    root: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """No two hits find the same slot twice."""
    scene = Scene(root, Ordered(monkeypatch), "2/minute", [1, 1, 1], 1, partial(_leave_half_done, step))
    _any(scene.play, 200)


def _remove_nothing(
    store: Store, directory: str, names: list[str], size: int, since: int
) -> list[str] | None:
    """Break S1: claim the newest name while another hit may still claim an older one."""
    return sorted({number_of(name): name for name in names if is_name(name)}.values())


def test_two_names_of_a_slot_that_can_both_be_claimed_are_seen(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter.core.repair, "one_each", _remove_nothing)
    with pytest.raises(AssertionError):
        test_many_orders_of_hits_and_sweeps_after_a_machine_died(root, monkeypatch, "give back")


def test_a_hit_that_takes_every_seized_slot_for_a_lost_one_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter.core.repair, "_is_known", lambda *_: False)
    with pytest.raises(AssertionError):
        test_every_order_of_a_hit_and_a_sweep_after_a_sweeper_died(root, monkeypatch, "2/minute")


def _remove_at_once(store: Store, directory: str, names: list[str]) -> bool:
    """Break S1: rename the directory away at once, trusting the listing."""
    away = f"{store.root}/.new-sweep-{posix.urandom(8).hex()}"
    posix.rename(f"{store.root}/{directory}", away)
    shutil.rmtree(away)
    return True


def _keep_what_was_seized(store: Store, directory: str) -> None:
    """Break L1: do not give back what was taken before a race was lost."""


def test_a_sweeper_that_does_not_seize_is_seen(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter.core.sweep, "_seize", _remove_at_once)
    with pytest.raises(AssertionError):
        test_every_order_of_a_hit_and_a_sweep(root, monkeypatch, "2/minute", 1)


def test_a_sweeper_that_does_not_give_back_is_seen(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (limiter.core.repair, limiter.core.sweep):
        monkeypatch.setattr(module, "give_back", _keep_what_was_seized)
    with pytest.raises(AssertionError):
        test_every_order_of_a_hit_and_a_sweep(root, monkeypatch, "2/minute", 1)
