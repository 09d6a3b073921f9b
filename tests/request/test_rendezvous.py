"""Several stores: each app_id has one, they share evenly, and few app_ids move when stores change."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest

from limiter.request.long_running import LongRunningGate
from limiter.request.rendezvous import choose
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS

APPS = [f"app-{number}" for number in range(3000)]


def by_store(roots: list[str]) -> dict[str, str]:
    return {app: choose(roots, app) for app in APPS}


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_each_has_about_its_part(number: int) -> None:
    """Each part is within five standard deviations of the binomial distribution."""
    part = len(APPS) / number
    deviation = (part * (1 - 1 / number)) ** 0.5
    for count in Counter(by_store([f"/mnt/{index}" for index in range(number)]).values()).values():
        assert abs(count - part) <= 5 * deviation


def test_a_store_that_is_added_anywhere_takes_its_part_and_moves_nothing_else() -> None:
    before, after = by_store(["/mnt/a", "/mnt/b"]), by_store(["/mnt/b", "/mnt/c", "/mnt/a"])
    moved = [app for app in APPS if before[app] != after[app]]
    assert {after[app] for app in moved} == {"/mnt/c"}
    assert len(APPS) / 4 < len(moved) < len(APPS) / 2


def test_a_broken_store_concerns_only_its_own_app_ids(root: str) -> None:
    roots = [f"{root}/{name}" for name in "ab"]
    for path in roots:
        os.mkdir(path)
    settings = {b"LIMITER_ROOT": ":".join(roots).encode(), b"LIMITER_LIMIT": b"1/hour"}
    gate = LongRunningGate({**settings, b"LIMITER_TIMEOUT": b"600"})
    log: list[Exception | str] = []

    def status(app: str) -> str:
        return gate.verdict(lambda: app, log.append)[0]

    apps = APPS[:15]
    assert {status(app) for app in apps} == {OK}
    shutil.rmtree(roots[0])
    broken = [app for app in apps if choose(roots, app) == roots[0]]
    for app in apps:
        assert status(app) == (INTERNAL_SERVER_ERROR if app in broken else TOO_MANY_REQUESTS)
    assert len(log) == len(broken) > 0
    assert all("The store does not exist" in str(line) and roots[0] in str(line) for line in log)
