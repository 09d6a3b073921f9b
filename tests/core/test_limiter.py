"""The Limiter: what it answers, also to wrong input, and what it writes."""

from __future__ import annotations

import errno
import os
import posix
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limiter.core.furnish import fresh
from limiter.core.limit import is_provisional
from limiter.core.limiter import Limiter
from limiter.core.store import ROUNDS, StoreError
from tests.limiting import (
    DAY,
    KINDS,
    NOW,
    SECOND,
    Calls,
    Clock,
    admitted,
    before,
    before_each,
    entries,
    failing,
    microseconds,
    slots,
    tree,
)
from tests.places import temporary

METHODS = ["hit", "peek", "hits", "reset"]

# Answers


@pytest.mark.parametrize("text", KINDS)
def test_a_decision_reports_where_the_limit_stands(root: str, clock: Clock, text: str) -> None:
    limiter = Limiter(root, text, clock=clock)
    for remaining in (2, 1, 0):
        decision = limiter.hit("acme")
        assert decision.allowed is True
        assert (decision.limit, decision.remaining, decision.retry_after) == (3, remaining, 0.0)
    wait = 20.0 if "burst" in text else 60.0
    assert (
        repr(limiter.hit("acme")) == f"Decision(allowed=False, limit=3, remaining=0, retry_after={wait})"
    )


def test_the_default_is_ten_a_second(root: str) -> None:
    assert [limit.name for limit in Limiter(root).limits] == ["10-per-1s"]


@pytest.mark.parametrize("app", ["", "a\n", "a" * 65, None, 7, b"acme"])
def test_a_bad_app_id_is_a_value_error_of_one_line(root: str, app: str) -> None:
    with pytest.raises(ValueError, match=r"^app_id .*: expected 1 to 64 letters") as error:
        Limiter(root).hit(app)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cost", [0, -1, 1.0, True, "1", None])
@pytest.mark.parametrize("method", ["hit", "peek"])
def test_a_bad_cost_is_a_value_error(root: str, cost: int, method: str) -> None:
    with pytest.raises(ValueError, match=r"^cost .*: expected a whole number of at least 1$"):
        getattr(Limiter(root), method)("acme", cost)
    assert entries(root) == []


# A store that fails


def _directory_that_is_a_file(path: Path) -> None:
    path.mkdir()
    (path / "acme@3-per-60s").touch()


@pytest.mark.parametrize(
    ("plant", "number"),
    [
        (lambda _: None, errno.ENOENT),
        (Path.touch, errno.ENOTDIR),
        (lambda path: path.symlink_to(path.name), errno.ELOOP),
        (_directory_that_is_a_file, errno.ENOTDIR),
    ],
    ids=["missing", "file", "link to itself", "directory"],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_store_that_is_no_directory_is_an_error_and_is_not_made(
    tmp_path: Path, plant: Callable[[Path], object], number: int, method: str
) -> None:
    """If a mount is gone, a private store must not take its place."""
    root = tmp_path / "root"
    plant(root)
    there = entries(tmp_path)
    with pytest.raises(StoreError) as error:
        getattr(Limiter(root, "3/minute"), method)("acme")
    assert error.value.errno == number
    assert error.value.path.startswith(str(root))
    assert entries(tmp_path) == there


def test_a_failing_rename_of_a_remembered_slot_is_not_a_lost_race(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = Limiter(root, "3/minute")
    assert limiter.hit("acme")
    there = entries(root)
    with monkeypatch.context() as patch:
        patch.setattr(posix, "rename", failing(errno.EIO))
        with pytest.raises(StoreError, match=os.strerror(errno.EIO)):
            limiter.hit("acme")
    assert entries(root) == there
    assert admitted(limiter, 3) == 2


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE])
def test_a_race_that_is_lost_again_and_again_is_an_error(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A file system that lists names but denies that they exist is no normal race."""
    limiter = Limiter(root, "1/minute", clock=clock)
    assert limiter.hit("acme")
    clock.now += 60 * SECOND
    tries: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(posix, "rename", failing(number))
        before_each(patch, "rename", lambda *paths: tries.append(paths))
        with pytest.raises(StoreError, match=f"claimed every free slot first, {ROUNDS} times") as error:
            limiter.hit("acme")
        assert (error.value.errno, error.value.path) == (errno.EBUSY, f"{root}/acme")
        assert len(tries) == ROUNDS + 1  # one from memory
        clock.now -= 1  # there is something to forget
        with pytest.raises(StoreError, match="claimed every free slot first"):
            limiter.reset("acme")
    clock.now += 1
    assert limiter.hit("acme")


# Costs


@pytest.mark.parametrize("text", [*KINDS, "0/second", "0/second;3/minute", "4/minute;3/hour"])
def test_a_cost_above_the_limit_is_denied_for_ever_without_the_store(
    root: str, clock: Clock, calls: Calls, text: str
) -> None:
    limiter = Limiter(root, text, clock=clock)
    quota = min(limit.quota for limit in limiter.limits)

    def hit() -> None:
        decision = limiter.hit("acme", quota + 1)
        assert (decision.allowed, decision.retry_after) == (False, float("inf"))
        assert (decision.limit, decision.remaining) == (quota, quota)
        assert {it.reset_after for it in decision.quotas} == {0.0}

    for _ in range(2):
        assert calls.of(hit) == []
    peeked = limiter.peek("acme", quota + 1)
    assert (peeked.allowed, peeked.limit, peeked.retry_after) == (False, quota, float("inf"))
    assert not any(limiter.hits("acme"))
    limiter.reset("acme")
    assert entries(root) == []
    assert admitted(limiter, quota + 2) == quota
    assert limiter.hit("acme", quota + 1).retry_after == float("inf"), "from memory, too"


# Several limits


def test_all_limits_must_admit(root: str, clock: Clock) -> None:
    """The tighter limit denies, and comes first in the decision."""
    limiter = Limiter(root, "3/second;5/minute;1000/hour fixed", clock=clock)
    assert [limiter.hit("acme").remaining for _ in range(3)] == [2, 1, 0]
    denied = limiter.hit("acme")
    assert (denied.allowed, denied.limit, denied.retry_after) == (False, 3, 1.0)
    assert [quota.remaining for quota in denied.quotas] == [0, 2, 997]
    clock.now += SECOND
    assert admitted(limiter, 3) == 2
    denied = limiter.hit("acme")
    assert (denied.allowed, denied.limit, denied.retry_after) == (False, 5, 59.0)
    names = [quota.limit.name for quota in denied.quotas]
    assert names == ["3-per-1s", "5-per-60s", "1000-per-3600s-fixed"]


def test_the_order_of_claims(root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots before single files, then the soonest forgotten first; only the last is final."""
    claims: list[tuple[str, bool]] = []

    def note(old: str, new: str) -> None:
        _, directory, name = new.rsplit("/", 2)
        if "/.new-" not in old:
            claims.append((directory, is_provisional(name)))

    before_each(monkeypatch, "rename", note)
    assert Limiter(root, "5/minute fixed;3/hour;4/minute;2/second burst 3", clock=clock).hit("acme")
    assert claims == [
        ("acme@4-per-60s", True),
        ("acme@3-per-3600s", True),
        ("acme@2-per-1s-burst-3", True),
        ("acme@5-per-60s-fixed", False),
    ]


def test_the_first_error_is_reported_if_giving_back_fails_too(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = Limiter(root, "3/minute;3/hour", clock=clock)
    limiter.hit("acme")
    # The second rename never reaches the inner patch, so the third is the second there.
    before(monkeypatch, "rename", failing(errno.EIO), at=2)
    before(monkeypatch, "rename", failing(errno.ENOSPC), at=2)
    with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)):
        limiter.hit("acme")


@pytest.mark.parametrize("kind", ["", " fixed", " burst 3"])
def test_limits_of_the_same_numbers_and_other_names_are_other_budgets(
    root: str, clock: Clock, kind: str
) -> None:
    """Two places share a budget because they name it, or because neither has a name."""
    texts = [f"3/minute{kind}", f"login=3/minute{kind}", f"api=3/minute{kind}"]
    for text in texts:
        assert admitted(Limiter(root, text, clock=clock), 5) == 3
        assert admitted(Limiter(root, text, clock=clock), 5) == 0
    assert sorted(os.listdir(root)) == sorted(
        f"acme@{limit.name}" for text in texts for limit in Limiter(root, text).limits
    )
    assert sorted(name.partition("=")[0] for name in os.listdir(root))[1:] == ["acme@api", "acme@login"]


def test_a_budget_that_is_shared_by_its_name_counts_together_with_others(
    root: str, clock: Clock
) -> None:
    """A hit counts against all limits of its own place, and only against these."""
    place = Limiter(root, "login=2/minute;all=3/minute", clock=clock)
    other = Limiter(root, "api=2/minute;all=3/minute", clock=clock)
    assert admitted(place, 5) == 2
    denied = place.hit("acme")
    assert [quota.remaining for quota in denied.quotas] == [0, 1]
    assert admitted(other, 5) == 1
    assert [quota.remaining for quota in other.hit("acme").quotas] == [1, 0]


# Hits that remain


def test_1000_an_hour_after_64_hits_and_936_half_an_hour_later_has_63_left_at_the_hour(
    root: str, clock: Clock
) -> None:
    """The first 64 slots are free again, so the hit needs no others.  Yet it knows of them."""
    limiter = Limiter(root, "1000/hour", clock=clock)
    assert admitted(limiter, 64) == 64
    clock.now += 1800 * SECOND
    assert admitted(limiter, 936) == 936
    clock.now += 1800 * SECOND
    for remaining in (63, 62):
        assert Limiter(root, "1000/hour", clock=clock).hit("acme").remaining == remaining
        clock.now += SECOND
    assert limiter.hit("acme").remaining == 61, "also a process with a memory"


def test_a_new_client_of_1000_an_hour_has_999_left_then_998(
    root: str, clock: Clock, calls: Calls
) -> None:
    """That is exact, although the other directories are not even looked for."""
    limiter = Limiter(root, "1000/hour", clock=clock)
    assert [limiter.hit("acme").remaining for _ in range(20)] == list(range(999, 979, -1))
    for app in ("emca", "mace"):
        for remaining in (999, 998, 997):
            fresh = Limiter(root, "1000/hour", clock=clock)
            assert fresh.hit(app).remaining == remaining
    assert calls.of(lambda: Limiter(root, "1000/hour", clock=clock).hit("emca")) == ["listdir", "rename"]


@pytest.mark.parametrize("text", ["200/second", "200/minute", "200/hour;300/day"])
@settings(max_examples=25)
@given(data=st.data())
def test_remaining_is_never_too_high(text: str, data: st.DataObject) -> None:
    """Whenever hits come: as many more are never admitted.  A peek knows exactly how many are.

    ``remaining`` of a hit may be too low if the window is shorter than a minute.
    """
    clock = Clock()
    window = Limiter("/", text).limits[0].window
    with temporary("/dev/shm") as root:
        counts = st.sampled_from([0, 1, 16, 17, 64, 90])
        steps = st.sampled_from([0, 1, window // 2, window // 2 + 1, window, 2 * window, DAY])
        for count, step in data.draw(st.lists(st.tuples(counts, steps), min_size=3, max_size=6)):
            admitted(Limiter(root, text, clock=clock), count)
            clock.now += step
            peeked = Limiter(root, text, clock=clock).peek("acme")
            hit = Limiter(root, text, clock=clock).hit("acme")
            assert hit.remaining <= peeked.remaining - hit.allowed
            if window >= 60 * SECOND:
                assert hit.remaining == peeked.remaining - hit.allowed
        left = Limiter(root, text, clock=clock).peek("acme").remaining
        assert admitted(Limiter(root, text, clock=clock), left + 1) == left


# When to come again

RETRIES = [
    "3/second",
    "3/minute",
    "3/2 seconds fixed",
    "5/second burst 3",
    "7/3 seconds burst 4",
    "1000/second burst 3",
    "70/minute",
    "3/second;4/minute",
    "5/minute burst 3;4/minute;4/2 minutes fixed",
    "70/2 seconds",
    "login=3/second;api=3/second",
]


@pytest.mark.parametrize("cost", [1, 2, 3])
@pytest.mark.parametrize(
    ("step", "back"),
    [(0, 0), (1, 0), (997, 0), (0, 1), (0, 300_000), (0, 900_000), (0, 3600 * SECOND), (0, NOW)],
)
@pytest.mark.parametrize("text", RETRIES)
def test_retry_after_is_exact(
    root: str, clock: Clock, text: str, step: int, back: int, cost: int
) -> None:
    """A retry at exactly that microsecond is admitted; one microsecond earlier it is denied.

    This holds in a long-running process with its memory, in a fresh one, and if the clock is set back.
    """
    limiter = Limiter(root, text, clock=clock)
    for _ in range(1 if back else 4):
        while limiter.hit("acme"):
            clock.now += step
        clock.now -= back
        wait = microseconds(Limiter(root, text, clock=clock).peek("acme", cost))
        if wait:
            # Memory holds the denial of a cheap hit.
            assert microseconds(limiter.hit("acme", cost)) == wait
            clock.now += wait - 1
            assert not limiter.hit("acme", cost)
            assert not Limiter(root, text, clock=clock).hit("acme", cost)
            assert microseconds(limiter.hit("acme", cost)) == 1
            clock.now += 1
        assert wait or back
        assert limiter.peek("acme", cost)
        assert limiter.hit("acme", cost)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10/minute", [(9, 60.0), (8, 59.0), (6, 58.0)]),
        ("10/minute fixed", [(9, 60.0), (8, 59.0), (6, 58.0)]),
        ("6/minute burst 10", [(9, 10.0), (8, 9.0), (6, 8.0)]),
        ("60/minute burst 10", [(9, 1.0), (9, 1.0), (8, 1.0)]),
    ],
)
def test_quotas(root: str, clock: Clock, text: str, expected: list[tuple[int, float]]) -> None:
    """Hits remaining, and seconds until there are more, after costs of 1, 1 and 2, a second apart."""
    limiter = Limiter(root, text, clock=clock)
    (quota,) = limiter.peek("acme").quotas
    assert (quota.remaining, quota.reset_after) == (10, 0.0)
    for cost, standing in zip((1, 1, 2), expected):
        (quota,) = limiter.hit("acme", cost).quotas
        assert quota.limit is limiter.limits[0]
        assert (quota.remaining, quota.reset_after) == standing
        (peeked,) = Limiter(root, text, clock=clock).peek("acme").quotas
        assert (peeked.remaining, peeked.reset_after) == standing
        clock.now += SECOND


# Looking and forgetting


@pytest.mark.parametrize("text", [*KINDS, "70/minute", "3/minute;100/hour;4/hour fixed"])
def test_a_peek_writes_nothing_and_answers_as_a_hit_would(root: str, clock: Clock, text: str) -> None:
    """Not even a directory's times change."""
    limiter = Limiter(root, text, clock=clock)
    while True:
        there = tree(root)
        peeked = Limiter(root, text, clock=clock).peek("acme")
        limiter.hits("acme")
        assert tree(root) == there
        hit = limiter.hit("acme")
        assert (peeked.allowed, peeked.retry_after) == (hit.allowed, hit.retry_after)
        assert peeked.remaining - hit.allowed == hit.remaining
        if not hit:
            break


@pytest.mark.parametrize("text", [*KINDS, "70/minute", "200/minute", "3/minute;100/hour;4/hour fixed"])
def test_a_reset_forgets(root: str, clock: Clock, text: str) -> None:
    """Afterwards the limits admit as much as for a new application, and have as many slots."""
    limiter = Limiter(root, text, clock=clock)
    quota = min(limit.quota for limit in limiter.limits)
    assert admitted(limiter, quota + 1) == quota
    count = len(entries(root))
    limiter.reset("acme")
    assert limiter.peek("acme").remaining == quota
    assert not any(limiter.hits("acme"))
    assert admitted(limiter, quota + 1) == quota
    assert len(entries(root)) == count


@pytest.mark.parametrize("text", KINDS)
def test_a_reset_is_seen_by_others_within_a_second(root: str, clock: Clock, text: str) -> None:
    """Another Limiter may deny from memory for that long, but not longer."""
    other = Limiter(root, text, clock=clock)
    assert admitted(other, 5) == 3
    Limiter(root, text, clock=clock).reset("acme")
    clock.now += SECOND - 1
    assert not other.hit("acme")
    clock.now += 1
    assert other.hit("acme")


def test_a_reset_forgets_a_hit_that_comes_meanwhile(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = Limiter(root, "2/minute", clock=clock)
    assert limiter.hit("acme")
    clock.now += SECOND
    before(monkeypatch, "rename", lambda *_: Limiter(root, "2/minute", clock=clock).hit("acme"))
    limiter.reset("acme")
    assert limiter.hits("acme") == [[]]
    assert sorted(slots(root)) == fresh(limiter.limits[0], 0, clock.now)


@pytest.mark.parametrize("text", [*KINDS, "70/minute"])
def test_a_reset_of_what_no_hit_counts_in_changes_nothing(root: str, clock: Clock, text: str) -> None:
    """A sweeper may be removing it.  Slots with new names would stay behind, without the others."""
    assert Limiter(root, text, clock=clock).hit("acme")
    clock.now += 60 * SECOND
    there = tree(root)
    Limiter(root, text, clock=clock).reset("acme")
    assert tree(root) == there


def test_hits_are_the_times_that_count_now(root: str, clock: Clock) -> None:
    """Oldest first.  A fixed limit knows only its last, a burst limit none."""
    limiter = Limiter(root, "3/minute;5/minute fixed;5/minute burst 5", clock=clock)
    assert limiter.hits("acme") == [[], [], []]
    for _ in range(3):
        assert limiter.hit("acme")
        clock.now += SECOND
    assert limiter.hits("acme") == [[NOW, NOW + SECOND, NOW + 2 * SECOND], [NOW + 2 * SECOND], []]
    clock.now = NOW + 60 * SECOND
    assert limiter.hits("acme") == [[NOW + SECOND, NOW + 2 * SECOND], [], []]
