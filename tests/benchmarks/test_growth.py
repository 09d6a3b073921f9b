"""The benchmark of growth: it runs, leaves nothing, and notices a false claim.  No test relies on a time."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import growth, growth_clients, growth_cluster, growth_limits, growth_processes
from benchmarks.growth_clients import NoRoomError, fill, remove
from benchmarks.growth_limits import Steady
from benchmarks.growth_processes import OVER, Scene, flood
from benchmarks.growth_series import Axis, Point
from limiter.core.limiter import Limiter
from tests.limiting import entries

pytestmark = pytest.mark.one_python


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the benchmark measure the smallest sizes in this directory, and claim nothing about times."""
    place = tmp_path / "stores"
    place.mkdir()
    monkeypatch.setattr(growth_clients, "SIZES", [1, 2, 10])
    monkeypatch.setattr(growth_clients, "FEWEST_FOR_NEW", 10)
    monkeypatch.setattr(growth_clients, "PLACES", {str(place): "disk"})
    monkeypatch.setattr(growth_limits, "SLOTS", (1, 20, 100))
    monkeypatch.setattr(growth_limits, "LIMITS", (1, 2))
    monkeypatch.setattr(growth_limits, "MEMORY", str(place))
    monkeypatch.setattr(growth_processes, "PROCESSES", (1, 2))
    monkeypatch.setattr(growth_processes, "SECONDS", 0.02)
    monkeypatch.setattr(growth_processes, "MEMORY", str(place))
    monkeypatch.setattr(growth_cluster, "SECONDS", 0.02)
    monkeypatch.setattr(growth, "CLAIMS", [replace(it, at_most=float("inf")) for it in growth.CLAIMS])
    return place


def test_it_prints_a_line_for_each_size_draws_and_leaves_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert growth.main(["--rounds", "1", "--output", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.endswith("\nAll as claimed.\n")
    for line in (
        *("disk, same client: 10", "disk, any client: 10", "disk, first hit: 10"),
        *("1 hit an hour: 100", "as fast as the limit: 100", "fixed: 1", "long-running denied: 20"),
        *("admitted: 2", "admitted, a key each: 2", "flood: 2", "admitted beyond the limit"),
    ):
        assert f"\n{line} " in output
    for name in ("clients", "slots", "limits", "processes", "processes-rate"):
        assert (tmp_path / f"growth-{name}.svg").exists()
    assert entries(place) == []


def test_an_interrupted_run_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        assert len(list(place.glob("*/app9@*"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(growth_clients, "interleave", interrupt)
    with pytest.raises(KeyboardInterrupt):
        growth.main([])
    assert entries(place) == []


def test_a_false_claim_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is judged by the ratios of each round: here the second is noisy."""
    axis = Axis("slots", "", "")
    axis.add(growth_limits.FIXED, 1, Point([10.0, 50.0, 10.0], [5.0, 25.0, 5.0]))
    axis.add(growth_limits.FIXED, 10_000, Point([13.0, 65.0, 13.0], [5.0, 25.0, 5.0]))
    monkeypatch.setattr(growth, "measure", lambda *_: [axis])
    assert growth.main([]) == 1
    output = capsys.readouterr().out
    assert "\nfixed: 10,000                       13.0 us                2.60 x bare 2.60-2.60" in output
    assert output.endswith("\nNot as claimed: fixed, 1 to 10k\n")
    axis.add(growth_limits.FIXED, 10_000, Point([11.0, 55.0, 11.0], [5.0, 25.0, 5.0]))
    assert growth.main([]) == 0


# Clients.


def test_a_removal_that_is_interrupted_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    root.mkdir()
    fill(root, 1)
    wait = subprocess.Popen.wait
    calls: list[str] = []

    def interrupted(process: subprocess.Popen[str], timeout: float | None = None) -> int:
        calls.append("wait")
        if len(calls) == 1:
            raise KeyboardInterrupt
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remove(root)
    assert not root.exists()


def test_a_store_is_furnished_as_first_hits_would(tmp_path: Path) -> None:
    fill(tmp_path, 700)
    assert len(entries(tmp_path)) == 700 * 11
    assert Limiter(tmp_path, growth_clients.LIMIT, newcomers="0/second").hit("app699")


def test_a_size_for_which_there_is_no_room_is_left_out_with_the_reason(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statvfs = os.statvfs

    def nearly_full(path: str) -> os.statvfs_result:
        """As if each client took a tenth of all inodes, and three had room."""
        clients = len(list(Path(path).glob("*/app*")))
        values = list(statvfs(path))
        values[5:8] = 1000, 1000 - 100 * clients, 1000 - 100 * clients
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    axis = growth_clients.measure(1, 10)
    (reason,) = axis.left_out
    assert reason.startswith("10 clients on disk: they need 1,000 inodes, 700 are free")
    assert list(axis.series["disk, same client"]) == [1, 2]
    list(growth.rows(axis))
    assert f"\nLeft out: {reason}\n" in capsys.readouterr().out
    assert entries(place) == []


def test_a_store_that_cannot_be_furnished_has_no_room(tmp_path: Path) -> None:
    with pytest.raises(NoRoomError, match="The store does not exist"):
        fill(tmp_path / "missing", 1)


# Limits.


@pytest.mark.parametrize("limits", ["1/hour", "20/hour", "100/hour", "10/hour;10/2 hours"])
def test_a_limit_is_as_full_as_if_hits_had_always_come(limits: str, tmp_path: Path) -> None:
    quota = int(limits.partition("/")[0])
    for name, hits, pace in (("busy", quota, True), ("full", quota, False), ("light", 1, True)):
        root = tmp_path / name
        root.mkdir()
        player = Steady(root, limits, hits)
        for _ in range(2 * quota):
            if pace:
                player._ahead += player._step
            assert bool(player.hit()) == pace
        if name == "busy":
            assert not player.hit()


# Processes and nodes.


def test_processes_that_share_no_store_are_found_to_admit_too_many(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    scene = Scene(OVER, "10/hour")
    assert flood(scene, [tmp_path / "one"] * 2, 0.2).beyond == 0
    assert flood(scene, [tmp_path / "one", tmp_path / "other"], 0.2).beyond == 10
    own = replace(scene, own_keys=True)
    assert flood(own, [tmp_path / "one", tmp_path / "other"], 0.2).beyond == 0


def test_nodes_hit_one_store(place: Path) -> None:
    axis = growth_cluster.play(1, [place, place])
    assert {name: list(series) for name, series in axis.series.items()} == {
        name: [1, 2] for name in ("admitted", "admitted, a key each", "flood")
    }
    (row,) = axis.further
    assert row.figure == 0


def test_nodes_are_left_out_where_no_cluster_can_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    axis = growth_cluster.measure(1)
    assert list(growth.rows(axis)) == []
    assert "Left out: nodes: only root can make machines of namespaces" in capsys.readouterr().out
