"""Newcomers: bound how many new clients a store takes in, so that invented names cannot fill it.

They are counted as any other hits are, in the same store.  Clients that the store knows, and those that
the register names, are not concerned.  Very few hits need this module.
"""

import errno

from limiter.core.decision import Decision, View
from limiter.core.directories import contents
from limiter.core.furnish import furnish
from limiter.core.limit import Limit, clock
from limiter.core.notation import parse
from limiter.core.space import is_nearly_full
from limiter.core.store import Store, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.core.hit import Attempt

# No app_id begins with a dot.
_APP = ".newcomers"
_REPORTS = ".refusals"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMLINK)  # EMLINK: ext4 may bound the directories in one
_PAUSE = 60.0  # seconds until a full store may have room


def furnish_if_there_is_room(
    attempt: "Attempt", segment: int, directory: str, slots: "list[str]"
) -> bool:
    """Make a directory with these slots for this hit.  Returns whether this call made it.

    If there is no room, sets the denial, ``attempt.refused``.  Only the first directory of a stranger is
    bounded.  A full file system refuses strangers, and further directories of anybody: those clients have
    slots already.  For a client that the register names, it is an error.  Raises StoreError, and ValueError
    for a bad LIMITER_NEWCOMERS.
    """
    store = attempt.store
    is_newcomer = segment == 0 and bool(attempt.newcomers)
    wait, why = _PAUSE, "few inodes or bytes are free"
    try:
        if not is_newcomer or not is_nearly_full(store.root):
            count = attempt.count(attempt.newcomers, _APP) if is_newcomer else None
            if count or count is None:
                return furnish(store.root, directory, slots)
            wait, why = count.retry_after, f"LIMITER_NEWCOMERS is {attempt.newcomers}"
    except StoreError as error:
        if error.errno not in _FULL or (segment == 0 and not is_newcomer):
            raise
    views = [View(limit, {}, {}) for limit in attempt.limits]
    for view in views:
        view.used, view.next = view.limit.quota, 0 if wait == float("inf") else int(wait * 1e6)
    what = "new clients" if segment == 0 else "more hits of known clients"
    notes = _report(attempt, f"{what} are refused (429): {why}")
    attempt.refused = Decision(False, wait, views, 0, 0, notes)
    return False


def check(text: str) -> None:
    """Raise ValueError, with its name, for a bad value of LIMITER_NEWCOMERS.  "" is no bound."""
    try:
        parse(text or "1/second")
    except ValueError as error:
        raise ValueError(f"LIMITER_NEWCOMERS: {error}") from None


def room(root: str, newcomers: str) -> int:
    """How many newcomers a store takes in now.  Raises StoreError and ValueError."""
    if is_nearly_full(root):
        return 0
    return min([limit.quota - _used(Store(root), limit) for limit in parse(newcomers)])


def _used(store: Store, limit: Limit) -> int:
    used = 0
    for segment in range(limit.segments):
        names = store.names(f"{_APP}@{limit.directory(segment)}")
        slots, _ = contents(names, limit, segment)
        if not slots:
            break
        used += limit.look(slots, clock(), 1)[1]
    return used


def _report(attempt: "Attempt", what: str) -> "list[str]":
    """The note on a refusal, once a minute; if the store is too full to count that, with each."""
    try:
        if not attempt.count("1/minute", _REPORTS):
            return []
    except StoreError:
        pass  # the store is so full that not even this can be counted
    return [f"{attempt.store.root}: {what}"]
