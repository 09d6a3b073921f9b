"""Concurrent hits and sweeps whose calls run in a chosen order: each of them is a greenlet."""

from __future__ import annotations

import os
import posix
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
from greenlet import getcurrent, greenlet

from limiter.core.hit import hit
from limiter.core.limit import Sliding, is_name, number_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store
from limiter.core.sweep import sweep_store
from tests.limiting import LATER, SECOND, admitted, before_each, hit_at, used

Choose = Callable[[int, int], int]
"""Choose who goes on: ``choose(turn, choices)``.  0 is the action that had the last turn, if it can."""

CALLS = ("link", "listdir", "mkdir", "open", "rename", "rmdir", "unlink")
AFTER = LATER + SECOND
"""When the actions are over.  The windows of a scene are longer, so all its hits still count."""


def _wait(name: str, path: str, *_: object) -> None:
    """Before a call: stop until it is this action's turn.  Outside ``_play``, do nothing."""
    player = getcurrent().parent
    # No other action sees what is in a directory that is being furnished.
    if player is not None and (name == "rename" or "/.new-" not in path):
        player.switch()


def _play(actions: Sequence[Callable[[], object]], choose: Choose) -> tuple[list[object], list[int]]:
    """Return the results or exceptions of the actions, and how many choices there were at each turn."""
    answers: list[object] = [None] * len(actions)

    def act(number: int) -> None:
        try:
            answers[number] = actions[number]()
        except Exception as error:
            answers[number] = error

    players = [greenlet(act) for _ in actions]
    for number, player in enumerate(players):
        player.switch(number)
    choices: list[int] = []
    last = -1
    while ready := [number for number, player in enumerate(players) if not player.dead]:
        if last in ready:
            ready.remove(last)
            ready.insert(0, last)
        last = ready[choose(len(choices), len(ready))]
        choices.append(len(ready))
        players[last].switch()
    return answers, choices


def _follow(order: list[int], turn: int, _: int) -> int:
    return order[turn] if turn < len(order) else 0


def _may_change(order: list[int], choices: list[int], switches: float) -> bool:
    """Whether there is another choice at the last turn of this order, with at most so many switches."""
    is_another = order[-1] + 1 < choices[len(order) - 1]
    return is_another and (order[-1] > 0 or sum(map(bool, order)) < switches)


def _go_on_or_change(generator: random.Random, goes_on: float, _: int, ready: int) -> int:
    return 0 if generator.random() < goes_on else generator.randrange(ready)


@dataclass
class Scene:
    """One application that is hit and swept concurrently, once for each order.

    It was hit two days ago, so its directories are idle.  ``leave`` then changes the store.  After that,
    each limit counts ``before`` hits.  ``orders``, ``allowed`` and ``ends`` are how many orders were
    played, and what the hits and the sweepers answered (``+``: something was removed).
    """

    root: str
    monkeypatch: pytest.MonkeyPatch
    limits: str
    costs: Sequence[int]
    sweepers: int = 0
    leave: Callable[[str], object] | None = None
    before: int = 0
    orders: int = 0
    allowed: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._store = f"{self.root}/store"
        self._now = LATER
        self._random = random.Random(0)
        self.monkeypatch.setattr(posix, "urandom", self._random.randbytes)
        for name in CALLS:
            before_each(self.monkeypatch, name, partial(_wait, name))

    def play_every_order(self, switches: float = float("inf")) -> None:
        """Play all orders in which at most so many actions must wait although they could go on."""
        order: list[int] = []
        while True:
            choices = self._play(partial(_follow, order))
            order = order + [0] * (len(choices) - len(order))
            while order and not _may_change(order, choices, switches):
                order.pop()
            if not order:
                return
            order[-1] += 1

    def play_many_orders(self, count: int) -> None:
        """Play this many random orders, the same ones in each run.

        Each action runs for a while before the next one has its turn: that is how races are lost.
        """
        for seed in range(count):
            generator = random.Random(seed)
            self._play(partial(_go_on_or_change, generator, generator.random()))

    def _play(self, choose: Choose) -> list[int]:
        """Play and check one order; return the choices that there were."""
        self.orders += 1
        # "Unique" names are the same each time an order is played.
        self._random.seed(0)
        self._now = LATER
        os.mkdir(self._store)
        hit_at(self._store, self.limits)
        if self.leave:
            self.leave(self._store)
        hit_at(self._store, self.limits, count=self.before, now=LATER)
        hits = [partial(self._hit, cost) for cost in self.costs]
        answers, choices = _play([*hits, *[self._sweep] * self.sweepers], choose)
        self._check(answers)
        shutil.rmtree(self._store)
        return choices

    def _clock(self) -> int:
        """Go on a little at each look, so that no two stamps are the same."""
        self._now += 10
        return self._now

    def _hit(self, cost: int) -> bool:
        return bool(hit(Store(self._store), parse(self.limits), "acme", cost, self._clock)[0])

    def _sweep(self) -> int:
        return sweep_store(Store(self._store), clock=self._clock).removed

    def _check(self, answers: list[object]) -> None:
        assert not [answer for answer in answers if isinstance(answer, Exception)], answers
        ends = "".join("-+"[bool(answer)] for answer in answers)
        self.allowed.add(ends[: len(self.costs)])
        self.ends.add(ends[len(self.costs) :])
        limits = parse(self.limits)
        costs = [cost for cost, answer in zip(self.costs, answers) if answer]
        counted = self.before + sum(costs)
        left = min(limit.quota for limit in limits) - counted
        assert left >= 0
        if len(set(self.costs)) == 1 and len(limits) == 1:
            assert len(costs) == len(self.costs) or left < self.costs[0]
        if self.leave is None:
            assert {*used(self._store, self.limits, AFTER)} == {counted}
        after = Limiter(self._store, self.limits, clock=lambda: AFTER)
        assert admitted(after, left + 1) == left, "each hit is counted, and no slot is lost or new"
        for limit in limits:
            for segment in range(limit.segments):
                names = os.listdir(f"{self._store}/acme@{limit.directory(segment)}")
                if isinstance(limit, Sliding):
                    there = set(map(number_of, filter(is_name, names)))
                    assert there == {*limit.numbers(segment)}
                if self.leave is None:
                    assert limit.is_whole(names, segment), "under one name each"
