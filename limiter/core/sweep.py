"""The sweep: remove the directories of clients that got no hit for an hour, while hits go on.

docs/store-format.md states the steps, and what holds if a sweeper or a machine dies.  It takes one rename
of an empty file within its directory, as a hit does.  On a replicated file system, this is the only
operation that keeps its promises when several nodes do it at once.
"""

import errno
import posix

from limiter.core.directories import GONE, contents, limit_of
from limiter.core.furnish import must_exist
from limiter.core.limit import SECOND, Limit, clock, time_of
from limiter.core.privileges import become_owner
from limiter.core.removal import remove, remove_empty
from limiter.core.repair import LISTINGS, clear, one_each, settle
from limiter.core.space import is_running_short
from limiter.core.store import Store, StoreError, done, is_app, is_lost, patiently

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3_600.0
"""Seconds after which a directory is idle."""

GRACE = 60 * SECOND
"""How much longer than its window a directory stays.

A hit that stalls for longer between its look and its claim, or a clock that is wrong by more, may leave a
directory with some of its slots.
"""

_NEW = ".new-"


class Swept:
    """What a sweep did: directories found, and removed; leftovers of dead processes removed."""

    def __init__(self) -> None:
        self.directories = self.removed = self.leftovers = 0


def sweep(root: str, idle: float = HOUR) -> int:
    """Sweep the store as its owner, and print what was done.  Returns the exit status, 0.

    A directory is ``idle`` without a hit for so many seconds, or for its limit's window and a minute if
    that is longer.  A tenth of ``idle`` is enough if inodes or bytes run short.  Raises StoreError.
    """
    become_owner(root)
    store = Store(root)
    is_short = patiently(is_running_short, root)
    swept = sweep_store(store, idle / 10 if is_short else idle)
    directories = f"{swept.removed} of {swept.directories} directories removed"
    short = ", sooner as inodes or bytes run short" if is_short else ""
    print(f"{root}: {directories}{short}, {swept.leftovers} leftovers of dead processes removed")
    return 0


def sweep_store(store: Store, idle: float = HOUR, clock: "Callable[[], int]" = clock) -> Swept:
    """Remove every idle directory, and what processes left behind that died an hour ago.

    ``idle`` is in seconds; ``clock`` returns microseconds since the epoch.  Raises the first StoreError at
    the end, so that all others are swept.
    """
    patiently(must_exist, store.root)
    swept = Swept()
    failures = []
    names = set(patiently(store.names, "."))
    # The last segment first: a hit looks at one only after those before it, and counts on that order.
    for name in sorted(names, key=lambda it: (len(it), it), reverse=True):
        try:
            if name.startswith(_NEW):
                swept.leftovers += patiently(_sweep_leftover, store, name, clock)
                continue
            limit, segment, following = _parsed(name)
            if limit is None:
                continue
            swept.directories += 1
            if following in names:
                continue
            if patiently(sweep_directory, store, name, limit, segment, idle, clock):
                swept.removed += 1
                names.discard(name)
        except StoreError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return swept


def _parsed(name: str) -> "tuple[Limit | None, int, str]":
    """The limit and the segment that a directory of the store is for, and the name of the next segment."""
    app, _, text = name.partition("@")
    found = limit_of(text) if is_app(app.removeprefix(".")) else None
    if found is None:
        return None, 0, ""
    limit, segment = found
    return limit, segment, f"{app}@{limit.directory(segment + 1)}"


def sweep_directory(
    store: Store,
    directory: str,
    limit: Limit,
    segment: int,
    idle: float,
    clock: "Callable[[], int]" = clock,
) -> bool:
    """Remove a directory if it is idle.  Returns whether it is gone.  Raises StoreError."""
    now = clock()  # before the look: what a sweeper has seen may be old
    seen, slots, marks = _look(store, directory, limit, segment)
    if marks:
        # Its sweeper died, or is at work.
        _must_be_whole(store.root)
        settle(store, directory, limit, slots, marks, now)
        seen, slots, marks = _look(store, directory, limit, segment)
    since = now - max(int(idle * SECOND), limit.window + GRACE)
    if seen.difference(slots) or not all([time_of(name) <= since for name in slots]):
        return False
    _must_be_whole(store.root)
    if len(slots) > len(set(map(limit.slot, slots))):
        one_each(store, directory, limit, slots, now)
        return False  # it is not idle any more
    return (
        _remove(store, directory, limit, slots) if slots else remove_empty(f"{store.root}/{directory}")
    )


def _look(
    store: Store, directory: str, limit: Limit, segment: int
) -> "tuple[set[str], list[str], list[str]]":
    """All names seen in a directory, and the slots and marks that are there.

    Looks again while slots are missing: a listing may lack the lowest that a hit was just renaming.
    """
    seen: set[str] = set()
    for _ in range(LISTINGS):
        names = _names(store, directory)
        seen.update(names)
        slots, marks = contents(names, limit, segment)
        if not names or len(slots) >= len(limit.numbers(segment)):
            break
    return seen, slots, marks


def _remove(store: Store, directory: str, limit: Limit, slots: "list[str]") -> bool:
    """Take the lowest slot, as a hit would that finds all free, and then remove all."""
    lowest = min(slots, key=limit.slot)
    if not store.rename(directory, lowest, GONE + lowest):
        return False
    return clear(store, directory, [it for it in slots if it != lowest], GONE + lowest)


def _must_be_whole(root: str) -> None:
    """Raise StoreError if a copy of a GlusterFS store is away: its attribute for split-brain shows this."""
    if not hasattr(posix, "getxattr"):
        return  # such a system has no GlusterFS either
    try:
        posix.getxattr(root, "replica.split-brain-status")
    except OSError as error:
        if error.errno == errno.EAGAIN:
            why = "A copy of the store is away: nothing is removed (sweep when it is back)"
            raise StoreError(error.errno, why, root) from error


def _names(store: Store, directory: str) -> "list[str]":
    try:
        return store.names(directory)
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            return [""]  # it is a file: no slot has this name
        raise


def _sweep_leftover(store: Store, name: str, clock: "Callable[[], int]") -> bool:
    """Remove a directory that was being furnished an hour ago.  Returns whether it is gone."""
    path, away = f"{store.root}/{name}", f"{store.root}/{_NEW}sweep-{posix.urandom(8).hex()}"
    try:
        if posix.lstat(path).st_mtime_ns // 1000 > clock() - HOUR * SECOND:
            return False
    except OSError as error:
        if is_lost(error):
            return False
        raise StoreError.of(error, path) from error
    # If a process still furnishes it, it must not arrive half removed.
    return done(posix.rename, path, away) and patiently(remove, away)
