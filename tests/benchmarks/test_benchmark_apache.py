"""The benchmark of Apache runs, and reports a claim that does not hold.  No test relies on a time."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import apache as benchmark

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is missing (nghttp2-client)"),
]

FEW = ["--rounds", "1"]


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark with few requests, none of which is abandoned because the machine is busy."""
    monkeypatch.setattr(benchmark, "CLIENTS", 2)
    monkeypatch.setitem(benchmark.SETTINGS, "LIMITER_TIMEOUT", "600")
    monkeypatch.setattr(benchmark, "FAST", 10 * benchmark.CLIENTS)
    monkeypatch.setattr(benchmark, "SLOW", 5 * benchmark.CLIENTS)


def test_it_prints_a_table_of_all_claims(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in benchmark.AT_MOST:
        monkeypatch.setitem(benchmark.AT_MOST, name, float("inf"))
    assert benchmark.main(FEW) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert "Linux" in lines[0]
    assert "Apache" in lines[1]
    assert lines[-1] == "All as claimed."
    assert max(map(len, lines[2:])) <= 100
    for name in (*benchmark.AT_MOST, *benchmark.GOALS):
        assert any(line.startswith(f"{name} ") for line in lines) or "mod_wsgi" in output.err


def test_a_false_claim_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "wsgi", tuple)
    monkeypatch.setattr(benchmark, "scripts", tuple)
    name, missed = "file", "proxied"  # no more than itself
    monkeypatch.setattr(benchmark, "AT_MOST", {name: -1})
    monkeypatch.setattr(benchmark, "GOALS", {missed: -1})
    assert benchmark.main(FEW) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.endswith("FALSE")] == [name]
    assert [line.split("  ")[0] for line in lines if line.endswith("missed")] == [missed]
    assert lines[-1] == f"Not as claimed: {name}"


def test_an_answer_that_must_not_be_is_an_error() -> None:
    door = benchmark.Door("file", "file", "/page")
    flooded = benchmark.Door("file, map: denied", "file", "/map/page", denies=True)
    right = ["200"] * door.requests
    most = 2 * benchmark.QUOTA
    door.check(right, 1.0)
    flooded.check(["200"] * most + ["429"] * (flooded.requests - most), 1.0)
    for statuses in (right[1:], [*right[1:], "429"], [*right[1:], "500"]):
        with pytest.raises(RuntimeError, match=r"^file: answered "):
            door.check(statuses, 1.0)
    for wrong in ("200", "401"):
        with pytest.raises(RuntimeError, match="denied: answered "):
            flooded.check(["200"] * most + ["429"] * (flooded.requests - most - 1) + [wrong], 1.0)
