"""Sweeping: an application that nobody has asked for in a day goes, while hits go on.

A directory of slots is removed in three steps, each of one system call that somebody wins:

1. Every slot is moved, by the name that says that it is idle, to ``.sweep-UNIQUE`` in the same directory.
   Whoever claims it at that moment wins, or looks again.
2. ``.sweep-UNIQUE``, with all slots in it, is moved out of the directory, to ``ROOT/.new-sweep-UNIQUE``.
   Until then the directory is not empty, so nobody furnishes it anew.
3. What is empty is removed.  If it has been furnished meanwhile, that fails.

A hit that finds such a directory ends that sweep: it renames ``.sweep-UNIQUE`` to ``.back-UNIQUE``,
which step 2 can no longer find, and moves the slots back.  So does a sweeper that lost a slot.  At most one of
step 2 and this renaming succeeds; so at any time there is each slot once, or, when all were idle, none
and room for new ones.  It holds with any number of sweepers, and wherever one of them dies.
"""

import errno
import posix

from limiter.burst import Burst
from limiter.fixed import Fixed
from limiter.furnish import must_exist, one_each
from limiter.hit import clock
from limiter.limit import SECOND, SEGMENT, Limit, Sliding, is_name, number_of, time_of
from limiter.store import Store, failure, is_app, is_lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400.0
"""Seconds after which an application is idle."""

_HOUR = 3_600.0
_SEIZED = ".sweep-"
_RETURNED = ".back-"
_ASIDE = ".new-"
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


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

    ``clock`` returns microseconds since the epoch.  Raises StoreError.
    """
    must_exist(store)
    swept = Swept()
    for name in store.names("."):
        if name.startswith(_ASIDE):
            swept.leftovers += _sweep_leftover(store, name, clock)
        elif is_app(name):
            swept.applications += 1
            swept.removed += sweep_app(store, name, idle, clock)
    return swept


def sweep_app(store: Store, app: str, idle: float, clock: "Callable[[], int]" = clock) -> bool:
    """Remove an application if all its limits are idle; whether it has gone.  Raises StoreError."""
    now = clock()
    furniture = _furniture(store, app, int(idle * SECOND), now)
    if furniture is None:
        return False
    # The last segment first: a hit looks for it only behind those before.
    for directory in sorted(furniture, reverse=True):
        if furniture[directory] and not _seize(store, directory, furniture[directory]):
            return False
        if not _remove_empty(f"{store.root}/{directory}"):
            return False
    return _remove_empty(f"{store.root}/{app}")


def give_back(store: Store, directory: str) -> bool:
    """End all sweeps of a directory: each slot that a sweeper has moved aside is moved back.

    Whether there were any.  Raises StoreError.
    """
    found = False
    for name in store.names(directory):
        returned = name
        if name.startswith(_SEIZED):
            returned = _RETURNED + name[len(_SEIZED) :]
            store.rename(directory, name, returned)
        if returned.startswith(_RETURNED):
            found = True
            for slot in store.names(f"{directory}/{returned}"):
                store.rename(directory, f"{returned}/{slot}", slot)
            # A slot that a sweeper was just moving may have come after the listing: the next hit's affair.
            _remove_empty(f"{store.root}/{directory}/{returned}")
    return found


def _furniture(store: Store, app: str, idle: int, now: int) -> "dict[str, list[str]] | None":
    """The directories of an application and the names in each; None: not idle, or not only ours."""
    furniture = {}
    for name in _names(store, app):
        directory = f"{app}/{name}"
        limit, segment = _limit(name)
        if limit is None:
            return None
        names = _names(store, directory)
        if any([name.startswith((_SEIZED, _RETURNED)) for name in names]):
            give_back(store, directory)  # of a sweeper that died: nobody has asked since
            names = _names(store, directory)
        since = now - max(idle, limit.window)
        if len(names) > limit.size(segment) and all(map(is_name, names)):
            names = one_each(store, directory, sorted(names), limit.size(segment), since)
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
    """Whether these are all names of the directory, and each was taken at that time or before."""
    if len(names) != limit.size(segment) or not all([is_name(name) for name in names]):
        return False
    numbers = sorted([number_of(name) - segment * SEGMENT for name in names])
    if isinstance(limit, Sliding) and numbers != list(range(limit.size(segment))):
        return False
    return time_of(max(names)) <= since


def _seize(store: Store, directory: str, names: "list[str]") -> bool:
    """Take all slots out of a directory, or none; False: a hit was faster."""
    unique = posix.urandom(8).hex()
    seized, away = f"{_SEIZED}{unique}", f"{store.root}/{_ASIDE}sweep-{unique}"
    path = f"{store.root}/{directory}/{seized}"
    try:
        posix.mkdir(path)
    except OSError as error:
        if is_lost(error):
            return False
        raise failure(error, path) from error
    for name in names:
        if not store.rename(directory, name, f"{seized}/{name}"):
            give_back(store, directory)
            return False
    try:
        posix.rename(path, away)
    except OSError as error:
        if is_lost(error):
            return False
        raise failure(error, path) from error
    remove(away)
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
        return _remove_empty(path)
    except OSError as error:
        if not is_lost(error):
            raise failure(error, path) from error
    return True


def _remove_empty(path: str) -> bool:
    """Remove a directory if it is empty; whether it has gone."""
    try:
        posix.rmdir(path)
    except OSError as error:
        if error.errno in _NOT_EMPTY:
            return False
        if not is_lost(error):
            raise failure(error, path) from error
    return True
