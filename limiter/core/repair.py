"""Repair a directory of slots.  Hits and sweeps call this when they find one in disorder.

A listing may show slots twice or not at all.  A machine that died may have left a slot with two names.
A sweeper (``limiter.core.sweep``) may have set slots aside.  Very few hits need this module.
"""

import errno
import posix

from limiter.core.furnish import furnish, remove_empty
from limiter.core.limit import Limit, is_held, is_name, make, number_of, time_of
from limiter.core.store import Store, StoreError, is_lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SWEEP = ".sweep-"
BACK = ".back-"
GONE = ".gone-"
SLOT = ".slot-"
"""Prefixes of names: of the marks of a sweep, and of the slots that it has set aside."""

# How often to list a directory that shows too few slots.
_LISTINGS = 4
# How often to list at all.  If so many listings in a row show a sweep or nothing, the cause is no sweep.
_ROUNDS = 1000
# Microseconds.
_LATER = 1000
# How often to list a directory from which slots are removed.  The last listing shows none.
_CLEARINGS = 10


def complete(
    store: Store,
    limits: "Sequence[Limit]",
    limit: Limit,
    segment: int,
    app: str,
    names: "list[str]",
    now: int,
) -> "list[str]":
    """The names in a directory that shows too few or too many, one for each slot.

    If the directory is missing, it is furnished.  If it is a first segment, those of the other limits
    are furnished too.  If a sweeper works on it, the slots are taken back.  A network file system may
    miss a slot that is being renamed, or show it twice; then its newest name counts.

    ``names`` are sorted.  ``now`` is in microseconds.  Raises StoreError.
    """
    directory = f"{app}/{limit.directory(segment)}"
    size = limit.size(segment)
    listings = 0
    chosen = None
    for _ in range(_ROUNDS):
        slots = {_slot(name, size): name for name in names if is_name(name)}
        if names and names[0] < "0" and give_back(store, directory):
            pass  # each sweeper comes once, so go on
        elif not names:  # the directory is missing, or was swept meanwhile
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
    """The newest name of each slot, from sorted names.  None: another process changed one, list again.

    A machine that dies within a rename may leave both names for good.  Then the newest is renamed to
    one microsecond later.  This is needed because a listing may show a name that is not there, or one
    that is about to be given back.  After that the older names are removed, each by one winner, before
    anybody may claim the slot.  So a process that knows only an older name can no longer claim it.

    If the newest name is not older than ``since``, in microseconds, nobody can claim the slot yet.
    """
    slots: dict[str, list[str]] = {}
    for name in filter(is_name, names):
        slots.setdefault(_slot(name, size), []).append(name)
    for known in slots.values():
        *older, newest = known
        if not older or time_of(newest) >= since:
            continue
        if not time_of(older[0]):
            # This slot was never taken.  It may belong to a new directory by now, so do not remove it.
            store.rename(directory, older[0], unused(newest))
            return None
        known[-1] = make(time_of(newest) + 1, False, number_of(newest))
        if not store.rename(directory, newest, known[-1]):
            known[-1] = newest  # nobody can claim this name
            continue
        if not all([unlink(f"{store.root}/{directory}/{name}") for name in older]):
            return None
    return sorted([known[-1] for known in slots.values()])


def unused(name: str) -> str:
    """A name that the slot never had and will never have again, up to a millisecond later.

    Nobody can guess this name.  So a process can claim it only after it has seen the names beside it.
    """
    later = time_of(name) + 1 + int.from_bytes(posix.urandom(4), "big") % _LATER
    return make(later, is_held(name), number_of(name))


def unlink(path: str) -> bool:
    """Remove a file.  If several processes try, at most one gets True.  Raises StoreError."""
    try:
        posix.unlink(path)
    except OSError as error:
        if is_lost(error):
            return False
        raise StoreError.of(error, path) from error
    return True


def give_back(store: Store, directory: str) -> bool:
    """End all sweeps of a directory: each slot that a sweeper has set aside becomes a slot again.

    If a sweeper has all slots, they are removed instead.  Returns whether there was a sweep.  Raises
    StoreError.
    """
    before = _marks(store.names(directory))
    for unique in before[SWEEP]:
        if unique in before[BACK]:
            # A machine died within this same rename.  Both names are one file, so a rename does nothing.
            unlink(f"{store.root}/{directory}/{BACK}{unique}")
        store.rename(directory, SWEEP + unique, BACK + unique)
    # From here on it is certain for each of these sweeps whether it has been ended.
    names = store.names(directory)
    after = _marks(names)
    for unique in after[GONE]:
        clear(store, directory, unique)
    for name in names:
        unique, _, slot = name[len(SLOT) :].partition("-")
        if name.startswith(SLOT) and (unique in after[BACK] or not _is_known(unique, before, after)):
            # The name must be new.  A process that knows the old name must not claim it.  And a machine
            # that still has the old name takes both for the same file, so a rename would do nothing.
            store.rename(directory, name, unused(slot))
    for unique in after[BACK]:
        # The sweeper may have seized one more slot after the listing.  The next hit puts that right.
        unlink(f"{store.root}/{directory}/{BACK}{unique}")
    return any([*before.values(), *after.values()]) or any([name.startswith(SLOT) for name in names])


def _marks(names: "list[str]") -> "dict[str, list[str]]":
    """The UNIQUE parts of the marks, by kind."""
    return {
        kind: [name[len(kind) :] for name in names if name.startswith(kind)]
        for kind in (SWEEP, BACK, GONE)
    }


def _is_known(unique: str, *marks: "dict[str, list[str]]") -> bool:
    """Whether a sweep has a mark.

    A slot without a mark is left over from a sweep that was ended before its sweeper died.
    """
    return any([unique in known for kinds in marks for known in kinds.values()])


def clear(store: Store, directory: str, unique: str) -> None:
    """Remove the slots of a sweeper that has seized all of them.

    The mark is removed last, so that nobody takes the slots for lost ones.
    """
    for _ in range(_CLEARINGS):
        slots = [name for name in store.names(directory) if name.startswith(f"{SLOT}{unique}-")]
        for name in slots:
            unlink(f"{store.root}/{directory}/{name}")
        if not slots:
            break
    else:
        return  # the slots are still there, so the mark must stay beside them
    unlink(f"{store.root}/{directory}/{GONE}{unique}")
    remove_empty(f"{store.root}/{directory}")


def _slot(name: str, size: int) -> str:
    """What the names of one slot have in common.

    The number in a name of a fixed or burst limit does not identify a slot.
    """
    return name[18:] if size > 1 else ""
