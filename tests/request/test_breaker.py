"""The breaker keeps its time-out, leaves an unresponsive store alone, and uses few threads."""

from __future__ import annotations

import errno
import gc
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from _thread import LockType, allocate_lock, get_ident
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from limiter.core.store import Store, StoreError
from limiter.request.breaker import Breaker
from tests.hanging import Mount, hanging_mount
from tests.places import REPOSITORY
from tests.waiting import SAFETY, Clock, Lock, stand_still

TIMEOUT = 0.25
"""The time-out of the tests in which calls time out, in seconds."""
LONG = 60
"""A time-out, in seconds, that no call of a test reaches."""
MOST = 16
"""The number of threads that may be stuck."""
THREADS = 8
CALLS = 300


class Silence:
    """A store that answers only when a test tells it to."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._locks: SimpleQueue[LockType] = SimpleQueue()
        self.threads: set[int] = set()

    def ask(self, passes: float = TIMEOUT) -> str:
        """Advance the clock once the caller waits; return when ``end`` or ``end_one`` is called."""
        lock = allocate_lock()
        lock.acquire()
        self.threads.add(get_ident())
        self._locks.put(lock)
        if passes:
            self._clock.move(passes, waiting=1)
        lock.acquire()
        return "late"

    def end_one(self) -> None:
        """Answer the call that has waited longest."""
        self._locks.get(timeout=SAFETY).release()

    def end(self) -> None:
        """Answer all calls."""
        while not self._locks.empty():
            self.end_one()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every breaker."""
    return stand_still(monkeypatch)


@pytest.fixture
def silence(clock: Clock) -> Iterator[Silence]:
    """Ends with the test, and so do its stuck threads."""
    silent = Silence(clock)
    yield silent
    silent.end()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker whose calls time out as soon as the clock is moved."""
    return Breaker(TIMEOUT, clock=clock)


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    """A file system that hangs on command."""
    with hanging_mount() as it:
        yield it


def time_out(breaker: Breaker, silence: Silence) -> None:
    """Make a call that times out."""
    with pytest.raises(StoreError) as raised:
        breaker.call(silence.ask)
    said = f"[Errno {errno.ETIMEDOUT}] The store did not answer within {TIMEOUT} s (LIMITER_TIMEOUT)"
    assert str(raised.value) == said


def refusal(breaker: Breaker) -> str:
    """Return what the breaker says when it refuses to call the store now."""
    asked: list[str] = []
    with pytest.raises(StoreError) as raised:
        breaker.call(asked.append, "asked")
    assert asked == []
    assert raised.value.errno == errno.ETIMEDOUT
    says = r"The store did not answer within [0-9.]+ s \(LIMITER_TIMEOUT\), and is not called again (.+)"
    said = re.fullmatch(says, raised.value.strerror or "")
    assert said
    return said[1]


def speaks(breaker: Breaker) -> bool:
    """Whether the breaker lets a call through.  Such a call also shows that the store answers."""
    try:
        return breaker.call(lambda: True)
    except StoreError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + SAFETY
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# Calls


def test_what_the_function_returns_is_returned() -> None:
    assert Breaker(LONG).call(divmod, 7, 3) == (2, 1)


@pytest.mark.parametrize("error", [ZeroDivisionError, StoreError, SystemExit])
def test_what_the_function_raises_is_raised(error: type[BaseException]) -> None:
    expected = error()

    def fail() -> None:
        raise expected

    with pytest.raises(error) as raised:
        Breaker(LONG).call(fail)
    assert raised.value is expected


def test_one_thread_after_another_is_not_started() -> None:
    breaker = Breaker(LONG)
    assert len({breaker.call(get_ident) for _ in range(CALLS)} - {get_ident()}) == 1


def test_each_of_many_threads_gets_what_is_its_own() -> None:
    breaker = Breaker(LONG)
    together = threading.Barrier(THREADS)
    used = set()

    def answer(number: int, call: int) -> tuple[int, int]:
        used.add(get_ident())
        return number, call

    def ask(number: int) -> list[tuple[int, int]]:
        together.wait()
        return [breaker.call(answer, number, call) for call in range(CALLS)]

    with ThreadPoolExecutor(THREADS) as callers:
        answers = list(callers.map(ask, range(THREADS)))
    assert answers == [[(number, call) for call in range(CALLS)] for number in range(THREADS)]
    assert len(used) <= THREADS


def test_calls_do_not_wait_for_each_other() -> None:
    breaker = Breaker(LONG)
    together = threading.Barrier(THREADS)
    with ThreadPoolExecutor(THREADS) as callers:
        places = list(callers.map(lambda _: breaker.call(together.wait), range(THREADS)))
    assert sorted(places) == list(range(THREADS))


class Thing:
    """An object that a weak reference can point to."""


def test_nothing_of_a_call_is_kept() -> None:
    breaker = Breaker(LONG)
    gc.disable()  # it would hide a cycle
    try:
        result = weakref.ref(breaker.call(Thing))
        thing = Thing()
        argument = weakref.ref(thing)
        with pytest.raises(TypeError):
            breaker.call(len, thing)
        del thing
        assert (result(), argument()) == (None, None)
    finally:
        gc.enable()


def test_without_another_thread_the_store_has_failed(
    breaker: Breaker, silence: Silence, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_out(breaker, silence)
    clock.move(1)

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("limiter.request.breaker.start_new_thread", start)
        with pytest.raises(
            StoreError, match="No thread to call the store: can't start new thread"
        ) as raised:
            breaker.call(list)
    assert raised.value.errno == errno.EAGAIN
    assert speaks(breaker)


# An unresponsive store


def test_a_silent_store_has_failed_at_the_time_out_though_no_signal_would_get_through(
    mount: Mount,
) -> None:
    """By the real clock, the error does not come early, and the store still hangs then."""
    script = (
        "import posix, signal, sys, time\n"
        "from limiter.request.breaker import Breaker\n"
        "from limiter.core.store import StoreError\n"
        f"breaker = Breaker({TIMEOUT})\n"
        "begin = time.monotonic()\n"
        "try:\n"
        "    breaker.call(posix.listdir, sys.argv[1])\n"
        "except StoreError as error:\n"
        "    print(time.monotonic() - begin, error.errno, flush=True)\n"
        "signal.pause()\n"
    )
    mount.hang()
    process = subprocess.Popen(
        [sys.executable, "-c", script, mount.path], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        took, number = process.stdout.readline().split()
        assert float(took) >= TIMEOUT
        assert int(number) == errno.ETIMEDOUT
        process.kill()
        wait_until(lambda: "D" in states(process.pid))
        assert process.poll() is None
        mount.release()
        assert process.wait() == -signal.SIGKILL
    finally:
        mount.release()
        process.kill()
        process.communicate()


def states(process: int) -> str:
    """Return the state letters of a process's threads, as ps shows them."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return "".join((task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks)


def test_when_a_mount_answers_again_so_does_the_store(
    mount: Mount, breaker: Breaker, clock: Clock
) -> None:
    def pass_time() -> None:
        mount.wait_until_stuck()
        clock.move(TIMEOUT, waiting=1)

    store = Store(str(mount.path))
    (mount.path / "acme").mkdir()
    mount.hang()
    try:
        with ThreadPoolExecutor(1) as meanwhile:
            meanwhile.submit(pass_time)
            with pytest.raises(StoreError, match="did not answer"):
                breaker.call(store.names, "acme")
        refusal(breaker)
    finally:
        mount.release()
    wait_until(lambda: speaks(breaker))
    assert breaker.call(store.names, "acme") == []


def test_a_silent_store_is_left_alone_for_a_second(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    time_out(breaker, silence)
    clock.move(0.25)
    assert refusal(breaker) == "for another 0.8 s"
    clock.move(0.75)
    assert speaks(breaker)


def test_each_further_silence_doubles_the_while_up_to_a_minute(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    time_out(breaker, silence)
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        clock.move(seconds - 1 / 1024)
        refusal(breaker)
        clock.move(1 / 1024)
        time_out(breaker, silence)


def test_the_while_is_a_second_again_once_the_store_has_spoken(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    time_out(breaker, silence)
    clock.move(1)
    time_out(breaker, silence)
    clock.move(2)
    assert speaks(breaker)
    time_out(breaker, silence)
    assert refusal(breaker) == "for another 1.0 s"


def test_one_call_at_a_time_finds_out(breaker: Breaker, silence: Silence, clock: Clock) -> None:
    time_out(breaker, silence)
    clock.move(1)
    assert breaker.call(refusal, breaker) == "before the call that asks it now is back"


@pytest.mark.parametrize("answer", [int, lambda: 1 // 0], ids=["result", "error"])
def test_any_answer_shows_that_the_store_speaks(
    breaker: Breaker, silence: Silence, clock: Clock, answer: Callable[[], object]
) -> None:
    time_out(breaker, silence)
    clock.move(1)
    try:
        breaker.call(answer)
    except ZeroDivisionError:
        pass
    assert breaker.call(speaks, breaker)  # two at once


def test_an_answer_that_comes_late_shows_it_too_and_is_dropped(
    breaker: Breaker, silence: Silence
) -> None:
    time_out(breaker, silence)
    refusal(breaker)
    silence.end()
    wait_until(lambda: speaks(breaker))
    assert [breaker.call(str, number) for number in range(3)] == ["0", "1", "2"]


def test_threads_that_come_back_are_used_again(breaker: Breaker, silence: Silence) -> None:
    for _ in range(4):
        time_out(breaker, silence)
        silence.end()
        wait_until(lambda: bool(breaker._pool._idle))
    assert len(silence.threads) == 1


def test_calls_already_under_way_wait_their_own_time_and_add_nothing(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    """Each begins before the first has timed out, and they end in the order in which they began."""

    def ask() -> None:
        with pytest.raises(StoreError):
            breaker.call(silence.ask, 0)

    part = TIMEOUT / THREADS
    calls = []
    with ThreadPoolExecutor(THREADS) as callers:
        for number in range(THREADS):
            calls.append(callers.submit(ask))
            clock.move(part, waiting=number + 1)
        for number, call in enumerate(calls):
            call.result()
            assert sum(other.done() for other in calls) == number + 1
            clock.move(part)
    assert refusal(breaker) == "for another 0.8 s"
    clock.move(1 - TIMEOUT)
    assert speaks(breaker)


def test_sixteen_threads_are_stuck_at_most(breaker: Breaker, silence: Silence, clock: Clock) -> None:
    for _ in range(MOST):
        time_out(breaker, silence)
        clock.move(60)
    assert refusal(breaker) == "while 16 calls are stuck in it"
    assert len(silence.threads) == MOST
    silence.end_one()
    wait_until(lambda: speaks(breaker))


def test_of_calls_already_under_way_more_can_be_stuck_and_then_one_answer_is_not_enough(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    def ask(_: int) -> None:
        with pytest.raises(StoreError):
            breaker.call(silence.ask, 0)

    with ThreadPoolExecutor(MOST + 2) as callers:
        asked = callers.map(ask, range(MOST + 2))
        clock.move(TIMEOUT, waiting=MOST + 2)
        list(asked)
    assert refusal(breaker) == "while 18 calls are stuck in it"
    silence.end_one()
    wait_until(lambda: refusal(breaker) == "while 17 calls are stuck in it")
    silence.end_one()
    wait_until(lambda: refusal(breaker) == "while 16 calls are stuck in it")
    silence.end_one()
    wait_until(lambda: speaks(breaker))


def test_a_store_that_speaks_at_times_does_not_make_them_more(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    for _ in range(MOST):
        time_out(breaker, silence)
        clock.move(1)
        speaks(breaker)
    assert refusal(breaker) == "while 16 calls are stuck in it"


class InterruptionError(Exception):
    """Raised by the handler of a signal."""


class Interrupted(Lock):
    """A lock whose waiters with a time-out are interrupted."""

    def acquire(self, is_blocking: bool = True, timeout: float = -1) -> bool:
        if timeout >= 0:
            raise InterruptionError
        return super().acquire(is_blocking)


def test_one_who_is_interrupted_leaves_the_store_to_others(
    breaker: Breaker, silence: Silence, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_out(breaker, silence)
    clock.move(1)
    with monkeypatch.context() as patch:
        patch.setattr("limiter.request.breaker.allocate_lock", lambda: Interrupted(clock))
        with pytest.raises(InterruptionError):
            breaker.call(silence.ask, 0)
    assert refusal(breaker) == "for another 2.0 s"
    clock.move(2)
    assert speaks(breaker)


# Processes


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a program with a breaker, ``time_out``, which makes a call that is stuck, and ``speaks``."""
    beginning = (
        "import os, time\n"
        "from _thread import allocate_lock\n"
        "from limiter.request.breaker import Breaker\n"
        "from limiter.core.store import StoreError\n"
        f"breaker = Breaker({LONG})\n"
        "lock = allocate_lock()\n"
        "lock.acquire()\n"
        "def time_out():\n"
        "    breaker._pool._timeout = 0\n"
        "    try:\n"
        "        breaker.call(lock.acquire)\n"
        "    except StoreError:\n"
        "        return\n"
        "    raise AssertionError\n"
        "def speaks():\n"
        "    try:\n"
        "        return breaker.call(lambda: True)\n"
        "    except StoreError:\n"
        "        return False\n"
    )
    return subprocess.run(
        [sys.executable, "-c", beginning + script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SAFETY,
        check=False,
    )


FORK = """\
def in_child():
    child = os.fork()
    if not child:
        os._exit(speaks())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(speaks(), in_child())
time_out()
print(speaks(), in_child(), speaks())
"""


def test_a_forked_child_starts_afresh() -> None:
    """It has none of its parent's threads, neither idle nor stuck ones."""
    assert run(FORK).stdout == "True 1\nFalse 1 False\n"


FORK_OF_DROPPED = """\
speaks()
del breaker
if not os.fork():
    import posix
    posix.stat = print
    breaker = Breaker(60)
    os._exit(speaks())
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_forked_child_does_not_look_for_threads_that_its_parent_has_dropped() -> None:
    """They are not its own, and each request would have to look up every one of them in the system."""
    assert run(FORK_OF_DROPPED).stdout == "1\n"


END = """\
def count():
    return len(os.listdir("/proc/self/task"))

speaks()
kept = count()
time_out()
del breaker
lock.release()
while count() > 1:
    time.sleep(0.001)
print(kept)
"""


def test_threads_end_with_the_breaker_and_one_that_is_stuck_when_it_comes_back() -> None:
    assert run(END).stdout == "2\n"


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)\n"])
def test_a_stuck_thread_does_not_keep_a_process_from_ending(end: str) -> None:
    ended = run(f"time_out()\n{end}")
    assert (ended.returncode, ended.stderr) == (3 if end else 0, "")


def test_no_signal_is_for_its_threads() -> None:
    """Otherwise a server's handler would run in a thread that the server does not know."""
    breaker = Breaker(LONG)
    blocked = breaker.call(signal.pthread_sigmask, signal.SIG_BLOCK, [])
    assert signal.SIGTERM in blocked
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("then", ["", "del breaker\n"], ids=["kept", "dropped"])
def test_threads_without_a_call_are_gone_when_the_interpreter_ends(then: str) -> None:
    """The interpreter's end comes after the functions registered earlier; then only one thread is left.

    The breaker's thread ends only when it is waited for.
    """
    script = f"""\
import atexit, os, threading
waited_for = threading.Event()
atexit.register(waited_for.set)
atexit.register(lambda: print(len(os.listdir("/proc/self/task"))))
import limiter.request.breaker
limiter.request.breaker._ENDING_MOST = {SAFETY}
limiter.request.breaker.sleep = lambda _: waited_for.set()
class Slow:
    def __del__(self):
        waited_for.wait()
local = threading.local()
breaker = limiter.request.breaker.Breaker({LONG})
breaker.call(lambda: setattr(local, "at_its_end", Slow()))
{then}"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("1\n", "")
