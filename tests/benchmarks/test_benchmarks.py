"""The benchmarks run, and report a claim that does not hold.  No test relies on a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping

import pytest

from benchmarks import apache, in_process
from benchmarks.report import Row, report

pytestmark = pytest.mark.one_python

FEW = ["--rounds", "1"]
needs_h2load = pytest.mark.skipif(
    shutil.which("h2load") is None, reason="h2load is missing (nghttp2-client)"
)


def allow_any_figure(monkeypatch: pytest.MonkeyPatch, at_most: Mapping[str, float]) -> None:
    """Replace the claims by some that hold on any machine."""
    for name in at_most:
        monkeypatch.setitem(at_most, name, float("inf"))


def names_without(output: str, claims: Iterable[str]) -> list[str]:
    """Return the claims about which the table has no line; all others must hold."""
    assert output.endswith("\nAll as claimed.\n")
    return [name for name in claims if f"\n{name} " not in output]


def test_in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    allow_any_figure(monkeypatch, in_process.AT_MOST)
    monkeypatch.setattr(in_process, "MANY_CLIENTS", 20)
    monkeypatch.setattr(in_process, "instructions", lambda *_: 1)  # test_hot_path counts them
    # Requests are denied however long they take.
    new_store = in_process.new_store
    patient = {"LIMITER_TIMEOUT": "600"}
    monkeypatch.setattr(
        in_process, "new_store", lambda parent, *_: {**new_store(parent, "10/hour"), **patient}
    )
    assert in_process.main(FEW) == 0
    tools = {"instructions": "valgrind", "system calls": "strace"}
    missing = tuple(name for name, tool in tools.items() if shutil.which(tool) is None)
    for name in names_without(capsys.readouterr().out, in_process.AT_MOST):
        assert name.endswith(missing)


@needs_h2load
def test_apache(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Few requests, none of which is abandoned because the machine is busy."""
    allow_any_figure(monkeypatch, apache.AT_MOST)
    monkeypatch.setattr(apache, "CLIENTS", 2)
    monkeypatch.setattr(apache, "FAST", 20)
    monkeypatch.setattr(apache, "SLOW", 10)
    monkeypatch.setitem(apache.SETTINGS, "LIMITER_TIMEOUT", "600")
    assert apache.main(FEW) == 0
    output = capsys.readouterr()
    missing = names_without(output.out, apache.AT_MOST)
    assert [name for name in missing if "mod_wsgi" not in output.err] == []


def test_a_false_claim_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The figure is marked, and its name repeated at the end.  A missed goal is only marked."""
    rows = [Row("true", 1, "x"), Row("false", 2, "x"), Row("good", 1, "x"), Row("bad", 2, "x")]
    assert report(rows, {"true": 1, "false": 1}, {"true": 0, "good": 1, "bad": 1}) == 1
    *table, _, last = capsys.readouterr().out.splitlines()
    verdicts = [line.split(" x ")[1].strip() for line in table]
    assert verdicts == ["at most 1, goal 0 missed", "at most 1 FALSE", "goal 1", "goal 1 missed"]
    assert last == "Not as claimed: false"
    assert report(rows, {"false": 2}, {"bad": 1}) == 0
    assert capsys.readouterr().out.endswith("\n\nAll as claimed.\n")


def test_an_answer_that_must_not_be_is_an_error() -> None:
    door = apache.Door("file", "file", "/page")
    flooded = apache.Door("file, map: denied", "file", "/map/page", denies=True)
    right = ["200"] * door.requests
    most = 2 * apache.QUOTA
    door.check(right, 1.0)
    flooded.check(["200"] * most + ["429"] * (flooded.requests - most), 1.0)
    for statuses in (right[1:], [*right[1:], "429"], [*right[1:], "500"]):
        with pytest.raises(RuntimeError, match=r"^file: answered "):
            door.check(statuses, 1.0)
    for wrong in ("200", "401"):
        with pytest.raises(RuntimeError, match="denied: answered "):
            flooded.check(["200"] * most + ["429"] * (flooded.requests - most - 1) + [wrong], 1.0)


def test_a_round_of_the_storages_hits_each_as_often(root: str) -> None:
    from limits.storage import storage_from_string

    import limiter.contrib.limits as ours
    from benchmarks.limits_storage import measure_sync

    storage = storage_from_string(ours.uri(root))
    assert len(measure_sync(storage, "moving-window", "a")) == 3
    with pytest.raises(RuntimeError, match="exactly 50"):
        measure_sync(storage, "moving-window", "a")
