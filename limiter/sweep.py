"""Sweeping: an application that nobody has asked for in a day goes, while hits go on.

All renames are within one directory, of empty files, as those of hits are: of all that a replicated file system
does, this alone keeps its promises when several nodes do it at once.  A directory of slots is removed so:

1. A mark is made in it, the empty file ``.sweep-UNIQUE``.
2. Every slot is renamed, from the name that says that it is idle, to ``.slot-UNIQUE-NAME``.  Whoever claims it at
   that moment wins, or looks again.
3. If a further listing shows no slot, the mark is renamed to ``.gone-UNIQUE``.  Now all slots are the sweeper's for
   good, and nobody else's.  (The first listing may have lacked one that was just being claimed.)
4. These are removed, then the mark, then the directory if it is empty.  Until then nobody furnishes it anew.

A hit that finds ``.sweep-UNIQUE`` ends that sweep: it renames the mark to ``.back-UNIQUE``, which step 3 can no
longer find, and makes slots of ``.slot-UNIQUE-NAME`` again.  So does a sweeper that lost a slot.  A hit that finds
``.gone-UNIQUE`` does step 4.  At most one of step 3 and this renaming succeeds; so at any time there is each slot
once, or, when all were idle, none and room for new ones.  It holds with any number of sweepers, and wherever one
of them dies.

Where a whole machine dies that keeps a copy of a replicated store, the step that it was at may be done on some copies
only.  GlusterFS then refuses what it cannot decide until that machine is back (the hit fails, for
``LIMITER_ON_ERROR``), and healed it shows both: what there was and what there was to be.  That is one of the
states above, or one in which a slot has two names, which ``limiter.furnish`` ends; only if slots were just being
removed, one of these may come back alone, and the application has that one until it is idle and swept again.
"""

import errno
import posix

from limiter.burst import Burst
from limiter.fixed import Fixed
from limiter.furnish import must_exist, one_each, remove_empty, unlink, unused
from limiter.hit import clock
from limiter.limit import SECOND, SEGMENT, Limit, Sliding, is_name, number_of, time_of
from limiter.store import Store, StoreError, failure, is_app, is_lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400.0
"""Seconds after which an application is idle."""

_HOUR = 3_600.0
_SWEEP = ".sweep-"
_BACK = ".back-"
_GONE = ".gone-"
_SLOT = ".slot-"
_ASIDE = ".new-"
# Of a directory from which slots are removed: the last shows none.
_LISTINGS = 10


class Swept:
    """What a sweep did: ``removed`` of so many ``applications``, and ``leftovers`` of dead processes."""

    def __init__(self) -> None:
        self.applications = self.removed = self.leftovers = 0

    def __str__(self) -> str:
        return (
            f"{self.removed} of {self.applications} applications removed,"
            f" {self.leftovers} leftovers of dead processes removed"
        )


def sweep(root: str, idle: float = DAY) -> int:
    """Sweep the store as its owner, print what was done; the status to exit with, 0.

    ``idle``: the seconds for which nothing has been taken; a limit's window if that is longer.  Raises
    StoreError.
    """
    from limiter.owner import become_owner

    become_owner(root)
    print(f"{root}: {sweep_store(Store(root), idle)}")
    return 0


def sweep_store(store: Store, idle: float = DAY, clock: "Callable[[], int]" = clock) -> Swept:
    """Remove every application that is idle, and what processes that died an hour ago have left.

    ``clock`` returns microseconds since the epoch.  Raises StoreError; where that concerns one application or
    leftover, at the end: it keeps none of the others.
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
    """Remove an application if all its limits are idle; whether it has gone.  Raises StoreError."""
    now = clock()
    furniture = _furniture(store, app, int(idle * SECOND), now)
    if furniture is None:
        return False
    _must_be_whole(store.root)
    # The last segment first: a hit looks for it only behind those before.
    for directory in sorted(furniture, reverse=True):
        if furniture[directory] and not _seize(store, directory, furniture[directory]):
            return False
        if not remove_empty(f"{store.root}/{directory}"):
            return False
    return remove_empty(f"{store.root}/{app}")


def _must_be_whole(root: str) -> None:
    """Raise StoreError if one of the copies of a GlusterFS store is away.

    What is removed meanwhile comes back with that copy, and until all are healed two machines can furnish it
    at once, so that each of them has all its slots: 37 of 573 that were hit on two machines in the moment of such
    a return.  (GlusterFS does not count ENOTEMPTY as a failure when it looks for a majority.)  Its
    attribute for split-brain is there for every user, and EAGAIN when a copy is away.
    """
    if not hasattr(posix, "getxattr"):
        return  # nor is there GlusterFS
    try:
        posix.getxattr(root, "replica.split-brain-status")
    except OSError as error:
        if error.errno == errno.EAGAIN:
            why = "A copy of the store is away: nothing is removed (sweep when it is back)"
            raise StoreError(error.errno, why, root) from error


def give_back(store: Store, directory: str) -> bool:
    """End all sweeps of a directory: each slot that a sweeper has set aside is a slot again.

    What a sweeper has wholly is removed instead.  Whether there was anything of this.  Raises StoreError.
    """
    before = _marks(store.names(directory))
    for unique in before[_SWEEP]:
        if unique in before[_BACK]:
            # A machine has died within this very renaming.  Both are one file, of which a rename does nothing.
            unlink(f"{store.root}/{directory}/{_BACK}{unique}")
        store.rename(directory, _SWEEP + unique, _BACK + unique)
    # Only now it is certain of each of these sweeps whether it has been ended.
    names = store.names(directory)
    after = _marks(names)
    for unique in after[_GONE]:
        _clear(store, directory, unique)
    for name in names:
        unique, _, slot = name[len(_SLOT) :].partition("-")
        if name.startswith(_SLOT) and (unique in after[_BACK] or not _is_known(unique, before, after)):
            # Whoever knows an old name must not claim it; and a machine that still has one takes both for the
            # same file, of which a rename does nothing.
            store.rename(directory, name, unused(slot))
    for unique in after[_BACK]:
        # A slot that its sweeper was just seizing may have come after the listing: the next hit's affair.
        unlink(f"{store.root}/{directory}/{_BACK}{unique}")
    return any([*before.values(), *after.values()]) or any([name.startswith(_SLOT) for name in names])


def _marks(names: "list[str]") -> "dict[str, list[str]]":
    """What is UNIQUE in the marks of each kind."""
    return {
        kind: [name[len(kind) :] for name in names if name.startswith(kind)]
        for kind in (_SWEEP, _BACK, _GONE)
    }


def _is_known(unique: str, *marks: "dict[str, list[str]]") -> bool:
    """Whether a sweep has a mark.  A slot without is left of one that had been ended before it died."""
    return any([unique in known for kinds in marks for known in kinds.values()])


def _clear(store: Store, directory: str, unique: str) -> None:
    """Remove what a sweeper has wholly; its mark last, so that nobody takes the slots for lost ones."""
    for _ in range(_LISTINGS):
        slots = [name for name in store.names(directory) if name.startswith(f"{_SLOT}{unique}-")]
        for name in slots:
            unlink(f"{store.root}/{directory}/{name}")
        if not slots:
            break
    else:
        return  # whatever keeps them there, the mark must stay beside them
    unlink(f"{store.root}/{directory}/{_GONE}{unique}")
    remove_empty(f"{store.root}/{directory}")


def _furniture(store: Store, app: str, idle: int, now: int) -> "dict[str, list[str]] | None":
    """The directories of an application and the names in each; None: not idle, or not only ours."""
    furniture = {}
    for name in _names(store, app):
        directory = f"{app}/{name}"
        limit, segment = _limit(name)
        if limit is None:
            return None
        names = _names(store, directory)
        if any([name.startswith((_SWEEP, _BACK, _GONE, _SLOT)) for name in names]):
            give_back(store, directory)  # of a sweeper that died: nobody has asked since
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
            return [""]  # some file: no limit and no slot has this name
        raise


def _limit(name: str) -> "tuple[Limit | None, int]":
    """The limit that a directory is named for, if for any, and which of its segments it is."""
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
    """Whether these are names of its slots, and each was taken at that time or before.

    A slot may be missing for good, where a machine died while it removed them: then the others go, too.
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
    """Take all slots out of a directory, or none; False: a hit was faster."""
    unique = posix.urandom(8).hex()
    path = f"{store.root}/{directory}/{_SWEEP}{unique}"
    try:
        posix.close(posix.open(path, posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY, 0o600))
    except OSError as error:
        if is_lost(error):
            return False
        raise failure(error, path) from error
    is_ours = (
        all(store.rename(directory, name, f"{_SLOT}{unique}-{name}") for name in names)
        and not any(map(is_name, store.names(directory)))
        and store.rename(directory, f"{_SWEEP}{unique}", f"{_GONE}{unique}")
    )
    if not is_ours:
        give_back(store, directory)
        return False
    _clear(store, directory, unique)
    return True


def _sweep_leftover(store: Store, name: str, clock: "Callable[[], int]") -> bool:
    """Remove something that has been furnished for an hour; whether it was there."""
    path, away = f"{store.root}/{name}", f"{store.root}/{_ASIDE}sweep-{posix.urandom(8).hex()}"
    try:
        if posix.lstat(path).st_mtime_ns // 1000 > clock() - _HOUR * SECOND:
            return False
        # If it is being furnished yet, it must not arrive half removed.
        posix.rename(path, away)
    except OSError as error:
        if is_lost(error):
            return False
        raise failure(error, path) from error
    remove(away)
    return True


def remove(path: str) -> bool:
    """Remove a file, or a directory with all that is in it, that nobody else uses; whether it has gone.

    Raises StoreError.
    """
    try:
        posix.unlink(path)
    except (IsADirectoryError, PermissionError):
        for name in Store(path).names("."):
            remove(f"{path}/{name}")
        return remove_empty(path)
    except OSError as error:
        if not is_lost(error):
            raise failure(error, path) from error
    return True
