"""The benchmark beside peers: its judge sees what is too much, and a small run goes through."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.__main__ import main
from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.contest import Flood, flood, most_allowed, most_in_a_window
from benchmarks.peers import Result
from benchmarks.web_contenders import QUOTA, WEB_CONTENDERS

pytestmark = pytest.mark.one_python

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND


def hits(*moments: int, lasting: int = 10) -> list[tuple[int, int]]:
    return sorted((NOW + moment, NOW + moment + lasting) for moment in moments)


@pytest.mark.parametrize(
    ("admitted", "is_fixed", "most"),
    [
        ([], False, 0),
        (hits(0, 1, 2), False, 3),
        (hits(0, SECOND - 11), False, 2),
        (hits(0, SECOND - 10), False, 1),  # it may have been decided a window later
        (hits(0, SECOND), False, 1),
        (hits(SECOND - 20, SECOND), True, 1),  # two calendar windows
        (hits(SECOND - 30, SECOND - 20, SECOND), True, 2),
        (hits(SECOND - 5), True, 0),  # in which of two is not certain
    ],
)
def test_only_what_is_certain_counts_in_a_window(
    admitted: Sequence[tuple[int, int]], is_fixed: bool, most: int
) -> None:
    assert most_in_a_window(admitted, SECOND, is_fixed) == most


@pytest.mark.parametrize(
    ("kind", "begin", "end", "allowed"),
    [
        ("sliding", 0, SECOND - 1, 5),
        ("sliding", 0, SECOND, 10),
        ("fixed", SECOND - 1, SECOND, 10),
        ("bucket", 0, SECOND // 2, 7),
    ],
)
def test_so_many_are_allowed(kind: str, begin: int, end: int, allowed: int) -> None:
    assert most_allowed(kind, 5, SECOND, NOW + begin, NOW + end) == allowed


@pytest.mark.parametrize(
    ("kind", "number"), [("sliding", 0), ("fixed", 0), ("bucket", 0), ("sliding", 1)]
)
def test_one_hit_too_many_is_seen(kind: str, number: int) -> None:
    """The numbers are those of hits beyond the limit, all within a millisecond."""
    for more in (number, number + 1):
        admitted = hits(*range(QUOTA + more), lasting=1)
        result = Result.of("it", kind, Flood(admitted, 0, Counter()))
        assert result.is_too_much(kind) == (more > 0)


def always() -> Callable[[str], bool]:
    return lambda _: True


def failing() -> Callable[[str], bool]:
    def hit(_: str) -> bool:
        raise LookupError

    return hit


def test_a_contender_that_admits_everything_admits_too_much() -> None:
    got = flood(always, 2, 1.0)
    assert Result.of("it", "sliding", got).is_too_much("sliding")
    assert got.hits == len(got.admitted)


def test_errors_are_counted_by_their_type() -> None:
    got = flood(failing, 2, 1.0)
    assert [*got.errors] == ["LookupError"]
    assert got.hits == got.errors.total()


def test_a_process_that_is_killed_is_missed_by_nobody() -> None:
    with CONTENDERS[OURS].new() as made:
        got = peers.kill_one(made, 1.0)
    assert not Result.of("it", "sliding", got).is_too_much("sliding")
    assert got.admitted


def test_what_was_admitted_after_an_accident_is_counted() -> None:
    moments = []

    def note(_: object) -> None:
        time.sleep(0.05)
        moments.append(time.time_ns() // 1000)

    got = flood(always, 1, 1.0, meanwhile=note)
    assert 0 < got.since(moments[0]) <= len(got.admitted)
    assert got.since(0) == len(got.admitted)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The contenders that need nothing else."""
    names = [OURS, "this, fixed window", "SQLite, a transaction", "2017: touch and count"]
    monkeypatch.setattr(peers, "CONTENDERS", {name: CONTENDERS[name] for name in names})
    monkeypatch.setattr(peers, "WEB_CONTENDERS", WEB_CONTENDERS[:1])
    monkeypatch.setattr(peers, "CLIENTS", 20)
    return names


def test_a_small_run_prints_its_tables_and_writes_its_files(
    few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether a claim is false depends on the machine."""
    record = tmp_path / "record.json"
    more = ["--rounds", "2", "--seconds", "0.3", "--record", str(record), "--output", str(tmp_path)]
    assert main(["peers", *more]) in (0, 1)
    output = capsys.readouterr().out
    assert all(sum(line.startswith(name) for line in output.splitlines()) == 3 for name in few)
    assert "this, one process killed" in output
    assert "this, Apache's map" in output
    for name in ("peers.svg", "peers-dark.svg"):
        assert "SQLite, a transaction" in (tmp_path / name).read_text()
    figures = json.loads(record.read_text())["figures"]
    assert {f"{name}: admitted" for name in few} < set(figures)
    assert main(["compare", str(record), str(record)]) == 0
