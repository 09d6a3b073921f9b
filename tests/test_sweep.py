"""Sweeping while hits go on: every order of their calls, death at every call, and the laws all the while."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import posix
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest

import limiter.furnish
import limiter.sweep
import tests.history
from limiter.burst import Burst
from limiter.hit import clock, hit
from limiter.limit import Limit, Sliding, is_name, make, number_of, time_of
from limiter.limiter import Limiter
from limiter.notation import parse
from limiter.store import Store, StoreError
from limiter.sweep import DAY, give_back, sweep, sweep_app, sweep_store
from tests.faults import kill, play
from tests.history import History, Recorder, judge_l1, judge_s1, only
from tests.places import REPOSITORY
from tests.test_hit import Turns

SECOND = 1_000_000
NOW = 1_513_123_456_123_456
ALL_KINDS = "3/second;70/minute;2/hour fixed;5/minute burst 6"
UNITS = REPOSITORY / "deploy/systemd"


def days_later(days: float) -> Callable[[], int]:
    return lambda: NOW + int(days * DAY) * SECOND


def hit_at(root: str, limits: str, app: str = "acme", count: int = 1, now: int = NOW) -> None:
    limiter = Limiter(root, limits, clock=lambda: now)
    for _ in range(count):
        assert limiter.hit(app)


def entries(root: str) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*"))


# What goes, and what stays


@pytest.mark.parametrize("limits", [*ALL_KINDS.split(";"), ALL_KINDS])
def test_an_application_goes_a_day_after_its_last_hit_and_not_before(any_root: str, limits: str) -> None:
    hit_at(any_root, limits)
    before = entries(any_root)
    last = NOW + 60 * SECOND  # the arrival time of a bucket lies ahead
    assert sweep_store(Store(any_root), DAY, lambda: NOW + int(DAY) * SECOND - 1).removed == 0
    assert entries(any_root) == before
    swept = sweep_store(Store(any_root), DAY, lambda: last + int(DAY) * SECOND)
    assert (swept.applications, swept.removed, swept.leftovers) == (1, 1, 0)
    assert entries(any_root) == []


@pytest.mark.parametrize("limits", ["1/minute", "70/minute", "2/hour fixed", "5/minute burst 6"])
def test_an_application_with_a_slot_under_two_names_goes(root: str, limits: str) -> None:
    hit_at(root, limits)
    directory = Path(root, "acme", only(limits).directory(0))
    name = max(os.listdir(directory))
    (directory / f"1500000000.000000{name[17:]}").touch()
    assert not sweep_app(Store(root), "acme", DAY, days_later(0.9))
    assert sweep_app(Store(root), "acme", DAY, days_later(1.1))
    assert entries(root) == []


@pytest.mark.parametrize("limits", ["1/minute", "2/minute", "64/minute", "65/minute", "300/minute"])
def test_every_segment_goes(root: str, limits: str) -> None:
    hit_at(root, limits, count=only(limits).quota)
    assert len(os.listdir(f"{root}/acme")) == only(limits).segments
    assert sweep_app(Store(root), "acme", DAY, days_later(1.1))
    assert entries(root) == []


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_an_application_that_has_lost_a_slot_goes(root: str, slot: int) -> None:
    """A machine died while it removed them, and what it had left came back."""
    hit_at(root, "3/minute", count=3)
    (name,) = Path(root, "acme/3-per-60s").glob(f"*-{slot}")
    name.unlink()
    assert not sweep_app(Store(root), "acme", DAY, days_later(0.9))
    assert sweep_app(Store(root), "acme", DAY, days_later(1.1))
    assert entries(root) == []


@pytest.mark.parametrize(
    ("number", "removed"),
    [(errno.EAGAIN, 0), (errno.ENODATA, 1), (errno.EOPNOTSUPP, 1), (errno.EPERM, 1)],
)
def test_nothing_goes_while_a_copy_is_away(
    root: str, monkeypatch: pytest.MonkeyPatch, number: int, removed: int
) -> None:
    """As GlusterFS says it; whatever else a file system says of its attribute concerns nobody."""
    hit_at(root, "3/minute")
    before = entries(root)

    def getxattr(path: str, name: str) -> bytes:
        assert (path, name) == (root, "replica.split-brain-status")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(posix, "getxattr", getxattr)
    if removed:
        assert sweep_store(Store(root), DAY, days_later(2)).removed == removed
    else:
        with pytest.raises(StoreError, match="A copy of the store is away") as error:
            sweep_store(Store(root), DAY, days_later(2))
        assert (error.value.errno, error.value.path) == (number, root)
        assert entries(root) == before


@pytest.mark.parametrize("limits", ["3/7 days", "3/7 days fixed", "3/7 days burst 3"])
def test_a_window_longer_than_a_day_counts(root: str, limits: str) -> None:
    hit_at(root, limits)
    assert not sweep_app(Store(root), "acme", DAY, days_later(6.9))
    assert sweep_app(Store(root), "acme", DAY, days_later(9.5))


def test_one_limit_in_use_keeps_them_all(root: str) -> None:
    hit_at(root, "3/second;3/hour")
    hit_at(root, "3/hour", now=NOW + int(DAY) * SECOND)
    before = entries(root)
    assert not sweep_app(Store(root), "acme", DAY, days_later(1.5))
    assert entries(root) == before


def test_one_segment_in_use_keeps_them_all(root: str) -> None:
    hit_at(root, "70/minute", count=64)
    hit_at(root, "70/minute", count=1)
    busy = f"{root}/acme/70-per-60s.1"
    assert Store(root).rename("acme/70-per-60s.1", sorted(os.listdir(busy))[-1], "1513209856.123456-69")
    assert not sweep_app(Store(root), "acme", DAY, days_later(1.5))
    assert len(entries(root)) == 3 + 70


def test_others_stay(root: str) -> None:
    hit_at(root, "3/second", "old")
    hit_at(root, "3/second", "new", now=NOW + int(DAY) * SECOND)
    swept = sweep_store(Store(root), DAY, days_later(1.5))
    assert (swept.applications, swept.removed) == (2, 1)
    assert os.listdir(root) == ["new"]


def test_an_application_that_was_forgotten_or_never_hit_goes(root: str) -> None:
    hit_at(root, "3/second")
    Limiter(root, "3/second").reset("acme")
    assert sweep_app(Store(root), "acme", DAY, days_later(1.5))


@pytest.mark.parametrize(
    "foreign",
    [
        "acme/notes",
        "acme/10-per-1s/notes",
        "acme/0-per-1s-burst-5/notes",
        "acme/10-per-1s.7/notes",
        "acme/3-per-1s/notes",
        "README",
        "lost+found/notes",
        ".hidden/notes",
    ],
)
def test_what_is_not_the_limiters_stays(root: str, foreign: str) -> None:
    hit_at(root, "3/second")
    path = Path(root, foreign)
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = entries(root)
    sweep_store(Store(root), DAY, days_later(1.5))
    assert path.read_text() == "mine"
    if foreign.startswith("acme/"):
        assert entries(root) == before


def test_a_link_out_of_the_store_is_not_followed(root: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    leftover = Path(root, ".new-0123")
    leftover.mkdir()
    (leftover / "link").symlink_to(tmp_path)
    os.utime(leftover, (0, 0))
    assert sweep_store(Store(root)).leftovers == 1
    assert entries(root) == []
    assert (tmp_path / "precious").read_text() == "mine"


def test_leftovers_go_after_an_hour(root: str) -> None:
    now = time.time()
    for name, age in (("old", 3601), ("new", 3590)):
        leftover = Path(root, f".new-{name}")
        (leftover / "10-per-1s").mkdir(parents=True)
        (leftover / "10-per-1s" / "0000000000.000000-0").touch()
        os.utime(leftover, (now - age, now - age))
    assert sweep_store(Store(root), clock=lambda: int(now * 1e6)).leftovers == 1
    assert os.listdir(root) == [".new-new"]


def test_a_furnisher_that_was_stopped_for_hours_loses_cleanly(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory goes between its calls, at each of them in turn; the hit is admitted, whole."""
    calls = 0

    def stop(call: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == stopped:
                for name in os.listdir(root):
                    os.utime(f"{root}/{name}", (0, 0))
                with monkeypatch.context() as patch:
                    for other, original in originals.items():
                        patch.setattr(posix, other, original)
                    sweep_store(Store(root))
            return call(*arguments)

        return instead

    originals = {name: getattr(posix, name) for name in ("mkdir", "open", "close", "rename")}
    for name, original in originals.items():
        monkeypatch.setattr(posix, name, stop(original))
    for stopped in range(2, 100):
        calls = 0
        app = f"app{stopped}"
        # It fails if its directory has gone before it is full, else it furnishes another.
        with suppress(StoreError):
            assert Limiter(root, "2/minute;3/hour").hit(app)
        assert not [name for name in os.listdir(root) if name.startswith(".new-")]
        if Path(root, app).exists():
            assert len(os.listdir(f"{root}/{app}/2-per-60s")) == 2
            assert len(os.listdir(f"{root}/{app}/3-per-3600s")) == 3
        if calls < stopped:
            break
    assert stopped > 10


# In every order with hits


SWITCHES = 3
"""So many times a thread is made to wait that could go on: races need few (CHESS, Musuvathi et al. 2008)."""


class Ordered:
    """Plays actions, each in a thread, whose calls on the file system fall in an order that is set."""

    _CALLS = ("listdir", "rename", "rmdir", "mkdir", "open", "unlink")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._me = threading.local()
        self._turns = Turns()
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
            me = getattr(self._me, "number", None)
            # What lies aside is seen by nobody else.
            if me is not None and (call is rename or "/.new-" not in path):
                self._turns.wait(me)
            return call(path, *more)

        return instead

    def play(
        self, actions: Sequence[Callable[[], object]], choose: Callable[[int, int], int]
    ) -> tuple[list[object], list[int]]:
        """The answers, and how many choices there were at each turn; ``choose(turn, choices)``.

        Choice 0 is that the thread goes on which had the last turn, if it can.  Names that are to be unique are
        the same when an order is played again.
        """
        self._random = random.Random(0)
        answers: list[object] = [None] * len(actions)

        def one(number: int) -> None:
            self._me.number = number
            try:
                answers[number] = actions[number]()
            except Exception as error:
                answers[number] = error
            finally:
                self._turns.end()

        threads = [threading.Thread(target=one, args=(number,)) for number in range(len(actions))]
        self._turns.start(len(threads))
        for thread in threads:
            thread.start()
        choices: list[int] = []
        last = -1
        while ready := self._turns.ready():
            if last in ready:
                ready.remove(last)
                ready.insert(0, last)
            last = ready[choose(len(choices), len(ready))]
            choices.append(len(ready))
            self._turns.give(last)
        for thread in threads:
            thread.join()
        return answers, choices


def _as_told(order: list[int], turn: int, _: int) -> int:
    return order[turn] if turn < len(order) else 0


def _every(choices_of: Callable[[Callable[[int, int], int]], list[int]]) -> int:
    """Play all orders with at most SWITCHES; how many.

    ``choices_of`` plays one and says what choices there were.
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
    """Whether the last turn of an order may go to another thread, or goes to one already."""
    return order[-1] > 0 or sum(map(bool, order)) < SWITCHES


def _any(choices_of: Callable[[Callable[[int, int], int]], list[int]], orders: int) -> None:
    """Play so many orders, the same ones at each run."""
    for seed in range(orders):
        choices_of(_Whim(seed).choose)


class _Whim:
    """A thread goes on for a while before the next one has its turn: that is how races are lost."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._goes_on = self._random.random()

    def choose(self, _: int, ready: int) -> int:
        return 0 if self._random.random() < self._goes_on else self._random.randrange(ready)


LATER = NOW + 2 * int(DAY) * SECOND


def _leave_as_it_is(store: str) -> None:
    """Nobody has died."""


class Scene:
    """One application, idle for two days, that is hit and swept at once, again and again.

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
        """Play and judge one order; what choices there were."""
        store = f"{self._root}/store"
        os.mkdir(store)
        hit_at(store, self._limits)
        self._leave(store)
        # The clocks of two hits tell their stamps apart.
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
    """The hit is admitted and counted, and no slot is lost; whoever comes first."""
    scene = Scene(root, Ordered(monkeypatch), limits, [cost], 1)
    assert _every(scene.play) > 100
    assert scene.ends == {"+", "-"}


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
    """The same: with each other, several sweepers at once lose slots no more than with hits."""
    scene = Scene(root, Ordered(monkeypatch), limits, costs, sweepers)
    _any(scene.play, 400)
    assert len(scene.ends) > 1


def _leave_one_aside(store: str) -> None:
    """What a sweeper leaves that was ended, seized one more slot, and died."""
    (directory,) = Path(store).glob("acme/*")
    name = min(os.listdir(directory))
    os.rename(directory / name, directory / f".slot-dead-{name}")


@pytest.mark.parametrize("limits", ["1/minute", "2/minute", "2/minute fixed"])
def test_every_order_of_a_hit_and_a_sweep_after_a_sweeper_died(
    root: str, monkeypatch: pytest.MonkeyPatch, limits: str
) -> None:
    """What the dead one left is given back; what the living one seizes meanwhile is not taken for such."""
    scene = Scene(root, Ordered(monkeypatch), limits, [1], 1, _leave_one_aside)
    assert _every(scene.play) > 100
    assert scene.ends == {"+", "-"}


# A replicated file system on which a machine dies within a step does it in part.  Healed, it shows what was
# there before and what there was to be: of a rename both names, which are one file, and what was removed again.
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
    """The directory of a limit of two as it is after that."""
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
    """Within each step: of a sweep, of its end, of a hit."""
    scene = Scene(root, Ordered(monkeypatch), "2/minute", [1], 1, partial(_leave_half_done, step))
    assert _every(scene.play) > 100


@pytest.mark.one_python
@pytest.mark.parametrize("step", STEPS)
def test_many_orders_of_hits_and_sweeps_after_a_machine_died(
    root: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """No slot is there twice for any two of them."""
    scene = Scene(root, Ordered(monkeypatch), "2/minute", [1, 1, 1], 1, partial(_leave_half_done, step))
    _any(scene.play, 200)


def _remove_nothing(
    store: Store, directory: str, names: list[str], size: int, since: int
) -> list[str] | None:
    """Break S1: claim the newest name while somebody else may yet claim another."""
    return sorted({number_of(name): name for name in names if is_name(name)}.values())


def test_two_names_of_a_slot_that_can_both_be_claimed_are_seen(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter.furnish, "one_each", _remove_nothing)
    with pytest.raises(AssertionError):
        test_many_orders_of_hits_and_sweeps_after_a_machine_died(root, monkeypatch, "give back")


def test_a_hit_that_takes_every_seized_slot_for_a_lost_one_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter.sweep, "_is_known", lambda *_: False)
    with pytest.raises(AssertionError):
        test_every_order_of_a_hit_and_a_sweep_after_a_sweeper_died(root, monkeypatch, "2/minute")


def _remove_at_once(store: Store, directory: str, names: list[str]) -> bool:
    """Break S1: rename the directory away as it is, believing the listing."""
    away = f"{store.root}/.new-sweep-{posix.urandom(8).hex()}"
    posix.rename(f"{store.root}/{directory}", away)
    shutil.rmtree(away)
    return True


def _keep_what_was_seized(store: Store, directory: str) -> None:
    """Break L1: do not give back what was taken before a race was lost."""


def test_a_sweeper_that_does_not_seize_is_seen(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter.sweep, "_seize", _remove_at_once)
    with pytest.raises(AssertionError):
        test_every_order_of_a_hit_and_a_sweep(root, monkeypatch, "2/minute", 1)


def test_a_sweeper_that_does_not_give_back_is_seen(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter.sweep, "give_back", _keep_what_was_seized)
    with pytest.raises(AssertionError):
        test_every_order_of_a_hit_and_a_sweep(root, monkeypatch, "2/minute", 1)


# Death at every call


KILLED = [
    ("1/second", 1),
    ("3/second", 3),
    ("66/second", 66),
    ("3/second fixed", 2),
    ("3/second burst 4", 1),
    ("3/second;4/minute", 1),
]


def _swept_until_killed(store: str, limits: str, before: int) -> Iterator[str]:
    """So many stores, each left by a sweeper that was killed at another call."""
    for number in itertools.count():
        path = f"{store}/{number}"
        os.mkdir(path)
        hit_at(path, limits, count=before)
        ended = play(partial(sweep_store, Store(path), DAY, lambda: LATER), number, kill)
        if not ended.killed:
            assert not ended.struck
            assert number > 5
            return
        yield path


@pytest.mark.parametrize(("limits", "before"), KILLED)
def test_after_sigkill_the_next_hits_find_every_slot(root: str, limits: str, before: int) -> None:
    """S1 and L1: exactly the quota is admitted, and nothing is to be repaired."""
    for store in _swept_until_killed(root, limits, before):
        after = Limiter(store, limits, clock=lambda: LATER)
        admitted = 0
        while after.hit("acme"):
            admitted += 1
        assert admitted == min(limit.quota for limit in parse(limits))
        assert not [name for name in entries(f"{store}/acme") if "/." in name]


@pytest.mark.parametrize(("limits", "before"), KILLED)
def test_after_sigkill_the_next_sweeps_remove_all_the_same(root: str, limits: str, before: int) -> None:
    for store in _swept_until_killed(root, limits, before):
        for path in Path(store).glob(".new-*"):
            os.utime(path, (0, 0))
        sweep_store(Store(store), DAY, lambda: LATER)
        assert entries(store) == []


def test_a_hit_killed_while_it_gives_back_leaves_it_to_the_next(root: str) -> None:
    """At each of its calls in turn."""
    for number in range(1000):
        store = f"{root}/{number}"
        os.mkdir(store)
        hit_at(store, "3/second")
        directory = f"{store}/acme/3-per-1s"
        for name in os.listdir(directory):
            os.rename(f"{directory}/{name}", f"{directory}/.slot-dead-{name}")
        Path(directory, ".sweep-dead").touch()
        victim = Limiter(store, "3/second", clock=lambda: LATER)
        ended = play(partial(victim.hit, "acme"), number, kill)
        after = Limiter(store, "3/second", clock=lambda: LATER)
        admitted = 0
        while after.hit("acme"):
            admitted += 1
        counted = 3 - admitted
        assert counted <= 1
        assert counted or ended.killed
        if not ended.killed:
            break
    assert number > 5


def test_giving_back_what_is_not_there_is_nothing(root: str) -> None:
    hit_at(root, "3/second")
    before = entries(root)
    give_back(Store(root), "acme/3-per-1s")
    give_back(Store(root), "acme/none")
    assert entries(root) == before


# A process that stays


@pytest.mark.parametrize(
    "limits", ["3/second", "3/second fixed", "3/second burst 3", "2/second;3/minute"]
)
def test_a_process_that_stays_looks_anew_when_its_slots_are_gone(root: str, limits: str) -> None:
    """It remembers the slots of an application that has been swept since: its renames fail."""
    now = NOW
    stays = Limiter(root, limits, clock=lambda: now)
    assert stays.hit("acme")
    now = LATER
    assert sweep_app(Store(root), "acme", DAY, lambda: LATER)
    quota = min(limit.quota for limit in stays.limits)
    assert [bool(stays.hit("acme")) for _ in range(quota + 1)] == [True] * quota + [False]
    assert not Limiter(root, limits, clock=lambda: now).hit("acme")


def test_a_process_that_stays_shares_what_another_has_furnished_since(root: str) -> None:
    now = NOW
    stays = Limiter(root, "3/second", clock=lambda: now)
    assert stays.hit("acme")
    now = LATER
    assert sweep_app(Store(root), "acme", DAY, lambda: LATER)
    hit_at(root, "3/second", count=2, now=now)
    assert [bool(stays.hit("acme")) for _ in range(2)] == [True, False]


# The laws, with a sweeper that believes in a much shorter idle time

SPEED = 40
"""How much faster than time their clocks go: a window of a second takes a fortieth."""
HITTERS = 4
MICROSECONDS = 2 * SECOND * SPEED
BEGAN = clock()

_fork = multiprocessing.get_context("fork")


def _fast_clock() -> int:
    return BEGAN + (clock() - BEGAN) * SPEED


def _idle_after(limit: Limit) -> float:
    """Seconds after which a limit that is full is as old as its window: of a bucket, once it has filled."""
    return (2 if isinstance(limit, Burst) else 1) * limit.window / SECOND


def _hit_for_a_while(root: str, text: str) -> History:
    """Hit until denied, then let the slots grow old, again and again."""
    tests.history.clock = _fast_clock  # type: ignore[attr-defined]
    rename = Store.rename
    recorder = Recorder(root, text)
    recording = Store.rename

    def without_what_is_given_back(store: Store, directory: str, old: str, new: str) -> bool:
        return (rename if "." in old[0] + new[0] else recording)(store, directory, old, new)

    Store.rename = without_what_is_given_back  # type: ignore[assignment, method-assign]
    generator = random.Random(os.getpid())
    end = _fast_clock() + MICROSECONDS
    while _fast_clock() < end or not recorder.history.denied:
        while recorder.hit("acme"):
            pass
        time.sleep(generator.uniform(0.9, 1.8) * _idle_after(only(text)) / SPEED)
    return recorder.history


def _sweep_for_a_while(root: str, _: str) -> int:
    """Sweep, without a pause, whatever is as old as its window; how often something was."""
    removed = 0
    end = _fast_clock() + MICROSECONDS
    while _fast_clock() < end or not removed:
        removed += sweep_store(Store(root), 0, _fast_clock).removed
    return removed


def _work(work: Callable[[str, str], History | int], root: str, text: str, results: Queue[Any]) -> None:
    try:
        results.put(work(root, text))
    except Exception as error:
        results.put(error)


@pytest.mark.one_python
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("text", ["10/second", "3/second fixed", "1/second", "20/second burst 20"])
def test_the_laws_hold_while_a_sweeper_removes_what_is_a_window_old(
    any_root: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1 and L1, exactly, with an application that goes and comes back all the time."""
    # Anew for each: an hour of the fast clock ahead, what is being furnished would look like a leftover.
    monkeypatch.setattr("tests.test_sweep.BEGAN", clock())
    results: Queue[Any] = _fork.Queue()
    works = [*[_hit_for_a_while] * HITTERS, _sweep_for_a_while]
    workers = [_fork.Process(target=_work, args=(work, any_root, text, results)) for work in works]
    for worker in workers:
        worker.start()
    parts = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    together, removed = History(), 0
    for part in parts:
        if isinstance(part, Exception):
            raise part
        if isinstance(part, int):
            removed += part
        else:
            together.admitted += part.admitted
            together.denied += part.denied
    judge_s1(only(text), together)
    judge_l1(only(text), together)
    assert removed


# The command


def test_the_command_tells_what_it_did(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    hit_at(root, "3/second", "old")
    hit_at(root, "3/second", "new", now=clock())
    os.mkdir(f"{root}/.new-0123")
    os.utime(f"{root}/.new-0123", (0, 0))
    assert sweep(root) == 0
    assert capsys.readouterr().out == (
        f"{root}: 1 of 2 applications removed, 1 leftovers of dead processes removed\n"
    )
    assert os.listdir(root) == ["new"]


def test_a_store_that_is_missing_is_an_error(root: str) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        sweep(f"{root}/missing")


@pytest.mark.parametrize("call", ["listdir", "open", "rename", "rmdir", "unlink"])
def test_an_error_of_the_file_system_is_told(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whichever call it is; and no slot is lost by it."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    hit_at(root, "3/second")
    with monkeypatch.context() as patch:
        patch.setattr(posix, call, fail)
        with pytest.raises(StoreError) as error:
            sweep_store(Store(root), DAY, lambda: LATER)
    assert error.value.errno == errno.EIO
    assert error.value.path.startswith(root)
    hit_at(root, "3/second", count=3, now=LATER)
    assert not Limiter(root, "3/second", clock=lambda: LATER).hit("acme")


def test_what_fails_keeps_nothing_else(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replicated file system may have one directory that it cannot show; whichever comes first."""
    for app in ("a", "broken", "c"):
        hit_at(root, "3/second", app)
    listdir = posix.listdir

    def fail(path: str) -> list[str]:
        if path.endswith("/broken"):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return listdir(path)

    monkeypatch.setattr(posix, "listdir", fail)
    with pytest.raises(StoreError, match="broken"):
        sweep_store(Store(root), DAY, lambda: LATER)
    assert os.listdir(root) == ["broken"]


def test_root_sweeps_as_the_owner(root: str) -> None:
    """What belongs to somebody else it does not touch, though root could."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    hit_at(root, "3/second", "theirs")
    hit_at(root, "3/second", "roots")
    for path in (Path(root), Path(root, "theirs"), *Path(root, "theirs").rglob("*")):
        os.chown(path, 65534, 65534)

    def sweep_theirs() -> None:
        with suppress(StoreError):
            sweep(root)

    play(sweep_theirs, 10**6, lambda: None)
    assert Path(root, "roots", "3-per-1s").exists()
    os.chmod(f"{root}/roots", 0o700)
    os.rename(f"{root}/roots", f"{root}/.roots")
    play(sweep_theirs, 10**6, lambda: None)
    assert os.listdir(root) == [".roots"]


# The timer


@pytest.mark.one_python
def test_the_units_are_right() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    units = [UNITS / f"access-limiter-sweep.{kind}" for kind in ("service", "timer")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
