"""The breaker: a time-out that is kept, a store left alone while it is silent, and threads that are few."""

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

import pytest

from limiter.breaker import Breaker
from limiter.store import Store, StoreError
from tests.hanging import hanging_mount
from tests.places import REPOSITORY
from tests.timing import Watch

TIMEOUT = 0.2
"""Of the tests in which calls time out, in seconds."""
AMPLE = 1.0
"""Of those in which much has to happen before a call times out."""
LONG = 60
"""A time-out that no call of a test comes near."""
ALLOWED = 0.1
"""How much later than the time-out the error may come, in seconds."""
MOST = 16
"""Threads that may be stuck."""
THREADS = 8
CALLS = 300


class Clock:
    """Stands still until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


class Silence:
    """A store that says nothing until it is told to."""

    def __init__(self) -> None:
        self._locks: list[LockType] = []
        self.threads: set[int] = set()

    def ask(self) -> str:
        """Return when ``end`` or ``end_one`` is called."""
        lock = allocate_lock()
        lock.acquire()
        self._locks.append(lock)
        self.threads.add(get_ident())
        lock.acquire()
        return "late"

    def end_one(self) -> None:
        """Answer the call that waits longest."""
        self._locks.pop(0).release()

    def end(self) -> None:
        """Answer all calls."""
        while self._locks:
            self.end_one()


@pytest.fixture
def silence() -> Iterator[Silence]:
    """Ends with the test, and with it the threads that are stuck."""
    silent = Silence()
    yield silent
    silent.end()


@pytest.fixture
def clock() -> Clock:
    """Of a breaker."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """One whose calls time out soon."""
    return Breaker(TIMEOUT, clock=clock)


def time_out(breaker: Breaker, silence: Silence) -> None:
    """Let a call be made that finds the store silent."""
    with pytest.raises(StoreError) as raised:
        breaker.call(silence.ask)
    assert (
        str(raised.value)
        == f"[Errno {errno.ETIMEDOUT}] The store was silent for 0.2 s (LIMITER_TIMEOUT)"
    )


def refusal(breaker: Breaker) -> str:
    """What the breaker says that does not ask the store now."""
    asked: list[str] = []
    with pytest.raises(StoreError) as raised:
        breaker.call(asked.append, "asked")
    assert asked == []
    assert raised.value.errno == errno.ETIMEDOUT
    says = r"The store was silent for [0-9.]+ s \(LIMITER_TIMEOUT\), and is not asked again (.+)"
    said = re.fullmatch(says, raised.value.strerror or "")
    assert said
    return said[1]


def speaks(breaker: Breaker) -> bool:
    """Whether the breaker lets a call through; that shows it, too, that the store speaks."""
    try:
        return breaker.call(lambda: True)
    except StoreError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + 30
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
    """Something that a weak reference can be made to."""


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
    clock.now += 1

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("limiter.breaker.start_new_thread", start)
        with pytest.raises(
            StoreError, match="No thread to ask the store: can't start new thread"
        ) as raised:
            breaker.call(list)
    assert raised.value.errno == errno.EAGAIN
    assert speaks(breaker)


# Silence


def test_a_silent_store_has_failed_at_the_time_out_though_no_signal_would_get_through() -> None:
    script = (
        "import posix, signal, sys, time\n"
        "from limiter.breaker import Breaker\n"
        "from limiter.store import StoreError\n"
        f"breaker = Breaker({TIMEOUT})\n"
        "begin = time.monotonic()\n"
        "try:\n"
        "    breaker.call(posix.listdir, sys.argv[1])\n"
        "except StoreError as error:\n"
        "    print(time.monotonic() - begin, error.errno, flush=True)\n"
        "signal.pause()\n"
    )
    with hanging_mount() as mount:
        mount.hang()
        watch = Watch()
        process = subprocess.Popen(
            [sys.executable, "-c", script, mount.path], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            took, number = process.stdout.readline().split()
            watch.assert_took(TIMEOUT, TIMEOUT + ALLOWED, float(took))
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
    """The letters that ps shows for the threads of a process."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return "".join((task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks)


def test_when_a_mount_answers_again_so_does_the_store(clock: Clock) -> None:
    with hanging_mount() as mount:
        breaker = Breaker(TIMEOUT, clock=clock)
        store = Store(str(mount.path))
        (mount.path / "acme").mkdir()
        mount.hang()
        with pytest.raises(StoreError, match="silent"):
            breaker.call(store.names, "acme")
        refusal(breaker)
        mount.release()
        wait_until(lambda: speaks(breaker))
        assert breaker.call(store.names, "acme") == []


def test_a_silent_store_is_left_alone_for_a_second(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    time_out(breaker, silence)
    clock.now += 0.25
    assert refusal(breaker) == "for another 0.8 s"
    clock.now += 0.75
    assert speaks(breaker)


def test_each_further_silence_doubles_the_while_up_to_a_minute(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    time_out(breaker, silence)
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        clock.now += seconds - 1 / 1024
        refusal(breaker)
        clock.now += 1 / 1024
        time_out(breaker, silence)


def test_the_while_is_a_second_again_once_the_store_has_spoken(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    time_out(breaker, silence)
    clock.now += 1
    time_out(breaker, silence)
    clock.now += 2
    assert speaks(breaker)
    time_out(breaker, silence)
    assert refusal(breaker) == "for another 1.0 s"


def test_one_call_at_a_time_finds_out(breaker: Breaker, silence: Silence, clock: Clock) -> None:
    time_out(breaker, silence)
    clock.now += 1
    assert breaker.call(refusal, breaker) == "before the call that asks it now is back"


@pytest.mark.parametrize("answer", [int, lambda: 1 // 0], ids=["result", "error"])
def test_any_answer_shows_that_the_store_speaks(
    breaker: Breaker, silence: Silence, clock: Clock, answer: Callable[[], object]
) -> None:
    time_out(breaker, silence)
    clock.now += 1
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
        wait_until(lambda: speaks(breaker))
    assert len(silence.threads) <= 2


def test_calls_already_under_way_wait_their_own_time_and_add_nothing(
    silence: Silence, clock: Clock
) -> None:
    breaker = Breaker(AMPLE, clock=clock)
    together = threading.Barrier(THREADS)

    def ask(_: int) -> float:
        together.wait()
        begin = time.monotonic()
        with pytest.raises(StoreError):
            breaker.call(lambda: (together.wait(), silence.ask()))
        return time.monotonic() - begin

    with ThreadPoolExecutor(THREADS) as callers:
        assert min(callers.map(ask, range(THREADS))) >= AMPLE
    assert refusal(breaker) == "for another 1.0 s"
    clock.now += 1
    assert speaks(breaker)


def test_sixteen_threads_are_stuck_at_most(breaker: Breaker, silence: Silence, clock: Clock) -> None:
    for _ in range(MOST):
        time_out(breaker, silence)
        clock.now += 60
    assert refusal(breaker) == "while 16 calls are stuck in it"
    assert len(silence.threads) == MOST
    silence.end_one()
    wait_until(lambda: speaks(breaker))


def test_of_calls_already_under_way_more_can_be_stuck_and_then_one_answer_is_not_enough(
    silence: Silence,
) -> None:
    breaker = Breaker(AMPLE)
    together = threading.Barrier(MOST + 2)

    def ask(_: int) -> None:
        with pytest.raises(StoreError):
            breaker.call(lambda: (together.wait(), silence.ask()))

    with ThreadPoolExecutor(MOST + 2) as callers:
        list(callers.map(ask, range(MOST + 2)))
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
        clock.now += 1
        speaks(breaker)
    assert refusal(breaker) == "while 16 calls are stuck in it"


class InterruptionError(Exception):
    """Raised by the handler of a signal."""


def test_one_who_is_interrupted_leaves_the_store_to_others(
    breaker: Breaker, silence: Silence, clock: Clock
) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptionError

    def ask() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        silence.ask()

    time_out(breaker, silence)
    clock.now += 1
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(InterruptionError):
            breaker.call(ask)
    finally:
        signal.signal(signal.SIGUSR1, before)
    clock.now += 2
    assert speaks(breaker)


# Processes


def run(script: str) -> subprocess.CompletedProcess[str]:
    """What becomes of a program that has a breaker, and a function ``never`` that does not return."""
    beginning = (
        "import os, time\n"
        "from _thread import allocate_lock\n"
        "from limiter.breaker import Breaker\n"
        "from limiter.store import StoreError\n"
        f"breaker = Breaker({AMPLE})\n"
        "lock = allocate_lock()\n"
        "lock.acquire()\n"
        "never = lock.acquire\n"
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
        timeout=30,
        check=False,
    )


FORK = """\
def in_child():
    child = os.fork()
    if not child:
        os._exit(speaks())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(speaks(), in_child())
try:
    breaker.call(never)
except StoreError:
    print(speaks(), in_child(), speaks())
"""


def test_a_forked_child_starts_afresh() -> None:
    """It has none of its parent's threads, neither those that wait for work nor the one that is stuck."""
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
    """They are not its own, and a request of it would ask the system for each."""
    assert run(FORK_OF_DROPPED).stdout == "1\n"


END = """\
def count():
    return len(os.listdir("/proc/self/task"))

speaks()
kept = count()
try:
    breaker.call(never)
except StoreError:
    pass
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
    script = f"try:\n    breaker.call(never)\nexcept StoreError:\n    print(time.monotonic())\n{end}"
    ended = run(script)
    took = time.monotonic() - float(ended.stdout)
    assert (ended.returncode, ended.stderr) == (3 if end else 0, "")
    assert took < 10  # it would wait for ever


def test_no_signal_is_for_its_threads() -> None:
    """A server's handler would run in a thread that the server does not know."""
    breaker = Breaker(60)
    blocked = breaker.call(signal.pthread_sigmask, signal.SIG_BLOCK, [])
    assert signal.SIGTERM in blocked
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("then", ["", "del breaker\n"], ids=["kept", "dropped"])
def test_threads_without_a_call_are_gone_when_the_interpreter_ends(then: str) -> None:
    """Its end comes after the functions registered before; the system then has one thread left."""
    script = f"""\
import atexit, os, threading, time
atexit.register(lambda: print(len(os.listdir("/proc/self/task"))))
from limiter.breaker import Breaker
class Slow:
    def __del__(self):
        time.sleep(0.2)
local = threading.local()
breaker = Breaker(60)
breaker.call(lambda: setattr(local, "at_its_end", Slow()))
{then}"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("1\n", "")
