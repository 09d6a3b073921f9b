"""The benchmark beside peers: its judge sees what is too much, and a small run goes through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytest

from benchmarks import contenders, peers
from benchmarks.__main__ import main
from benchmarks.accidents import lose
from benchmarks.apache import session
from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.contest import HANGS, Flood, flood, most_allowed, most_in_a_window
from benchmarks.footprint import footprint
from benchmarks.limiters import Contender
from benchmarks.own_process import FORK, own_process
from benchmarks.peers import Result
from benchmarks.record import Figure
from benchmarks.timings import KINDS
from benchmarks.web_contenders import QUOTA, WEB_CONTENDERS
from tests.places import REPOSITORY
from tests.waiting import SAFETY, wait_until

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
        result = Result.of("it", kind, Flood(admitted, 0, Counter(), NOW + 1000))
        assert result.is_too_much == (more > 0)


def always() -> Callable[[str], bool]:
    return lambda _: True


def failing() -> Callable[[str], bool]:
    def hit(_: str) -> bool:
        raise LookupError

    return hit


def hanging() -> Callable[[str], bool]:
    threading.Event().wait()
    raise AssertionError


def test_a_contender_that_admits_everything_admits_too_much() -> None:
    got = flood(always, 2, 1.0)
    assert Result.of("it", "sliding", got).is_too_much
    assert got.hits == len(got.admitted)


def test_errors_are_counted_by_their_type() -> None:
    got = flood(failing, 2, 1.0)
    assert [*got.errors] == ["LookupError"]
    assert got.hits == got.errors.total()


def test_a_process_that_hangs_is_an_error() -> None:
    """And it is ended."""
    got = flood(hanging, 1, 0.0, patience=0.0)
    assert [*got.errors] == [HANGS]


def test_what_a_killed_process_admitted_is_counted_too() -> None:
    were_admitted = FORK.Event()

    def open_() -> Callable[[str], bool]:
        numbers = count()

        def hit(_: str) -> bool:
            if next(numbers) == 10:
                were_admitted.set()
            return True

        return hit

    def kill(numbers: Sequence[int]) -> None:
        were_admitted.wait(SAFETY)
        os.kill(numbers[0], signal.SIGKILL)

    got = flood(open_, 1, SAFETY, meanwhile=kill)
    assert got.hits == len(got.admitted) >= 10


def test_a_limiter_that_counts_anew_after_the_loss_of_its_store_is_seen() -> None:
    """SQLite's file is removed: processes that began before and after do not know of each other."""
    with CONTENDERS["SQLite, a transaction"].new() as made:
        loss = lose(made, QUOTA, 1.0, False)
    assert loss is not None
    assert loss.most > QUOTA
    assert loss.after > 0


def test_this_limiter_admits_nothing_after_the_loss_of_its_store() -> None:
    with CONTENDERS[OURS].new() as made:
        loss = lose(made, QUOTA, 1.0, False)
    assert loss is not None
    assert (loss.after, [*loss.errors]) == (0, ["StoreError"])
    assert "StoreError, none admitted" in str(loss)


def test_what_was_admitted_after_an_accident_is_counted() -> None:
    moments = []

    def note(_: object) -> None:
        time.sleep(0.05)
        moments.append(time.time_ns() // 1000)

    got = flood(always, 1, 1.0, meanwhile=note)
    assert 0 < got.since(moments[0]) <= len(got.admitted)
    assert got.since(0) == len(got.admitted)


def test_a_function_in_a_process_of_its_own() -> None:
    """It is made once, its exceptions are errors here, and it ends with the block."""

    def make() -> Callable[[str], tuple[int, int]]:
        calls: list[str] = []

        def call(text: str) -> tuple[int, int]:
            calls.append(text)
            return os.getpid(), len(calls) + int(text)

        return call

    with own_process(make) as call:
        number, first = call("1")
        assert number != os.getpid()
        with pytest.raises(RuntimeError, match=r"^ValueError: invalid literal"):
            call("x")
        assert (first, call("1")) == (2, (number, 4))
    assert not Path(f"/proc/{number}").exists()


def test_the_use_of_a_store_is_measured() -> None:
    with CONTENDERS["this, disk"].new() as made:
        assert footprint(made, 10).inodes == 2
    with CONTENDERS[OURS].new() as made:
        assert footprint(made, 10).inodes == 11  # tmpfs counts each name


def test_a_contender_that_cannot_be_had_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = contenders.Entry(None, modules=("no_such_module",))
    assert entry.lacking().startswith("Python's module no_such_module is not installed")
    monkeypatch.setenv("PATH", "")
    entry = contenders.Entry(None, lambda _: Contender(lambda *_: lambda _: True))
    assert entry.lacking() == "redis-server is not installed"
    assert CONTENDERS[OURS].lacking() == ""


def test_a_faster_peer_is_named_if_it_is_exact() -> None:
    slow, fast = [{kind: Figure(1.0, it, it, it) for kind in KINDS} for it in (1.5, 0.9)]
    peer = "SQLite, a transaction"
    assert not [*peers.faster_peers({OURS: fast, "2017: touch and count": fast, peer: slow})]
    assert [*peers.faster_peers({peer: fast})] == [
        f"{peer}: admitted is faster",
        f"{peer}: denied is faster",
    ]


def test_what_is_ended_leaves_no_process() -> None:
    command = [sys.executable, "-m", "benchmarks", "peers", "--rounds", "1000000"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True
    )
    number = sum(not entry.lacking() for entry in CONTENDERS.values())
    wait_until(lambda: len([*session(process.pid)]) == 1 + number, "contenders have processes")
    process.terminate()
    assert process.wait(SAFETY) == 128 + signal.SIGTERM
    assert not [*session(process.pid)]


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
    lines = output.splitlines()
    assert {name: sum(line.startswith(f"{name}  ") for line in lines) for name in few} == dict.fromkeys(
        few, 4
    )
    assert "this, one process killed" in output
    assert "this, Apache's map" in output
    for name in ("peers.svg", "peers-dark.svg"):
        assert "SQLite, a transaction" in (tmp_path / name).read_text()
    figures = json.loads(record.read_text())["figures"]
    assert {f"{name}: admitted" for name in few} < set(figures)
    assert main(["compare", str(record), str(record)]) == 0
