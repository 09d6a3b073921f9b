"""The limiters that are compared, each with a store of its own.

A contender that cannot be had here is left out, with the reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.limiters import (
    Contender,
    files,
    limits,
    on_redis,
    original,
    pyrate,
    sqlite,
    throttled,
    throttled_memory,
    throttled_redis,
)
from benchmarks.redis_server import Redis
from tests.places import temporary

EXACT, ALONE, INEXACT = "exact", "one process", "inexact"
"""What a contender promises: never too many over all processes, only within one, or about so many."""


@dataclass(frozen=True)
class Entry:
    """How to make a contender: from a new directory, or from a new Redis server.

    ``kind``: the kind of its limit, as in ``contest.most_allowed``; ``parent``: where its directory lies;
    ``modules``: what it needs of other packages.
    """

    make: Callable[[Path], Contender] | None
    on_redis: Callable[[Redis], Contender] | None = None
    promise: str = EXACT
    kind: str = "sliding"
    parent: str = "/dev/shm"
    modules: tuple[str, ...] = ()

    def lacking(self) -> str:
        """Why this contender cannot be had here; "" if it can."""
        missing = [it for it in self.modules if find_spec(it) is None]
        if missing:
            return f"Python's module {missing[0]} is not installed (pip install --group peers)"
        if self.on_redis and shutil.which("redis-server") is None:
            return "redis-server is not installed"
        return ""

    @contextmanager
    def new(self) -> Iterator[Contender]:
        """A contender with a new store, which is removed after the block."""
        with ExitStack() as stack:
            place = stack.enter_context(temporary(self.parent)) / "store"
            place.mkdir()
            if self.make:
                yield self.make(place)
            elif self.on_redis:
                redis = Redis(place)
                stack.callback(redis.kill)
                yield self.on_redis(redis)


OURS = "this, tmpfs"
"""The contender that the claims are about."""

CONTENDERS = {
    OURS: Entry(partial(files, "")),
    "this, disk": Entry(partial(files, ""), parent="/var/tmp"),
    "this, fixed window": Entry(partial(files, " fixed"), kind="fixed"),
    "limits, memory": Entry(
        lambda _: Contender(partial(limits, "memory://", "moving-window")),
        promise=ALONE,
        modules=("limits",),
    ),
    "limits, Redis, moving window": Entry(
        None,
        lambda redis: on_redis(redis, partial(limits, redis.url, "moving-window")),
        modules=("limits", "redis"),
    ),
    "limits, Redis, fixed window": Entry(
        None,
        lambda redis: on_redis(redis, partial(limits, redis.url, "fixed-window")),
        kind="fixed",
        modules=("limits", "redis"),
    ),
    "throttled-py, memory": Entry(
        lambda _: Contender(partial(throttled, throttled_memory)),
        promise=ALONE,
        kind="bucket",
        modules=("throttled",),
    ),
    "throttled-py, Redis": Entry(
        None,
        lambda redis: on_redis(redis, partial(throttled, partial(throttled_redis, redis.url))),
        kind="bucket",
        modules=("throttled", "redis"),
    ),
    "pyrate-limiter, SQLite": Entry(pyrate, modules=("pyrate_limiter", "filelock")),
    "SQLite, a transaction": Entry(sqlite),
    "2017: touch and count": Entry(original, promise=INEXACT),
}
"""How to make each contender, by its name."""
