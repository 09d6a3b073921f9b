"""Repair a directory of slots.  Hits and sweeps call this when they find one in disorder.

A listing may show slots twice or not at all.  A machine that died may have left a slot with two names.
A sweeper may have set slots aside.  docs/store-format.md states what is then done.  Very few hits need
this module.
"""

import errno
import posix

from limiter.core.furnish import furnish
from limiter.core.limit import Limit, is_name, is_provisional, make, number_of, time_of
from limiter.core.removal import remove_empty
from limiter.core.store import Store, StoreError, done

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SWEEP = ".sweep-"
BACK = ".back-"
GONE = ".gone-"
SLOT = ".slot-"
ASIDE = (SWEEP, BACK, GONE, SLOT)
"""Prefixes of names: of the marks of a sweep, and of the slots that it has set aside."""

_LATER = 1000  # microseconds
# How often to list: a directory that shows too few slots; one that is being furnished or swept; one from
# which slots are removed, whose last listing shows none.
_LISTINGS = 4
_ROUNDS = 1000
_CLEARINGS = 10


def complete(
    store: Store,
    app: str,
    together: "Sequence[Limit]",
    limit: Limit,
    segment: int,
    names: "list[str]",
    now: int,
) -> "list[str]":
    """The names in a directory that shows too few or too many, one for each slot.

    If the directory is missing, those of the limits ``together`` are furnished.  A sweep of it is ended.
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
            furnish(store, app, {it.directory(segment): it.fresh(segment) for it in together})
        elif len(slots) == size or listings == _LISTINGS:
            chosen = one_each(store, directory, names, size, now - limit.window)
            if chosen is not None:
                break
        else:
            listings += 1
        names = sorted(store.names(directory))
    if not chosen:
        why = "This limit's directory has no slots (remove it: the next hit makes it anew)"
        raise StoreError(errno.ENOENT, why, f"{store.root}/{directory}")
    return chosen


def one_each(
    store: Store, directory: str, names: "list[str]", size: int, since: int
) -> "list[str] | None":
    """The newest name of each slot, from sorted names.  None: another process changed one, list again.

    If a machine died within a rename, both names may stay for good.  If the newest is older than
    ``since``, in microseconds, the others are removed.  Otherwise nobody can claim the slot yet.
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
        if not all([done(posix.unlink, f"{store.root}/{directory}/{name}") for name in older]):
            return None
    return sorted([known[-1] for known in slots.values()])


def unused(name: str) -> str:
    """A name, up to a millisecond later, that the slot never had and that nobody can guess.

    So a process can claim it only after it has seen the names beside it.
    """
    later = time_of(name) + 1 + int.from_bytes(posix.urandom(4), "big") % _LATER
    return make(later, is_provisional(name), number_of(name))


def give_back(store: Store, directory: str) -> bool:
    """End all sweeps of a directory: make slots of those set aside, or remove them if a sweeper has all.

    Returns whether there was a sweep.  Raises StoreError.
    """
    before = store.names(directory)
    for unique in _marked(SWEEP, before):
        if BACK + unique in before:
            # A machine died within this same rename.  Both names are one file, so a rename does nothing.
            done(posix.unlink, f"{store.root}/{directory}/{BACK}{unique}")
        store.rename(directory, SWEEP + unique, BACK + unique)
    # From here on it is certain for each of these sweeps whether it has been ended.
    names = store.names(directory)
    for unique in _marked(GONE, names):
        clear(store, directory, unique)
    for seized in _marked(SLOT, names):
        unique, _, slot = seized.partition("-")
        if BACK + unique in names or not _is_known(unique, before + names):
            # The name must be new.  A process that knows the old name must not claim it.  And a machine
            # that still has the old name takes both for the same file, so a rename would do nothing.
            store.rename(directory, SLOT + seized, unused(slot))
    for unique in _marked(BACK, names):
        # The sweeper may have seized one more slot after the listing.  The next hit puts that right.
        done(posix.unlink, f"{store.root}/{directory}/{BACK}{unique}")
    return any([name.startswith(ASIDE) for name in before + names])


def _marked(kind: str, names: "list[str]") -> "list[str]":
    """What follows this prefix in the names that have it."""
    return [name[len(kind) :] for name in names if name.startswith(kind)]


def _is_known(unique: str, names: "list[str]") -> bool:
    """Whether a sweep has a mark.  If not, it was ended before its sweeper died and left a slot."""
    return any([kind + unique in names for kind in (SWEEP, BACK, GONE)])


def clear(store: Store, directory: str, unique: str) -> None:
    """Remove the slots of a sweeper that has all of them, and the mark last: without it they look lost."""
    for _ in range(_CLEARINGS):
        slots = [name for name in store.names(directory) if name.startswith(f"{SLOT}{unique}-")]
        if not slots:
            done(posix.unlink, f"{store.root}/{directory}/{GONE}{unique}")
            remove_empty(f"{store.root}/{directory}")
            return
        for name in slots:
            done(posix.unlink, f"{store.root}/{directory}/{name}")


def _slot(name: str, size: int) -> str:
    """What the names of one slot have in common.  In a fixed or burst limit the number is no slot's."""
    return name[18:] if size > 1 else ""
