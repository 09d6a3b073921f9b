"""How the limiters that are compared count a hit: this one, a few lines of one's own, and the libraries."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.redis_server import Redis
from benchmarks.report import file_system
from limiter import Limiter

if TYPE_CHECKING:
    from throttled import BaseStore

    from benchmarks.contest import Hit


def _no_store() -> tuple[int, int]:
    return 0, 0


@dataclass(frozen=True)
class Contender:
    """A limiter with a store.

    ``open(quota, seconds)`` returns what counts a hit against a limit of so many hits in so many seconds.
    ``usage()`` returns the bytes and inodes that the store uses.
    ``lose()`` loses the store as an accident would, and says how; None: there is nothing to lose.
    """

    open: Callable[[int, int], Hit]
    usage: Callable[[], tuple[int, int]] = _no_store
    lose: Callable[[], str] | None = None


# This limiter, and what one can write oneself in a few lines.


def files(kind: str, place: Path) -> Contender:
    """This limiter; ``kind`` follows the numbers of its limits."""

    def open_(quota: int, seconds: int) -> Hit:
        limiter = Limiter(str(place), f"{quota} per {seconds} seconds{kind}", newcomers="")
        return lambda key: bool(limiter.hit(key))

    return Contender(open_, partial(disk_usage, place), partial(_remove, place))


def original(place: Path) -> Contender:
    """The limiter of the 2017 articles: touch a file named for the microsecond, then count those of this window."""

    def open_(quota: int, seconds: int) -> Hit:
        window = seconds * 1_000_000

        def hit(key: str) -> bool:
            directory = f"{place}/{key}"
            os.makedirs(directory, exist_ok=True)
            now = time.time_ns() // 1000
            os.close(os.open(f"{directory}/{now}", os.O_CREAT | os.O_WRONLY, 0o600))
            used = 0
            for name in os.listdir(directory):
                if int(name) // window == now // window:
                    used += int(name) <= now
                elif int(name) < now:
                    with suppress(FileNotFoundError):
                        os.unlink(f"{directory}/{name}")
            return used <= quota

        return hit

    return Contender(open_, partial(disk_usage, place), partial(_remove, place))


def sqlite(place: Path) -> Contender:
    """SQLite: a row for each hit, counted and written in one transaction."""

    def open_(quota: int, seconds: int) -> Hit:
        connection = sqlite3.connect(place / "hits", timeout=60, isolation_level=None)
        do = connection.execute
        do("PRAGMA journal_mode=WAL")
        do("PRAGMA synchronous=OFF")
        do("CREATE TABLE IF NOT EXISTS hits (key TEXT, time INTEGER)")
        do("CREATE INDEX IF NOT EXISTS of_key ON hits (key, time)")

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

    open_(1, 1)  # makes the file, before several processes open it at once
    return Contender(open_, partial(disk_usage, place), partial(_remove_files, place))


# The libraries.


def pyrate(place: Path) -> Contender:
    """pyrate-limiter with SQLite and a file lock, as it offers them for several processes.

    A bucket for each key comes from a factory, as its documentation says; all share a connection and a lock.
    """

    def open_(quota: int, seconds: int) -> Hit:
        from filelock import FileLock
        from pyrate_limiter import BucketFactory, Duration, Rate, RateItem, SQLiteBucket
        from pyrate_limiter import Limiter as Pyrate
        from pyrate_limiter.buckets.sqlite_bucket import Queries

        rates = [Rate(quota, Duration.SECOND * seconds)]
        lock = FileLock(place / "hits.lock")
        with lock:
            connection = sqlite3.connect(place / "hits", check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        class Buckets(BucketFactory):  # type: ignore[misc]
            def __init__(self) -> None:
                self._kept: dict[str, SQLiteBucket] = {}

            def wrap_item(self, name: str, weight: int = 1) -> RateItem:
                return RateItem(name, time.time_ns() // 1_000_000, weight=weight)

            def get(self, item: RateItem) -> SQLiteBucket:
                if item.name not in self._kept:
                    table = f"of-{item.name}"
                    index = {"index_name": f"index-{table}", "table_name": table}
                    with lock:
                        connection.execute(Queries.CREATE_BUCKET_TABLE.format(table=table))
                        connection.execute(Queries.CREATE_INDEX_ON_TIMESTAMP.format(**index))
                        connection.commit()
                    bucket = SQLiteBucket(rates, connection, table, lock)
                    self.schedule_leak(bucket)
                    self._kept[item.name] = bucket
                return self._kept[item.name]

        limiter = Pyrate(Buckets())
        return lambda key: bool(limiter.try_acquire(key, blocking=False))

    return Contender(open_, partial(disk_usage, place), partial(_remove_files, place))


def limits(url: str, strategy: str, quota: int, seconds: int) -> Hit:
    """The library ``limits``."""
    from limits import parse, storage, strategies

    limiter = strategies.STRATEGIES[strategy](storage.storage_from_string(url))
    item = parse(f"{quota} per {seconds} second")
    return lambda key: limiter.hit(item, key)


def throttled(store: Callable[[], BaseStore], quota: int, seconds: int) -> Hit:
    """The library throttled-py, with its default algorithm, a token bucket."""
    from throttled import RateLimiterType, Throttled, per_duration

    throttle = Throttled(
        using=RateLimiterType.TOKEN_BUCKET.value,
        quota=per_duration(timedelta(seconds=seconds), limit=quota, burst=quota),
        store=store(),
    )
    return lambda key: not throttle.limit(key).limited


def throttled_memory() -> BaseStore:
    """Its store in the memory of a process."""
    from throttled import MemoryStore

    return MemoryStore(options={"MAX_SIZE": 1_000_000})


def throttled_redis(url: str) -> BaseStore:
    """Its store in Redis."""
    from throttled import RedisStore

    return RedisStore(server=f"{url}/1")


def on_redis(redis: Redis, open_: Callable[[int, int], Hit]) -> Contender:
    """A contender whose store is this server."""
    return Contender(open_, lambda: (redis.size(), 0), redis.kill)


# What happens to a store.


def disk_usage(place: Path) -> tuple[int, int]:
    """The bytes and inodes below this place.

    A file with several names is one inode, but tmpfs counts each name.
    """
    counts_names = file_system(str(place)) == "tmpfs"
    found = {}
    for directory, names, files in os.walk(place):
        for path in [f"{directory}/{name}" for name in (*names, *files)]:
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                found[path if counts_names else status.st_ino] = status.st_blocks * 512
    return sum(found.values()), len(found)


def _remove(place: Path) -> str:
    place.rename(place.with_name("lost"))
    return "the store is removed"


def _remove_files(place: Path) -> str:
    for file in place.iterdir():
        file.unlink()
    return "the file is removed"
