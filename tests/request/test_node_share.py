"""A node's share of the limits: all shares together never exceed the limit, and stay close to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.limit import SECOND
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.request.node_share import share


@pytest.mark.parametrize(
    ("text", "nodes", "expected"),
    [
        ("10/second", 1, "10 per 1 seconds"),
        ("10/second", 3, "3 per 1 seconds"),
        ("10/second", 10, "1 per 1 seconds"),
        ("10/second", 11, "1 per 2 seconds"),
        ("10 per 2 minutes fixed", 4, "2 per 120 seconds fixed"),
        ("1/hour fixed", 3, "1 per 10800 seconds fixed"),
        ("0/second", 3, "0 per 1 seconds"),
        ("5/second burst 20", 3, "5 per 3 seconds burst 6"),
        ("5/second burst 2", 3, "5 per 3 seconds burst 1"),
        ("100/minute;1000/hour", 3, "33 per 60 seconds;333 per 3600 seconds"),
        ("10/second;11/second", 3, "3 per 1 seconds"),
    ],
)
def test_share(text: str, nodes: int, expected: str) -> None:
    assert share(text, nodes) == expected


@given(
    st.integers(1, 10_000), st.integers(1, 3600), st.sampled_from(["", " fixed"]), st.integers(1, 500)
)
def test_all_shares_together_are_at_most_the_limit(
    quota: int, seconds: int, kind: str, nodes: int
) -> None:
    """This holds in each window if there is at least one hit for each node, and otherwise on average."""
    (whole,), (part,) = (
        parse(f"{quota} per {seconds} seconds{kind}"),
        parse(share(f"{quota} per {seconds} seconds{kind}", nodes)),
    )
    assert type(whole) is type(part)
    assert nodes * part.quota * whole.window <= whole.quota * part.window
    if quota >= nodes:
        assert part.window == whole.window
        assert nodes * (part.quota + 1) > whole.quota


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 50))
def test_the_shares_of_a_bucket_flow_in_at_its_rate(rate: int, capacity: int, nodes: int) -> None:
    text = f"{rate}/second burst {capacity}"
    (part,) = parse(share(text, nodes))
    assert part.name.startswith(f"{rate}-per-{nodes}s-burst-")
    assert part.quota == max(1, capacity // nodes)


def test_nodes_that_share_no_store_admit_no_more_than_the_limit_together(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    now = 1_513_123_456 * SECOND
    nodes = [
        Limiter(tmp_path_factory.mktemp("store"), share("10/second", 3), clock=lambda: now)
        for _ in range(3)
    ]
    admitted = []
    for _ in range(400):
        now += SECOND // 100
        admitted += [now for node in nodes if node.hit("acme")]
    for first in admitted:
        assert sum(first <= time < first + SECOND for time in admitted) <= 9
    assert len(admitted) == 4 * 9


def test_a_bad_limit_is_as_bad_for_a_node() -> None:
    with pytest.raises(ValueError, match="expected a number of hits"):
        share("many", 3)


@pytest.mark.parametrize("text", ["1 per 3660 days", "1 per 3660 days fixed", "1 per 1000 days burst 1"])
def test_a_share_that_cannot_be_is_an_error_that_names_both(text: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"^LIMITER_NODES=4, limit '{text}': each share is a limit '.*window of at most|bucket",
    ):
        share(text, 4)
