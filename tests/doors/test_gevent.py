"""gunicorn with gevent, which runs all requests of a process in one thread: a store that hangs stops no other."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.doors.servers import COMMANDS, serving
from tests.hanging import hanging_mount
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python
pytest.importorskip("gevent")

NAMES = [name for name in COMMANDS if "gevent" in name]
RULES = "/free * exempt\n/ * 1000/hour\n"


def rules(place: Path) -> str:
    (place / "rules").write_text(RULES)
    return str(place / "rules")


@pytest.mark.parametrize("name", NAMES)
def test_other_requests_go_on_while_the_store_hangs(place: Path, name: str) -> None:
    """The first waits, for up to ten minutes.  Before, all others waited with it."""
    with (
        hanging_mount() as mount,
        serving(
            name, place, LIMITER_ROOT=str(mount.path), LIMITER_RULES=rules(place), LIMITER_TIMEOUT="600"
        ) as it,
        ThreadPoolExecutor(1) as client,
    ):
        assert it.ask("/?app_id=acme") == 200
        mount.hang()
        try:
            waiting = client.submit(it.ask, "/?app_id=other")
            mount.wait_until_stuck()
            assert [it.ask("/free") for _ in range(3)] == [200] * 3
            assert not waiting.done()
        finally:
            mount.release()
        assert waiting.result() == 200


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("on_error", "status"), [("deny", 500), ("admit", 200)])
def test_a_store_that_hangs_has_failed_after_the_time_out(
    place: Path, name: str, on_error: str, status: int
) -> None:
    """When it is back, all is well again."""
    with (
        hanging_mount() as mount,
        serving(
            name, place, LIMITER_ROOT=str(mount.path), LIMITER_TIMEOUT="1", LIMITER_ON_ERROR=on_error
        ) as it,
    ):
        wait_until(lambda: it.ask("/?app_id=acme") == 200)
        mount.hang()
        try:
            assert it.ask("/?app_id=other") == status
            assert f"StoreError: [Errno {errno.ETIMEDOUT}]" in it.log[-1]
        finally:
            mount.release()
        if status != 200:  # else nobody could tell
            wait_until(lambda: it.ask("/?app_id=last") == 200)
