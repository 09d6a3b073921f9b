"""Two doctors that meet in a store: their roles, their messages, what they find, and how it ends."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limiter.doctor import meeting as doctors_meeting
from limiter.doctor.command import doctor
from limiter.doctor.meeting import PLACE, AloneError, Meeting
from tests.breaking import breaking_mount
from tests.doctoring import CONTENTS, FEW, JOINT, LATENCIES, TEMPORARY, TRIALS, end, levels, start

PATIENCE = 600


def both(root: str, action: Callable[[Meeting], Any]) -> dict[str, Any]:
    """Return what the action returns in each role."""
    answers: dict[str, Any] = {}

    def one() -> None:
        meeting = Meeting(root, PATIENCE)
        answers[meeting.role] = action(meeting)

    threads = [threading.Thread(target=one, name=name) for name in ("ahead", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


# The meeting


def test_two_that_come_at_once_have_different_roles(root: str) -> None:
    for number in range(100):
        store = f"{root}/{number}"
        os.mkdir(store)
        assert set(both(store, lambda meeting: meeting.role)) == {"a", "b"}
        assert os.listdir(store) == [PLACE], "and nothing else is left"


def test_a_third_node_learns_that_two_are_meeting(root: str) -> None:
    both(root, lambda _: None)
    with pytest.raises(AloneError, match="meeting already"):
        Meeting(root, PATIENCE)
    assert os.listdir(root) == [PLACE]


def test_a_place_where_nobody_came_for_ten_minutes_is_replaced(root: str) -> None:
    first = Meeting(root, PATIENCE)
    (seat,) = Path(first.path).iterdir()
    seat.rename(f"{first.path}/seat@{int(time.time()) - 601}")
    assert Meeting(root, PATIENCE).role == "a"
    assert Meeting(root, PATIENCE).role == "b"


# The checks


def test_two_nodes_that_meet_test_each_other(root: str) -> None:
    nodes = [start(root, meet=True) for _ in range(2)]
    for status, output, log in map(end, nodes):
        assert (status, log) == (0, ""), output
        found = levels(output)
        checks = ["file system", "directory", *CONTENTS, *TRIALS, *LATENCIES, *JOINT]
        assert [what for what, _ in found] == checks
        assert [it for it in found if it[1] != "PASS"] == [TEMPORARY]
        assert f"two nodes: {os.uname().nodename} and {os.uname().nodename}\n" in output
    assert os.listdir(root) == []


def test_a_node_that_stays_alone_says_so(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("limiter.doctor.command._PATIENCE", 0.1)
    monkeypatch.setattr("limiter.doctor.command.CHECKS", [])
    assert doctor(root, meet=True) == 2
    assert "The other node sent nothing for 0.1 s" in capsys.readouterr().err
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
        nodes = [start(point, {**FEW, "_LATE": 0.1}, [only], meet=True) for _ in range(2)]
        for status, output, log in map(end, nodes):
            assert {what for what, level in levels(output) if level == "FAIL"} == found, output + log
            assert status == 1


def test_the_true_difference_of_clocks_is_reported(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is less than 600 s: otherwise the node that comes second might replace the meeting."""

    class Clock:
        monotonic, sleep = time.monotonic, time.sleep

        @staticmethod
        def time() -> float:
            return time.time() + 500 * (threading.current_thread().name == "ahead")

    monkeypatch.setattr(doctors_meeting, "time", Clock)
    found = both(root, lambda meeting: list(doctors_meeting._check_clocks(meeting)))
    assert len(found) == 2
    for ((level, what, text, _),) in found.values():
        assert (level, what) == ("WARN", "clocks")
        match = re.fullmatch(
            r"the other node's is ([\d.]+) ms off this node's, within ([\d.]+) ms", text
        )
        assert match is not None
        assert abs(float(match[1]) - 500_000) <= float(match[2]) + 0.1
