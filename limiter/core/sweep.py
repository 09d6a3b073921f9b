"""The sweep: remove applications that got no hit for a day, while hits go on.

All renames are of empty files within one directory, as those of hits are.  On a replicated file system,
this is the only operation that keeps its promises when several nodes do it at once.  A directory of
slots is removed in these steps:

1. Make a mark in it, the empty file ``.sweep-UNIQUE``.
2. Rename every slot from the name that says that it is idle to ``.slot-UNIQUE-NAME``.  A hit that
   claims the slot at that moment wins, or looks again.
3. If a further listing shows no slot, rename the mark to ``.gone-UNIQUE``.  Now all slots belong to this
   sweeper for good.  (The first listing may have missed a slot that was just being claimed.)
4. Remove the slots, then the mark, then the directory if it is empty.  Until then nobody furnishes it
   again.

A hit that finds ``.sweep-UNIQUE`` ends that sweep.  It renames the mark to ``.back-UNIQUE``, so step 3
can no longer find it.  Then it makes each ``.slot-UNIQUE-NAME`` a slot again.  A sweeper that lost a
slot does the same.  A hit that finds ``.gone-UNIQUE`` does step 4.  At most one of step 3 and the rename
to ``.back-UNIQUE`` succeeds.  So at any time each slot exists once.  Or, if all were idle, none exists
and there is room for new ones.  This holds for any number of sweepers, and wherever one of them dies.

A whole machine may die that keeps a copy of a replicated store.  Then its last step may be done on some
copies only.  Until that machine is back, GlusterFS refuses what it cannot decide: the hit fails, and
``LIMITER_ON_ERROR`` applies.  After healing, GlusterFS shows both the old state and the new one.  That
is one of the states above, or one in which a slot has two names; ``limiter.core.repair`` ends the
latter.  There is one exception.  If slots were just being removed, one of them may come back alone.
The application then has only that one until it is idle and swept again.
"""

import errno
import posix

from limiter.core.burst import Burst
from limiter.core.fixed import Fixed
from limiter.core.furnish import must_exist, remove_empty
from limiter.core.limit import SECOND, SEGMENT, Limit, Sliding, clock, is_name, number_of, time_of
from limiter.core.repair import BACK, GONE, SLOT, SWEEP, clear, give_back, one_each
from limiter.core.store import Store, StoreError, is_app, is_lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400.0
"""Seconds after which an application is idle."""

_HOUR = 3_600.0
_ASIDE = ".new-"


class Swept:
    """What a sweep did.

    ``applications``: how many it found; ``removed``: how many of these it removed; ``leftovers``: how
    many leftovers of dead processes it removed.
    """

    def __init__(self) -> None:
        self.applications = self.removed = self.leftovers = 0

    def __str__(self) -> str:
        return (
            f"{self.removed} of {self.applications} applications removed,"
            f" {self.leftovers} leftovers of dead processes removed"
        )


def sweep(root: str, idle: float = DAY) -> int:
    """Sweep the store as its owner, and print what was done.  Returns the exit status, 0.

    ``idle``: an application is idle if it got no hit for so many seconds, or for the window of its
    limit if that is longer.  Raises StoreError.
    """
    from limiter.core.privileges import become_owner

    become_owner(root)
    print(f"{root}: {sweep_store(Store(root), idle)}")
    return 0


def sweep_store(store: Store, idle: float = DAY, clock: "Callable[[], int]" = clock) -> Swept:
    """Remove every idle application, and what processes left behind that died an hour ago.

    ``idle`` is in seconds; ``clock`` returns microseconds since the epoch.  Raises StoreError.  An error
    of one application or leftover is raised at the end, so the others are swept all the same.
    """
    must_exist(store)
    swept = Swept()
    failures = []
    for name in store.names("."):
        try:
            if name.startswith(_ASIDE):
                swept.leftovers += _sweep_leftover(store, name, clock)
            elif is_app(name):
                swept.applications += 1
                swept.removed += sweep_app(store, name, idle, clock)
        except StoreError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return swept


def sweep_app(store: Store, app: str, idle: float, clock: "Callable[[], int]" = clock) -> bool:
    """Remove an application if all its limits are idle.  Returns whether it is gone.

    Raises StoreError.
    """
    now = clock()
    furniture = _furniture(store, app, int(idle * SECOND), now)
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
    """Raise StoreError if one of the copies of a GlusterFS store is away.

    What is removed meanwhile comes back with that copy.  Until all copies are healed, two machines can
    furnish the same application at once, and each of them then has all slots.  This happened to 37 of
    573 applications that were hit on two machines at the moment of such a return.  (GlusterFS does not
    count ENOTEMPTY as a failure when it looks for a majority.)  Every user can read the GlusterFS
    attribute for split-brain.  It gives EAGAIN when a copy is away.
    """
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

    None: it is not idle, or it holds files that are not ours.
    """
    furniture = {}
    for name in _names(store, app):
        directory = f"{app}/{name}"
        limit, segment = _limit(name)
        if limit is None:
            return None
        names = _names(store, directory)
        if any([name.startswith((SWEEP, BACK, GONE, SLOT)) for name in names]):
            give_back(store, directory)  # a sweeper died here, and no hit came since
            names = _names(store, directory)
        since = now - max(idle, limit.window)
        if len(names) > limit.size(segment) and all(map(is_name, names)):
            names = one_each(store, directory, sorted(names), limit.size(segment), since) or [""]
        if names and not _is_idle(limit, segment, names, since):
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


def _limit(name: str) -> "tuple[Limit | None, int]":
    """The limit that a directory is named for, or None, and the number of its segment."""
    quota, *rest = name.partition(".")[0].replace("-per-", "-").split("-")
    numbers = [quota, rest[0][:-1] if rest else "", *rest[2:]]
    if not all([text.isascii() and text.isdigit() and int(text) for text in numbers]):
        return None, 0
    hits, window = int(quota), int(numbers[1]) * SECOND
    limit: Limit
    if len(rest) == 3:
        limit = Burst(hits, window, int(rest[2]))
    elif len(rest) == 2:
        limit = Fixed(hits, window)
    else:
        limit = Sliding(hits, window)
    for number in range(limit.segments):
        if limit.directory(number) == name:
            return limit, number
    return None, 0


def _is_idle(limit: Limit, segment: int, names: "list[str]", since: int) -> bool:
    """Whether these are names of the limit's slots, and each was last taken at ``since`` or before.

    A slot may be missing for good if a machine died while it removed them.  Then the others go too.
    """
    if len(names) > limit.size(segment) or not all([is_name(name) for name in names]):
        return False
    numbers = {number_of(name) - segment * SEGMENT for name in names}
    if isinstance(limit, Sliding) and (
        len(numbers) < len(names) or not numbers <= set(range(limit.size(segment)))
    ):
        return False
    return time_of(max(names)) <= since


def _seize(store: Store, directory: str, names: "list[str]") -> bool:
    """Take all slots out of a directory, or none.  False: a hit was faster."""
    unique = posix.urandom(8).hex()
    path = f"{store.root}/{directory}/{SWEEP}{unique}"
    try:
        posix.close(posix.open(path, posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY, 0o600))
    except OSError as error:
        if is_lost(error):
            return False
        raise StoreError.of(error, path) from error
    is_ours = (
        all(store.rename(directory, name, f"{SLOT}{unique}-{name}") for name in names)
        and not any(map(is_name, store.names(directory)))
        and store.rename(directory, f"{SWEEP}{unique}", f"{GONE}{unique}")
    )
    if not is_ours:
        give_back(store, directory)
        return False
    clear(store, directory, unique)
    return True


def _sweep_leftover(store: Store, name: str, clock: "Callable[[], int]") -> bool:
    """Remove a directory that was being furnished an hour ago.  Returns whether it was there."""
    path, away = f"{store.root}/{name}", f"{store.root}/{_ASIDE}sweep-{posix.urandom(8).hex()}"
    try:
        if posix.lstat(path).st_mtime_ns // 1000 > clock() - _HOUR * SECOND:
            return False
        # If a process still furnishes it, it must not arrive half removed.
        posix.rename(path, away)
    except OSError as error:
        if is_lost(error):
            return False
        raise StoreError.of(error, path) from error
    remove(away)
    return True


def remove(path: str) -> bool:
    """Remove a file, or a directory and all that is in it.  Nobody else may use it.

    Returns whether it is gone.  Raises StoreError.
    """
    try:
        posix.unlink(path)
    except (IsADirectoryError, PermissionError):
        for name in Store(path).names("."):
            remove(f"{path}/{name}")
        return remove_empty(path)
    except OSError as error:
        if not is_lost(error):
            raise StoreError.of(error, path) from error
    return True
