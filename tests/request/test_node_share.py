"""A node's share of the limits: all shares together never exceed the limit, and stay close to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.notation import parse
from limiter.request.node_share import share


@pytest.mark.parametrize(
    ("text", "nodes", "expected"),
    [
        ("10/second", 1, "10 per 1 seconds"),
        ("10/second", 3, "3 per 1 seconds"),
        ("10/second", 11, "1 per 2 seconds"),
        ("10 per 2 minutes fixed", 4, "2 per 120 seconds fixed"),
        ("1/hour fixed", 3, "1 per 10800 seconds fixed"),
        ("0/second", 3, "0 per 1 seconds"),
        ("5/second burst 20", 3, "5 per 3 seconds burst 6"),
        ("5/second burst 2", 3, "5 per 3 seconds burst 1"),
        ("100/minute;1000/hour", 3, "33 per 60 seconds;333 per 3600 seconds"),
        ("10/second;11/second", 3, "3 per 1 seconds"),
        ("login=10/second;11/second", 3, "login=3 per 1 seconds;3 per 1 seconds"),
    ],
)
def test_a_share_of_each_kind(text: str, nodes: int, expected: str) -> None:
    assert share(text, nodes) == expected


@given(
    st.integers(1, 10_000), st.integers(1, 3600), st.sampled_from(["", " fixed"]), st.integers(1, 500)
)
def test_all_shares_together_are_at_most_the_limit(
    quota: int, seconds: int, kind: str, nodes: int
) -> None:
    """This holds in each window if there is at least one hit for each node, and otherwise on average."""
    text = f"{quota} per {seconds} seconds{kind}"
    (whole,), (part,) = parse(text), parse(share(text, nodes))
    assert type(whole) is type(part)
    assert nodes * part.quota * whole.window <= whole.quota * part.window
    if quota >= nodes:
        assert part.window == whole.window
        assert nodes * (part.quota + 1) > whole.quota


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 50))
def test_the_shares_of_a_bucket_flow_in_at_its_rate(rate: int, capacity: int, nodes: int) -> None:
    (part,) = parse(share(f"{rate}/second burst {capacity}", nodes))
    assert part.name == f"{rate}-per-{nodes}s-burst-{max(1, capacity // nodes)}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("many", "limit 'many': expected a number of hits"),
        ("1 per 3660 days", "LIMITER_NODES=4, limit '1 per 3660 days': each share"),
        ("1 per 3660 days fixed", "LIMITER_NODES=4, limit '1 per 3660 days fixed': each share"),
        ("1 per 1000 days burst 1", "LIMITER_NODES=4, limit '1 per 1000 days burst 1': each share"),
    ],
)
def test_a_limit_that_cannot_be_shared_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        share(text, 4)
