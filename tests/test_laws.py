"""The laws of the limiter: each is proven, and each proof is seen to fail on a broken limiter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import limiter.hit
from limiter.limit import Sliding
from limiter.store import Store
from tests.history import judge_l1, judge_s1, only, record

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10/second", 2.3),
        ("7 per 2 seconds", 4.3),
        ("100/second", 2.3),
        ("1000/hour", 1),
        ("10/second fixed", 2.3),
        ("10/second burst 20", 2.3),
        ("20000/second burst 1", 1),
    ],
)
def test_s1_and_l1_hold_with_8_processes(any_root: str, text: str, seconds: float) -> None:
    """Exactly the quota in every window, and nobody denied before it is used up."""
    history = record(any_root, text, int(seconds * SECOND))
    limit = only(text)
    judge_s1(limit, history)
    judge_l1(limit, history)
    assert history.denied
    assert len(history.admitted) >= limit.quota
    if text == "1000/hour":
        assert len(history.admitted) == 1000


def _lose_no_race() -> None:
    """Break S1: take a slot that another hit has taken for one's own."""
    rename = Store.rename
    Store.rename = lambda *arguments: rename(*arguments) or True  # type: ignore[method-assign]


def _count_a_shorter_window() -> None:
    """Break S1: let a slot go a thousandth of a window too soon."""
    look = Sliding.look
    Sliding.look = (  # type: ignore[method-assign]
        lambda self, names, now, cost: look(self, names, now + self.window // 1000, cost)
    )


def _count_a_longer_window() -> None:
    """Break L1: keep a slot a thousandth of a window too long."""
    look = Sliding.look
    Sliding.look = (  # type: ignore[method-assign]
        lambda self, names, now, cost: look(self, names, now - self.window // 1000, cost)
    )


@pytest.mark.parametrize("sabotage", [_lose_no_race, _count_a_shorter_window])
def test_s1_is_seen_to_fail(root: str, sabotage: Callable[[], None]) -> None:
    """The judge of S1 finds what these break."""
    with pytest.raises(AssertionError, match="hits within"):
        judge_s1(only("10/second"), record(root, "10/second", 2 * SECOND, sabotage=sabotage))


@pytest.mark.parametrize("sabotage", [_count_a_longer_window])
def test_l1_is_seen_to_fail(root: str, sabotage: Callable[[], None]) -> None:
    """The judge of L1 finds what these break."""
    with pytest.raises(AssertionError, match="denied at"):
        judge_l1(only("10/second"), record(root, "10/second", 2 * SECOND, sabotage=sabotage))
