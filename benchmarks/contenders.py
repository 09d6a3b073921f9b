"""The limiters that are compared: this one and its peers, each with a store of its own.

A contender that cannot be had here is left out, with the reason.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.redis_server import Redis
from limiter import Limiter
from tests.places import temporary

if TYPE_CHECKING:
    from throttled import BaseStore

    from benchmarks.contest import Hit

EXACT, ALONE, INEXACT = "exact", "one process", "inexact"
"""What a contender promises: never too many over all processes, only within one, or about so many."""


@dataclass(frozen=True)
class Contender:
    """A limiter with a store.

    ``open(quota, seconds)`` returns what counts a hit against a limit of so many hits in so many seconds.
    ``usage()`` returns the bytes and inodes that the store uses; None: it is the memory of each process.
    ``lose()`` loses the store as an accident would, and says how; None: there is nothing to lose.
    """

    open: Callable[[int, int], Hit]
    usage: Callable[[], tuple[int, int]] | None = None
    lose: Callable[[], str] | None = None


# This limiter, and what one can write oneself in a few lines.


def _files(kind: str, place: Path) -> Contender:
    def open_(quota: int, seconds: int) -> Hit:
        limiter = Limiter(str(place), f"{quota} per {seconds} seconds{kind}", newcomers="")
        return lambda key: bool(limiter.hit(key))

    return Contender(open_, partial(disk_usage, place), partial(_remove, place))


def _original(place: Path) -> Contender:
    """The limiter of the 2017 articles: a file for each hit, named for its microsecond; count, then touch."""

    def open_(quota: int, seconds: int) -> Hit:
        def hit(key: str) -> bool:
            directory = f"{place}/{key}"
            os.makedirs(directory, exist_ok=True)
            now = time.time_ns() // 1000
            begin = str(now - seconds * 1_000_000)
            names = os.listdir(directory)
            for name in [name for name in names if name <= begin]:
                with suppress(FileNotFoundError):
                    os.unlink(f"{directory}/{name}")
            if sum(name > begin for name in names) >= quota:
                return False
            os.close(os.open(f"{directory}/{now}", os.O_CREAT | os.O_WRONLY, 0o600))
            return True

        return hit

    return Contender(open_, partial(disk_usage, place), partial(_remove, place))


def _sqlite(place: Path) -> Contender:
    """SQLite: a row for each hit, counted and written in one transaction."""
    file = place / "hits"
    with sqlite3.connect(file) as it:
        it.execute("PRAGMA journal_mode=WAL")
        it.execute("CREATE TABLE hits (key TEXT, time INTEGER)")
        it.execute("CREATE INDEX of_key ON hits (key, time)")

    def open_(quota: int, seconds: int) -> Hit:
        connection = sqlite3.connect(file, timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous=OFF")
        do = connection.execute

        def hit(key: str) -> bool:
            do("BEGIN IMMEDIATE")
            try:
                now = time.time_ns() // 1000
                begin = now - seconds * 1_000_000
                do("DELETE FROM hits WHERE key = ? AND time <= ?", (key, begin))
                (used,) = do("SELECT count(*) FROM hits WHERE key = ?", (key,)).fetchone()
                if used < quota:
                    do("INSERT INTO hits VALUES (?, ?)", (key, now))
                return bool(used < quota)
            finally:
                do("COMMIT")

        return hit

    return Contender(open_, partial(disk_usage, place), partial(_remove_files, place))


# The libraries.


def _pyrate(place: Path) -> Contender:
    """pyrate-limiter with SQLite and its file lock, which it offers for several processes."""

    def open_(quota: int, seconds: int) -> Hit:
        from pyrate_limiter import Duration, Rate, SQLiteBucket
        from pyrate_limiter import Limiter as Pyrate

        rates = [Rate(quota, Duration.SECOND * seconds)]
        kept: dict[str, Pyrate] = {}

        def hit(key: str) -> bool:
            if key not in kept:
                table = f"t{key.replace('-', '_')}"
                kept[key] = Pyrate(
                    SQLiteBucket.init_from_file(rates, table, f"{place}/hits", use_file_lock=True)
                )
            return bool(kept[key].try_acquire(key, blocking=False))

        return hit

    return Contender(open_, partial(disk_usage, place), partial(_remove_files, place))


def _limits(url: str, strategy: str, quota: int, seconds: int) -> Hit:
    from limits import parse, storage, strategies

    limiter = strategies.STRATEGIES[strategy](storage.storage_from_string(url))
    item = parse(f"{quota} per {seconds} second")
    return lambda key: limiter.hit(item, key)


def _throttled(store: Callable[[], BaseStore], quota: int, seconds: int) -> Hit:
    """Its default algorithm, a token bucket."""
    from throttled import RateLimiterType, Throttled, per_duration

    throttle = Throttled(
        using=RateLimiterType.TOKEN_BUCKET.value,
        quota=per_duration(timedelta(seconds=seconds), limit=quota, burst=quota),
        store=store(),
    )
    return lambda key: not throttle.limit(key).limited


def _throttled_memory() -> BaseStore:
    from throttled import MemoryStore

    return MemoryStore(options={"MAX_SIZE": 1_000_000})


def _throttled_redis(url: str) -> BaseStore:
    from throttled import RedisStore

    return RedisStore(server=f"{url}/1")


def _on(redis: Redis, open_: Callable[[int, int], Hit]) -> Contender:
    return Contender(open_, lambda: (redis.size(), 0), redis.kill)


# What happens to a store.


def disk_usage(place: Path) -> tuple[int, int]:
    """The bytes and inodes below this place.  A file with several names counts once."""
    found = {}
    for directory, names, files in os.walk(place):
        for name in (*names, *files):
            with suppress(FileNotFoundError):
                status = os.lstat(f"{directory}/{name}")
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values()), len(found)


def _remove(place: Path) -> str:
    place.rename(place.with_name("lost"))
    return "the store is removed"


def _remove_files(place: Path) -> str:
    for file in place.iterdir():
        file.unlink()
    return "the file is removed"


# All of them.


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
    OURS: Entry(partial(_files, "")),
    "this, disk": Entry(partial(_files, ""), parent="/var/tmp"),
    "this, fixed window": Entry(partial(_files, " fixed"), kind="fixed"),
    "limits, memory": Entry(
        lambda _: Contender(partial(_limits, "memory://", "moving-window")),
        promise=ALONE,
        modules=("limits",),
    ),
    "limits, Redis, moving window": Entry(
        None,
        lambda redis: _on(redis, partial(_limits, redis.url, "moving-window")),
        modules=("limits", "redis"),
    ),
    "limits, Redis, fixed window": Entry(
        None,
        lambda redis: _on(redis, partial(_limits, redis.url, "fixed-window")),
        kind="fixed",
        modules=("limits", "redis"),
    ),
    "throttled-py, memory": Entry(
        lambda _: Contender(partial(_throttled, _throttled_memory)),
        promise=ALONE,
        kind="bucket",
        modules=("throttled",),
    ),
    "throttled-py, Redis": Entry(
        None,
        lambda redis: _on(redis, partial(_throttled, partial(_throttled_redis, redis.url))),
        kind="bucket",
        modules=("throttled", "redis"),
    ),
    "pyrate-limiter, SQLite": Entry(_pyrate, modules=("pyrate_limiter", "filelock")),
    "SQLite, a transaction": Entry(_sqlite),
    "2017: touch and count": Entry(_original, promise=INEXACT),
}
"""How to make each contender, by its name."""
