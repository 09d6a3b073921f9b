"""The Limiter: what it answers, also to wrong input, and what it writes."""

from __future__ import annotations

import errno
import os
import posix
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.core.hit import ROUNDS, Decision
from limiter.core.limit import is_held
from limiter.core.limiter import Limiter
from limiter.core.store import StoreError
from tests.limiting import KINDS, NOW, SECOND, Calls, Clock, admitted, entries, microseconds, tree

# Answers


@pytest.mark.parametrize("text", KINDS)
def test_a_decision_tells_where_the_limit_stands(root: str, clock: Clock, text: str) -> None:
    """Three hits are admitted, the fourth is denied, and every part of each decision says so."""
    limiter = Limiter(root, text, clock=clock)
    for remaining in (2, 1, 0):
        decision = limiter.hit("acme")
        assert decision
        assert decision.allowed is True
        assert (decision.limit, decision.remaining, decision.retry_after) == (3, remaining, 0.0)
    decision = limiter.hit("acme")
    assert not decision
    assert decision.allowed is False
    wait = 20.0 if "burst" in text else 60.0
    assert (decision.limit, decision.remaining, decision.retry_after) == (3, 0, wait)
    assert repr(decision) == f"Decision(allowed=False, limit=3, remaining=0, retry_after={wait})"


def test_applications_are_apart(root: str, clock: Clock) -> None:
    """Hits of one application do not count for another."""
    limiter = Limiter(root, "2/minute", clock=clock)
    assert admitted(limiter, 3, "acme") == 2
    assert admitted(limiter, 3, "emca") == 2


def test_the_default_is_ten_a_second(root: str, clock: Clock) -> None:
    """Without a limit, the documented default holds."""
    limiter = Limiter(root, clock=clock)
    assert admitted(limiter, 11) == 10
    assert [limit.name for limit in limiter.limits] == ["10-per-1s"]


BAD_APPS = [
    "",
    ".",
    "..",
    ".new-1",
    "-a",
    "_a",
    "a/b",
    "a\0",
    "a\n",
    "a b",
    "\u00e9",
    "a" * 65,
    "a/../b",
]


@pytest.mark.parametrize("app", BAD_APPS)
@pytest.mark.parametrize("method", ["hit", "peek", "hits", "reset"])
def test_a_bad_app_id_is_a_value_error(root: str, app: str, method: str) -> None:
    """Only a valid app_id ever becomes a path."""
    with pytest.raises(ValueError, match=r"^app_id .*: expected 1 to 64 letters") as error:
        getattr(Limiter(root), method)(app)
    assert "\n" not in str(error.value)
    assert entries(root) == []


@pytest.mark.parametrize("app", [None, 7, b"acme"])
def test_an_app_id_is_text(root: str, app: str) -> None:
    """Another type is a ValueError, too."""
    with pytest.raises(ValueError, match=r"^app_id "):
        Limiter(root).hit(app)


@pytest.mark.parametrize("cost", [0, -1, 1.0, True, "1", None])
@pytest.mark.parametrize("method", ["hit", "peek"])
def test_a_bad_cost_is_a_value_error(root: str, cost: int, method: str) -> None:
    """A cost is a whole number of at least 1."""
    with pytest.raises(ValueError, match=r"^cost .*: expected a whole number of at least 1$"):
        getattr(Limiter(root), method)("acme", cost)
    assert entries(root) == []


@pytest.mark.parametrize("text", ["", "10", "10/second;", "-1/second", "10001/second"])
def test_a_bad_limit_is_a_value_error(root: str, text: str) -> None:
    """It is raised at once, not at the first hit."""
    with pytest.raises(ValueError, match=r"^limit "):
        Limiter(root, text)


# A store that fails


def _nothing(path: Path) -> str:
    return str(path / "missing")


def _a_file(path: Path) -> str:
    (path / "root").write_text("")
    return str(path / "root")


def _a_link_to_itself(path: Path) -> str:
    (path / "root").symlink_to("root")
    return str(path / "root")


@pytest.mark.parametrize(
    ("make", "number"),
    [(_nothing, errno.ENOENT), (_a_file, errno.ENOTDIR), (_a_link_to_itself, errno.ELOOP)],
)
@pytest.mark.parametrize("method", ["hit", "peek", "hits", "reset"])
def test_a_store_that_is_no_directory(
    tmp_path: Path, make: Callable[[Path], str], number: int, method: str
) -> None:
    """Every method raises a StoreError with errno and path; the limiter never creates a root."""
    root = make(tmp_path)
    before = entries(str(tmp_path))
    with pytest.raises(StoreError) as error:
        getattr(Limiter(root, "3/minute"), method)("acme")
    assert error.value.errno == number
    assert error.value.strerror
    assert error.value.path.startswith(root)
    assert entries(str(tmp_path)) == before


def test_a_missing_store_is_named_itself(tmp_path: Path) -> None:
    """Users who mistype LIMITER_ROOT read what to do."""
    with pytest.raises(StoreError, match="The store does not exist") as error:
        Limiter(tmp_path / "missing").hit("acme")
    assert error.value.path == str(tmp_path / "missing")


@pytest.mark.parametrize("method", ["hit", "peek", "hits", "reset"])
def test_a_file_in_an_application_s_place(root: str, method: str) -> None:
    """That application fails, and no other."""
    (Path(root) / "acme").write_text("")
    limiter = Limiter(root, "3/minute")
    with pytest.raises(StoreError) as error:
        getattr(limiter, method)("acme")
    assert (error.value.errno, error.value.path) == (errno.ENOTDIR, f"{root}/acme/3-per-60s")
    assert limiter.hit("emca")


ERRORS = [
    errno.EACCES,
    errno.ECONNABORTED,
    errno.EDQUOT,
    errno.EIO,
    errno.ENOSPC,
    errno.ENOTCONN,
    errno.EROFS,
    errno.ETIMEDOUT,
]


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize("call", ["listdir", "rename"])
def test_every_error_is_a_store_error(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """It has the file system's error and the path; and the next hit finds everything as it was."""
    assert Limiter(root, "3/minute").hit("acme")
    before = entries(root)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    limiter = Limiter(root, "3/minute")
    with monkeypatch.context() as patch:
        patch.setattr(posix, call, fail)
        with pytest.raises(StoreError) as error:
            limiter.hit("acme")
    assert (error.value.errno, error.value.strerror) == (number, os.strerror(number))
    assert error.value.path.startswith(f"{root}/acme/3-per-60s")
    assert entries(root) == before
    assert admitted(limiter, 3) == 2


def test_an_error_from_memory_is_a_store_error(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing rename of a remembered slot is not a lost race."""
    limiter = Limiter(root, "3/minute")
    assert limiter.hit("acme")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(posix, "rename", fail)
        with pytest.raises(StoreError) as error:
            limiter.hit("acme")
    assert error.value.errno == errno.EIO
    assert admitted(limiter, 3) == 2


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE])
def test_a_race_lost_for_ever_is_an_error_at_last(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """If renames never succeed, the hit gives up after a bounded number of looks."""
    limiter = Limiter(root, "1/minute", clock=clock)
    assert limiter.hit("acme")
    clock.now += 60 * SECOND
    tries = []

    def lose(*_: object) -> None:
        tries.append(1)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(posix, "rename", lose)
        with pytest.raises(StoreError) as error:
            limiter.hit("acme")
    assert (error.value.errno, error.value.path) == (errno.EBUSY, f"{root}/acme")
    assert len(tries) == ROUNDS + 1  # one from memory
    assert limiter.hit("acme")


# Costs


@pytest.mark.parametrize("text", ["10/minute", "10/minute fixed", "10/minute burst 10", "100/minute"])
def test_a_cost_counts_as_so_many_hits(root: str, clock: Clock, text: str) -> None:
    """All of it counts, or nothing."""
    limiter = Limiter(root, text, clock=clock)
    quota = limiter.limits[0].quota
    assert limiter.hit("acme", quota - 3).remaining == 3
    before = tree(root)
    denied = limiter.hit("acme", 4)
    assert not denied
    assert denied.remaining == 3
    assert tree(root) == before
    assert limiter.hit("acme", 3).remaining == 0
    assert not limiter.hit("acme")


@pytest.mark.parametrize("text", [*KINDS, "0/second", "0/second;3/minute", "4/minute;3/hour"])
def test_a_cost_above_the_limit_is_denied_for_ever(
    root: str, clock: Clock, calls: Calls, text: str
) -> None:
    """Waiting never helps, so retry_after is infinite; the store is not even called."""
    limiter = Limiter(root, text, clock=clock)
    cost = min(limit.quota for limit in limiter.limits) + 1
    decisions: list[Decision] = []
    for _ in range(2):
        assert calls.of(lambda: decisions.append(limiter.hit("acme", cost))) == []
    for decision in decisions:
        assert not decision
        assert decision.retry_after == float("inf")
    peeked = limiter.peek("acme", cost)
    assert (peeked.allowed, peeked.retry_after) == (False, float("inf"))
    assert entries(root) == []


@pytest.mark.parametrize("text", KINDS)
def test_a_cost_above_the_limit_is_denied_for_ever_from_memory_too(
    root: str, clock: Clock, text: str
) -> None:
    """A remembered denial does not make retry_after finite."""
    limiter = Limiter(root, text, clock=clock)
    assert admitted(limiter, 5) == 3
    assert limiter.hit("acme", 4).retry_after == float("inf")


def test_zero_a_second_always_denies(root: str, clock: Clock) -> None:
    """Its decision has all parts, like any other."""
    limiter = Limiter(root, "0/second", clock=clock)
    for decision in (limiter.hit("acme"), limiter.peek("acme")):
        assert (decision.allowed, decision.limit, decision.remaining) == (False, 0, 0)
        assert decision.retry_after == float("inf")
        assert [quota.reset_after for quota in decision.quotas] == [0.0]
    assert limiter.hits("acme") == [[]]
    limiter.reset("acme")
    assert entries(root) == []


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
    assert [quota.limit.name for quota in denied.quotas] == [
        "3-per-1s",
        "5-per-60s",
        "1000-per-3600s-fixed",
    ]


@pytest.mark.parametrize(
    "text", ["2/minute;9/hour", "9/hour;2/minute", "2/minute fixed;9/hour;9/minute burst 9",
             "9/hour fixed;100/hour;1/minute burst 2"]
)  # fmt: skip
def test_a_refused_hit_leaves_all_limits_as_they_were(root: str, clock: Clock, text: str) -> None:
    """If one limit denies, no other counts the hit: every name is as it was."""
    limiter = Limiter(root, text, clock=clock)
    assert admitted(limiter, 2) == 2
    before = tree(root)
    assert not limiter.hit("acme")
    assert not Limiter(root, text, clock=clock).hit("acme")
    assert tree(root) == before


def test_the_order_of_claims(root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots before single files, then the soonest forgotten first; only the last is final."""
    claims: list[tuple[str, bool]] = []
    rename = posix.rename

    def noting(old: str, new: str) -> None:
        directory, _, name = new.rpartition("/")
        if "/.new-" not in old:
            claims.append((directory.rpartition("/")[2], is_held(name)))
        rename(old, new)

    monkeypatch.setattr(posix, "rename", noting)
    assert Limiter(root, "5/minute fixed;3/hour;4/minute;2/second burst 3", clock=clock).hit("acme")
    assert claims == [
        ("4-per-60s", True),
        ("3-per-3600s", True),
        ("2-per-1s-burst-3", True),
        ("5-per-60s-fixed", False),
    ]


def _interrupt(patch: pytest.MonkeyPatch, at: int, act: Callable[[str], None]) -> None:
    """Call ``act`` with the old path just before the rename with that number."""
    rename = posix.rename
    count = 0

    def interrupted(old: str, new: str) -> None:
        nonlocal count
        count += 1
        if count == at:
            act(old)
        rename(old, new)

    patch.setattr(posix, "rename", interrupted)


def test_slots_of_a_race_lost_half_way_are_given_back(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hit that needs three slots and loses one of them leaves the other two as they were."""
    limiter = Limiter(root, "3/minute", clock=clock)
    limiter.hit("acme")
    clock.now += 60 * SECOND
    before = set(entries(root))
    rename = posix.rename
    stolen: list[str] = []

    def steal(old: str) -> None:
        stolen.extend([old, f"{old[:-19]}{NOW // SECOND + 60}.000000-{old[-1]}"])
        rename(*stolen)

    with monkeypatch.context() as patch:
        _interrupt(patch, 3, steal)
        assert not limiter.hit("acme", 3)
    old, new = (path[len(root) + 1 :] for path in stolen)
    assert set(entries(root)) == before - {old} | {new}


@pytest.mark.parametrize("text", ["3/minute;3/hour", "3/hour;3/minute fixed", "3/hour fixed;3/minute burst 3",
                                  "3/hour;3/hour fixed;3/minute burst 3"])  # fmt: skip
@pytest.mark.parametrize("cost", [1, 2])
def test_claims_are_given_back_when_the_store_fails_half_way(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, text: str, cost: int
) -> None:
    """The error is raised and nothing stays counted, at whichever claim it occurs."""
    limiter = Limiter(root, text, clock=clock)
    limiter.hit("acme")
    clock.now += SECOND
    before = [quota.remaining for quota in limiter.peek("acme").quotas]

    def fail(_: str) -> None:
        raise OSError(errno.EIO, "failing")

    for at in range(2, sum(limit.claims(cost) for limit in limiter.limits) + 1):
        with monkeypatch.context() as patch:
            _interrupt(patch, at, fail)
            with pytest.raises(StoreError, match="failing"):
                limiter.hit("acme", cost)
        assert [quota.remaining for quota in limiter.peek("acme").quotas] == before


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
]


@pytest.mark.parametrize("cost", [1, 2, 3])
@pytest.mark.parametrize("step", [0, 1, 997])
@pytest.mark.parametrize("text", RETRIES)
def test_retry_after_is_exact(root: str, clock: Clock, text: str, step: int, cost: int) -> None:
    """A retry at exactly that microsecond is admitted; one microsecond earlier it is denied."""
    limiter = Limiter(root, text, clock=clock)
    for _ in range(4):
        while limiter.hit("acme"):
            clock.now += step
        denied = limiter.hit("acme", cost)
        assert not denied
        begin, wait = clock.now, microseconds(denied)
        peeked = Limiter(root, text, clock=clock).peek("acme", cost)
        assert microseconds(peeked) == wait
        clock.now = begin + wait - 1
        assert not limiter.hit("acme", cost)
        assert not Limiter(root, text, clock=clock).hit("acme", cost)
        assert microseconds(limiter.hit("acme", cost)) == 1
        clock.now = begin + wait
        assert limiter.peek("acme", cost)
        assert limiter.hit("acme", cost)


@pytest.mark.parametrize("text", ["5/minute", "5/minute fixed", "5/minute burst 5", "70/minute"])
def test_retry_after_from_memory_is_that_of_the_hit(root: str, clock: Clock, text: str) -> None:
    """A denial remembered from a cheap hit gives a costly hit the costly hit's own time."""
    limiter = Limiter(root, text, clock=clock)
    while limiter.hit("acme"):
        clock.now += 1000
    for cost in (1, 3, 5):
        fresh = Limiter(root, text, clock=clock).hit("acme", cost)
        assert limiter.hit("acme", cost).retry_after == fresh.retry_after


@pytest.mark.parametrize("back", [1, 300_000, 900_000])
@pytest.mark.parametrize(
    "text", ["3/2 seconds", "3/2 seconds fixed", "3/2 seconds burst 3", "70/2 seconds"]
)
def test_retry_after_is_exact_on_a_clock_set_back(root: str, clock: Clock, text: str, back: int) -> None:
    """It is exact even if the hits that fill the limit seem to be in the future."""
    limiter = Limiter(root, text, clock=clock)
    while limiter.hit("acme"):
        pass
    clock.now -= back
    denied = Limiter(root, text, clock=clock).hit("acme")
    assert not denied
    clock.now += microseconds(denied) - 1
    assert not Limiter(root, text, clock=clock).hit("acme")
    clock.now += 1
    assert Limiter(root, text, clock=clock).hit("acme")


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
    (before,) = limiter.peek("acme").quotas
    assert (before.remaining, before.reset_after) == (10, 0.0)
    for cost, (remaining, reset_after) in zip((1, 1, 2), expected):
        (quota,) = limiter.hit("acme", cost).quotas
        assert quota.limit is limiter.limits[0]
        assert (quota.remaining, quota.reset_after) == (remaining, reset_after)
        (peeked,) = Limiter(root, text, clock=clock).peek("acme").quotas
        assert (peeked.remaining, peeked.reset_after) == (remaining, reset_after)
        clock.now += SECOND


# Looking and forgetting


@pytest.mark.parametrize("text", [*KINDS, "70/minute", "3/minute;100/hour;4/hour fixed"])
def test_a_peek_writes_nothing_and_says_what_a_hit_would_be_answered(
    root: str, clock: Clock, text: str
) -> None:
    """This holds before, between and after hits; not even a directory's times change."""
    limiter = Limiter(root, text, clock=clock)
    while True:
        before = tree(root)
        peeked = Limiter(root, text, clock=clock).peek("acme")
        limiter.hits("acme")
        assert tree(root) == before
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
    before = len(entries(root))
    limiter.reset("acme")
    assert limiter.peek("acme").remaining == quota
    assert not any(limiter.hits("acme"))
    assert admitted(limiter, quota + 1) == quota
    assert len(entries(root)) == before


def test_a_reset_of_nothing_writes_nothing(root: str, clock: Clock) -> None:
    """An application without hits has nothing to forget."""
    Limiter(root, "3/minute", clock=clock).reset("acme")
    assert entries(root) == []


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


def test_a_reset_that_meets_a_hit_forgets_that_too(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that is claimed during the reset is looked at again."""
    limiter = Limiter(root, "2/minute", clock=clock)
    assert limiter.hit("acme", 2)
    clock.now += 60 * SECOND
    rename = posix.rename
    with monkeypatch.context() as patch:
        _interrupt(patch, 1, lambda old: rename(old, f"{old[:-19]}1513123500.000000-{old[-1]}"))
        limiter.reset("acme")
    assert limiter.hits("acme") == [[]]
    assert all("/0000000000.000000-" in name for name in entries(root) if name.count("/") == 2)


def test_hits_tells_the_times(root: str, clock: Clock) -> None:
    """Those that count now, oldest first.  A fixed limit knows only its last, a burst limit none."""
    limiter = Limiter(root, "3/minute;5/minute fixed;5/minute burst 5", clock=clock)
    assert limiter.hits("acme") == [[], [], []]
    for _ in range(3):
        assert limiter.hit("acme")
        clock.now += SECOND
    assert limiter.hits("acme") == [[NOW, NOW + SECOND, NOW + 2 * SECOND], [NOW + 2 * SECOND], []]
    clock.now = NOW + 60 * SECOND
    assert limiter.hits("acme") == [[NOW + SECOND, NOW + 2 * SECOND], [], []]


def test_hits_of_all_segments(root: str, clock: Clock) -> None:
    """They are in the order of time, in whichever segment they are."""
    limiter = Limiter(root, "100/minute", clock=clock)
    times = []
    for _ in range(100):
        times.append(clock.now)
        assert limiter.hit("acme")
        clock.now += 7
    assert limiter.hits("acme") == [times]
