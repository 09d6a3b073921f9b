"""The sweep: remove applications that got no hit for a day, while hits go on.

docs/store-format.md states the steps, and what holds if a sweeper or a machine dies.  All renames are
of empty files within one directory, as those of hits are.  On a replicated file system, this is the only
operation that keeps its promises when several nodes do it at once.
"""

import errno
import posix

from limiter.core.furnish import create, must_exist
from limiter.core.limit import SECOND, clock, is_name, time_of
from limiter.core.notation import limit_of
from limiter.core.privileges import become_owner
from limiter.core.removal import remove, remove_empty
from limiter.core.repair import ASIDE, GONE, SLOT, SWEEP, clear, give_back, one_each
from limiter.core.store import Store, StoreError, done, is_app, is_lost, patiently

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400.0
"""Seconds after which an application is idle."""

_HOUR = 3_600.0
_NEW = ".new-"


class Swept:
    """What a sweep did: applications found, and removed; leftovers of dead processes removed."""

    def __init__(self) -> None:
        self.applications = self.removed = self.leftovers = 0


def sweep(root: str, idle: float = DAY) -> int:
    """Sweep the store as its owner, and print what was done.  Returns the exit status, 0.

    An application is ``idle`` without a hit for so many seconds, or for the window of a limit if that is
    longer.  Raises StoreError.
    """
    become_owner(root)
    swept = sweep_store(Store(root), idle)
    applications = f"{swept.removed} of {swept.applications} applications removed"
    print(f"{root}: {applications}, {swept.leftovers} leftovers of dead processes removed")
    return 0


def sweep_store(store: Store, idle: float = DAY, clock: "Callable[[], int]" = clock) -> Swept:
    """Remove every idle application, and what processes left behind that died an hour ago.

    ``idle`` is in seconds; ``clock`` returns microseconds since the epoch.  Raises the first StoreError at
    the end, so that all others are swept.
    """
    patiently(must_exist, store)
    swept = Swept()
    failures = []
    for name in patiently(store.names, "."):
        try:
            if name.startswith(_NEW):
                swept.leftovers += patiently(_sweep_leftover, store, name, clock)
            elif is_app(name):
                swept.applications += 1
                swept.removed += patiently(sweep_app, store, name, idle, clock)
        except StoreError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return swept


def sweep_app(store: Store, app: str, idle: float, clock: "Callable[[], int]" = clock) -> bool:
    """Remove an application if all its limits are idle.  Returns whether it is gone.  Raises StoreError."""
    furniture = _furniture(store, app, int(idle * SECOND), clock())
    if furniture is None:
        return False
    _must_be_whole(store.root)
    # Remove the last segment first: a hit looks at a segment only after those before it.
    for directory in sorted(furniture, reverse=True):
        if furniture[directory] and not _seize(store, directory, furniture[directory]):
            return False
        if not remove_empty(f"{store.root}/{directory}"):
            return False
    return remove_empty(f"{store.root}/{app}")


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


def _furniture(store: Store, app: str, idle: int, now: int) -> "dict[str, list[str]] | None":
    """The directories of an application, and the names in each.

    None: it is not idle, or it holds files that are not ours.  Slots may be missing for good if a machine
    died while it removed them.
    """
    furniture = {}
    for name in _names(store, app):
        directory = f"{app}/{name}"
        found = limit_of(name)
        if found is None:
            return None
        limit, segment = found
        names = _names(store, directory)
        if any([name.startswith(ASIDE) for name in names]):
            give_back(store, directory)  # a sweeper died here, and no hit came since
            names = _names(store, directory)
        since = now - max(idle, limit.window)
        if len(names) > limit.size(segment) and all(map(is_name, names)):
            names = one_each(store, directory, sorted(names), limit.size(segment), since) or [""]
        if names and not (limit.owns(names, segment) and time_of(max(names)) <= since):
            return None
        furniture[directory] = names
    return furniture


def _names(store: Store, directory: str) -> "list[str]":
    try:
        return store.names(directory)
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            return [""]  # it is a file: no limit and no slot has this name
        raise


def _seize(store: Store, directory: str, names: "list[str]") -> bool:
    """Take all slots out of a directory, or none.  False: a hit claimed one first."""
    unique = posix.urandom(8).hex()
    if not done(create, f"{store.root}/{directory}/{SWEEP}{unique}"):
        return False
    is_ours = (
        all(store.rename(directory, name, f"{SLOT}{unique}-{name}") for name in names)
        and not any(map(is_name, store.names(directory)))
        and store.rename(directory, f"{SWEEP}{unique}", f"{GONE}{unique}")
    )
    if is_ours:
        clear(store, directory, unique)
    else:
        give_back(store, directory)
    return is_ours


def _sweep_leftover(store: Store, name: str, clock: "Callable[[], int]") -> bool:
    """Remove a directory that was being furnished an hour ago.  Returns whether it is gone."""
    path, away = f"{store.root}/{name}", f"{store.root}/{_NEW}sweep-{posix.urandom(8).hex()}"
    try:
        if posix.lstat(path).st_mtime_ns // 1000 > clock() - _HOUR * SECOND:
            return False
    except OSError as error:
        if is_lost(error):
            return False
        raise StoreError.of(error, path) from error
    # If a process still furnishes it, it must not arrive half removed.
    return done(posix.rename, path, away) and patiently(remove, away)
