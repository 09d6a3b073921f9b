"""What hits get when a process is killed, or the store is lost, in the middle of a flood."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.contest import NOTHING, Flood, flood, most_in_a_window
from benchmarks.limiters import Contender

_SECOND = 1_000_000
_PROCESSES = 4
_LATER = 2


def kill_one(made: Contender, quota: int, processes: int, seconds: float) -> Flood:
    """Flood a key, ``quota`` a second, and kill one of the processes in the middle."""

    def kill(numbers: Sequence[int]) -> None:
        time.sleep(seconds / 2)
        os.kill(numbers[0], signal.SIGKILL)

    return flood(partial(made.open, quota, 1), processes, seconds, meanwhile=kill)


@dataclass(frozen=True)
class Loss:
    """How a store was lost, and what the hits got.

    ``after``: how many hits were admitted after the loss.  ``most``: the most hits that were certainly admitted
    within a second, before it or after.
    """

    what: str
    after: int
    most: int
    errors: Counter[str]

    def __str__(self) -> str:
        errors = [f"{number:,} {name}" for name, number in self.errors.items()] or ["no error"]
        admitted = f"{self.after:,} admitted, at most {self.most:,} in a second" if self.after else ""
        return f"{self.what}: {', '.join(filter(None, [*errors, admitted or 'none admitted']))}"


def lose(made: Contender, quota: int, seconds: float, is_fixed: bool) -> Loss | None:
    """Lose the store in the middle of a flood, ``quota`` a second, and let two more processes begin after that.

    Returns None if there is no store to lose.
    """
    if made.lose is None:
        return None
    accident, run = made.lose, partial(flood, partial(made.open, quota, 1))
    what, moment = "", 0
    later = NOTHING

    def in_the_middle(_: Sequence[int]) -> None:
        nonlocal what, moment, later
        time.sleep(seconds / 2)
        what, moment = accident(), time.time_ns() // 1000
        later = run(_LATER, seconds / 2)

    got = run(_PROCESSES, seconds, meanwhile=in_the_middle) + later
    return Loss(what, got.since(moment), most_in_a_window(got.admitted, _SECOND, is_fixed), got.errors)
