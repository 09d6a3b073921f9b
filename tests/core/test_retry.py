"""Temporary faults of the store: a single fault is survived, a lasting one is reported soon."""

from __future__ import annotations

import errno
import posix
from collections.abc import Callable

import pytest

from limiter.core import retry
from limiter.core.limiter import Limiter
from limiter.core.store import StoreError
from tests.faults import HARD, PASSING
from tests.limiting import KINDS, Clock, admitted, before

TRIES = 6


def faults(
    patch: pytest.MonkeyPatch,
    name: str,
    number: int,
    when: Callable[[int], bool] = lambda _: True,
    is_done: bool = False,
) -> list[int]:
    """Let chosen calls of one name fail, before or after they are made; return the numbers of all."""
    call = getattr(posix, name)
    made: list[int] = []

    def instead(*arguments: object) -> object:
        made.append(len(made))
        fails = when(made[-1])
        result = None if fails and not is_done else call(*arguments)
        if fails:
            raise OSError(number, "why")
        return result

    patch.setattr(posix, name, instead)
    return made


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


@pytest.mark.parametrize("limits", KINDS)
@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("is_done", [False, True], ids=["not-done", "done"])
@pytest.mark.parametrize("failing", range(4))
def test_after_a_rename_of_unknown_outcome_another_slot_is_taken(
    root: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    limits: str,
    number: int,
    is_done: bool,
    failing: int,
) -> None:
    """The first claim fails, one from memory, or the last.  If it was done, its slot is used up.

    So there is never one hit too many, and none is denied too soon.
    """
    limiter = Limiter(root, limits, clock=clock)
    # Rename 0 furnishes.
    faults(monkeypatch, "rename", number, lambda call: call == failing + 1, is_done)
    assert admitted(limiter, 10) == (2 if is_done and failing < 3 else 3)
    assert limiter.peek("acme").remaining == 0


def test_as_many_slots_of_one_hit_may_fail_as_there_are_tries(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults(monkeypatch, "rename", errno.ENOTCONN, lambda call: call < TRIES - 1)
    assert limiter.hit("acme")
    assert limiter.peek("acme").remaining == 2


def test_nothing_is_given_back_twice(root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving back may succeed despite an error; a second time would admit one hit too many."""
    limits = "3/minute fixed;4/hour fixed"
    assert Limiter(root, limits, clock=clock).hit("acme")
    other = Limiter(root, "4/hour fixed", clock=clock)
    # Rename 0 claims the first limit.  1 is another hit's, 2 loses to it, and 3 gives the first back.
    made = faults(monkeypatch, "rename", errno.ENOTCONN, lambda call: call == 3, is_done=True)
    before(monkeypatch, "rename", lambda *_: other.hit("acme"), at=2)
    decision = Limiter(root, limits, clock=clock).hit("acme")
    assert decision
    assert [quota.remaining for quota in decision.quotas] == [1, 1]
    assert len(made) == 6


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("listdir", "hit"),
        ("rename", "hit"),
        ("listdir", "peek"),
        ("listdir", "reset"),
        ("rename", "reset"),
    ],
)
def test_a_lasting_fault_is_reported_after_six_calls(
    root: str, monkeypatch: pytest.MonkeyPatch, pauses: list[float], number: int, name: str, method: str
) -> None:
    """The error keeps its errno, and the pauses are a small part of LIMITER_TIMEOUT's two seconds."""
    assert Limiter(root, "100/minute").hit("acme", 3)
    made = faults(monkeypatch, name, number)
    with pytest.raises(StoreError) as raised:
        getattr(Limiter(root, "100/minute"), method)("acme")
    assert raised.value.errno == number
    assert raised.value.path.startswith(root)
    assert len(made) == TRIES
    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.016]


@pytest.mark.parametrize("number", HARD)
def test_any_other_error_is_reported_at_once(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch, pauses: list[float], number: int
) -> None:
    made = faults(monkeypatch, "rename", number)
    with pytest.raises(StoreError):
        limiter.hit("acme")
    assert len(made) == 1
    assert pauses == []


def test_no_try_starts_later_than_a_quarter_of_a_second_after_the_first_fault(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((100.0, 100.2, 100.4))
    monkeypatch.setattr(retry, "monotonic", lambda: next(times))
    made = faults(monkeypatch, "listdir", errno.EBADFD)
    with pytest.raises(StoreError):
        limiter.hit("acme")
    assert len(made) == 3


def test_a_hit_from_memory_survives_a_fault_without_a_listing(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limiter.hit("acme")
    listings = faults(monkeypatch, "listdir", errno.EBADFD)
    faults(monkeypatch, "rename", errno.ENOTCONN, lambda call: call == 0)
    assert limiter.hit("acme")
    assert listings == []
