"""Several stores: each app_id has one, they share evenly, and few app_ids move when stores change."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from limiter.request.gate import Gate
from limiter.request.rendezvous import choose
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS

APPS = [f"app-{number}" for number in range(3000)]


def by_store(roots: list[str]) -> dict[str, str]:
    return {app: choose(roots, app) for app in APPS}


@pytest.mark.parametrize("number", [2, 3, 5, 8])
def test_each_has_about_its_part(number: int) -> None:
    """Each part is within five standard deviations of the binomial distribution."""
    roots = [f"/mnt/{index}" for index in range(number)]
    part = len(APPS) / number
    deviation = (part * (1 - 1 / number)) ** 0.5
    for count in Counter(by_store(roots).values()).values():
        assert abs(count - part) < 5 * deviation


def test_the_order_does_not_matter() -> None:
    assert by_store(["/mnt/a", "/mnt/b", "/mnt/c"]) == by_store(["/mnt/c", "/mnt/a", "/mnt/b"])


def test_a_store_that_is_added_takes_its_part_and_moves_nothing_else() -> None:
    before, after = by_store(["/mnt/a", "/mnt/b"]), by_store(["/mnt/a", "/mnt/b", "/mnt/c"])
    moved = [app for app in APPS if before[app] != after[app]]
    assert {after[app] for app in moved} == {"/mnt/c"}
    assert len(APPS) / 4 < len(moved) < len(APPS) / 2


def test_one_root_is_everybodys() -> None:
    assert set(by_store(["/mnt/a"]).values()) == {"/mnt/a"}


def test_a_broken_store_concerns_only_its_own_app_ids(root: str) -> None:
    roots = [f"{root}/{name}" for name in "abc"]
    for path in roots:
        os.mkdir(path)
    settings = {"LIMITER_ROOT": ":".join(roots), "LIMITER_LIMIT": "1/hour", "LIMITER_TIMEOUT": "600"}
    gate = Gate({name.encode(): value.encode() for name, value in settings.items()})
    said: list[Exception | str] = []

    def ask(app: str) -> str:
        return gate.judge(lambda: app, said.append)[0]

    apps = APPS[:30]
    assert {ask(app) for app in apps[:15]} == {OK}
    assert all(Path(choose(roots, app), app).is_dir() for app in apps[:15])
    shutil.rmtree(roots[0])
    for index, app in enumerate(apps):
        usual = TOO_MANY_REQUESTS if index < 15 else OK
        # A denial that is remembered still holds, even if its store is gone.
        is_broken = choose(roots, app) == roots[0]
        assert ask(app) == (INTERNAL_SERVER_ERROR if is_broken else usual)
    broken = sum(choose(roots, app) == roots[0] for app in apps)
    assert len(said) == broken
    assert all("The store does not exist" in str(line) and roots[0] in str(line) for line in said)
