"""The Limiter: its answers, what it writes, what it remembers, and how many system calls it makes."""

from __future__ import annotations

import errno
import gc
import os
import posix
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from limiter.hit import ROUNDS, Decision
from limiter.limit import is_held, number_of, time_of
from limiter.limiter import Limiter
from limiter.store import Store, StoreError

SECOND = 1_000_000
NOW = 1_513_123_440 * SECOND
"""The begin of a minute and of an hour's fraction: calendar windows of up to a minute begin here."""

KINDS = ["3/minute", "3/minute fixed", "3/minute burst 3"]
FILE_CALLS = ("close", "listdir", "lstat", "mkdir", "open", "rename", "rmdir", "stat", "unlink")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        """Microseconds since the epoch."""
        return self.now


class Calls:
    """Counts the system calls on files that the limiter makes, by name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        for name in FILE_CALLS:
            patch.setattr(posix, name, self._counting(name, getattr(posix, name)))

    def _counting(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def counting(*arguments: object) -> object:
            self.made.append(name)
            return call(*arguments)

        return counting

    def of(self, act: Callable[[], object]) -> list[str]:
        """The calls that this makes."""
        self.made.clear()
        act()
        return list(self.made)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A counter of system calls."""
    return Calls(monkeypatch)


def names(root: str) -> list[str]:
    """Every file and directory of a store."""
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*"))


def tree(root: str) -> dict[str, tuple[int, int, int]]:
    """Every file and directory of a store, the store itself too, and whether it has been touched."""
    found = [Path(root), *Path(root).rglob("*")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_ctime_ns)
            for path in found}  # fmt: skip


def admitted(limiter: Limiter, most: int, app: str = "acme") -> int:
    """How many of so many hits are allowed."""
    return sum(limiter.hit(app).allowed for _ in range(most))


def microseconds(decision: Decision) -> int:
    """A finite retry_after as the clock counts."""
    return round(decision.retry_after * SECOND)


# Answers


@pytest.mark.parametrize("text", KINDS)
def test_a_decision_tells_where_the_limit_stands(root: str, clock: Clock, text: str) -> None:
    """Three hits are allowed, the fourth is denied, and each answer says so in all its parts."""
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
    """One application's hits cost another nothing."""
    limiter = Limiter(root, "2/minute", clock=clock)
    assert admitted(limiter, 3, "acme") == 2
    assert admitted(limiter, 3, "emca") == 2


def test_the_default_is_ten_a_second(root: str, clock: Clock) -> None:
    """Whoever names no limit gets that of the documentation."""
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
    """Nothing but an app_id ever becomes a path."""
    with pytest.raises(ValueError, match=r"^app_id .*: expected 1 to 64 letters") as error:
        getattr(Limiter(root), method)(app)
    assert "\n" not in str(error.value)
    assert names(root) == []


@pytest.mark.parametrize("app", [None, 7, b"acme"])
def test_an_app_id_is_text(root: str, app: str) -> None:
    """Another type is a ValueError too."""
    with pytest.raises(ValueError, match=r"^app_id "):
        Limiter(root).hit(app)


@pytest.mark.parametrize("cost", [0, -1, 1.0, True, "1", None])
@pytest.mark.parametrize("method", ["hit", "peek"])
def test_a_bad_cost_is_a_value_error(root: str, cost: int, method: str) -> None:
    """A cost is a whole number of at least 1."""
    with pytest.raises(ValueError, match=r"^cost .*: expected a whole number of at least 1$"):
        getattr(Limiter(root), method)("acme", cost)
    assert names(root) == []


@pytest.mark.parametrize("text", ["", "10", "10/second;", "-1/second", "10001/second"])
def test_a_bad_limit_is_a_value_error(root: str, text: str) -> None:
    """At once, and not at the first hit."""
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
    """A StoreError says how and where, whatever was asked; the limiter never makes a root."""
    root = make(tmp_path)
    before = names(str(tmp_path))
    with pytest.raises(StoreError) as error:
        getattr(Limiter(root, "3/minute"), method)("acme")
    assert error.value.errno == number
    assert error.value.strerror
    assert error.value.path.startswith(root)
    assert names(str(tmp_path)) == before


def test_a_missing_store_is_named_itself(tmp_path: Path) -> None:
    """Whoever mistypes LIMITER_ROOT reads what to do."""
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
    """What the file system says is passed on, with the path; and the next hit finds all as it was."""
    assert Limiter(root, "3/minute").hit("acme")
    before = names(root)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    limiter = Limiter(root, "3/minute")
    with monkeypatch.context() as patch:
        patch.setattr(posix, call, fail)
        with pytest.raises(StoreError) as error:
            limiter.hit("acme")
    assert (error.value.errno, error.value.strerror) == (number, os.strerror(number))
    assert error.value.path.startswith(f"{root}/acme/3-per-60s")
    assert names(root) == before
    assert admitted(limiter, 3) == 2


def test_an_error_from_memory_is_a_store_error(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remembered slot that cannot be renamed is no lost race."""
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
    """A rename that never succeeds is given up after a bounded number of looks."""
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
    """All of it or nothing."""
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
    """No waiting helps, so retry_after is infinite; the store is not even looked at."""
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
    assert names(root) == []


@pytest.mark.parametrize("text", KINDS)
def test_a_cost_above_the_limit_is_denied_for_ever_from_memory_too(
    root: str, clock: Clock, text: str
) -> None:
    """A denial that is remembered does not make it finite."""
    limiter = Limiter(root, text, clock=clock)
    assert admitted(limiter, 5) == 3
    assert limiter.hit("acme", 4).retry_after == float("inf")


def test_zero_a_second_always_denies(root: str, clock: Clock) -> None:
    """Its decision has all parts, as any other's."""
    limiter = Limiter(root, "0/second", clock=clock)
    for decision in (limiter.hit("acme"), limiter.peek("acme")):
        assert (decision.allowed, decision.limit, decision.remaining) == (False, 0, 0)
        assert decision.retry_after == float("inf")
        assert [quota.reset_after for quota in decision.quotas] == [0.0]
    assert limiter.hits("acme") == [[]]
    limiter.reset("acme")
    assert names(root) == []


# Several limits


def test_all_limits_must_admit(root: str, clock: Clock) -> None:
    """The tighter one denies, and comes first in what is said."""
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
    """What one limit refuses, no other counts: every name is what it was."""
    limiter = Limiter(root, text, clock=clock)
    assert admitted(limiter, 2) == 2
    before = tree(root)
    assert not limiter.hit("acme")
    assert not Limiter(root, text, clock=clock).hit("acme")
    assert tree(root) == before


def test_the_order_of_claims(root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots before single files, what is soonest forgotten first, and all but the last are held."""
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
    """Let something happen right before the rename of that number; it gets the old path."""
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
    """A hit that wanted three and found one taken meanwhile leaves the other two as they were."""
    limiter = Limiter(root, "3/minute", clock=clock)
    limiter.hit("acme")
    clock.now += 60 * SECOND
    before = set(names(root))
    rename = posix.rename
    stolen: list[str] = []

    def steal(old: str) -> None:
        stolen.extend([old, f"{old[:-19]}{NOW // SECOND + 60}.000000-{old[-1]}"])
        rename(*stolen)

    with monkeypatch.context() as patch:
        _interrupt(patch, 3, steal)
        assert not limiter.hit("acme", 3)
    old, new = (path[len(root) + 1 :] for path in stolen)
    assert set(names(root)) == before - {old} | {new}


@pytest.mark.parametrize("text", ["3/minute;3/hour", "3/hour;3/minute fixed", "3/hour fixed;3/minute burst 3",
                                  "3/hour;3/hour fixed;3/minute burst 3"])  # fmt: skip
@pytest.mark.parametrize("cost", [1, 2])
def test_claims_are_given_back_when_the_store_fails_half_way(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, text: str, cost: int
) -> None:
    """The error is told, and nothing stays counted, whichever claim it comes at."""
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
    """A retry at that very microsecond is allowed, and one microsecond earlier is not."""
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
    """A denial remembered from a cheap hit answers a dear one with the dear one's own time."""
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
    """Also when the hits that fill the limit seem to lie in the future."""
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
    """Hits remaining, and the seconds until there are more, after hits of 1, 1 and 2 a second apart."""
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
    """Before, between and after hits; not even a directory's time changes."""
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
    """Afterwards the limits admit all that they admit to a new application, and hold as many slots."""
    limiter = Limiter(root, text, clock=clock)
    quota = min(limit.quota for limit in limiter.limits)
    assert admitted(limiter, quota + 1) == quota
    before = len(names(root))
    limiter.reset("acme")
    assert limiter.peek("acme").remaining == quota
    assert not any(limiter.hits("acme"))
    assert admitted(limiter, quota + 1) == quota
    assert len(names(root)) == before


def test_a_reset_of_nothing_writes_nothing(root: str, clock: Clock) -> None:
    """An application that never came has nothing to forget."""
    Limiter(root, "3/minute", clock=clock).reset("acme")
    assert names(root) == []


@pytest.mark.parametrize("text", KINDS)
def test_a_reset_is_seen_by_others_within_a_second(root: str, clock: Clock, text: str) -> None:
    """Another Limiter may deny from memory that long, and no longer."""
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
    """A slot that is taken while it is being reset is looked at again."""
    limiter = Limiter(root, "2/minute", clock=clock)
    assert limiter.hit("acme", 2)
    clock.now += 60 * SECOND
    rename = posix.rename
    with monkeypatch.context() as patch:
        _interrupt(patch, 1, lambda old: rename(old, f"{old[:-19]}1513123500.000000-{old[-1]}"))
        limiter.reset("acme")
    assert limiter.hits("acme") == [[]]
    assert all("/0000000000.000000-" in name for name in names(root) if name.count("/") == 2)


def test_hits_tells_the_times(root: str, clock: Clock) -> None:
    """Oldest first, those that count now; a fixed limit knows its last, a burst limit none."""
    limiter = Limiter(root, "3/minute;5/minute fixed;5/minute burst 5", clock=clock)
    assert limiter.hits("acme") == [[], [], []]
    for _ in range(3):
        assert limiter.hit("acme")
        clock.now += SECOND
    assert limiter.hits("acme") == [[NOW, NOW + SECOND, NOW + 2 * SECOND], [NOW + 2 * SECOND], []]
    clock.now = NOW + 60 * SECOND
    assert limiter.hits("acme") == [[NOW + SECOND, NOW + 2 * SECOND], [], []]


def test_hits_of_all_segments(root: str, clock: Clock) -> None:
    """In the order of time, wherever they are."""
    limiter = Limiter(root, "100/minute", clock=clock)
    times = []
    for _ in range(100):
        times.append(clock.now)
        assert limiter.hit("acme")
        clock.now += 7
    assert limiter.hits("acme") == [times]


# Memory


@pytest.mark.parametrize(
    "text", [*KINDS, "70/minute", "3/minute;9/hour", "9/hour fixed;3/minute burst 3"]
)
def test_what_a_hit_costs_a_process_that_stays(root: str, clock: Clock, calls: Calls, text: str) -> None:
    """Admitted: one rename a limit and no listing.  Denied: once it has been seen full, nothing."""
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
    """Others are not denied by it."""
    limiter = Limiter(root, "2/minute", clock=clock)
    assert admitted(limiter, 5, "acme") == 2
    assert limiter.hit("emca")
    assert calls.of(lambda: limiter.hit("acme")) == []
    assert calls.of(lambda: limiter.hit("emca")) == ["rename"]


def test_a_remembered_slot_that_another_took(root: str, clock: Clock, calls: Calls) -> None:
    """The rename is the judge: after it the directory is listed, and the answer is right."""
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
    """Taking turns, so that each one's memory is always stale."""
    pair = [Limiter(root, text, clock=clock) for _ in range(2)]
    assert sum(pair[turn % 2].hit("acme").allowed for turn in range(20)) == 3


@pytest.mark.parametrize(
    ("text", "wait", "more"), [("3/second", SECOND, 2), ("5/second burst 3", SECOND // 5, 0)]
)
def test_a_denial_from_memory_ends_with_its_reason(
    root: str, clock: Clock, calls: Calls, text: str, wait: int, more: int
) -> None:
    """Up to the last microsecond without a call, and then it is allowed without a listing."""
    limiter = Limiter(root, text, clock=clock)
    assert admitted(limiter, 5) == 3
    clock.now += wait - 1
    assert calls.of(lambda: limiter.hit("acme")) == []
    assert not limiter.hit("acme")
    clock.now += 1
    assert calls.of(lambda: limiter.hit("acme")) == ["rename"]
    assert admitted(limiter, 5) == more


def test_a_denial_is_believed_for_a_second_at_most(root: str, clock: Clock, calls: Calls) -> None:
    """However long the window is."""
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
    """Neither the store nor what is remembered denies for longer than two windows."""
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
    """They might be given back; one's own, of hits that are done, will not."""
    limiter, other = (Limiter(root, "4/minute", clock=clock) for _ in range(2))
    assert limiter.hit("acme", 2)
    assert limiter.hit("acme", 2)
    assert sum(is_held(name.rpartition("/")[2]) for name in names(root) if name.count("/") == 2) == 2
    assert calls.of(lambda: limiter.hit("acme")) == ["listdir"]
    assert calls.of(lambda: limiter.hit("acme")) == []
    for _ in range(3):
        assert calls.of(lambda: other.hit("acme")) == ["listdir"]
    assert not other.hit("acme")


def test_a_held_slot_given_back_is_taken_at_once(root: str, clock: Clock) -> None:
    """By one who saw the limit full while it was held."""
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
    """Two hundred thousand names; then all are forgotten, and that costs a listing."""
    limiter = Limiter(root, "10000/day", clock=clock)
    for app in range(19):
        assert limiter.hit(f"app{app}")
    for app in range(19):
        assert calls.of(lambda app=app: limiter.hit(f"app{app}")) == ["rename"]  # type: ignore[misc]
    assert limiter.hit("app19")
    assert calls.of(lambda: limiter.hit("app0")) == ["listdir", "rename"]


def reachable(limiter: Limiter) -> int:
    """How many objects a Limiter keeps alive."""
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
    """A thousand hits later it remembers no more than before, whatever the limits."""
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
    """Eight of them on one Limiter."""
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
    """Parent and child share the limit, not the memory."""
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
    """Anything that os.PathLike allows."""
    assert Limiter(Path(root), "3/minute").hit("acme")
    assert os.listdir(root) == ["acme"]


# Segments


def test_a_segment_comes_when_the_one_before_is_full(root: str, clock: Clock) -> None:
    """The first 64 hits have one directory of 64, the 65th furnishes one of 36."""
    limiter = Limiter(root, "100/minute", clock=clock)
    assert admitted(limiter, 64) == 64
    assert os.listdir(f"{root}/acme") == ["100-per-60s"]
    assert limiter.hit("acme")
    assert sorted(os.listdir(f"{root}/acme")) == ["100-per-60s", "100-per-60s.1"]
    assert sorted(map(number_of, os.listdir(f"{root}/acme/100-per-60s"))) == list(range(64))
    assert sorted(map(number_of, os.listdir(f"{root}/acme/100-per-60s.1"))) == list(range(64, 100))


@pytest.mark.parametrize("stays", [True, False])
def test_a_thousand_an_hour_are_a_thousand(root: str, clock: Clock, stays: bool) -> None:
    """From a process that stays and from one for each hit."""
    limiter = Limiter(root, "1000/hour", clock=clock)
    count = 0
    for _ in range(1005):
        count += (limiter if stays else Limiter(root, "1000/hour", clock=clock)).hit("acme").allowed
        clock.now += 1
    assert count == 1000
    assert len(os.listdir(f"{root}/acme")) == 16
    assert sum(len(os.listdir(path)) for path in Path(root, "acme").iterdir()) == 1000
    clock.now = NOW + 3600 * SECOND
    assert limiter.hit("acme")
    assert not limiter.hit("acme")


def test_a_light_user_of_a_large_limit_costs_no_more(root: str, clock: Clock, calls: Calls) -> None:
    """The first hit of 1000 an hour and of 64 an hour make the same calls, and so do the next."""
    for _ in range(3):
        large = calls.of(lambda: Limiter(root, "1000/hour", clock=clock).hit("large"))
        small = calls.of(lambda: Limiter(root, "64/hour", clock=clock).hit("small"))
        assert large == small
    assert large == ["listdir", "rename"]


# What else may be in a directory, or seem to be missing from it


@pytest.mark.parametrize("text", ["5/minute", "70/minute", "5/minute fixed", "5/minute burst 5"])
def test_foreign_entries_are_nobody_s_slots(root: str, clock: Clock, text: str) -> None:
    """They are neither counted nor touched."""
    assert Limiter(root, text, clock=clock).hit("acme")
    (directory,) = Path(root, "acme").iterdir()
    foreign = [directory / ".nfs000000012", directory / "README", directory / "zzz"]
    for path in foreign:
        path.write_text("foreign")
    limiter = Limiter(root, text, clock=clock)
    quota = limiter.limits[0].quota
    assert limiter.peek("acme").remaining == quota - 1
    assert admitted(limiter, quota + 3) == quota - 1
    limiter.reset("acme")
    assert admitted(limiter, quota + 3) == quota
    assert [path.read_text() for path in foreign] == ["foreign"] * 3


def test_a_directory_that_holds_something_else_is_told(root: str, clock: Clock) -> None:
    """Nobody may make slots in it, so a person must remove it; nothing is written."""
    directory = Path(root, "acme", "5-per-60s")
    directory.mkdir(parents=True)
    (directory / "README").write_text("")
    before = tree(root)
    limiter = Limiter(root, "5/minute", clock=clock)
    with pytest.raises(StoreError, match=r"\(remove it\)") as error:
        limiter.hit("acme")
    assert (error.value.errno, error.value.path) == (errno.ENOENT, str(directory))
    assert set(tree(root)) == set(before)
    (directory / "README").unlink()
    assert admitted(limiter, 7) == 5


@pytest.mark.parametrize("text", ["5/minute", "5/minute;9/hour fixed", "70/minute", "5/minute burst 5"])
@pytest.mark.parametrize("there", ["acme", "acme/5-per-60s", "acme/70-per-60s.1"])
def test_an_empty_directory_is_as_good_as_none(root: str, clock: Clock, text: str, there: str) -> None:
    """As a copy that leaves out empty files makes them; it is replaced by a full one."""
    Path(root, there).mkdir(parents=True)
    limiter = Limiter(root, text, clock=clock)
    quota = limiter.limits[0].quota
    assert admitted(limiter, quota + 2) == quota
    assert not [name for name in names(root) if name.startswith(".new-")]


def test_lost_slots_are_fewer_hits(root: str, clock: Clock) -> None:
    """Never more: a slot that is gone is not made again, since it may only be late."""
    assert Limiter(root, "5/minute", clock=clock).hit("acme")
    directory = Path(root, "acme", "5-per-60s")
    for path in sorted(directory.iterdir())[:2]:
        path.unlink()
    limiter = Limiter(root, "5/minute", clock=clock)
    assert admitted(limiter, 9) == 2
    assert len(os.listdir(directory)) == 3
    clock.now += 60 * SECOND
    assert admitted(limiter, 9) == 3


Tear = Callable[[list[str]], list[str]]


def _tear(patch: pytest.MonkeyPatch, tear: Tear, times: int, where: str = "5-per-60s") -> list[str]:
    """Spoil so many listings of a directory with that name; what was listed."""
    listdir = posix.listdir
    listed: list[str] = []

    def torn(path: str) -> list[str]:
        listed.append(path)
        found = sorted(listdir(path))
        mine = path.endswith(where)
        return tear(found) if mine and sum(name.endswith(where) for name in listed) <= times else found

    patch.setattr(posix, "listdir", torn)
    return listed


TEARS: dict[str, Tear] = {
    "misses the free one": lambda found: found[1:],
    "misses one taken": lambda found: found[:-1],
    "misses all": lambda found: [],
    "shows one twice": lambda found: [*found, f"{NOW // SECOND - 1}.000000-{found[-1][18:]}"],
    "shows one twice, misses another": lambda found: [*found[1:], f"0000000000.000001-{found[-1][18:]}"],
}


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("tear", TEARS.values(), ids=TEARS.keys())
def test_a_torn_listing_costs_nobody_a_hit(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, tear: Tear, times: int
) -> None:
    """It is listed again: the one free slot is found, and no other is taken for free."""
    assert admitted(Limiter(root, "5/minute", clock=clock), 4) == 4
    with monkeypatch.context() as patch:
        _tear(patch, tear, times)
        assert Limiter(root, "5/minute", clock=clock).hit("acme")
    before = names(root)
    with monkeypatch.context() as patch:
        _tear(patch, tear, times)
        assert not Limiter(root, "5/minute", clock=clock).hit("acme")
    assert names(root) == before
    assert len(before) == 7


def test_a_slot_that_stays_missing_does_not_keep_a_hit(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listings are bounded, and the hit then goes by what there is."""
    assert admitted(Limiter(root, "5/minute", clock=clock), 4) == 4
    with monkeypatch.context() as patch:
        listed = _tear(patch, TEARS["misses the free one"], 1000)
        assert not Limiter(root, "5/minute", clock=clock).hit("acme")
    assert 2 <= len(listed) <= 5
    assert Limiter(root, "5/minute", clock=clock).hit("acme")


def test_an_application_that_is_missed_is_not_furnished_over(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename onto a directory that is not empty fails, whatever a listing said."""
    limits = "5/minute;9/hour fixed"
    assert admitted(Limiter(root, limits, clock=clock), 4) == 4
    before = set(names(root))
    with monkeypatch.context() as patch:
        _tear(patch, TEARS["misses all"], 1, where="")
        _tear(patch, TEARS["misses all"], 1, where="/acme")
        assert Limiter(root, limits, clock=clock).hit("acme")
    assert len(before - set(names(root))) == 2
    assert len(names(root)) == len(before)
    assert not Limiter(root, limits, clock=clock).hit("acme")


def test_a_single_file_that_is_shown_twice_counts_as_the_newer(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names that it had before are of no account."""
    limits = "5/minute fixed"
    assert admitted(Limiter(root, limits, clock=clock), 4) == 4
    with monkeypatch.context() as patch:
        _tear(patch, lambda found: ["1513123440.000000-1", *found], 1, where="-fixed")
        assert Limiter(root, limits, clock=clock).hit("acme")
    assert not Limiter(root, limits, clock=clock).hit("acme")


# Stamps


def test_a_claim_is_stamped_when_it_is_made(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the directory was listed; and anew if the rename took long, since it counts from then."""
    clock = Clock()
    rename = Store.rename

    def slow(store: Store, directory: str, old: str, new: str) -> bool:
        done = rename(store, directory, old, new)
        clock.now += 6 * SECOND
        return done

    limiter = Limiter(root, "1/minute", clock=clock)
    limiter.hit("acme")
    clock.now += 60 * SECOND
    begin = clock.now
    monkeypatch.setattr(Store, "rename", slow)
    assert limiter.hit("acme")
    (name,) = os.listdir(f"{root}/acme/1-per-60s")
    assert time_of(name) == begin + 6 * SECOND
    clock.now = begin + 66 * SECOND - 1
    assert not limiter.hit("acme")
    clock.now += 1
    assert limiter.hit("acme")


def test_a_slot_lost_to_another_process_is_not_tried_again(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was, at every hit until the next look."""
    one, other = Limiter(root, "40/hour"), Limiter(root, "40/hour")
    rename = Store.rename
    tried: list[str] = []

    def noting(store: Store, directory: str, old: str, new: str) -> bool:
        tried.append(old)
        return rename(store, directory, old, new)

    one.hit("acme")
    for _ in range(20):
        other.hit("acme")
    monkeypatch.setattr(Store, "rename", noting)
    assert sum(bool(one.hit("acme")) for _ in range(20)) == 19
    assert len(tried) == len(set(tried))
