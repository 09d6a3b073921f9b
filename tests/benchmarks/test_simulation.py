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
from benchmarks.simulation import AT_ONCE, LIMITS, NODES, START, admitted, arrivals, on_nodes, only, play
from limiter.core.limit import SECOND, Sliding
from limiter.core.limiter import Limiter
from limiter.request.node_share import share
from tests.history import Admitted, History, judge_s1
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

PICTURE = REPOSITORY / "docs/per-node.svg"
CLAIM = "As claimed: with no more nodes than hits in the limit"


def history(times: list[int]) -> History:
    """Return the history of hits admitted at these times, in the form that laws are judged by."""
    return History([Admitted(time, time, time, time, "") for time in times])


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


def play_dealt(
    text: str, nodes: int, gaps: list[int], balance: list[int]
) -> tuple[list[int], list[int]]:
    """Deal 500 hits; return those that nodes admit with their shares, and those that the exact limiter
    admits.
    """
    times = START + np.resize(gaps, 500).cumsum() * 2000
    chosen = np.resize(balance, 500) % nodes
    together = on_nodes(only(share(text, nodes)), times, chosen, nodes)
    return together, admitted(only(text), times.tolist())


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
    together, exact = play_dealt(text, data.draw(st.integers(1, quota), "nodes"), gaps, balance)
    judge_s1(only(text), history(together))
    assert len(together) <= len(exact)


@given(quota=st.integers(1, 8), nodes=st.integers(9, 20), gaps=numbers, balance=numbers)
def test_with_more_nodes_than_hits_the_average_holds(
    quota: int, nodes: int, gaps: list[int], balance: list[int]
) -> None:
    together, _ = play_dealt(f"{quota}/second", nodes, gaps, balance)
    period = -(-nodes // quota)
    assert nodes <= quota * period
    judge_s1(Sliding(nodes, period * SECOND), history(together))


def test_with_more_nodes_than_hits_a_window_may_hold_a_hit_of_each_node() -> None:
    assert play("10/second", AT_ONCE, "round robin", 300).error == pytest.approx(2900)


@pytest.mark.parametrize("balance", simulation.BALANCES)
@pytest.mark.parametrize("text", LIMITS)
def test_one_node_is_exact(text: str, balance: str) -> None:
    outcome = play(text, "2 x", balance, 1)
    assert outcome.error == 0
    assert outcome.kept


@pytest.mark.parametrize("text", LIMITS)
def test_a_node_more_than_believed_admits_too_many_and_is_found_out(text: str) -> None:
    assert play(text, "2 x", "round robin", 10, believed=10).kept
    assert not play(text, "2 x", "round robin", 11, believed=10).kept


# Throughput.


def test_more_nodes_and_a_nearer_store_never_decide_fewer_hits() -> None:
    latencies = sorted((simulation.LOCAL, *simulation.LATENCIES))
    for nodes, more in zip(NODES, NODES[1:]):
        assert simulation.rate_apart(nodes) < simulation.rate_apart(more)
        for nearer, farther in zip(latencies, latencies[1:]):
            assert simulation.rate_shared(nodes, farther) <= simulation.rate_shared(nodes, nearer)
            assert simulation.rate_shared(nodes, farther) <= simulation.rate_shared(more, farther)


def test_a_shared_store_decides_no_more_than_its_calls_at_a_time() -> None:
    most = simulation.CALLS * SECOND / simulation.GLUSTER
    assert simulation.rate_shared(300, simulation.GLUSTER) == most
    assert simulation.rate_shared(300, 50_000) == most


# The command, and the picture.


def test_it_prints_every_figure_and_draws(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(simulation, "HITS", 1000)
    monkeypatch.setattr(simulation, "NODES", (1, 3, 12))
    assert simulation.main(["--output", str(tmp_path / "picture.svg")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert max(map(len, lines)) <= 105
    assert any(line.startswith(CLAIM) for line in lines)
    for text in LIMITS:
        assert any(line.startswith(f"{text}  ") for line in lines)
    for balance in simulation.BALANCES:
        for demand in simulation.DEMANDS:
            rows = [line for line in lines if line.startswith(balance) and f" {demand} " in line]
            assert len(rows) - (balance == "random" and demand == "2 x") == len(LIMITS)
    assert not captured.err  # standard error is no terminal
    assert shown(tmp_path / "picture.svg")


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
    assert CLAIM not in output


def shown(picture: Path) -> list[str]:
    """Return the texts of the picture, and its figures."""
    svg = ElementTree.parse(picture).getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    figures = svg.find(".//{http://purl.org/dc/elements/1.1/}description")
    assert figures is not None
    assert figures.text is not None
    return [*texts, figures.text]


def test_the_picture_shows_every_line_of_both_panels() -> None:
    *texts, figures = shown(PICTURE)
    for panel in json.loads(figures):
        assert set(panel) <= set(texts)
        assert all(len(line) == len(NODES) for line in panel.values())


def test_the_picture_is_what_the_command_makes_today(tmp_path: Path) -> None:
    simulation.draw(str(tmp_path / "picture.svg"))
    assert shown(PICTURE) == shown(tmp_path / "picture.svg")
