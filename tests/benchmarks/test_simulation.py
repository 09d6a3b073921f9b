"""The simulation of many nodes: it decides as Limiters do, and its claims about shares are true."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import simulation
from benchmarks.simulation import AT_ONCE, LIMITS, NODES, START, admitted, arrivals, on_nodes, play
from limiter.core.limiter import Limiter
from limiter.request.node_share import share
from tests.history import Admitted, History, judge_s1, only
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

PICTURE = REPOSITORY / "docs/per-node.svg"


# The model compared with the real limiter.


@pytest.mark.parametrize("demand", ["1 x", "2 x"])
@pytest.mark.parametrize("nodes", [1, 3, 30])
@pytest.mark.parametrize("text", [*LIMITS, "100/second", "3/second fixed", "7/3 seconds burst 2"])
def test_each_hit_is_decided_as_limiters_decide_it(
    text: str, nodes: int, demand: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "HITS", 1500)
    draw = np.random.RandomState(nodes)
    times = arrivals(only(text), demand, draw)
    chosen = simulation.at_random(len(times), nodes, draw)
    now = START
    limiters = []
    for node in range(nodes):
        store = Path(root, str(node))
        store.mkdir()
        limiters.append(Limiter(store, share(text, nodes), clock=lambda: now))
    real = []
    for now, node in zip(times.tolist(), chosen.tolist()):
        if limiters[node].hit("acme"):
            real.append(now)
    assert on_nodes(only(share(text, nodes)), times, chosen, nodes) == real
    assert real
    assert len(real) < len(times) or demand == "1 x"


# The claims about shares, for any hits dealt in any way.

numbers = st.lists(st.integers(0, 19), min_size=1, max_size=20)
"""The nodes that hits go to, or the pauses between hits; repeated."""


@given(
    kind=st.sampled_from(["", " fixed", " burst"]),
    quota=st.integers(1, 20),
    gaps=numbers,
    balance=numbers,
    data=st.data(),
)
def test_with_no_more_nodes_than_hits_no_window_holds_too_many_of_all_nodes(
    kind: str, quota: int, gaps: list[int], balance: list[int], data: st.DataObject
) -> None:
    text = f"{quota}/second{kind}"
    if kind == " burst":
        text = f"{data.draw(st.integers(1, 20), 'rate')}/second burst {quota}"
    nodes = data.draw(st.integers(1, quota), "nodes")
    times = START + np.resize(gaps, 500).cumsum() * 2000
    chosen = np.resize(balance, 500) % nodes
    together = on_nodes(only(share(text, nodes)), times, chosen, nodes)
    judge_s1(only(text), History([Admitted(time, time, time, time, "") for time in together]))
    assert len(together) <= len(admitted(only(text), times.tolist()))


def test_with_more_nodes_than_hits_a_window_may_hold_a_hit_of_each_node() -> None:
    assert play("10/second", AT_ONCE, "round robin", 300).error == pytest.approx(2900)


@pytest.mark.parametrize("text", LIMITS)
def test_a_node_more_than_believed_admits_too_many_and_is_found_out(text: str) -> None:
    assert play(text, "2 x", "round robin", 10, believed=10).kept
    assert not play(text, "2 x", "round robin", 11, believed=10).kept


# The command, and the picture.


def test_a_false_claim_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulation, "HITS", 1000)
    monkeypatch.setattr(simulation, "NODES", (1, 3))
    monkeypatch.setattr(simulation, "LIMITS", ("10/second",))
    monkeypatch.setattr(simulation, "share", lambda text, nodes: text)
    assert simulation.main([]) == 1
    output = capsys.readouterr().out
    assert "FALSE: 10/second, round robin, 2 x, 3 nodes" in output
    assert "As claimed" not in output


def shown(picture: Path) -> tuple[list[str], str]:
    """Return the texts of the picture, and its figures."""
    svg = ElementTree.parse(picture).getroot()
    texts = [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    figures = svg.findtext(".//{http://purl.org/dc/elements/1.1/}description")
    assert figures is not None
    return texts, figures


def test_the_claims_hold_and_the_picture_is_what_the_command_draws_today(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulation, "precision", tuple)  # the tables need only be as short as possible
    assert simulation.main(["--output", str(tmp_path / "picture.svg")]) == 0
    assert "\nAs claimed: with no more nodes than hits in the limit" in capsys.readouterr().out
    texts, figures = shown(tmp_path / "picture.svg")
    assert shown(PICTURE) == (texts, figures)
    for panel in json.loads(figures):
        assert set(panel) <= set(texts)
        assert all(len(line) == len(NODES) for line in panel.values())
