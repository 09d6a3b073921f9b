"""Many processes at once on one key: how many hits they admit, beside how many they should.

The judge knows only when each hit began and ended.  So it counts a hit in a window only if that is certain:
what it reports as too many was too many, whatever happened in between.
"""

from __future__ import annotations

import os
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from struct import Struct
from typing import IO

from benchmarks.own_process import FORK, leave_signals_to_the_parent

Hit = Callable[[str], bool]
"""Counts a hit on a key: whether it is admitted."""

HANGS = "a hang"
"""The name of the error of a process that does not end."""

_KEY = "flooded"
_PATIENCE = 30  # seconds that a process may take to get ready, or longer than the flood
_MOMENTS = Struct("qq")


@dataclass(frozen=True)
class Flood:
    """What some processes got.  ``admitted``: when each hit began and ended, in us, sorted.

    ``errors``: how often each type of exception was raised.  ``end``: when the last hit ended.  Of a process that
    was killed, only the admitted hits are known.
    """

    admitted: Sequence[tuple[int, int]]
    denied: int
    errors: Counter[str]
    end: int

    @property
    def hits(self) -> int:
        """All of them."""
        return len(self.admitted) + self.denied + self.errors.total()

    def since(self, moment: int) -> int:
        """How many were admitted that began at this moment or later."""
        return len(self.admitted) - bisect_left(self.admitted, (moment, 0))

    def __add__(self, other: Flood) -> Flood:
        """Both of them: they ran at the same time, on the same key."""
        admitted = sorted([*self.admitted, *other.admitted])
        errors = self.errors + other.errors
        return Flood(admitted, self.denied + other.denied, errors, max(self.end, other.end))


NOTHING = Flood([], 0, Counter(), 0)


def flood(
    open_: Callable[[], Hit],
    processes: int,
    seconds: float,
    meanwhile: Callable[[Sequence[int]], None] | None = None,
    patience: float = _PATIENCE,
) -> Flood:
    """Let so many processes hit one key for so long, each as fast as it can.

    ``open_`` is called in each of them; when all are ready, they begin.  ``meanwhile`` gets the processes' numbers,
    and runs beside the hits.
    """
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        started = [_start(stack, open_, seconds, log) for log in logs]
        until = time.monotonic() + patience
        ready = [_answer(pipe, until) for _, pipe in started]
        start = time.monotonic()
        for _, pipe in started:
            with suppress(BrokenPipeError):  # it has ended
                pipe.send(start)
        if meanwhile is not None:
            meanwhile([number for number, _ in started])
        result = NOTHING
        for log, is_ready, (_, pipe) in zip(logs, ready, started):
            said = is_ready and _answer(pipe, start + seconds + patience)
            denied, errors, end = said or (0, Counter([HANGS]), 0)
            log.seek(0)
            admitted = [(begin, end) for begin, end in _MOMENTS.iter_unpack(log.read())]
            result += Flood(admitted, denied, errors, max([end, *(end for _, end in admitted)]))
    return result


def _start(
    stack: ExitStack, open_: Callable[[], Hit], seconds: float, log: IO[bytes]
) -> tuple[int, Connection]:
    """Start a process, which ends with the stack: its number, and the pipe to it."""
    ours, theirs = FORK.Pipe()
    worker = FORK.Process(target=_work, args=(open_, seconds, log, theirs), daemon=True)
    worker.start()
    stack.callback(worker.join)
    stack.callback(worker.kill)
    stack.callback(ours.close)
    theirs.close()  # so that its end is seen
    return worker.pid or 0, ours


def _answer(pipe: Connection, until: float) -> tuple[int, Counter[str], int] | None:
    """What a process says until then; nothing happened if it was killed.  None if it hangs."""
    try:
        if pipe.poll(max(0.0, until - time.monotonic())):
            return pipe.recv()  # type: ignore[no-any-return]
    except EOFError:
        return 0, Counter(), 0
    return None


def _work(open_: Callable[[], Hit], seconds: float, log: IO[bytes], pipe: Connection) -> None:
    """Hit.  Each admitted hit is written at once, so that it is known also if this process is killed."""
    leave_signals_to_the_parent()
    write, pack, file = os.write, _MOMENTS.pack, log.fileno()
    denied, errors = 0, Counter[str]()
    hit: Hit | None = None
    with suppress(Exception):
        hit = open_()  # else it is tried again, and counts as a hit
    pipe.send((0, errors, 0))
    end = pipe.recv() + seconds
    while time.monotonic() < end:
        begin = time.time_ns()
        try:
            hit = hit or open_()
            is_admitted = hit(_KEY)
        except Exception as error:
            errors[type(error).__name__] += 1
            time.sleep(0.001)  # as a client that is told of an error
        else:
            if is_admitted:
                write(file, pack(begin // 1000, time.time_ns() // 1000))
            else:
                denied += 1
    pipe.send((denied, errors, time.time_ns() // 1000))
    os._exit(0)


def most_in_a_window(admitted: Sequence[tuple[int, int]], window: int, is_fixed: bool = False) -> int:
    """The most hits that were certainly admitted within one window of so many microseconds.

    ``is_fixed``: only calendar windows count, from the epoch.
    """
    if is_fixed:
        certain = Counter(begin // window for begin, end in admitted if begin // window == end // window)
        return max(certain.values(), default=0)
    ends = sorted(end for _, end in admitted)
    # Those that ended in time, without those that began before.
    return max(
        (bisect_left(ends, begin + window) - nth for nth, (begin, _) in enumerate(admitted)), default=0
    )


def most_allowed(kind: str, quota: int, window: int, begin: int, end: int) -> int:
    """How many hits a flood from ``begin`` to ``end`` may get: a limit of ``quota`` a window, all in us.

    ``kind``: sliding, fixed or bucket (``quota`` tokens, and as many more in each window).
    """
    if kind == "fixed":
        return quota * (end // window - begin // window + 1)
    if kind == "bucket":
        return quota + quota * (end - begin) // window
    return quota * ((end - begin) // window + 1)
