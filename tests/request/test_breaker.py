"""The breaker keeps its time-out, leaves an unresponsive store alone, and uses few threads."""

from __future__ import annotations

import errno
import gc
import signal
import subprocess
import sys
import threading
import weakref
from _thread import get_ident
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from limiter.core.store import StoreError
from limiter.request.breaker import Breaker
from tests.hanging import hanging_mount
from tests.request.scripts import run
from tests.waiting import SAFETY, Clock, stand_still, wait_until

TIMEOUT = 0.25
"""The time-out of the tests in which calls time out, in seconds."""
LONG = 60
"""A time-out, in seconds, that no call of a test reaches."""
MOST = 16
"""The number of threads that may be stuck."""
THREADS = 8
CALLS = 300
LATE = f"The store did not answer within {TIMEOUT} s (LIMITER_TIMEOUT)"


class HangingStore:
    """A store that answers only when a test lets it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers = threading.Semaphore(0)
        self.threads: set[int] = set()

    def read(self, passes: float = TIMEOUT) -> str:
        """Advance the clock once the caller waits; return when the test lets the store answer."""
        self.threads.add(get_ident())
        if passes:
            self._clock.move(passes, waiting=1)
        self._answers.acquire()
        return "late"

    def answer(self, calls: int = 1) -> None:
        self._answers.release(calls)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stand_still(monkeypatch)


@pytest.fixture
def store(clock: Clock) -> Iterator[HangingStore]:
    """Ends with the test, and so do its stuck threads."""
    hanging = HangingStore(clock)
    yield hanging
    hanging.answer(2 * MOST)


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker whose calls time out as soon as the clock is moved."""
    return Breaker(TIMEOUT, clock=clock)


def time_out(breaker: Breaker, store: HangingStore, passes: float = TIMEOUT) -> None:
    """Make a call that times out."""
    with pytest.raises(StoreError) as raised:
        breaker.call(store.read, passes)
    assert str(raised.value) == f"[Errno {errno.ETIMEDOUT}] {LATE}"


def refusal(breaker: Breaker) -> str:
    """Return for how long the breaker does not call the store."""
    called: list[str] = []
    with pytest.raises(StoreError) as raised:
        breaker.call(called.append, "called")
    assert called == []
    assert raised.value.errno == errno.ETIMEDOUT
    late, _, until = str(raised.value.strerror).partition(", and is not called again ")
    assert late == LATE
    return until


def calls(breaker: Breaker) -> bool:
    """Whether the breaker lets a call through.  Such a call also shows that the store answers."""
    try:
        return breaker.call(lambda: True)
    except StoreError:
        return False


# Calls


def test_what_the_function_raises_is_raised() -> None:
    with pytest.raises(SystemExit, match="7"):
        Breaker(LONG).call(sys.exit, 7)


def test_calls_in_a_row_use_one_thread() -> None:
    breaker = Breaker(LONG)
    assert len({breaker.call(get_ident) for _ in range(CALLS)} - {get_ident()}) == 1


def test_no_signal_is_for_its_threads() -> None:
    """Otherwise a server's handler would run in a thread that the server does not know."""
    breaker = Breaker(LONG)
    assert signal.SIGTERM in breaker.call(signal.pthread_sigmask, signal.SIG_BLOCK, [])
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_each_of_many_threads_gets_its_own_results() -> None:
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


def test_a_call_for_which_no_thread_can_be_started_fails_and_the_next_is_let_through(
    breaker: Breaker, store: HangingStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_out(breaker, store)
    clock.move(1)
    with monkeypatch.context() as patch:
        start = Mock(side_effect=RuntimeError("can't start new thread"))
        patch.setattr("limiter.request.breaker.start_new_thread", start)
        with pytest.raises(StoreError, match="No thread to call the store: can't start") as raised:
            breaker.call(list)
    assert raised.value.errno == errno.EAGAIN
    assert calls(breaker)


# An unresponsive store


def test_no_signal_ends_a_call_of_an_unresponsive_store() -> None:
    """So another thread makes the call: an alarm would not end it."""
    with hanging_mount() as mount:
        mount.hang()
        process = subprocess.Popen(["ls", mount.path], stderr=subprocess.DEVNULL)
        mount.wait_until_stuck()
        process.kill()
        status = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "D", seconds=SAFETY)
        assert process.poll() is None
    assert process.wait() == -signal.SIGKILL


def test_each_time_out_in_a_row_doubles_the_pause_up_to_a_minute(
    breaker: Breaker, store: HangingStore, clock: Clock
) -> None:
    time_out(breaker, store)
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        clock.move(seconds - 1 / 1024)
        refusal(breaker)
        clock.move(1 / 1024)
        time_out(breaker, store)


@pytest.mark.parametrize("answer", [int, lambda: 1 // 0], ids=["result", "error"])
def test_any_answer_ends_the_pause_and_the_next_begins_with_a_second(
    breaker: Breaker, store: HangingStore, clock: Clock, answer: Callable[[], object]
) -> None:
    time_out(breaker, store)
    clock.move(1)
    time_out(breaker, store)
    clock.move(2)
    try:
        breaker.call(answer)
    except ZeroDivisionError:
        pass
    assert breaker.call(calls, breaker)  # two at once
    time_out(breaker, store)
    assert refusal(breaker) == "for another 1.0 s"


def test_one_call_at_a_time_tries_the_store(breaker: Breaker, store: HangingStore, clock: Clock) -> None:
    """Until it is back, the others expect that it times out."""
    time_out(breaker, store)
    clock.move(1)
    assert breaker.call(refusal, breaker) == "for another 2.2 s"
    assert calls(breaker)


def test_a_late_answer_ends_the_pause_and_is_dropped_and_its_thread_is_used_again(
    breaker: Breaker, store: HangingStore
) -> None:
    for _ in range(4):
        time_out(breaker, store)
        refusal(breaker)
        store.answer()
        wait_until(lambda: calls(breaker), seconds=SAFETY)
        assert [breaker.call(str, number) for number in range(3)] == ["0", "1", "2"]
    assert len(store.threads) == 1


@pytest.mark.parametrize(
    ("number", "until"), [(THREADS, "for another 1.0 s"), (MOST + 2, "while 18 calls are stuck in it")]
)
def test_calls_already_under_way_add_nothing_to_the_pause(
    breaker: Breaker, store: HangingStore, clock: Clock, number: int, until: str
) -> None:
    """All of them may be stuck, even if they are more than may be begun then."""
    with ThreadPoolExecutor(number) as callers:
        under_way = [callers.submit(time_out, breaker, store, 0) for _ in range(number)]
        clock.move(TIMEOUT, waiting=number)
        for call in under_way:
            call.result()
    assert refusal(breaker) == until
    store.answer(number)
    wait_until(lambda: calls(breaker), seconds=SAFETY)


def test_sixteen_threads_are_stuck_at_most(breaker: Breaker, store: HangingStore, clock: Clock) -> None:
    """Even if the store answers other calls."""
    for number in range(MOST):
        time_out(breaker, store)
        clock.move(60)
        assert calls(breaker) is (number < MOST - 1)
    assert refusal(breaker) == "while 16 calls are stuck in it"
    store.answer()
    wait_until(lambda: calls(breaker), seconds=SAFETY)


@pytest.mark.parametrize(("is_trial", "until"), [(False, "1.0 s"), (True, "2.2 s")])
def test_a_caller_that_a_signal_interrupts_leaves_the_store_to_others(
    breaker: Breaker, store: HangingStore, clock: Clock, is_trial: bool, until: str
) -> None:
    assert breaker.call(calls, breaker)  # then there are two threads
    if is_trial:
        time_out(breaker, store)
        clock.move(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.waiting.Lock._wait", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            breaker.call(store.read, 0)
    assert refusal(breaker) == f"for another {until}"
    clock.move(TIMEOUT + 2)
    assert calls(breaker)


# Processes


BEGINNING = f"""\
import atexit, os, threading, time, warnings
late = threading.Event()
atexit.register(lambda: print(threads()))  # the interpreter ends after this
from limiter.core.store import StoreError
from limiter.request import breaker as module
module._ENDING_MOST = {SAFETY}
module.sleep = lambda _: late.set()
breaker = module.Breaker({LONG})
warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside threads

def threads():
    return len(os.listdir("/proc/self/task"))

def wait_for_threads(number):
    while threads() != number:
        time.sleep(0.001)

def calls():
    try:
        return breaker.call(lambda: True)
    except StoreError:
        return False

def calls_in_child():
    child = os.fork()
    if not child:
        os._exit(calls())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def time_out():
    breaker._timeout = 0
    try:
        breaker.call(late.wait)
        raise AssertionError
    except StoreError:
        breaker._timeout = {LONG}

"""

# The breaker's thread ends only when it is waited for.
SLOW = """\
class Slow:
    def __del__(self):
        late.wait(10)

local = threading.local()
breaker.call(lambda: setattr(local, "at_its_end", Slow()))
"""

# What a script does, and how many threads it has when the interpreter ends.
SCRIPTS = {
    "a forked child has none of its parent's threads, idle or stuck": (
        "assert (calls(), calls_in_child()) == (True, True)\n"
        "time_out()\n"
        "assert (calls(), calls_in_child(), calls()) == (False, True, False)",
        2,
    ),
    "threads end with the breaker, also one that comes back later": (
        "calls()\nwait_for_threads(2)\ntime_out()\ndel breaker\nlate.set()\nwait_for_threads(1)",
        1,
    ),
    "an idle thread ends before the interpreter": (SLOW, 1),
    "the thread of a breaker that was dropped does so, too": (f"{SLOW}del breaker", 1),
    "even if the error of a call is kept": (
        f"{SLOW}try:\n    breaker.call(int, '')\nexcept ValueError as error:\n    kept = error",
        1,
    ),
}


@pytest.mark.parametrize(("script", "threads"), SCRIPTS.values(), ids=SCRIPTS)
def test_threads_and_processes(script: str, threads: int) -> None:
    """A thread that is stuck does not change how the process ends."""
    ended = run(BEGINNING + script)
    assert (ended.stdout, ended.stderr, ended.returncode) == (f"{threads}\n", "", 0)
