"""The benchmark itself: it runs, and says so when a claim does not hold.  No test relies on a time."""

from __future__ import annotations

import pytest

from tests import benchmark

pytestmark = pytest.mark.one_python

FEW = ["--rounds", "2"]


@pytest.fixture
def no_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark without the claims that a noisy moment can break."""
    for name, most in benchmark.AT_MOST.items():
        if most > 1 or name.endswith("CPU"):
            monkeypatch.setitem(benchmark.AT_MOST, name, float("inf"))


@pytest.mark.usefixtures("no_claims")
def test_it_prints_a_table_of_all_claims(capsys: pytest.CaptureFixture[str]) -> None:
    """The machine, and a line of at most 100 columns for each figure; 0 if all claims hold."""
    assert benchmark.main(FEW) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Linux" in lines[0]
    assert lines[-1] == "All as claimed."
    assert max(map(len, lines[2:])) <= 100
    for name in benchmark.AT_MOST:
        assert any(line.startswith(name) for line in lines) or _needs_a_tool(name)


def _needs_a_tool(name: str) -> bool:
    return name.endswith(("instructions", "system calls"))


@pytest.mark.usefixtures("no_claims")
def test_a_false_claim_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with 1, marks the figure, and repeats its name at the end."""
    monkeypatch.setattr(benchmark, "MEASURES", [benchmark.stays])
    name = "admitted from memory: renames"
    monkeypatch.setitem(benchmark.AT_MOST, name, 0)
    assert benchmark.main(FEW) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.endswith("FALSE")] == [name]
    assert lines[-1] == f"Not as claimed: {name}"
