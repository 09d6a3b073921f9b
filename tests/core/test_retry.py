"""Temporary faults of the store: a single fault is survived, a lasting one is reported soon."""

from __future__ import annotations

import errno
import posix
from collections.abc import Callable

import pytest

from limiter.core import retry
from limiter.core.hit import Decision
from limiter.core.limiter import Limiter
from limiter.core.store import StoreError
from tests.faults import HARD, PASSING
from tests.limiting import KINDS, Clock, admitted

TRIES = 6


class Faults:
    """Lets chosen calls of one name fail, before or after they are made; counts all, from 0."""

    def __init__(
        self, patch: pytest.MonkeyPatch, name: str, number: int, when: Callable[[int], bool]
    ) -> None:
        self.calls = 0
        self._call = getattr(posix, name)
        self._number = number
        self._when = when
        self.is_done = False
        patch.setattr(posix, name, self._make)

    def _make(self, *arguments: object) -> object:
        self.calls += 1
        strikes = self._when(self.calls - 1)
        result = None if strikes and not self.is_done else self._call(*arguments)
        if strikes:
            raise OSError(self._number, "why")
        return result


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the waiting; return the pauses that there would have been."""
    waited: list[float] = []
    monkeypatch.setattr(retry, "sleep", waited.append)
    return waited


@pytest.fixture
def limiter(root: str, clock: Clock) -> Limiter:
    """Three a minute, none of them used, already furnished."""
    made = Limiter(root, "3/minute", clock=clock)
    made.hit("acme")
    made.reset("acme")
    return Limiter(root, "3/minute", clock=clock)


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("is_done", [False, True], ids=["not-done", "done"])
def test_after_a_rename_of_unknown_outcome_another_slot_is_taken(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch, number: int, is_done: bool
) -> None:
    """If the rename was done after all, its slot is used up without a hit: never one hit too many."""
    Faults(monkeypatch, "rename", number, lambda call: call == 0).is_done = is_done
    assert limiter.hit("acme")
    assert limiter.peek("acme").remaining == (1 if is_done else 2)
    assert admitted(limiter, 10) == (1 if is_done else 2)


@pytest.mark.parametrize("limits", KINDS)
@pytest.mark.parametrize("is_done", [False, True], ids=["not-done", "done"])
@pytest.mark.parametrize("failing", range(4))
def test_never_one_hit_too_many_and_none_denied_too_soon(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, limits: str, is_done: bool, failing: int
) -> None:
    """For each kind and each rename that fails: the first claim, one from memory, the last."""
    limiter = Limiter(root, limits, clock=clock)
    limiter.peek("acme")
    faults = Faults(
        monkeypatch, "rename", errno.ENOTCONN, lambda call: call == failing + 1
    )  # 0 furnishes
    faults.is_done = is_done
    assert admitted(limiter, 10) == (2 if is_done and failing < 3 else 3)
    assert limiter.peek("acme").remaining == 0


def test_several_slots_of_one_hit_may_fail(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many may fail as there are tries."""
    Faults(monkeypatch, "rename", errno.ENOTCONN, lambda call: call < TRIES - 1)
    assert limiter.hit("acme")
    assert limiter.peek("acme").remaining == 2


def test_nothing_is_given_back_twice(root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving back may succeed despite an error; a second time would admit one hit too many."""
    limits = "3/minute fixed;4/hour fixed"
    assert Limiter(root, limits, clock=clock).hit("acme")
    other = Limiter(root, "4/hour fixed", clock=clock)
    rename = posix.rename
    made = 0

    def racing(old: str, new: str) -> None:
        nonlocal made
        made += 1
        if made == 2:  # after the first limit is claimed, another hit is faster at the second
            monkeypatch.setattr(posix, "rename", rename)
            assert other.hit("acme")
            monkeypatch.setattr(posix, "rename", racing)
        rename(old, new)
        if made == 3:  # the claim of the first has been given back
            raise OSError(errno.ENOTCONN, "why")

    monkeypatch.setattr(posix, "rename", racing)
    decision = Limiter(root, limits, clock=clock).hit("acme")
    assert made == 5
    assert decision
    assert [quota.remaining for quota in decision.quotas] == [1, 1]


def _hit(limiter: Limiter) -> Decision:
    return limiter.hit("acme")


def _peek(limiter: Limiter) -> Decision:
    return limiter.peek("acme")


def _reset(limiter: Limiter) -> None:
    limiter.reset("acme")


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize(
    ("name", "act"),
    [("listdir", _hit), ("rename", _hit), ("listdir", _peek), ("listdir", _reset), ("rename", _reset)],
)
def test_a_lasting_fault_is_reported_after_six_calls(
    root: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
    number: int,
    name: str,
    act: Callable[[Limiter], object],
) -> None:
    """The error keeps its errno, and the pauses are a small part of LIMITER_TIMEOUT's two seconds."""
    assert Limiter(root, "100/minute", clock=clock).hit("acme", 3)
    faults = Faults(monkeypatch, name, number, lambda _: True)
    with pytest.raises(StoreError) as raised:
        act(Limiter(root, "100/minute", clock=clock))
    assert raised.value.errno == number
    assert raised.value.path.startswith(root)
    assert faults.calls == TRIES
    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.016]


@pytest.mark.parametrize("number", HARD)
def test_any_other_error_is_reported_at_once(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch, pauses: list[float], number: int
) -> None:
    """Such an error is not temporary."""
    faults = Faults(monkeypatch, "rename", number, lambda _: True)
    with pytest.raises(StoreError):
        limiter.hit("acme")
    assert faults.calls == 1
    assert pauses == []


def test_faults_that_take_long_are_not_survived(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No new try starts later than a quarter of a second after the first."""
    now = [100.0]

    def slow(_: int) -> bool:
        now[0] += 0.2
        return True

    monkeypatch.setattr(retry, "monotonic", lambda: now[0])
    faults = Faults(monkeypatch, "listdir", errno.EBADFD, slow)
    with pytest.raises(StoreError):
        limiter.hit("acme")
    assert faults.calls == 3


def test_a_hit_from_memory_survives_it_too(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no listing."""
    assert limiter.hit("acme")
    listings = Faults(monkeypatch, "listdir", errno.EBADFD, lambda _: True)
    Faults(monkeypatch, "rename", errno.ENOTCONN, lambda call: call == 0)
    assert limiter.hit("acme")
    assert listings.calls == 0
