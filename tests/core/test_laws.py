"""The laws of the limiter: each is proven, and each proof fails on a broken limiter."""

from __future__ import annotations

import errno
import multiprocessing
import os
import posix
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import limiter.core.hit
from limiter.cgi import check
from limiter.core.burst import Burst
from limiter.core.limit import Sliding, number_of, stamp, time_of
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store
from limiter.request.key import Key
from tests.faults import HARD, PASSING, SOFT, Ended, fail, kill, play, use
from tests.history import judge_l1, judge_s1, only, record

SECOND = 1_000_000


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


_all_have_looked = multiprocessing.get_context("fork").Barrier(8)


def _lose_no_race() -> None:
    """Break S1: count another hit's slot as one's own.  All processes look before one of them claims."""
    names, rename = Store.names, Store.rename
    looked: list[str] = []

    def look(store: Store, directory: str) -> list[str]:
        found = names(store, directory)
        if found and not looked:
            looked.extend(found)
            _all_have_looked.wait(600)
        return found

    Store.names = look  # type: ignore[assignment, method-assign]
    Store.rename = lambda *arguments: rename(*arguments) or True  # type: ignore[method-assign]


def _count_a_shorter_window() -> None:
    """Break S1: free a slot half a window too early."""
    _shift_clock_of_window(+1)


def _count_a_longer_window() -> None:
    """Break L1: keep a slot half a window too long."""
    _shift_clock_of_window(-1)


def _shift_clock_of_window(sign: int) -> None:
    """Denials from memory are affected, too: no process looks again before they end."""
    look, wait = Sliding.look, Sliding.wait
    Sliding.look = (  # type: ignore[method-assign]
        lambda self, names, now, cost: look(self, names, now + sign * self.window // 2, cost)
    )
    Sliding.wait = (  # type: ignore[method-assign]
        lambda self, names, now, cost: wait(self, names, now + sign * self.window // 2, cost)
    )


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("text", "sabotage"), [("1/second", _lose_no_race), ("10/second", _count_a_shorter_window)]
)
def test_s1_is_seen_to_fail(root: str, text: str, sabotage: Callable[[], None]) -> None:
    """The check of S1 detects each of these."""
    with pytest.raises(AssertionError, match="hits within"):
        judge_s1(only(text), record(root, text, 10 * SECOND, sabotage=sabotage, speed=10))


@pytest.mark.one_python
@pytest.mark.parametrize("sabotage", [_count_a_longer_window])
def test_l1_is_seen_to_fail(root: str, sabotage: Callable[[], None]) -> None:
    """The check of L1 detects each of these."""
    with pytest.raises(AssertionError, match="denied at"):
        judge_l1(only("10/second"), record(root, "10/second", 10 * SECOND, sabotage=sabotage, speed=10))


# S2: after SIGKILL between any two system calls.

NOW = 1_513_123_456_123_456


def _used(root: str, limits: str) -> list[int]:
    """Return how many hits each limit counts."""
    decision = Limiter(root, limits, clock=lambda: NOW).peek("acme")
    return [quota.limit.quota - quota.remaining for quota in decision.quotas]


def _fill(root: str, limits: str) -> int:
    """Hit until denied; return how many were admitted."""
    limiter = Limiter(root, limits, clock=lambda: NOW)
    admitted = 0
    while limiter.hit("acme"):
        admitted += 1
    return admitted


def _judge_what_is_left(root: str, limits: str, at_most_used: int) -> None:
    """S1 and L1 for the next hits: exactly as many are admitted as the limits have left."""
    used = _used(root, limits)
    assert max(used) <= at_most_used
    quotas = [limit.quota for limit in parse(limits)]
    left = min(quota - count for quota, count in zip(quotas, used))
    assert _fill(root, limits) == left
    assert _used(root, limits) == [count + left for count in used]
    for limit in parse(limits):
        names = [
            name
            for segment in range(limit.segments)
            for name in os.listdir(f"{root}/acme/{limit.directory(segment)}")
        ]
        if isinstance(limit, Sliding):
            assert sorted(map(number_of, names)) == list(range(limit.quota))
        else:
            assert len(names) == 1


SCENES = [
    ("3/second", 0, 1),
    ("3/second", 1, 1),
    ("3/second", 3, 1),
    ("3/second", 1, 2),
    ("66/second", 64, 1),
    ("66/second", 63, 3),
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
        limiter = Limiter(store, limits, clock=lambda: NOW)
        for _ in range(before):
            assert limiter.hit("acme")
        victim = Limiter(store, limits, clock=lambda: NOW)
        ended = play(partial(victim.hit, "acme", cost), number, kill)
        _judge_what_is_left(store, limits, before + cost)
        if not ended.killed:
            break
    assert not ended.struck
    assert number >= 1


def test_s2_is_seen_to_fail(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limiter that makes its slots one by one in the live directory does not survive a kill."""

    def in_place(root: str, directory: str, furniture: dict[str, list[str]]) -> bool:
        for name, files in furniture.items():
            os.makedirs(f"{root}/{directory}/{name}", exist_ok=True)
            for file in files:
                posix.close(posix.open(f"{root}/{directory}/{name}/{file}", posix.O_CREAT))
        return True

    monkeypatch.setattr("limiter.core.furnish._arrive", in_place)
    with pytest.raises(AssertionError):
        test_s2_after_sigkill_between_any_two_calls(root, "3/second", 0, 1)


# F1: every errno at every system call.


def _ask(root: str, on_error: str, limits: str = "3/minute") -> Callable[[], None]:
    def ask() -> None:
        variables = {"LIMITER_ROOT": root, "LIMITER_LIMIT": limits, "LIMITER_ON_ERROR": on_error}
        variables["LIMITER_TIMEOUT"] = "600"
        use({**variables, "QUERY_STRING": "app_id=acme", "REQUEST_METHOD": "GET"})
        check()

    return ask


def _judge_answer(ended: Ended, on_error: str, number: int) -> None:
    """Expect the configured verdict and one line with the error; after a lost race, the answer."""
    status, _, rest = ended.output.partition(b"\n")
    if ended.struck == "write" and not ended.output:
        assert ended.log.count(b"\n") == 1
        return
    assert b"Traceback" not in ended.output + ended.log
    assert b"<" not in ended.output
    assert rest.partition(b"\n\n")[2].startswith(b'{"message": "')
    if number in SOFT + PASSING and not ended.log:
        assert status == b"Status: 200 OK"
        return
    assert status == (b"Status: 200 OK" if on_error == "admit" else b"Status: 500 Internal Server Error")
    assert ended.log.count(b"\n") == 1
    assert ended.log.startswith(b"limiter: StoreError: [Errno ")
    assert number not in PASSING
    if number in HARD:
        assert b"[Errno %d] " % number in ended.log
        assert f"{os.sep}limiter-test-".encode() in ended.log, "the line names the path"


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("before", [0, 1], ids=["furnishing", "furnished"])
@pytest.mark.parametrize("number", HARD + PASSING + SOFT, ids=errno.errorcode.__getitem__)
def test_f1_every_errno_at_every_call(root: str, number: int, before: int, on_error: str) -> None:
    """The verdict is as configured, with one log line and no traceback; and the store stays whole."""
    for call in range(1000):
        store = f"{root}/{call}"
        os.mkdir(store)
        for _ in range(before):
            assert Limiter(store, "3/minute").hit("acme")
        ended = play(_ask(store, on_error), call, fail(number))
        if not ended.struck:
            break
        _judge_answer(ended, on_error, number)
        assert Limiter(store, "3/minute").peek("acme").remaining >= 3 - before - 1
        assert not [name for name in os.listdir(store) if name.startswith(".new-")]
    assert ended.output.startswith(b"Status: 200 OK")
    assert not ended.log
    assert call >= 3


def test_f1_is_seen_to_fail(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test detects a store that takes an error for a lost race, or raises it as a bare OSError."""
    monkeypatch.setattr("limiter.core.store.is_lost", lambda error: True)
    with pytest.raises(AssertionError):
        test_f1_every_errno_at_every_call(root, errno.EIO, 1, "deny")
    monkeypatch.undo()
    monkeypatch.setattr("limiter.request.verdict.StoreError", ZeroDivisionError)
    os.mkdir(f"{root}/other")
    with pytest.raises(AssertionError):
        test_f1_every_errno_at_every_call(f"{root}/other", errno.EIO, 1, "admit")


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
        admitted: list[int] = []
        for step, ahead in steps:
            now += step
            if nodes[ahead].hit("acme"):
                admitted.append(now)
    (limit,) = parse(text)
    if isinstance(limit, Sliding):
        for first, beyond in zip(admitted, admitted[limit.quota :]):
            assert beyond - first >= limit.window - apart
    elif isinstance(limit, Burst):
        for index, first in enumerate(admitted):
            for count, last in enumerate(admitted[index:], 1):
                assert (count - limit.quota) * limit.period <= (last - first + apart) * limit.rate
    else:
        windows = [time // limit.window for time in admitted]
        for window in set(windows):
            # Hits that the node ahead counts in this window may be up to s before it.  Hits that it
            # counts in the next window may be up to s before the end of this one.
            core = [
                time
                for time in admitted
                if window * limit.window <= time < (window + 1) * limit.window - apart
            ]
            assert len(core) <= limit.quota


@pytest.mark.parametrize("stays", [True, False], ids=["staying", "fresh"])
@pytest.mark.parametrize("text", ["3/second", "3/second fixed", "3/second burst 3"])
@settings(max_examples=40, deadline=None)
@given(back=st.integers(1, 10**9), step=st.integers(50_000, 400_000))
def test_c1_clock_set_back(text: str, stays: bool, back: int, step: int) -> None:
    """No hit is locked out for more than two windows, even in a long-running process with its memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        now = NOW

        def clock() -> int:
            return now

        limiter = Limiter(root, text, clock=clock)
        while limiter.hit("acme"):
            now += 1
        now -= back
        locked = now
        while True:
            asked = limiter if stays else Limiter(root, text, clock=clock)
            if asked.hit("acme"):
                break
            now += step
            assert now - locked <= 2_000_000 + step


@pytest.mark.one_python
def test_c1_is_seen_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """If stamps from the future counted for ever, they would lock an application out."""
    monkeypatch.setattr(Sliding, "_busy_range", lambda self, now: (stamp(now - self.window + 1), "~"))
    monkeypatch.setattr(Sliding, "look", _look_without_end)
    with pytest.raises(AssertionError):
        test_c1_clock_set_back("3/second", False)


def _look_without_end(
    self: Sliding, names: list[str], now: int, cost: int
) -> tuple[list[str], int, int]:
    free = [name for name in names if name < stamp(now - self.window + 1)]
    busy = names[len(free) :]
    return free, len(busy), time_of(busy[0]) + self.window - now if busy else 0


# W1: a denied hit writes nothing and does bounded work.


def _everything(root: str) -> dict[str, tuple[int, ...]]:
    """Return each name below a root with its inode, mode, size and all its times."""
    entries = [root]
    for directory, names, files in os.walk(root):
        entries += [f"{directory}/{name}" for name in names + files]
    found: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        status = os.lstat(entry)
        found[entry] = (
            status.st_ino,
            status.st_mode,
            status.st_nlink,
            status.st_size,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
    return found


@pytest.mark.one_python
@pytest.mark.parametrize(
    "text", ["10/hour", "100/hour", "10/hour fixed", "10/day burst 10", "10/hour;20/day"]
)
@pytest.mark.parametrize("stays", [True, False], ids=["staying", "fresh"])
def test_w1_denied_hits_leave_the_store_as_it_was(any_root: str, text: str, stays: bool) -> None:
    """Bytes, names and times stay, and a hit makes at most as many calls as the limit has segments.

    A thousand hits, within three seconds of the limiter's clock.
    """
    now = NOW

    def clock() -> int:
        return now

    limiter = Limiter(any_root, text, clock=clock)
    while limiter.hit("acme"):
        pass
    before = _everything(any_root)
    calls = 0
    listdir = posix.listdir

    def counting(path: str) -> list[str]:
        nonlocal calls
        calls += 1
        return listdir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posix, "listdir", counting)
        for _ in range(1000):
            now += 3000
            assert not (limiter if stays else Limiter(any_root, text, clock=clock)).hit("acme")
    assert _everything(any_root) == before
    segments = sum(limit.segments for limit in parse(text))
    # A long-running process looks again at most once a second.
    assert 0 < calls <= 3 * segments if stays else calls == 1000 * segments


def test_w1_is_seen_to_fail(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test detects a limiter that records denied hits."""
    deny = limiter.core.hit.deny

    def noting(*arguments: object) -> object:
        os.utime(f"{root}/acme")
        return deny(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("limiter.core.hit.deny", noting)
    with pytest.raises(AssertionError):
        test_w1_denied_hits_leave_the_store_as_it_was(root, "10/hour", False)


# P1: nothing outside the store.

HOSTILE = [
    "", ".", "..", "../acme", "../../etc/passwd", "/etc/passwd", "a/b", "a/../../b", ".hidden", "-rf", "_a",
    "a b", "a\tb", "a\nb", "a\0b", "\0", "a" * 65, "a" * 100_000, "\u00e4", "\uff41", "a\u0301", "%2e%2e", "a%00",
    "*", "?", "~root", "$HOME", "`id`", ";id", "|id", "a\\b", "C:\\x", "con:", "\x7f", "\ud800", "a&b=c", "a;b",
    ".new-0123456789abcdef", "'", '"', "<script>", "a+b", "a=b", "a,b", "a:b", "a@b", "[a]", "{a}", "(a)", "#a", "!a",
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


def _no_variable(_: bytes) -> None:
    """A request that has only a query string."""


@pytest.mark.parametrize("app", HOSTILE, ids=lambda app: ascii(app)[:20])
def test_p1_a_hostile_id_touches_no_file(root: str, app: str) -> None:
    """Python raises a ValueError, HTTP gets a 401, and neither makes a call to the file system."""
    limiter = Limiter(root)
    for action in (limiter.hit, limiter.peek, limiter.reset, limiter.hits):
        assert _files_touched(partial(action, app)) == ["ValueError"]
    raw = app.encode("utf-8", "surrogatepass")
    for spelling in (quote_from_bytes(raw), "".join(f"%{byte:02X}" for byte in raw)):
        texts = [f"app_id={spelling}".encode()]
        assert Key().find(_no_variable, *texts) is None
    assert os.listdir(root) == []


@pytest.mark.parametrize("app", ["a", "A.b-c_d", "a..b", "a.", "a" * 64, "0"])
def test_p1_a_good_id_touches_the_store_alone(root: str, app: str) -> None:
    """Every path that is opened, listed, made or renamed is in the store."""
    Key().find(_no_variable, f"app_id={app}".encode())
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
    assert sorted(os.listdir(root)) == ["acme", "store"]
