"""Jitter: every number of seconds up to the most, each as often as the others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limiter.core.decision import Decision, View
from limiter.core.notation import parse
from limiter.request.jitter import jitter


def full(text: str) -> Decision:
    """Return a denial: this limit is full."""
    (limit,) = parse(text)
    view = View(limit, {}, {})
    view.used = limit.quota
    return Decision(False, 1.0, [view], 0, 0)


@given(st.integers(1, 3600))
def test_it_is_between_none_and_the_most(most: int) -> None:
    assert 0 <= jitter(full("5/hour fixed"), most) <= most


def test_each_number_comes() -> None:
    """That one of four is missing in 400 tries has a chance below 1e-49."""
    assert {jitter(full("5/hour fixed"), 3) for _ in range(400)} == {0, 1, 2, 3}
