"""The benchmark runs, and reports a claim that does not hold.  No test relies on a time."""

from __future__ import annotations

import pytest

from benchmarks import in_process as benchmark

pytestmark = pytest.mark.one_python

FEW = ["--rounds", "1"]


@pytest.fixture(autouse=True)
def no_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark without its claims, and with requests that are denied however long they take."""
    for name in benchmark.AT_MOST:
        monkeypatch.setitem(benchmark.AT_MOST, name, float("inf"))
    new_store = benchmark.new_store

    def new_store_for_long(parent: str, limit: str = "") -> dict[str, str]:
        return {**new_store(parent, "10/hour"), "LIMITER_TIMEOUT": "600"}

    monkeypatch.setattr(benchmark, "new_store", new_store_for_long)


def test_it_prints_a_table_of_all_claims(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table names the machine, and has a line of at most 100 columns for each figure; 0 if all
    claims hold.
    """
    monkeypatch.setattr(benchmark, "instructions", lambda *_: 1)  # tests.doors.test_hot_path counts them
    assert benchmark.main(FEW) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Linux" in lines[0]
    assert lines[-1] == "All as claimed."
    assert max(map(len, lines[2:])) <= 100
    for name in benchmark.AT_MOST:
        assert any(line.startswith(name) for line in lines) or _needs_a_tool(name)


def _needs_a_tool(name: str) -> bool:
    return name.endswith(("instructions", "system calls"))


def test_a_false_claim_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The benchmark exits with 1, marks the figure, and repeats its name at the end."""
    monkeypatch.setattr(benchmark, "MEASURES", [benchmark.stays])
    name = "admitted from memory: renames"
    monkeypatch.setitem(benchmark.AT_MOST, name, 0)
    assert benchmark.main(FEW) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.endswith("FALSE")] == [name]
    assert lines[-1] == f"Not as claimed: {name}"
