"""Our storage of the library ``limits`` beside its own in memory and on Redis.

Run ``python3 -m benchmarks.limits_storage`` in the repository, with the group peers and redis-server installed.

Each round takes a new key of 50/minute, in every storage: its first hit, 40 admitted ones, and then 100 denied
ones.  The medians of the rounds count.  The ratios are to Redis of the same kind, sync or async.  Takes half a
minute.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.strategies import STRATEGIES as ASYNC
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES as SYNC

import limiter.contrib.limits as ours
from benchmarks.redis_server import Redis
from benchmarks.report import Row, machine, progress, read_rounds, report
from tests.places import temporary

ROUNDS = 60
ADMITTED, DENIED = 40, 100
LIMIT = RateLimitItemPerMinute(50)
PLACES = {"tmpfs": "/dev/shm", "disk": "/var/tmp"}
_KINDS = {"moving": "moving-window", "fixed": "fixed-window", "counter": "sliding-window-counter"}
AT_MOST = {
    f"{prefix}{place}, moving: {what}": most
    for prefix in ("", "async ")
    for place in PLACES
    for what, most in (("admitted", 0.5), ("denied", 0.2))
} | {"disk, moving: first": 2.0, "async disk, moving: first": 2.0}
"""The claims: ratios to Redis."""

Times = tuple[float, float, float]
"""Of the first hit, of an admitted and of a denied one, in microseconds."""


def measure_sync(storage: Any, kind: str, key: str) -> Times:
    """Hit as often as a round has hits."""
    hit = partial(SYNC[kind](storage).hit, LIMIT, key)
    answers: list[list[bool]] = []
    moments = [perf_counter()]
    for number in (1, ADMITTED, LIMIT.amount - 1 - ADMITTED, DENIED):
        answers.append([hit() for _ in range(number)])
        moments.append(perf_counter())
    return _times(moments, answers)


async def _measure_async(storage: Any, kind: str, key: str) -> Times:
    strategy: Any = ASYNC[kind]
    hit = partial(strategy(storage).hit, LIMIT, key)
    answers: list[list[bool]] = []
    moments = [perf_counter()]
    for number in (1, ADMITTED, LIMIT.amount - 1 - ADMITTED, DENIED):
        answers.append([await hit() for _ in range(number)])
        moments.append(perf_counter())
    return _times(moments, answers)


def _times(moments: list[float], answers: list[list[bool]]) -> Times:
    *before, denied = answers
    if any(denied) or not all(all(it) for it in before):
        raise RuntimeError("it does not admit exactly 50")
    first, admitted, _, denials = [end - begin for begin, end in zip(moments, moments[1:])]
    return first * 1e6, admitted / ADMITTED * 1e6, denials / DENIED * 1e6


def measure(rounds: int) -> Iterator[Row]:
    """Measure all in turn, and compare with Redis."""
    with ExitStack() as stack:
        redis = Redis(stack.enter_context(temporary("/tmp")))
        stack.callback(redis.kill)
        uris = {"memory": "memory://", "Redis": redis.url}
        for name, place in PLACES.items():
            uris[name] = ours.uri(stack.enter_context(temporary(place))) + "?newcomers=unlimited"
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)

        async def make(uri: str) -> Any:
            more = {"implementation": "redispy"} if uri.startswith("redis") else {}
            return storage_from_string(f"async+{uri}", **more)

        def in_loop(coroutine: Callable[..., Coroutine[Any, Any, Times]], *arguments: Any) -> Times:
            return loop.run_until_complete(coroutine(*arguments))

        runs: dict[str, Callable[[str, str], Times]] = {}
        for name, uri in uris.items():
            runs[name] = partial(measure_sync, storage_from_string(uri))
            runs[f"async {name}"] = partial(in_loop, _measure_async, loop.run_until_complete(make(uri)))
        found: dict[tuple[str, str], list[Times]] = {}
        for number in range(rounds + 1):
            progress(f"round {number} of {rounds}")
            for kind, strategy in _KINDS.items():
                for name, run in runs.items():
                    found.setdefault((name, kind), []).append(run(strategy, f"{name}-{kind}-{number}"))
        progress("")
    for kind in _KINDS:
        for name in runs:
            redis_times = found["async Redis" if name.startswith("async") else "Redis", kind][1:]
            for nth, what in enumerate(("first", "admitted", "denied")):
                times = [it[nth] for it in found[name, kind][1:]]
                ratio = median(times) / median([it[nth] for it in redis_times])
                yield Row(f"{name}, {kind}: {what}", ratio, "of Redis", median(times))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print.  Return 0 if the claims hold, else 1."""
    rounds = read_rounds("benchmarks.limits_storage", __doc__, ROUNDS, arguments)
    print(f"{machine()}\n")
    return report(measure(rounds), AT_MOST)


if __name__ == "__main__":
    sys.exit(main())
