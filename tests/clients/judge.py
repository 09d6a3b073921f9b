"""The judge of hits by several clients at once.  It knows only when each hit began and ended, in microseconds.

It reports only what is certain: more hits than a limit allows, whatever happened between these times (S1), or
a denial although the limit had room at every moment of that hit (L1).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from benchmarks.contest import most_in_a_window
from limiter.core.burst import Burst
from limiter.core.fixed import Fixed
from limiter.core.limit import Limit

Hits = Sequence[tuple[int, int]]


def judge(limits: Sequence[Limit], admitted: Hits, denied: Hits) -> None:
    """Fail if a limit admitted too many, or if a hit was denied for which all limits had room."""
    admitted = sorted(admitted)
    for limit in limits:
        _judge_s1(limit, admitted)
    ends = sorted(end for _, end in admitted)
    denied = sorted(denied)
    denied_ends = sorted(end for _, end in denied)
    for begin, end in denied:
        # With several limits, each hit under way may hold a slot of one that it then gives back.
        begun = bisect_right(denied, (end, end)) if len(limits) > 1 else 0
        held = max(0, begun - bisect_left(denied_ends, begin) - 1)
        assert any(_may_be_full(limit, admitted, ends, begin, end, held) for limit in limits), (
            f"denied between {begin} and {end} with room"
        )


def _judge_s1(limit: Limit, admitted: Hits) -> None:
    if not isinstance(limit, Burst):
        most = most_in_a_window(admitted, limit.window, isinstance(limit, Fixed))
        assert most <= limit.quota, f"{most} hits within a window of {limit.name}"
        return
    for first, (begin, _) in enumerate(admitted):
        ends = sorted(end for _, end in admitted[first:])
        for number, end in enumerate(ends, 1):
            allowed = limit.quota + (end - begin) * limit.rate // limit.period
            assert number <= allowed, f"{number} hits in {end - begin} us of {limit.name}"


def _may_be_full(
    limit: Limit, admitted: Hits, ends: Sequence[int], begin: int, end: int, held: int
) -> bool:
    """Whether the limit had no room at some moment between these, as far as anybody can tell.

    ``held``: how many more hits may have been counted then.
    """
    begun = bisect_right(admitted, (end, end))  # hits that began before
    if isinstance(limit, Fixed):
        windows = {begin // limit.window, end // limit.window}
        return any(
            sum(one // limit.window <= it <= other // limit.window for one, other in admitted)
            >= limit.quota - held
            for it in windows
        )
    if not isinstance(limit, Burst):
        return begun - bisect_right(ends, begin - limit.window) >= limit.quota - held
    # It may have been empty at any moment of this hit, then have filled while the process did not run.
    moments = [begin, *ends[bisect_right(ends, begin) : bisect_left(ends, end)], end]
    return any(
        _least(limit, admitted, moment) < limit.period * (1 + held) for moment in reversed(moments)
    )


def _least(limit: Burst, admitted: Hits, moment: int) -> int:
    """The least that the bucket can hold then, in units: each hit took its token as late as it can have."""
    begun = bisect_right(admitted, (moment, moment))
    units, before = limit.quota * limit.period, 0
    for taken in sorted(min(end, moment) for _, end in admitted[:begun]):
        units = min(limit.quota * limit.period, units + (taken - before) * limit.rate) - limit.period
        before = taken
    return min(limit.quota * limit.period, units + (moment - before) * limit.rate)
