"""What a Limiter remembers between hits, with threads and forks, and how many system calls it makes."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from limiter.core.limit import is_held
from limiter.core.limiter import Limiter
from tests.limiting import KINDS, NOW, SECOND, Calls, Clock, admitted, entries, microseconds

# Memory


@pytest.mark.parametrize(
    "text", [*KINDS, "70/minute", "3/minute;9/hour", "9/hour fixed;3/minute burst 3"]
)
def test_what_a_hit_costs_a_process_that_stays(root: str, clock: Clock, calls: Calls, text: str) -> None:
    """Admitted: one rename a limit and no listing.  Denied: no call, once the limit was seen full."""
    limiter = Limiter(root, text, clock=clock)
    quota = min(limit.quota for limit in limiter.limits)
    assert limiter.hit("acme")
    renames = ["rename"] * len(limiter.limits)
    for number in range(1, quota):
        made = calls.of(lambda: limiter.hit("acme"))
        assert made == renames or number == 64, "the second segment must be looked for"
    assert set(calls.of(lambda: limiter.hit("acme"))) == {"listdir"}
    for _ in range(10):
        assert calls.of(lambda: limiter.hit("acme")) == []
    assert not limiter.hit("acme")


def test_a_denial_is_remembered_for_each_application(root: str, clock: Clock, calls: Calls) -> None:
    """Other applications are not denied by it."""
    limiter = Limiter(root, "2/minute", clock=clock)
    assert admitted(limiter, 5, "acme") == 2
    assert limiter.hit("emca")
    assert calls.of(lambda: limiter.hit("acme")) == []
    assert calls.of(lambda: limiter.hit("emca")) == ["rename"]


def test_a_remembered_slot_that_another_took(root: str, clock: Clock, calls: Calls) -> None:
    """The rename decides: if it fails, the directory is listed, and the answer is right."""
    limiter, other = (Limiter(root, "3/minute", clock=clock) for _ in range(2))
    assert limiter.hit("acme")
    assert admitted(other, 2) == 2
    decisions = []
    assert calls.of(lambda: decisions.append(limiter.hit("acme"))) == ["rename", "rename", "listdir"]
    assert not decisions[0]
    assert not other.hit("acme")


@pytest.mark.parametrize("text", KINDS)
def test_two_that_remember_differently_admit_the_quota_together(
    root: str, clock: Clock, text: str
) -> None:
    """They take turns, so that each one's memory is always stale."""
    pair = [Limiter(root, text, clock=clock) for _ in range(2)]
    assert sum(pair[turn % 2].hit("acme").allowed for turn in range(20)) == 3


@pytest.mark.parametrize(
    ("text", "wait", "more"), [("3/second", SECOND, 2), ("5/second burst 3", SECOND // 5, 0)]
)
def test_a_denial_from_memory_ends_with_its_reason(
    root: str, clock: Clock, calls: Calls, text: str, wait: int, more: int
) -> None:
    """Up to the last microsecond it is denied without a call; then it is admitted without a listing."""
    limiter = Limiter(root, text, clock=clock)
    assert admitted(limiter, 5) == 3
    clock.now += wait - 1
    assert calls.of(lambda: limiter.hit("acme")) == []
    assert not limiter.hit("acme")
    clock.now += 1
    assert calls.of(lambda: limiter.hit("acme")) == ["rename"]
    assert admitted(limiter, 5) == more


def test_a_denial_is_believed_for_a_second_at_most(root: str, clock: Clock, calls: Calls) -> None:
    """This holds however long the window is."""
    limiter = Limiter(root, "3/hour", clock=clock)
    assert admitted(limiter, 5) == 3
    clock.now += SECOND - 1
    assert calls.of(lambda: limiter.hit("acme")) == []
    clock.now += 1
    assert calls.of(lambda: limiter.hit("acme")) == ["listdir"]
    clock.now += SECOND - 1
    assert calls.of(lambda: limiter.hit("acme")) == []


@pytest.mark.parametrize("back", [1, 3600 * SECOND, NOW])
@pytest.mark.parametrize(
    "text", ["3/second", "3/second fixed", "3/second burst 3", "70/second", "3/s;5/m"]
)
def test_a_clock_set_back_locks_nobody_out(root: str, clock: Clock, text: str, back: int) -> None:
    """Neither the store nor memory denies for longer than two windows."""
    limiter = Limiter(root, text, clock=clock)
    assert admitted(limiter, 75) < 75
    clock.now -= back
    denied = limiter.hit("acme")
    longest = max(limit.window for limit in limiter.limits)
    assert microseconds(denied) <= 2 * longest
    clock.now += microseconds(denied)
    assert limiter.hit("acme")


def test_another_s_held_slots_are_no_reason_to_deny_from_memory(
    root: str, clock: Clock, calls: Calls
) -> None:
    """Another's provisional slots may be given back.  One's own slots, of finished hits, will not."""
    limiter, other = (Limiter(root, "4/minute", clock=clock) for _ in range(2))
    assert limiter.hit("acme", 2)
    assert limiter.hit("acme", 2)
    assert sum(is_held(name.rpartition("/")[2]) for name in entries(root) if name.count("/") == 2) == 2
    assert calls.of(lambda: limiter.hit("acme")) == ["listdir"]
    assert calls.of(lambda: limiter.hit("acme")) == []
    for _ in range(3):
        assert calls.of(lambda: other.hit("acme")) == ["listdir"]
    assert not other.hit("acme")


def test_a_held_slot_given_back_is_taken_at_once(root: str, clock: Clock) -> None:
    """A Limiter that saw the limit full while the slot was provisional takes it."""
    limiter = Limiter(root, "2/minute", clock=clock)
    assert limiter.hit("acme")
    directory = Path(root, "acme", "2-per-60s")
    free = next(path for path in directory.iterdir() if path.name.startswith("0"))
    held = free.rename(directory / f"{NOW // SECOND}.000000~{free.name[18:]}")
    other = Limiter(root, "2/minute", clock=clock)
    assert admitted(other, 2) == 0
    assert admitted(limiter, 2) == 0
    held.rename(free)
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


def reachable(limiter: Limiter) -> int:
    """Return how many objects a Limiter keeps alive."""
    seen: dict[int, object] = {}
    rest: list[object] = [limiter]
    while rest:
        item = rest.pop()
        if id(item) not in seen and not isinstance(item, (type, ModuleType, FunctionType)):
            seen[id(item)] = item
            rest += gc.get_referents(item)
    return len(seen)


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("5/second", 1),
        ("6/second", 3),
        ("5/second;9/second fixed", 1),
        ("5/s burst 9;5/hour burst 9999", 2),
    ],
)
def test_a_process_that_stays_does_not_grow(root: str, clock: Clock, text: str, cost: int) -> None:
    """A thousand hits later it remembers no more than before, for all kinds of limits."""
    limiter = Limiter(root, text, clock=clock)
    sizes = []
    for _ in range(2):
        for _ in range(1000):
            limiter.hit("acme", cost)
            clock.now += SECOND // 2
        sizes.append(reachable(limiter))
    assert sizes[1] <= sizes[0]


# Threads, forks and roots


@pytest.mark.parametrize("text", ["300/hour", "300/hour fixed", "300/hour burst 300", "30/minute"])
def test_threads_admit_exactly_the_quota(root: str, clock: Clock, text: str) -> None:
    """Eight threads share one Limiter."""
    limiter = Limiter(root, text, clock=clock)
    counts: list[int] = []

    def work() -> None:
        barrier.wait()
        counts.append(admitted(limiter, 100))

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 8
    assert sum(counts) == limiter.limits[0].quota


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_goes_on(root: str, clock: Clock) -> None:
    """Parent and child share the limit, but not the memory."""
    limiter = Limiter(root, "10/minute", clock=clock)
    assert admitted(limiter, 2) == 2
    child = os.fork()
    if not child:
        os._exit(admitted(limiter, 5))
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == 5
    assert admitted(limiter, 5) == 3


def test_a_relative_root_stays_where_it_was(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its directory does not change its store."""
    Path(root, "store").mkdir()
    monkeypatch.chdir(root)
    limiter = Limiter("store", "3/minute")
    assert limiter.hit("acme")
    monkeypatch.chdir("/")
    assert limiter.hit("emca")
    assert sorted(os.listdir(Path(root, "store"))) == ["acme", "emca"]


def test_a_root_may_be_a_path(root: str) -> None:
    """Anything that os.PathLike allows is accepted."""
    assert Limiter(Path(root), "3/minute").hit("acme")
    assert os.listdir(root) == ["acme"]
