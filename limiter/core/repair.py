"""Put a directory in order that a hit or a sweep found otherwise than full of slots.

It may be missing, or be swept.  A listing may show slots twice or not at all.  A machine that died may
have left a slot with two names, and a cleaner of temporary files may have removed slots.
docs/store-format.md states what is then done.  Very few hits need this module.
"""

import errno
import posix

from limiter.core.directories import GONE, contents
from limiter.core.furnish import fresh, link
from limiter.core.limit import Limit, is_name, make, number_of, time_of
from limiter.core.newcomers import furnish_if_there_is_room
from limiter.core.removal import remove_empty
from limiter.core.store import ROUNDS, Store, StoreError, done

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.core.decision import View
    from limiter.core.hit import Attempt

LISTINGS = 4
"""How often to list a directory that shows too few slots."""


def complete(
    attempt: "Attempt", view: "View", segment: int, directory: str, names: "list[str]"
) -> "list[str]":
    """The sorted names of a directory's slots, one for each that it has.

    A missing directory is furnished.  Empty: there is no room, which ``attempt`` then says.  Slots that
    are missing are noted in ``view``.  Raises StoreError, and ValueError for bad LIMITER_NEWCOMERS.
    """
    store, limit = attempt.store, view.limit
    numbers = limit.numbers(segment)
    seen: set[int] = set()
    now = listings = 0
    for _ in range(ROUNDS):
        slots, marks = contents(names, limit, segment)
        seen.update(map(limit.slot, slots))
        if not names:
            slots = sorted(fresh(limit, segment, attempt.clock()))
            if furnish_if_there_is_room(attempt, segment, directory, slots):
                return slots
            if attempt.refused is not None:
                return []
        elif marks and listings:
            settle(store, directory, limit, slots, marks, now)
        elif len(slots) == len(numbers) == len(set(map(limit.slot, slots))):
            return slots
        elif listings == LISTINGS:
            chosen = one_each(store, directory, limit, slots, now)
            if chosen:
                view.missing[directory] = sorted(set(numbers) - seen)
                return chosen
            if chosen is not None:
                break
        else:
            listings += 1
        now = attempt.clock()
        names = sorted(store.names(directory))
    why = "This limit's directory has no slots (remove it: the next hit makes it anew)"
    raise StoreError(errno.ENOENT, why, f"{store.root}/{directory}")


def settle(
    store: Store, directory: str, limit: Limit, slots: "list[str]", marks: "list[str]", now: int
) -> None:
    """End a sweep whose sweeper may have died: remove the directory, or make the mark a slot again.

    Nobody ever removes a slot that is not free, whatever else has gone wrong.  Raises StoreError.
    """
    numbers = [limit.slot(name) for name in slots]
    for mark in marks:
        lowest = mark[len(GONE) :]
        number = limit.slot(lowest)
        if number in numbers:
            # A machine died within the rename, and both names are left.  The sweep has not begun.  While the
            # lowest slot has this name, another sweeper may make the same mark.
            if lowest not in slots or store.rename(directory, lowest, _freed(limit, lowest, now)):
                done(posix.unlink, f"{store.root}/{directory}/{mark}")
        elif all([time_of(name) <= now - limit.window for name in slots]) and number < min(
            numbers, default=number + 1
        ):
            clear(store, directory, slots, mark)
        else:
            store.rename(directory, mark, _freed(limit, lowest, now))


def clear(store: Store, directory: str, slots: "list[str]", mark: str) -> bool:
    """Remove these slots, the mark last, and the directory.  Returns whether it is gone."""
    for name in (*slots, mark):
        done(posix.unlink, f"{store.root}/{directory}/{name}")
    return remove_empty(f"{store.root}/{directory}")


def one_each(
    store: Store, directory: str, limit: Limit, slots: "list[str]", now: int
) -> "list[str] | None":
    """The newest name of each slot, from sorted names.  None: another process changed one, list again.

    If a machine died within a rename, both names may stay for good.  If the newest is older than a
    window, the others are removed.  Otherwise nobody can claim the slot yet.  If all slots are free, the
    lowest is renamed first, to a name that is free, but not idle: then nobody sweeps the directory.
    """
    names: dict[int, list[str]] = {}
    for name in slots:
        names.setdefault(limit.slot(name), []).append(name)
    free = now - limit.window
    wakes = len(names) < len(slots) and time_of(slots[-1]) <= free
    for known in [names[number] for number in sorted(names)]:
        *older, newest = known
        if not (older or wakes) or time_of(newest) > free:
            continue
        known[-1] = _freed(limit, newest, now)
        if store.rename(directory, newest, known[-1]):
            if not all([done(posix.unlink, f"{store.root}/{directory}/{name}") for name in older]):
                return None
        elif wakes:
            return None
        else:
            known[-1] = newest  # nobody can claim this name
        wakes = False
    return sorted([known[-1] for known in names.values()])


def _freed(limit: Limit, name: str, now: int) -> str:
    """A later name of a free slot: also free, but not idle."""
    return make(max(time_of(name) + 1, now - limit.window - 1), False, number_of(name))


def mend(attempt: "Attempt", view: "View", directory: str, name: str) -> None:
    """Make the slots again that a directory has lost, as taken just now, if ``name`` is its lowest.

    ``name`` is a slot that this hit has just claimed.  Nobody else can claim it for a window, so nobody
    else mends meanwhile.  After a stall of half a window, the new slots are removed again.
    """
    store, limit, now = attempt.store, view.limit, attempt.clock
    numbers = [limit.slot(it) for it in view.listed[directory]]
    path = f"{store.root}/{directory}"
    missing = set(view.missing[directory])
    made: list[str] = []
    try:
        for _ in range(LISTINGS):
            there = [limit.slot(it) for it in store.names(directory) if is_name(it)]
            if limit.slot(name) > min(there + numbers):
                return
            missing.difference_update(there)
        for number in sorted(missing):
            made.append(make(now(), False, number))
            link(f"{path}/{name}", f"{path}/{made[-1]}")
        if now() - time_of(name) > limit.window // 2:
            for it in made:
                done(posix.unlink, f"{path}/{it}")
            return
    except OSError as error:
        attempt.notes.append(f"{path}: {len(missing)} slots are missing, and not made again: {error}")
        return
    view.missing[directory] = [number for number in view.missing[directory] if number not in missing]
    if made:
        view.listed[directory] = sorted([*view.listed[directory], *made])
        view.next = view.next if view.used else time_of(made[0]) + limit.window - view.now
        view.used += len(made)
        lost = f"{len(made)} of {len(numbers) + len(made)} slots were missing"
        attempt.notes.append(
            f"{path}: {lost}, as if removed by a cleaner; they are back, as taken just now"
        )
