"""What the doctor reports on two nodes that meet."""

from __future__ import annotations

import os
import re
import threading
import time

import pytest

from limiter.doctor import pair_checks
from limiter.doctor.command import doctor
from limiter.doctor.meeting import Meeting
from tests.breaking import breaking_mount
from tests.doctoring import DEADLINE, FEW, JOINT, LATENCIES, TRIALS, end, levels, start


def test_two_that_meet_try_each_other(root: str) -> None:
    first = start(root, meet=True)
    second = start(root, meet=True)
    for status, output, log in (end(first), end(second)):
        assert (status, log) == (0, ""), output
        assert levels(output) == [
            (what, "PASS") for what in ["file system", "directory", *TRIALS, *LATENCIES, *JOINT]
        ]
        assert f"two nodes: {os.uname().nodename} and {os.uname().nodename}\n" in output
    assert os.listdir(root) == []


def _meet(root: str, monkeypatch: pytest.MonkeyPatch, patience: float) -> int:
    monkeypatch.setattr("limiter.doctor.command._PATIENCE", patience)
    monkeypatch.setattr("limiter.doctor.command.TRIALS", [])
    return doctor(root, meet=True)


def test_who_stays_alone_says_so(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _meet(root, monkeypatch, 0.1) == 2
    assert "The other node has been silent for 0.1 s" in capsys.readouterr().err
    assert os.listdir(root) == []


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("flaw", "only", "found"),
    [
        ("several winners", "rename by both", {"rename"}),
        ("old listings", "listing by both", {"listing", "news"}),
    ],
)
def test_two_nodes_find_a_flaw_together(flaw: str, only: str, found: set[str]) -> None:
    with breaking_mount(flaw) as point:
        settings = {**FEW, "_LATE": 0.1}
        both = [start(point, settings, [only], meet=True) for _ in range(2)]
        for status, output, log in map(end, both):
            assert {what for what, level in levels(output) if level == "FAIL"} == found, output + log
            assert status == 1


def test_clocks_apart_are_told(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference reported is the true one, however late each node gets the other's message."""

    class Clock:
        monotonic, perf_counter, time_ns, sleep = (
            time.monotonic,
            time.perf_counter,
            time.time_ns,
            time.sleep,
        )

        @staticmethod
        def time() -> float:
            return time.time() + 2000 * (threading.current_thread() is ahead)

    found: list[tuple[str, str, str, str]] = []

    def meet() -> None:
        found.extend(pair_checks._clocks(Meeting(root, DEADLINE)))

    monkeypatch.setattr(pair_checks, "time", Clock)
    ahead, right = threading.Thread(target=meet), threading.Thread(target=meet)
    for thread in (ahead, right):
        thread.start()
    for thread in (ahead, right):
        thread.join()
    for level, what, text, _ in found:
        assert (level, what) == ("WARN", "clocks")
        match = re.fullmatch(
            r"the other node's is ([\d.]+) ms off this node's, within ([\d.]+) ms", text
        )
        assert match is not None
        assert abs(float(match[1]) - 2_000_000) <= float(match[2]) + 0.1
    assert len(found) == 2
