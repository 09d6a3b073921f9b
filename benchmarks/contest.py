"""Many processes at once on one key: how many hits they admit, beside how many they should.

The judge knows only when each hit began and ended.  So it counts a hit in a window only if that is certain:
what it reports as too many was too many, whatever happened in between.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Hit = Callable[[str], bool]
"""Counts a hit on a key: whether it is admitted."""

_FORK = multiprocessing.get_context("fork")
_LEAD = 0.2  # seconds in which all processes get ready


@dataclass(frozen=True)
class Flood:
    """What some processes got.  ``admitted``: when each hit began and ended, in us, sorted."""

    admitted: Sequence[tuple[int, int]]
    denied: int
    errors: Counter[str]
    """How often each type of exception was raised."""

    @property
    def hits(self) -> int:
        """All of them."""
        return len(self.admitted) + self.denied + self.errors.total()

    def since(self, moment: int) -> int:
        """How many were admitted that began at this moment or later."""
        return len(self.admitted) - bisect_left(self.admitted, (moment, 0))


def flood(
    open_: Callable[[], Hit],
    processes: int,
    seconds: float,
    key: str = "flooded",
    meanwhile: Callable[[Sequence[int]], None] | None = None,
) -> Flood:
    """Let so many processes hit one key for so long, each as fast as it can.

    ``open_`` is called in each of them.  ``meanwhile`` gets the processes' numbers, and runs beside them.
    """
    start = time.monotonic() + _LEAD
    pipes = [_FORK.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        _FORK.Process(target=_work, args=(open_, key, start, seconds, writer), daemon=True)
        for _, writer in pipes
    ]
    for worker in workers:
        worker.start()
    for _, writer in pipes:
        writer.close()
    try:
        if meanwhile is not None:
            meanwhile([worker.pid or 0 for worker in workers])
        admitted: list[tuple[int, int]] = []
        denied, errors = 0, Counter[str]()
        for reader, _ in pipes:
            try:
                begins, ends, other, failed = reader.recv()
            except EOFError:
                continue  # it was killed
            admitted += zip(begins, ends)
            denied += other
            errors += failed
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return Flood(sorted(admitted), denied, errors)


def _work(open_: Callable[[], Hit], key: str, start: float, seconds: float, writer: object) -> None:
    begins, ends, denied, errors = array("q"), array("q"), 0, Counter[str]()
    try:
        hit = open_()
    except Exception as error:
        hit, failure = None, type(error).__name__
        errors[failure] += 1
    time.sleep(max(0.0, start - time.monotonic()))
    end = start + seconds
    while hit is not None and time.monotonic() < end:
        begin = time.time_ns()
        try:
            is_admitted = hit(key)
        except Exception as error:
            errors[type(error).__name__] += 1
            time.sleep(0.001)  # a failing store must not fill the memory
            continue
        if is_admitted:
            begins.append(begin // 1000)
            ends.append(time.time_ns() // 1000)
        else:
            denied += 1
    writer.send((begins, ends, denied, errors))  # type: ignore[attr-defined]
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
