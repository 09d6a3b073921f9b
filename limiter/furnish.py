"""What a store lacks: directories full of slots, and the default store itself.

Part of ``limiter.store``, whose format description says why it is done so; apart from it because
hardly any hit needs it.
"""

import errno
import posix

from limiter.limit import Limit, is_held, is_name, make, number_of, time_of
from limiter.store import Store, StoreError, failure, is_lost, patiently

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# Listings of a directory that shows too few slots.
_LISTINGS = 4
# Of all listings: so many in a row that show a sweep, or nothing, are no sweep.
_ROUNDS = 1000
# Microseconds.
_LATER = 1000
_CREATE = posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY
_MISSING = "The store does not exist (make it, or set LIMITER_ROOT)"
_EXISTS = (errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK)

# Of st_mode, as in the module stat, whose import would cost more than these lines.
_TYPE = 0o170000
_DIRECTORY = 0o040000
_WRITABLE = 0o022  # by group or others


def complete(
    store: Store,
    limits: "Sequence[Limit]",
    limit: Limit,
    segment: int,
    app: str,
    names: "list[str]",
    now: int,
) -> "list[str]":
    """The names in a directory that shows too few or too many of them, one for each slot.

    It may not be there yet; then it is furnished, and with a first segment the other limits' too.  A
    sweeper may be at it; then the slots are taken back.  And a network file system may miss a slot that is
    being renamed, or show it twice: its newest name counts.  ``now`` is in microseconds.
    """
    directory = f"{app}/{limit.directory(segment)}"
    size = limit.size(segment)
    listings = 0
    chosen = None
    for _ in range(_ROUNDS):
        slots = {_slot(name, size): name for name in names if is_name(name)}
        if names and names[0] < "0" and _is_given_back(store, directory):
            pass  # each sweeper comes once, which is no reason to give up
        elif not names:  # not there yet, or swept meanwhile
            together = limits if segment == 0 else [limit]
            furnish(store, app, {it.directory(segment): it.fresh(segment) for it in together})
        elif len(slots) == size or listings == _LISTINGS:
            chosen = one_each(store, directory, names, size, now - limit.window)
            if chosen is not None:
                break
        else:
            listings += 1
        names = sorted(store.names(directory))
    if not chosen:
        why = "A limit's directory stays without slots, or holds something else (remove it)"
        raise StoreError(errno.ENOENT, why, f"{store.root}/{directory}")
    return chosen


def one_each(
    store: Store, directory: str, names: "list[str]", size: int, since: int
) -> "list[str] | None":
    """The newest name of each slot, of sorted names; None: somebody else was at one, list again.

    A machine that dies within a rename may leave both names for good.  Then the newest is renamed to one
    microsecond later, as a listing may show what is not there, or what is about to be given back; and the older
    ones are removed, each by one winner, before anybody may claim it: whoever still knows an older one only cannot
    claim that any more.  While the newest is not older than ``since``, in microseconds, nobody can claim it.
    """
    slots: dict[str, list[str]] = {}
    for name in filter(is_name, names):
        slots.setdefault(_slot(name, size), []).append(name)
    for known in slots.values():
        *older, newest = known
        if not older or time_of(newest) >= since:
            continue
        if not time_of(older[0]):
            # It was never taken, and may be that of a new directory by now: it must not be removed.
            store.rename(directory, older[0], unused(newest))
            return None
        known[-1] = make(time_of(newest) + 1, False, number_of(newest))
        if not store.rename(directory, newest, known[-1]):
            known[-1] = newest  # which nobody can claim
            continue
        if not all([unlink(f"{store.root}/{directory}/{name}") for name in older]):
            return None
    return sorted([known[-1] for known in slots.values()])


def unused(name: str) -> str:
    """A name that the slot never had nor will have again, taken up to a millisecond later.

    Nobody can know it, and so nobody can claim it who has not seen what there is beside it.
    """
    later = time_of(name) + 1 + int.from_bytes(posix.urandom(4), "big") % _LATER
    return make(later, is_held(name), number_of(name))


def unlink(path: str) -> bool:
    """Remove a file.  Of all who try, at most one gets True.  Raises StoreError."""
    try:
        posix.unlink(path)
    except OSError as error:
        if is_lost(error):
            return False
        raise failure(error, path) from error
    return True


def remove_empty(path: str) -> bool:
    """Remove a directory if it is empty; whether it has gone.  Raises StoreError."""
    try:
        posix.rmdir(path)
    except OSError as error:
        if error.errno in _EXISTS:
            return False
        if not is_lost(error):
            raise failure(error, path) from error
    return True


def _slot(name: str, size: int) -> str:
    """What the names of one slot have in common; the numbers of a fixed or burst limit tell no slots apart."""
    return name[18:] if size > 1 else ""


def _is_given_back(store: Store, directory: str) -> bool:
    from limiter.sweep import give_back

    return give_back(store, directory)


def furnish(store: Store, app: str, furniture: "dict[str, list[str]]") -> None:
    """Make the directories ``app/NAME``, each with its names, that are not there yet, or empty.

    Raises StoreError; then nothing is left behind but, where even removing fails, a ``.new-UNIQUE``.
    """
    there = store.names(app)
    if not there and _arrive(store.root, app, furniture):
        return
    for name, files in furniture.items():
        directory = f"{app}/{name}"
        # An empty one goes first.  Where a machine has died while it removed the last file of it, a rename onto it
        # would make two different directories of that name on a replicated file system, for good.
        if name in there and (store.names(directory) or not remove_empty(f"{store.root}/{directory}")):
            continue
        _arrive(store.root, directory, {"": files})


def must_exist(store: Store) -> None:
    """Raise StoreError unless there is a store at all: one that is empty looks like one that is missing."""
    try:
        posix.stat(f"{store.root}/.")
    except FileNotFoundError as error:
        raise StoreError(error.errno, _MISSING, store.root) from error
    except OSError as error:
        raise failure(error, store.root) from error


def _arrive(root: str, directory: str, furniture: "dict[str, list[str]]") -> bool:
    """Fill a directory aside and rename it into place; False if another was there first."""
    aside = f"{root}/.new-{posix.urandom(8).hex()}"
    try:
        posix.mkdir(aside)
    except FileNotFoundError as error:
        raise StoreError(error.errno, _MISSING, root) from error
    except OSError as error:
        _try(posix.rmdir, aside)  # it may have been made all the same
        raise failure(error, aside) from error
    try:
        for name, files in furniture.items():
            inner = f"{aside}/{name}" if name else aside
            if name:
                posix.mkdir(inner)
            for file in files:
                posix.close(posix.open(f"{inner}/{file}", _CREATE, 0o600))
    except OSError as error:
        _discard(aside, furniture)
        raise failure(error, aside) from error
    try:
        posix.rename(aside, f"{root}/{directory}")
    except OSError as error:
        _discard(aside, furniture)
        if error.errno in _EXISTS or is_lost(error):
            return False
        raise failure(error, f"{root}/{directory}") from error
    # GlusterFS does not count ENOTEMPTY against a majority: a copy that has just come back, to this client and not
    # yet to the one that was first, makes a rename succeed that all others refuse.  There it still has its old name.
    try:
        posix.lstat(aside)
    except OSError as error:
        if is_lost(error):
            return True
        raise failure(error, aside) from error
    _discard(aside, furniture)
    return False


def default_root(temporary: str) -> str:
    """The store for whoever names none: ``limiter-UID`` in that directory, made when missing.

    Anyone may write to a temporary directory, so what is found there is believed only if it is a
    directory, no link, the user's own, and writable by nobody else; otherwise StoreError.
    """
    return patiently(_default_root, temporary)


def _default_root(temporary: str) -> str:
    user = posix.geteuid()
    path = f"{temporary}/limiter-{user}"
    try:
        try:
            found = posix.lstat(path)
        except FileNotFoundError:
            try:
                posix.mkdir(path, 0o700)
            except FileExistsError:
                pass  # made by another of this user's processes, or planted: look
            found = posix.lstat(path)
    except OSError as error:
        raise failure(error, path) from error
    if found.st_mode & _TYPE != _DIRECTORY or found.st_uid != user or found.st_mode & _WRITABLE:
        why = "Not a directory of this user's own, so it is not trusted (set LIMITER_ROOT)"
        raise StoreError(errno.EPERM, why, path)
    return path


def _discard(aside: str, furniture: dict[str, list[str]]) -> None:
    """Remove as much as there is of a directory that did not arrive; the error that led here counts."""
    for name, files in furniture.items():
        inner = f"{aside}/{name}" if name else aside
        for file in files:
            _try(posix.unlink, f"{inner}/{file}")
        if name:
            _try(posix.rmdir, inner)
    _try(posix.rmdir, aside)


def _try(remove: "Callable[[str], None]", path: str) -> None:
    try:
        remove(path)
    except OSError:
        pass
