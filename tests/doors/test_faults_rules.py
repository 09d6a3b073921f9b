"""Law F1 for rules: whatever fails about their file is a 500, and never "no rules"."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from limiter import Limiter
from tests.doors.doors import DOORS, Request
from tests.doors.test_contract import check_one_line, settings_of
from tests.faults import HARD, SOFT, fail, play

FILE_CALLS = {"open", "read", "close"}


@pytest.mark.one_python
@pytest.mark.parametrize("name", DOORS)
def test_f1_every_call_for_the_file_of_rules(name: str, store: str, place: Path) -> None:
    file = place / "rules"
    file.write_text("/ * 9/hour")
    Limiter(store, "9/hour", newcomers="").hit("acme")
    door = DOORS[name]
    request = Request(settings_of(store, RULES=str(file), ON_ERROR="admit"), path="/x")
    struck = set()
    for call in range(1000):
        number = (HARD + SOFT)[call % len(HARD + SOFT)]
        ended = play(partial(door.open, request), call, fail(number))
        if ended.target == str(file):
            answer = door.read(ended)
            struck.add(ended.struck)
            if ended.struck == "stat":  # it is only looked at to see a change
                assert (answer.status, answer.log) == ("200", [])
                continue
            assert answer.status == "500"
            check_one_line(
                answer, "ValueError: LIMITER_RULES=", f"{os.strerror(number)}: expected a file"
            )
        if not ended.struck:
            break
    assert struck >= FILE_CALLS


def test_a_pipe_does_not_keep_a_request_waiting(store: str, place: Path) -> None:
    os.mkfifo(place / "rules")
    answer = DOORS["check"].send(settings_of(store, RULES=f"{place}/rules"), path="/x")
    assert answer.status == "500"
    check_one_line(answer, "ValueError: LIMITER_RULES=", "expected at least one rule")
