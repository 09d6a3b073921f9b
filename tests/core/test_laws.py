"""The laws of the limiter: each is proven, and each proof fails on a broken limiter."""

from __future__ import annotations

import errno
import os
import posix
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import quote_from_bytes

import pytest
from _pytest.mark import ParameterSet
from hypothesis import given, settings
from hypothesis import strategies as st

import limiter.core.decision
from limiter.core.burst import Burst
from limiter.core.limit import Limit, Sliding, time_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.request.key import Key
from tests.doors.law_f1 import Stage, judge
from tests.faults import HARD, PASSING, SOFT, kill, play
from tests.history import History, judge_l1, judge_s1, only, record
from tests.limiting import SECOND, Clock, admitted, before_each, hit_at, tree, used


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("10/second", 10),
        ("7 per 2 seconds", 20),
        ("100/second", 5),
        ("1000/hour", 10),
        ("10/second fixed", 10),
        ("10/second burst 20", 10),
        ("5000/second burst 1", 1),
    ],
)
def test_s1_and_l1_hold_with_8_processes(any_root: str, text: str, speed: int) -> None:
    """Each window admits exactly the quota, and no hit is denied earlier.  The clock runs fast."""
    history = record(any_root, text, speed * SECOND // 2, speed=speed)
    limit = only(text)
    judge_s1(limit, history)
    judge_l1(limit, history)
    assert len(history.admitted) >= limit.quota
    if text == "1000/hour":
        assert len(history.admitted) == 1000


def _shift_the_window(sign: int) -> None:
    """Break S1: free a slot half a window too early (+1).  Or L1: keep it half a window too long (-1).

    Denials from memory are affected, too: no process looks again before they end.
    """
    look, wait = Sliding.look, Sliding.wait
    Sliding.look = (  # type: ignore[method-assign]
        lambda self, names, now, cost: look(self, names, now + sign * self.window // 2, cost)
    )
    Sliding.wait = (  # type: ignore[method-assign]
        lambda self, names, now, cost: wait(self, names, now + sign * self.window // 2, cost)
    )


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("sign", "law", "seen"), [(1, judge_s1, "hits within"), (-1, judge_l1, "denied at")]
)
def test_s1_and_l1_are_seen_to_fail(
    root: str, sign: int, law: Callable[[Limit, History], None], seen: str
) -> None:
    """How a race that a hit does not lose is seen: test_hit.py."""
    sabotage = partial(_shift_the_window, sign)
    history = record(root, "10/second", 10 * SECOND, sabotage=sabotage, speed=10)
    with pytest.raises(AssertionError, match=seen):
        law(only("10/second"), history)


# S2: after SIGKILL between any two system calls.

NOW = 1_513_123_456_123_456


def _check_what_is_left(root: str, limits: str, at_most_used: int) -> None:
    """S1 and L1 for the next hits: exactly as many are admitted as the limits have left."""
    before = used(root, limits, NOW)
    assert max(before) <= at_most_used
    left = min(limit.quota - count for limit, count in zip(parse(limits), before))
    assert admitted(Limiter(root, limits, clock=lambda: NOW), left + 1) == left
    assert used(root, limits, NOW) == [count + left for count in before]
    for limit in parse(limits):
        for segment in range(limit.segments):
            assert limit.is_whole(os.listdir(f"{root}/acme@{limit.directory(segment)}"), segment)


SCENES = [
    ("3/second", 0, 1),
    ("3/second", 1, 1),
    ("3/second", 3, 1),
    ("3/second", 1, 2),
    ("18/second", 16, 1),
    ("18/second", 15, 3),
    ("3/second fixed", 0, 1),
    ("3/second fixed", 1, 2),
    ("3/second burst 4", 1, 1),
    ("3/second;4/minute", 0, 1),
    ("3/second;4/minute", 1, 2),
    ("3/second fixed;4/minute burst 4;5/hour", 1, 1),
]


@pytest.mark.parametrize(("limits", "before", "cost"), SCENES)
def test_s2_after_sigkill_between_any_two_calls(root: str, limits: str, before: int, cost: int) -> None:
    """Nothing needs repair: S1 and L1 hold for the next hits."""
    for number in range(1000):
        store = f"{root}/{number}"
        os.mkdir(store)
        hit_at(store, limits, count=before, now=NOW)
        victim = Limiter(store, limits, clock=lambda: NOW)
        ended = play(partial(victim.hit, "acme", cost), number, kill)
        _check_what_is_left(store, limits, before + cost)
        if not ended.killed:
            break
    assert not ended.struck
    assert number >= 1


def test_s2_is_seen_to_fail(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limiter that makes its slots one by one in the live directory does not survive a kill."""

    def in_place(root: str, directory: str, names: list[str]) -> bool:
        os.makedirs(f"{root}/{directory}", exist_ok=True)
        for name in names:
            posix.close(posix.open(f"{root}/{directory}/{name}", posix.O_CREAT))
        return True

    monkeypatch.setattr("limiter.core.newcomers.furnish", in_place)
    with pytest.raises(AssertionError):
        test_s2_after_sigkill_between_any_two_calls(root, "3/second", 0, 1)


# F1: every errno at every system call.


def each_errno() -> Iterator[ParameterSet]:
    """Every errno; with the other Pythons only the first of each kind: the rules are the same."""
    for kind in (HARD, PASSING, SOFT):
        for number in kind:
            marks = [] if number == kind[0] else [pytest.mark.one_python]
            yield pytest.param(number, marks=marks, id=errno.errorcode[number])


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("scene", ["fresh", "furnished"])
@pytest.mark.parametrize("number", [*each_errno()])
def test_f1_every_errno_at_every_call(root: str, number: int, scene: str, on_error: str) -> None:
    """Like test_faults_doors, which tries some errnos at every door."""
    stage = Stage(root, "check", scene, on_error)
    for call in range(1000):
        ended = stage.play(call, number)
        judge(stage, ended, number)
        if not ended.struck:
            break
    assert call >= 3


def test_f1_is_seen_to_fail(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test detects a store that takes an error for a lost race."""
    monkeypatch.setattr("limiter.core.store.is_lost", lambda error: True)
    with pytest.raises(AssertionError):
        test_f1_every_errno_at_every_call(root, errno.EIO, "furnished", "deny")


# C1: clocks that differ, and clocks that are set back.


@pytest.mark.parametrize("text", ["3/second", "3/second fixed", "3/second burst 3"])
@settings(max_examples=60, deadline=None)
@given(
    apart=st.integers(0, 900_000),
    steps=st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), min_size=8, max_size=40),
)
def test_c1_clocks_apart(text: str, apart: int, steps: list[tuple[int, bool]]) -> None:
    """Two nodes whose clocks differ by s admit at most the quota in any window shortened by s."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        now = NOW
        nodes = [Limiter(root, text, clock=lambda: now), Limiter(root, text, clock=lambda: now + apart)]
        times: list[int] = []
        for step, ahead in steps:
            now += step
            if nodes[ahead].hit("acme"):
                times.append(now)
    (limit,) = parse(text)
    if isinstance(limit, Sliding):
        for first, beyond in zip(times, times[limit.quota :]):
            assert beyond - first >= limit.window - apart
    elif isinstance(limit, Burst):
        for index, first in enumerate(times):
            for count, last in enumerate(times[index:], 1):
                assert (count - limit.quota) * limit.period <= (last - first + apart) * limit.rate
    else:
        windows = [time // limit.window for time in times]
        for window in set(windows):
            # Hits that the node ahead counts in this window may be up to s before it.  Hits that it
            # counts in the next window may be up to s before the end of this one.
            begin, end = window * limit.window, (window + 1) * limit.window - apart
            assert sum(begin <= time < end for time in times) <= limit.quota


@pytest.mark.parametrize("stays", [True, False], ids=["long-running", "fresh"])
@pytest.mark.parametrize(
    "text", ["3/second", "70/second", "3/second fixed", "3/second burst 3", "3/second burst 12"]
)
@settings(max_examples=40, deadline=None)
@given(back=st.integers(1, 10**9) | st.integers(1, 10**13), step=st.integers(50_000, 400_000))
def test_c1_clock_set_back(text: str, stays: bool, back: int, step: int) -> None:
    """No hit is locked out for more than two windows, even in a long-running process with its memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        clock = Clock()
        limiter = Limiter(root, text, clock=clock)
        while limiter.hit("acme"):
            clock.now += 1
        clock.now -= back
        locked = clock.now
        while not (limiter if stays else Limiter(root, text, clock=clock)).hit("acme"):
            clock.now += step
            assert clock.now - locked <= 2 * SECOND + step


@pytest.mark.one_python
def test_c1_is_seen_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """If stamps from the future counted for ever, they would lock an application out."""
    look = Sliding.look

    def look_later(self: Sliding, names: list[str], now: int, cost: int) -> tuple[list[str], int, int]:
        return look(self, names, max(now, time_of(names[-1])), cost)

    monkeypatch.setattr(Sliding, "look", look_later)
    with pytest.raises(AssertionError):
        test_c1_clock_set_back("3/second", False)


# W1: a denied hit writes nothing and does bounded work.


@pytest.mark.one_python
@pytest.mark.parametrize(
    "text",
    [
        "10/hour",
        "100/hour",
        "10/hour fixed",
        "10/day burst 10",
        "10/hour;20/day",
        "20/day;10/hour",
        "2/hour fixed;9/hour;9/day burst 9",
        "9/hour fixed;10/hour;1/day burst 2",
    ],
)
@pytest.mark.parametrize("stays", [True, False], ids=["long-running", "fresh"])
def test_w1_denied_hits_leave_the_store_as_it_was(any_root: str, text: str, stays: bool) -> None:
    """Bytes, names and times stay, and a hit makes at most as many calls as the limit has segments.

    A thousand hits, within three seconds of the limiter's clock.
    """
    clock = Clock()
    limiter = Limiter(any_root, text, clock=clock)
    while limiter.hit("acme"):
        pass
    there = tree(any_root, "st_atime_ns")
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        before_each(patch, "listdir", calls.append)
        for _ in range(1000):
            clock.now += 3000
            assert not (limiter if stays else Limiter(any_root, text, clock=clock)).hit("acme")
    assert tree(any_root, "st_atime_ns") == there
    segments = sum(limit.segments for limit in parse(text))
    # A long-running process looks again at most once a second.
    assert 0 < len(calls) <= (3 if stays else 1000) * segments


def test_w1_is_seen_to_fail(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limiter that records denied hits."""
    deny = limiter.core.decision.deny

    def noting(*arguments: object) -> object:
        os.utime(root)
        return deny(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("limiter.core.hit.deny", noting)
    with pytest.raises(AssertionError):
        test_w1_denied_hits_leave_the_store_as_it_was(root, "10/hour", False)


# P1: nothing outside the store.

HOSTILE = [
    "", ".", "..", "../acme", "../../etc/passwd", "/etc/passwd", "a/b", "a/", "a/../../b", ".hidden", "-rf", "_a",
    "a b", "a\tb", "a\nb", "\na", "a\r", "a\0b", "\0", "a" * 65, "a" * 100_000, "\u00e4", "\uff41", "a\u0301",
    "\u0661", "\u212a", "a\u200b", "%2e%2e", "a%00", "a%61", "*", "?", "~root", "a~", "$HOME", "`id`", ";id", "|id",
    "a\\b", "C:\\x", "con:", "\x7f", "\ud800", "a&b=c", "a;b", ".new-0123456789abcdef", "'", '"', "<script>",
    "a+b", "a=b", "a,b", "a:b", "a@b", "[a]", "{a}", "(a)", "#a", "!a",
]  # fmt: skip


def _files_touched(action: Callable[[], object]) -> list[str]:
    """Run the action in a child; return the paths of all its calls on files, and what it raised."""
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if not child:
            write, events = os.write, ("open", "os.", "shutil.", "glob.")

            def note(event: str, arguments: tuple[object, ...]) -> None:
                if event.startswith(events):
                    write(told.fileno(), f"{event} {arguments!r}\n".encode("utf-8", "backslashreplace"))

            sys.addaudithook(note)
            try:
                action()
            except ValueError:
                write(told.fileno(), b"ValueError\n")
            posix._exit(0)
        os.waitpid(child, 0)
        told.seek(0)
        return told.read().decode().splitlines()


@pytest.mark.parametrize("app", HOSTILE, ids=lambda app: ascii(app)[:20])
def test_p1_a_hostile_id_touches_no_file(root: str, app: str) -> None:
    """Python raises a ValueError, HTTP gets a 401, and neither makes a call to the file system."""
    limiter = Limiter(root)
    for action in (limiter.hit, limiter.peek, limiter.reset, limiter.hits):
        assert _files_touched(partial(action, app)) == ["ValueError"]
    raw = app.encode("utf-8", "surrogatepass")
    for spelling in (quote_from_bytes(raw), "".join(f"%{byte:02X}" for byte in raw)):
        assert Key().find(lambda _: None, f"app_id={spelling}".encode()) is None
    assert os.listdir(root) == []


@pytest.mark.parametrize("app", ["a", "A.b-c_d", "a..b", "a.", "a-", "a" * 64, "0", "10-per-1s", "CON"])
def test_p1_a_good_id_touches_the_store_alone(root: str, app: str) -> None:
    """Every path that is opened, listed, made or renamed is in the store."""
    assert Key().find(lambda _: None, f"app_id={app}".encode()) == app
    Limiter(f"{root}", "70/minute;3/day fixed").peek("warm")
    import limiter.core.furnish  # noqa: F401 (whose own file is none of the store's)

    touched = _files_touched(lambda: Limiter(root, "70/minute;3/day fixed").hit(app))
    assert any(line.startswith("os.rename") for line in touched)
    for line in touched:
        paths = re.findall(r"'([^']*)'", line.partition(" ")[2])
        assert paths or line.startswith(("os.urandom", "os.fork"))
        assert all(path.startswith(f"{root}/") or path == root for path in paths), line


def test_p1_is_seen_to_fail(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule for names, paths would leave the store."""
    store = f"{root}/store"
    os.mkdir(store)
    monkeypatch.setattr("limiter.core.limiter._check", lambda app_id, cost: None)
    with pytest.raises(AssertionError):
        test_p1_a_hostile_id_touches_no_file(store, "../acme")
    assert sorted(os.listdir(root)) == ["acme@10-per-1s", "store"]
