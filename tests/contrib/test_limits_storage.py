"""Our storage of the library ``limits``: what its own suite does not see (tests/contrib/limits_suite.py runs that)."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Any

import limits
import pytest
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES, FixedWindowRateLimiter, MovingWindowRateLimiter

import limiter.contrib.limits as ours
from limiter.core.limit import SECOND, clock
from limiter.core.store import Store, StoreError
from limiter.core.sweep import sweep_store
from tests.hanging import Mount, hanging_mount
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

MINUTE = limits.RateLimitItemPerMinute
KINDS = sorted(STRATEGIES)
"""The strategies, by name."""


class Sync:
    """The storage, or the asynchronous one called as if it were not."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._storage, name)

        def call(*arguments: Any, **more: Any) -> Any:
            result = method(*arguments, **more)
            return asyncio.run(result) if asyncio.iscoroutine(result) else result

        return call


@pytest.fixture(params=["", "async+"], ids=["sync", "async"])
def storage(request: pytest.FixtureRequest, root: str) -> Any:
    return Sync(storage_from_string(request.param + ours.uri(root)))


KEYS = (
    "",
    "a",
    "A",
    "a ",
    " a",
    "a/b",
    "../a",
    "a\0",
    "a\n",
    "\N{SNOWMAN}",
    "\ud800",
    "x" * 10_000,
    "::1",
)


def test_keys_are_any_text_and_each_has_a_count_of_its_own(storage: Any) -> None:
    for key in KEYS:
        assert storage.incr(key, 60) == 1
        assert storage.acquire_entry(key, 1, 60)
        assert storage.acquire_sliding_window_entry(key, 1, 60)
    for key in KEYS:
        assert storage.get(key) == 1
        assert not storage.acquire_entry(key, 1, 60)
        assert not storage.acquire_sliding_window_entry(key, 1, 60)


def test_no_name_in_the_store_shows_a_key(storage: Any, root: str) -> None:
    storage.incr("secret", 60)
    storage.acquire_entry("secret", 20_000, 60)
    storage.acquire_sliding_window_entry("secret", 5, 60)
    names = [name for _, *found in os.walk(root) for names in found for name in names]
    assert len(names) >= 6
    assert not [name for name in names if "secret" in name]


def test_a_window_ends_when_its_first_hit_is_as_old_as_it_is_long(storage: Any) -> None:
    before = time.time()
    storage.incr("a", 60)
    after = time.time()
    for _ in range(3):
        storage.incr("a", 60, amount=2)
        assert before + 60 <= storage.get_expiry("a") <= after + 60.001
    assert storage.get("a") == 7
    before = time.time()
    assert before <= storage.get_expiry("nobody") <= time.time()
    assert storage.get("nobody") == 0


def test_the_oldest_hit_begins_the_moving_window(storage: Any) -> None:
    for limit in (5, 20_000):
        before = time.time()
        assert storage.acquire_entry("a", limit, 60)
        after = time.time()
        assert storage.acquire_entry("a", limit, 60, amount=3)
        start, used = storage.get_moving_window("a", limit, 60)
        assert used == 4
        assert before <= start <= after + (60 / 9000 if limit > 10_000 else 0.001)
    start, used = storage.get_moving_window("b", 5, 60)
    assert (used, before <= start <= time.time()) == (0, True)


def test_amounts(storage: Any) -> None:
    assert storage.incr("a", 60, amount=0) == 0
    assert storage.incr("a", 60, amount=1_000_000_000) == 1_000_000_000
    for acquire in (storage.acquire_entry, storage.acquire_sliding_window_entry):
        assert acquire("a", 5, 60, amount=0)
        assert not acquire("a", 5, 60, amount=6)
        assert acquire("a", 5, 60, amount=5)
        assert not acquire("a", 5, 60, amount=1)
        assert not acquire("none", 0, 60)


@pytest.mark.parametrize("years", [12, 1000])
def test_windows_of_any_length(storage: Any, years: int) -> None:
    limit = limits.RateLimitItemPerYear(2, years)
    for kind in ("acquire_entry", "acquire_sliding_window_entry"):
        acquire = getattr(storage, kind)
        assert [acquire(limit.key_for(), 2, limit.get_expiry()) for _ in range(3)] == [True, True, False]
    assert storage.incr(limit.key_for(), limit.get_expiry()) == 1


@pytest.mark.parametrize(
    "limit", [MINUTE(3), MINUTE(20_000), MINUTE(3, 7), limits.RateLimitItemPerMonth(2)]
)
def test_clear_forgets_one_key(storage: Any, limit: limits.RateLimitItem) -> None:
    for who in ("a", "b"):
        storage.incr(limit.key_for(who), 60)
        assert storage.acquire_entry(limit.key_for(who), limit.amount, limit.get_expiry(), limit.amount)
    storage.clear(limit.key_for("a"))
    used = [
        storage.get_moving_window(limit.key_for(who), limit.amount, limit.get_expiry())[1]
        for who in "ab"
    ]
    assert used == [0, limit.amount]
    assert (storage.get(limit.key_for("a")), storage.get(limit.key_for("b"))) == (0, 1)


def test_clear_forgets_a_key_that_is_no_limit_s(storage: Any) -> None:
    assert storage.acquire_entry("mine", 3, 60)
    assert storage.acquire_entry("other", 3, 60)
    storage.clear("mine")
    assert storage.get_moving_window("mine", 3, 60)[1] == 0
    assert storage.get_moving_window("other", 3, 60)[1] == 1


def test_reset_counts_keys_and_spares_what_is_not_its_own(storage: Any, root: str) -> None:
    from limiter import Limiter

    other = Limiter(root, "1/hour")
    assert other.hit("acme")
    Path(root, "limits-notes").mkdir()
    for number in range(5):
        storage.incr(f"{number}", 60)
        storage.acquire_entry(f"{number}", 5, 60)
        storage.acquire_sliding_window_entry(f"{number + 3}", 5, 60)
    assert storage.check()
    assert storage.reset() == 8
    assert storage.reset() == 0
    assert storage.get("0") == 0
    assert storage.acquire_entry("0", 5, 60, amount=5)
    assert not other.hit("acme")
    assert Path(root, "limits-notes").is_dir()


HITS = """
import sys, threading
from limits import storage, strategies, RateLimitItemPerHour
import limiter.contrib.limits
root, kind = sys.argv[1:]
strategy = strategies.STRATEGIES[kind](storage.storage_from_string(limiter.contrib.limits.uri(root)))
limit, admitted = RateLimitItemPerHour(100), []
print("ready", flush=True)
sys.stdin.readline()
def hit():
    for _ in range(50):
        if strategy.hit(limit, "key"):
            admitted.append(1)
threads = [threading.Thread(target=hit) for _ in range(2)]
[it.start() for it in threads]
[it.join() for it in threads]
print(len(admitted))
"""


def in_processes(number: int, kind: str, root: str) -> list[int]:
    """Let processes hit together, each 100 times.  Returns how many each was admitted."""
    command = [sys.executable, "-c", HITS, root, kind]
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(command, cwd=REPOSITORY, stdin=PIPE, stdout=PIPE, text=True)
            )
            for _ in range(number)
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [int(process.communicate()[0]) for process in started]


@pytest.mark.parametrize("kind", KINDS)
def test_processes_and_threads_share_one_limit(kind: str, any_root: str) -> None:
    assert sum(in_processes(4, kind, any_root)) == 100
    if kind == "fixed-window":
        storage = storage_from_string(ours.uri(any_root))
        assert storage.get(limits.RateLimitItemPerHour(100).key_for("key")) == 400  # not one was lost


def test_two_stores_do_not_share_a_limit(root: str, tmp_path: Path) -> None:
    strategies = [MovingWindowRateLimiter(storage_from_string(ours.uri(it))) for it in (root, tmp_path)]
    assert [strategy.hit(MINUTE(1), "a") for strategy in strategies] == [True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_new_keys_beyond_the_bound_are_denied_and_known_ones_go_on(kind: str, root: str) -> None:
    storage = storage_from_string(f"{ours.uri(root)}?newcomers=2/hour")
    strategy = STRATEGIES[kind](storage)
    assert [strategy.hit(MINUTE(5), who) for who in "abcab"] == [True, True, False, True, True]
    assert len([name for name in os.listdir(root) if name.startswith("limits-")]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_sweeper_removes_what_has_had_no_hit_for_an_hour(kind: str, root: str) -> None:
    strategy = STRATEGIES[kind](storage_from_string(ours.uri(root)))
    limit = (
        limits.RateLimitItemPerHour(20_000)
        if kind == "moving-window"
        else limits.RateLimitItemPerHour(5)
    )
    assert strategy.hit(limit, "a")
    swept = sweep_store(Store(root), clock=lambda: clock() + 2900 * SECOND)
    assert (swept.directories, swept.removed) == (2, 0)  # another is that of the newcomers
    swept = sweep_store(Store(root), clock=lambda: clock() + 3 * 3660 * SECOND)
    assert (swept.removed, os.listdir(root)) == (2, [])
    assert strategy.hit(limit, "a")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweeper_that_died_keeps_nobody_from_hitting(kind: str, root: str) -> None:
    limit = (
        limits.RateLimitItemPerHour(20_000)
        if kind == "moving-window"
        else limits.RateLimitItemPerHour(5)
    )
    assert STRATEGIES[kind](storage_from_string(ours.uri(root))).hit(limit, "a")
    (directory,) = [it for it in Path(root).iterdir() if it.name.startswith("limits-")]
    (name,) = os.listdir(directory)
    os.rename(directory / name, directory / f".gone-{name}")
    assert STRATEGIES[kind](storage_from_string(ours.uri(root))).hit(limit, "a")


def test_a_store_that_fails_is_an_error_and_check_tells_when_it_is_back(storage: Any, root: str) -> None:
    storage.incr("a", 60)
    os.rename(root, f"{root}-away")
    try:
        assert not storage.check()
        for call in (storage.incr, storage.get_sliding_window):
            with pytest.raises(StoreError, match="does not exist"):
                call("b", 60)
        with pytest.raises(StoreError, match="does not exist"):
            storage.acquire_entry("b", 5, 60)
    finally:
        os.rename(f"{root}-away", root)
    assert storage.check()
    assert storage.get("a") == 1


@pytest.mark.parametrize("scheme", ["", "async+"])
def test_errors_are_wrapped_if_asked_for(scheme: str, root: str) -> None:
    storage = Sync(storage_from_string(scheme + ours.uri(f"{root}/new"), wrap_exceptions=True))
    os.rmdir(f"{root}/new")
    with pytest.raises(StorageError) as caught:
        storage.acquire_entry("a", 5, 60)
    assert isinstance(caught.value.storage_error, StoreError)


@pytest.mark.parametrize("scheme", ["", "async+"])
@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("access-limiter://var/lib", r"expected an absolute path, as in access-limiter:///var"),
        ("access-limiter://", "expected an absolute path"),
        ("access-limiter:///nowhere/store", "'/nowhere/store': No such file or directory .make it"),
        ("access-limiter:///etc/passwd", "'/etc/passwd': it is no directory"),
        ("access-limiter:///tmp?timeout=0", "seconds, above 0 and up to 3600"),
        ("access-limiter:///tmp?newcomers=many", "LIMITER_NEWCOMERS: limit 'many'"),
        ("access-limiter:///tmp?shards=2", "'shards': expected timeout or newcomers"),
    ],
)
def test_a_wrong_uri_is_refused_with_what_to_do(scheme: str, uri: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        storage_from_string(scheme + uri)


def test_the_last_part_of_the_directory_is_made_for_its_owner_alone(root: str) -> None:
    storage_from_string(ours.uri(f"{root}/with space"))
    assert os.stat(f"{root}/with space").st_mode & 0o777 == 0o700


def test_an_older_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "__version__", "4.7.3")
    with pytest.raises(ImportError, match=r"needs limits 5 or newer, found 4\.7\.3 .pip install"):
        importlib.reload(ours)


def test_nobody_else_loads_it() -> None:
    code = "import sys, limiter.wsgi, limiter.asgi, limiter.cgi; print([it for it in sys.modules if 'contrib' in it])"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"


def test_denied_hits_of_the_moving_window_write_nothing_and_those_of_a_fixed_one_are_counted(
    root: str,
) -> None:
    storage = storage_from_string(ours.uri(root))
    moving, fixed = MovingWindowRateLimiter(storage), FixedWindowRateLimiter(storage)
    for strategy in (moving, fixed):
        strategy.hit(MINUTE(1), "a")
    state = sorted(str(it) for it in Path(root).rglob("*"))
    assert not moving.hit(MINUTE(1), "a")
    assert sorted(str(it) for it in Path(root).rglob("*")) == state
    assert not fixed.hit(MINUTE(1), "a")
    assert sorted(str(it) for it in Path(root).rglob("*")) != state


def test_a_store_that_hangs_has_failed_after_the_time_out() -> None:
    """SlowAPI calls the storage on its event loop.  A denial from memory comes at once."""
    with hanging_mount() as mount:
        storage = storage_from_string(f"{ours.uri(mount.path)}?timeout=0.2")
        moving = MovingWindowRateLimiter(storage)
        assert [moving.hit(MINUTE(1), "full") for _ in range(2)] == [True, False]
        mount.hang()
        try:
            assert not moving.hit(MINUTE(1), "full")
            for call in (storage.get, storage.get_expiry, storage.clear):
                with pytest.raises(StoreError, match="did not answer"):
                    call("key")
            assert not storage.check()
        finally:
            mount.release()


def test_the_event_loop_goes_on_while_a_store_hangs() -> None:
    async def hits(mount: Mount) -> list[str]:
        storage: Any = storage_from_string(f"async+{ours.uri(mount.path)}?timeout=30")
        seen = []
        assert await storage.acquire_entry("a", 5, 60)
        mount.hang()
        hit = asyncio.create_task(storage.acquire_entry("a", 5, 60))
        await asyncio.to_thread(mount.wait_until_stuck)
        seen.append("the loop runs")
        mount.release()
        assert await hit
        return seen

    with hanging_mount() as mount:
        assert asyncio.run(hits(mount)) == ["the loop runs"]
