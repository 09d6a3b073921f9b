"""Law B1: whatever ids are invented, the store holds what LIMITER_NEWCOMERS allows, and known clients go on.

The bound is that of a burst limit: its capacity, and what flows in meanwhile.
"""

from __future__ import annotations

import errno
import os
import posix
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from limiter.core import newcomers
from limiter.core.decision import Decision
from limiter.core.hit import Attempt
from limiter.core.limit import clock as time_of_day
from limiter.core.limiter import Limiter
from limiter.core.newcomers import room
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError
from limiter.core.sweep import sweep, sweep_store
from limiter.request.gate import Gate
from limiter.request.long_running import LongRunningGate
from limiter.request.register import put
from limiter.request.settings import Settings
from tests.disks import Disk, small_disk
from tests.limiting import SECOND, Calls, Clock, admitted, before, entries, failing, tree

RATE, BURST = 20, 100
NEWCOMERS = f"{RATE}/second burst {BURST}"
ANY = "1000000/second burst 1000000"
"""So many that only the disk bounds them."""
IDLE = 3600 * SECOND
LIMITS = ["10/second", "3/minute fixed", "3/minute burst 3", "10/second;200/minute"]


def strangers(root: str | Path) -> list[str]:
    """Return the directories of invented ids."""
    return [name for name in os.listdir(root) if name.startswith("x")]


def sweep_at(root: str | Path, time: int) -> None:
    sweep_store(Store(str(root)), clock=lambda: time)


# B1


def judge_b1(root: str, clock: Clock, limits: str) -> None:
    """Invent 500 ids a second for ten seconds, while known clients hit twice as often as they may."""
    known = [f"known{number}" for number in range(3)]
    (first, *_) = parse(limits)
    limiter = Limiter(root, limits, newcomers=NEWCOMERS, clock=clock)
    of_known = {app: Limiter(root, limits, newcomers=NEWCOMERS, clock=clock) for app in known}
    assert all(of_known[app].hit(app) for app in known)
    began = clock()
    clock.move(first.window)
    for second in range(10):
        for number in range(500):
            limiter.hit(f"x{second}-{number}")
        found = len(strangers(root))
        assert found <= BURST + RATE * -((began - clock()) // SECOND), "more than burst and rate"
        if second % (first.window // SECOND) == 0:
            for app in known:
                hits = admitted(of_known[app], 2 * first.quota, app)
                assert hits == first.quota, "a known client gets what it should"
        clock.move(SECOND)
    assert found >= BURST + 8 * RATE, "no fewer than allowed, either"
    sweep_at(root, clock() + IDLE + 120 * SECOND)
    assert entries(root) == [], "nothing of them is left"


@pytest.mark.parametrize("limits", LIMITS)
def test_b1_invented_ids_take_no_more_than_burst_and_rate(root: str, clock: Clock, limits: str) -> None:
    """A client with two limits counts twice, as it costs twice as much."""
    judge_b1(root, clock, limits)


def _take_in_everybody(*_: object) -> Decision:
    return Decision(True, 0.0, [], 0, 1)


def test_b1_is_seen_to_fail(root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attempt, "count", _take_in_everybody)
    with pytest.raises(AssertionError, match="more than burst and rate"):
        judge_b1(root, clock, "10/second")


def test_b1_holds_with_4_processes(root: str) -> None:
    """They invent as fast as they can."""
    fork = get_context("fork")
    barrier = fork.Barrier(4)

    def invent(me: int) -> None:
        limiter = Limiter(root, "10/second", newcomers="50/second burst 50")
        barrier.wait()
        for number in range(500):
            limiter.hit(f"x{me}-{number}")

    processes = [fork.Process(target=invent, args=(me,)) for me in range(4)]
    began = time_of_day()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    most = 50 + 50 * (time_of_day() - began) / SECOND
    assert 50 <= len(strangers(root)) <= most
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_refused_newcomer_learns_when_to_come_back(root: str, clock: Clock) -> None:
    limiter = Limiter(root, "10/second;5/minute", newcomers="2/minute", clock=clock)
    assert limiter.hit("x1")
    clock.move(20 * SECOND)
    decision = limiter.hit("x2")
    assert not decision
    assert (decision.retry_after, decision.remaining) == (40.0, 0)
    assert [quota.remaining for quota in decision.quotas] == [0, 0]
    assert [quota.reset_after for quota in decision.quotas] == [40.0, 40.0]
    assert sorted(strangers(root)) == ["x1@10-per-1s", "x1@5-per-60s"]
    clock.move(40 * SECOND)
    assert limiter.hit("x2")


def test_a_refused_newcomer_costs_four_calls_and_changes_nothing(
    root: str, clock: Clock, calls: Calls
) -> None:
    limiter = Limiter(root, "10/second", newcomers="1/minute", clock=clock)
    assert limiter.hit("x1")
    assert not limiter.hit("x2")
    there = tree(root)
    made = calls.of(lambda: [limiter.hit(f"x{number}") for number in range(2, 50)])
    assert made == ["listdir", "statvfs", "listdir", "listdir"] * 48
    assert tree(root) == there


def test_a_refused_newcomer_is_no_known_client(root: str, clock: Clock) -> None:
    """It is known from its first admitted hit on, to all processes."""
    one, other = [Limiter(root, "2/minute", newcomers="1/minute", clock=clock) for _ in range(2)]
    assert one.hit("x1")
    assert not other.hit("x2")
    assert other.hit("x1")
    assert not one.hit("x1")


def test_where_nobody_is_taken_in_nobody_is(root: str, clock: Clock) -> None:
    """LIMITER_NEWCOMERS=0/second: only clients that the register names."""
    decision = Limiter(root, "3/minute", newcomers="0/second", clock=clock).hit("x1")
    assert (decision.allowed, decision.retry_after, decision.remaining) == (False, float("inf"), 0)
    assert strangers(root) == []


def test_the_default_is_20_a_second_and_1000_at_once(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the tests of the core set another one
    limiter = Limiter(root, clock=clock)
    assert [limiter.hit(f"x{number}").allowed for number in range(1001)] == [True] * 1000 + [False]
    clock.move(SECOND)
    assert [limiter.hit(f"y{number}").allowed for number in range(21)] == [True] * 20 + [False]


def test_a_bad_bound_is_an_error() -> None:
    with pytest.raises(ValueError, match="limit '20/fortnight'"):
        Limiter("/", "10/second", newcomers="20/fortnight")


# The note


def test_a_refusal_is_noted_once_a_minute(root: str, clock: Clock) -> None:
    """Whichever process it is that refuses."""
    made = []
    for minute in range(3):
        notes: list[str] = []
        for number in range(30):
            limiter = Limiter(root, "3/minute", newcomers="1 per 2 minutes", clock=clock)
            notes += limiter.hit(f"x{minute}-{number}").notes
            clock.move(SECOND)
        made.append(notes)
        clock.move(30 * SECOND)
    note = f"{root}: new clients are refused (429): LIMITER_NEWCOMERS is 1 per 2 minutes"
    assert made == [[note], [note], [note]]


def test_a_refusal_that_cannot_be_counted_is_noted_each_time(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better too often than never: the store is full, and nobody may have noticed."""
    monkeypatch.setattr(posix, "mkdir", failing(errno.ENOSPC))
    limiter = Limiter(root, "3/minute", newcomers=ANY, clock=clock)
    notes = [limiter.hit(f"x{number}").notes for number in range(3)]
    assert notes == [[f"{root}: new clients are refused (429): few inodes or bytes are free"]] * 3


# Named clients


def _gate(kind: type[Gate], variables: dict[str, str]) -> Gate:
    environ = {name.encode(): os.fsencode(text) for name, text in variables.items()}
    if kind is LongRunningGate:
        return LongRunningGate(environ)
    return Gate(Settings(environ), lambda _, function, *arguments: function(*arguments))


@pytest.mark.parametrize("kind", [Gate, LongRunningGate])
def test_clients_that_the_register_names_are_not_concerned(
    root: str, apps: str, kind: type[Gate]
) -> None:
    for app in ("acme", "other"):
        put(apps, app, "3/minute")
    put(apps, ".default", "3/minute")
    settings = {"LIMITER_ROOT": root, "LIMITER_APPS": apps, "LIMITER_TIMEOUT": "60"}
    gate = _gate(kind, {**settings, "LIMITER_NEWCOMERS": "1/day"})
    ids = ["x1", "x2", "acme", "other", "x3", "x1"]
    statuses = [gate.decide(app)[0][:3] for app in ids]
    assert statuses == ["200", "429", "200", "200", "429", "200"]


@pytest.mark.parametrize("kind", [Gate, LongRunningGate])
def test_unlimited_is_no_bound(root: str, kind: type[Gate]) -> None:
    settings = {"LIMITER_ROOT": root, "LIMITER_TIMEOUT": "60", "LIMITER_NEWCOMERS": "unlimited"}
    gate = _gate(kind, settings)
    assert {gate.decide(f"x{number}")[0] for number in range(1100)} == {"200 OK"}
    assert len(strangers(root)) == len(os.listdir(root)) == 1100


# A store without room

KNOWN = [f"known{number}" for number in range(20)]


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    """A file system of 2,000 inodes, with twenty clients on it."""
    with small_disk(2000, request.param) as disk:
        yield disk


class Crowd:
    """Known clients and strangers on a small disk."""

    def __init__(self, disk: Disk, clock: Clock, limits: str = "3/minute") -> None:
        self.root = disk.path
        self.clock = clock
        self.limits = limits
        for app in KNOWN:
            assert self.of(app).hit(app)

    def of(self, app: str, newcomers: str = ANY) -> Limiter:
        """A limiter of another process, which remembers nothing."""
        return Limiter(self.root, self.limits, newcomers=newcomers, clock=self.clock)

    def invent(self, count: int = 2000) -> int:
        """How many of these newcomers are admitted.  None of them gets an error."""
        limiter = self.of("x")
        return sum(limiter.hit(f"x{self.clock()}-{number}").allowed for number in range(count))

    def check_known(self) -> None:
        """Each known client gets exactly what it should, and no error."""
        self.clock.move(60 * SECOND)
        for app in KNOWN:
            assert admitted(self.of(app), 4, app) == 3


def test_strangers_leave_a_tenth_of_the_inodes(disk: Disk, clock: Clock) -> None:
    """For clients that the register names, and for other programs.  Known clients notice nothing."""
    crowd = Crowd(disk, clock)
    assert crowd.invent() >= 300
    crowd.check_known()
    assert crowd.invent() == 0
    assert 2000 - disk.used >= 190
    decision = crowd.of("x").hit("x")
    assert (decision.retry_after, decision.remaining) == (60.0, 0)
    assert all(crowd.of("named", newcomers="").hit(f"named{number}") for number in range(20))


def test_without_this_reserve_strangers_take_all(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test before shows fails then."""
    monkeypatch.setattr(newcomers, "is_nearly_full", lambda root: False)
    with small_disk(2000) as disk:
        crowd = Crowd(disk, clock)
        crowd.invent()
        with pytest.raises(StoreError, match="No space left on device"):
            crowd.of("named", newcomers="").hit("named")


def test_with_not_one_inode_free_known_clients_go_on_and_a_sweep_makes_room(
    disk: Disk, clock: Clock
) -> None:
    """Other programs have taken them all."""
    crowd = Crowd(disk, clock)
    assert crowd.invent()
    disk.fill()
    assert os.statvfs(disk.path).f_ffree == 0
    crowd.check_known()
    assert crowd.invent(10) == 0
    crowd.check_known()
    clock.move(2 * IDLE)
    sweep_at(disk.path, clock())
    left = [name for name in os.listdir(disk.path) if "@" in name]
    assert left == []
    disk.empty()
    assert crowd.invent(10) == 10


def test_with_no_inode_for_a_further_directory_a_known_client_gets_429(disk: Disk, clock: Clock) -> None:
    """It has the slots of the directories that it has, and no error."""
    crowd = Crowd(disk, clock, "20/minute")
    disk.fill()
    clock.move(60 * SECOND)
    for app in KNOWN:
        assert admitted(crowd.of(app), 20, app) == 16
    disk.empty()
    assert admitted(crowd.of(KNOWN[0]), 20, KNOWN[0]) == 4


def test_a_store_that_was_full_from_the_start_refuses_newcomers(disk: Disk, clock: Clock) -> None:
    """Not even the hits of newcomers can be counted there.  Each is refused, and none gets an error."""
    disk.fill()
    limiter = Limiter(disk.path, "3/minute", newcomers=ANY, clock=clock)
    assert not any(limiter.hit(f"x{number}") for number in range(10))


def test_a_store_that_runs_short_is_swept_sooner(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    """After a tenth of the idle time."""
    clock = Clock(time_of_day() - IDLE // 5)
    crowd = Crowd(disk, clock)
    assert sweep(str(disk.path)) == 0
    assert f" 0 of {len(KNOWN) + 1} directories removed, 0 leftovers" in capsys.readouterr().out
    crowd.invent()
    assert sweep(str(disk.path)) == 0
    assert ", sooner as inodes or bytes run short" in capsys.readouterr().out
    assert not [name for name in os.listdir(disk.path) if name[0] in "kx"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMLINK])
@pytest.mark.parametrize("at", [1, 2], ids=["counting", "furnishing"])
def test_a_newcomer_for_whom_there_is_no_room_is_refused(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, number: int, at: int
) -> None:
    """Whatever LIMITER_ON_ERROR says: a full store must not admit all.  A quota may be exhausted, too."""
    before(monkeypatch, "mkdir", failing(number), at=at)
    limiter = Limiter(root, "3/minute", newcomers=ANY, clock=clock)
    decision = limiter.hit("x1")
    assert (decision.allowed, decision.retry_after) == (False, 60.0)
    assert limiter.hit("x1")
    assert not list(Path(root).glob(".new-*"))


@pytest.mark.parametrize("call", ["mkdir", "statvfs"])
def test_any_other_error_is_none_of_room(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(posix, call, failing(errno.EIO))
    with pytest.raises(StoreError) as error:
        Limiter(root, "3/minute", newcomers=ANY, clock=clock).hit("x1")
    assert error.value.errno == errno.EIO
    assert error.value.path.startswith(root)


def test_a_store_that_is_missing_is_an_error(root: str) -> None:
    with pytest.raises(StoreError, match="The store does not exist"):
        Limiter(f"{root}/missing", "3/minute", newcomers=ANY).hit("x1")


# How many more


@pytest.mark.parametrize("text", ["70/day", "70/day fixed", "7/day burst 70", "70/day;90/day"])
def test_room_is_how_many_more_are_taken_in(root: str, text: str) -> None:
    """Also if they are counted in several directories."""
    limiter = Limiter(root, "3/minute", newcomers=text)
    assert room(root, text) == 70
    for number in range(0, 70, 10):
        assert all(limiter.hit(f"x{number + one}") for one in range(10))
        assert room(root, text) == 60 - number
    assert not limiter.hit("y")


def test_there_is_no_room_on_a_disk_that_is_nearly_full() -> None:
    with small_disk(2000) as disk:
        assert room(str(disk.path), NEWCOMERS) == BURST
        disk.fill()
        assert room(str(disk.path), NEWCOMERS) == 0


def test_a_file_system_that_counts_no_inodes_is_never_nearly_full(
    root: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Btrfs has no number of inodes: statvfs says 0."""
    status = list(os.statvfs(root))
    status[5:8] = [0, 0, 0]
    monkeypatch.setattr(posix, "statvfs", lambda _: os.statvfs_result(status))
    assert Limiter(root, "3/minute", newcomers=ANY, clock=clock).hit("x1")
