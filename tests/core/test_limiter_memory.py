"""What a Limiter remembers between hits, with threads and forks, and how many system calls it makes."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limiter.core.limit import is_provisional
from limiter.core.limiter import Limiter
from limiter.core.store import Store
from tests.limiting import KINDS, NOW, SECOND, Calls, Clock, admitted, slots


@pytest.mark.parametrize(
    "text", [*KINDS, "70/minute", "3/minute;9/hour", "9/hour fixed;3/minute burst 3"]
)
def test_what_a_hit_costs_a_long_running_process(
    root: str, clock: Clock, calls: Calls, text: str
) -> None:
    """Admitted: one rename a limit and no listing.  Denied: no call, once the limit was seen full."""
    limiter = Limiter(root, text, clock=clock)
    quota = min(limit.quota for limit in limiter.limits)
    assert limiter.hit("acme")
    renames = ["rename"] * len(limiter.limits)
    for number in range(1, quota):
        made = calls.of(lambda: limiter.hit("acme"))
        assert made == renames or number in (16, 64), "the next segment must be looked for"
    assert set(calls.of(lambda: limiter.hit("acme"))) == {"listdir"}
    for _ in range(10):
        assert calls.of(lambda: limiter.hit("acme")) == []
    assert not limiter.hit("acme")
    assert limiter.hit("emca"), "memory knows the applications apart"


def test_another_s_provisional_slots_are_no_reason_to_deny_from_memory(
    root: str, clock: Clock, calls: Calls
) -> None:
    """They may be given back.  One's own slots, of finished hits, will not."""
    limiter, other = (Limiter(root, "4/minute", clock=clock) for _ in range(2))
    assert limiter.hit("acme", 2)
    assert limiter.hit("acme", 2)
    assert sum(map(is_provisional, slots(root))) == 2
    assert calls.of(lambda: limiter.hit("acme")) == ["listdir"]
    assert calls.of(lambda: limiter.hit("acme")) == []
    for _ in range(3):
        assert calls.of(lambda: other.hit("acme")) == ["listdir"]
    assert not other.hit("acme")


def test_a_provisional_slot_given_back_is_taken_at_once(root: str, clock: Clock) -> None:
    """A Limiter that saw the limit full while the slot was provisional takes it."""
    limiter, other = (Limiter(root, "2/minute", clock=clock) for _ in range(2))
    assert limiter.hit("acme")
    directory = Path(root, "acme@2-per-60s")
    free = min(directory.iterdir())
    provisional = free.rename(directory / f"{NOW // SECOND}.000000~{free.name[18:]}")
    assert admitted(other, 2) == 0
    assert admitted(limiter, 2) == 0
    provisional.rename(free)
    assert other.hit("acme")


def test_as_many_applications_are_remembered_as_there_is_room_for(
    root: str, clock: Clock, calls: Calls
) -> None:
    """There is room for 200,000 names; then all are forgotten, which costs a listing."""
    limiter = Limiter(root, "10000/day", clock=clock)
    for app in range(19):
        assert limiter.hit(f"app{app}")
    for app in range(19):
        assert calls.of(lambda app=app: limiter.hit(f"app{app}")) == ["rename"]  # type: ignore[misc]
    assert limiter.hit("app19")
    assert calls.of(lambda: limiter.hit("app0")) == ["listdir", "rename"]


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("5/second", 1),
        ("6/second", 3),
        ("5/second;9/second fixed", 1),
        ("5/s burst 9;5/hour burst 9999", 2),
    ],
)
def test_a_long_running_process_does_not_grow(root: str, clock: Clock, text: str, cost: int) -> None:
    """A thousand hits later it remembers no more than before."""
    limiter = Limiter(root, text, clock=clock)
    sizes = []
    for _ in range(2):
        for _ in range(1000):
            limiter.hit("acme", cost)
            clock.now += SECOND // 2
        sizes.append(len(pickle.dumps(limiter)))
    assert sizes[1] <= sizes[0] + 50, "a number of more digits may take a byte more"


# Threads, forks and roots


def test_another_thread_may_replace_what_both_remember(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so between the claim and the note of it.  That was a ValueError."""
    limiter = Limiter(root, "3/hour")
    limiter.hit("acme")
    remembered = limiter._memory["acme"].views[0].listed
    original = Store.rename

    def rename(store: Store, directory: str, old: str, new: str) -> bool:
        names = remembered[directory]
        remembered[directory] = sorted(new if it == old else it for it in names)
        return original(store, directory, old, new)

    monkeypatch.setattr(Store, "rename", rename)
    assert [bool(limiter.hit("acme")) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("text", ["300/hour", "300/hour fixed", "300/hour burst 300", "30/minute"])
def test_threads_that_share_a_limiter_admit_exactly_the_quota(
    root: str, clock: Clock, text: str
) -> None:
    limiter = Limiter(root, text, clock=clock)
    barrier = threading.Barrier(8)

    def work(_: int) -> int:
        barrier.wait()
        return admitted(limiter, 100)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == limiter.limits[0].quota


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork_parent_and_child_share_the_limit(root: str, clock: Clock) -> None:
    limiter = Limiter(root, "10/minute", clock=clock)
    assert admitted(limiter, 2) == 2
    child = os.fork()
    if not child:
        os._exit(admitted(limiter, 5))
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == 5
    assert admitted(limiter, 5) == 3


@pytest.mark.parametrize("kind", [str, Path])
def test_a_relative_root_stays_where_it_was(
    root: str, monkeypatch: pytest.MonkeyPatch, kind: type[str | Path]
) -> None:
    """A program that changes its directory does not change its store."""
    Path(root, "store").mkdir()
    monkeypatch.chdir(root)
    limiter = Limiter(kind("store"), "3/minute")
    assert limiter.hit("acme")
    monkeypatch.chdir("/")
    assert limiter.hit("emca")
    assert sorted(os.listdir(Path(root, "store"))) == ["acme@3-per-60s", "emca@3-per-60s"]
