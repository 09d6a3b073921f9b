"""Two doctors that meet in a store: their roles, their messages, and how it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.core.sweep import remove
from limiter.doctor.meeting import PLACE, AloneError, Meeting

PATIENCE = 600


def both(root: str, action: Callable[[Meeting], object]) -> dict[str, object]:
    """Return what the action returns in each role."""
    answers: dict[str, object] = {}

    def one() -> None:
        meeting = Meeting(root, PATIENCE)
        answers[meeting.role] = action(meeting)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_whoever_come_at_once_have_different_roles(root: str) -> None:
    for number in range(100):
        store = f"{root}/{number}"
        os.mkdir(store)
        assert set(both(store, lambda meeting: meeting.role)) == {"a", "b"}
        assert os.listdir(store) == [PLACE], "and nothing else is left"


def test_each_hears_what_the_other_tells_in_the_same_step(root: str) -> None:
    def talk(meeting: Meeting) -> list[str]:
        return [meeting.exchange(f"{meeting.role}{number}") for number in range(50)]

    numbers = range(50)
    assert both(root, talk) == {"a": [f"b{it}" for it in numbers], "b": [f"a{it}" for it in numbers]}


def test_one_replies_when_it_has_heard(root: str) -> None:
    def talk(meeting: Meeting) -> list[str]:
        if meeting.role == "b":
            meeting.reply(lambda: f"reply-{len(os.listdir(meeting.path))}")
            return []
        before = len(os.listdir(meeting.path))
        meeting.tell("question")
        return [meeting.hear(), f"reply-{before + 1}"]

    answer = both(root, talk)["a"]
    assert isinstance(answer, list)
    assert answer[0] == answer[1]


def test_who_made_the_place_leaves_it_last(root: str) -> None:
    def leave(meeting: Meeting) -> None:
        meeting.leave()
        if meeting.role == "a":
            remove(meeting.path)

    both(root, leave)
    assert os.listdir(root) == []


def test_a_third_is_told_that_there_are_two(root: str) -> None:
    both(root, lambda _: None)
    with pytest.raises(AloneError, match="meeting already"):
        Meeting(root, PATIENCE)
    assert os.listdir(root) == [PLACE]


def test_a_place_where_nobody_has_come_for_ten_minutes_is_taken_anew(root: str) -> None:
    first = Meeting(root, PATIENCE)
    (seat,) = Path(first.path).iterdir()
    seat.rename(f"{first.path}/seat@{int(time.time()) - 601}")
    assert Meeting(root, PATIENCE).role == "a"
    assert Meeting(root, PATIENCE).role == "b"


def test_who_hears_nothing_is_alone(root: str) -> None:
    with pytest.raises(AloneError, match="silent"):
        Meeting(root, 0.01).exchange("hello")
