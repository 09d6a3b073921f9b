"""Clients in all languages on one store: no limit admits too many, and nobody is denied with room."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from limiter.core.limit import SECOND, clock
from limiter.core.notation import parse
from limiter.core.store import Store
from limiter.core.sweep import sweep_store
from tests.clients.judge import judge
from tests.clients.kit import COMMANDS, FILES, client, flood

pytestmark = pytest.mark.one_python

EACH = 2
"""How many processes of each client hit at once."""
TIME = 5 * SECOND // 2
FLOODS = 20
"""So often a broken client is tried, until the judge sees it."""
LIMITS = (
    "50/second",
    "20/second fixed",
    "20/second burst 30",
    "7 per 1 s;20 per 2 seconds;90/minute fixed",
)


ALL = [(language,) for language in COMMANDS for _ in range(EACH)]


@pytest.mark.parametrize("limits", LIMITS)
def test_s1_and_l1_hold_with_clients_of_all_languages(any_root: str, limits: str) -> None:
    parsed = parse(limits)
    admitted, denied = flood(any_root, limits, ALL, TIME)
    judge(parsed, admitted, denied)
    assert len(admitted) >= min(limit.quota for limit in parsed)
    for limit in parsed:
        assert limit.is_whole(sorted(os.listdir(f"{any_root}/acme@{limit.directory(0)}")), 0)


def test_the_judge_knows_that_a_process_may_be_stopped_between_its_decision_and_its_answer() -> None:
    """The bucket was empty when the hit began, and half full when it ended."""
    admitted = [(number, number + 1) for number in range(30)]
    (limit,) = parse("20/second burst 30")
    judge([limit], [*admitted, (500_000, 500_010)], [(100, 777_000)])
    with pytest.raises(AssertionError, match="with room"):
        judge([limit], [*admitted, (500_000, 500_010)], [(200_000, 777_000)])


SABOTAGES = {
    "a window a thousandth short": (
        "\\max(1, $now - $this->window + 1)",
        "\\max(1, $now - \\intdiv($this->window * 999, 1000))",
        "hits within a window",
    ),
    "a lost race taken as won": (
        "if (!$this->rename($directory, $name, $new)) {",
        "if (!$this->rename($directory, $name, $new) && false) {",
        "hits within a window",
    ),
    "a slot kept too long": (
        "\\max(1, $now - $this->window + 1)",
        "\\max(1, $now - \\intdiv($this->window * 1002, 1000))",
        "with room",
    ),
}


@pytest.mark.parametrize("name", SABOTAGES)
def test_the_judge_sees_a_broken_client(root: str, tmp_path: Path, name: str) -> None:
    right, wrong, seen = SABOTAGES[name]
    broken = tmp_path / "limiter.php"
    text = FILES["php"].read_text()
    assert text.count(right) == 1
    broken.write_text(text.replace(right, wrong))
    # A wrong moment of a millisecond is not in each flood: on a busy machine nobody may hit just then.
    said = ""
    for _ in range(FLOODS):
        try:
            judge(parse("50/second"), *flood(root, "50/second", [("php", broken)] * 4, TIME))
        except AssertionError as error:
            said = str(error)
            break
    assert seen in said


def test_all_race_for_new_clients_and_each_is_made_once(root: str) -> None:
    """Each of the clients hits each app_id once: as many are admitted as the limit has."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client(*it)) for it in ALL]
        for number in range(100):
            for it in clients:
                it.tell("hit", root=root, limits="3/hour", app=f"app-{number}", newcomers="")
            assert sum(it.hear() for it in clients) == 3
    (limit,) = parse("3/hour")
    for number in range(100):
        assert limit.is_whole(sorted(os.listdir(f"{root}/app-{number}@3-per-3600s")), 0)


def test_a_sweeper_at_work_changes_nothing(root: str) -> None:
    def sweep() -> None:
        end = clock() + TIME
        while clock() < end:
            sweep_store(Store(root), idle=0)

    admitted, denied = flood(root, "50/second", ALL, TIME, sweep)
    judge(parse("50/second"), admitted, denied)
