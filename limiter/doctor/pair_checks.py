"""Trials by two nodes together: each node must see what the other does, and only one may win a rename.

Both nodes run the same trials at the same time.  Each has one of the roles of the meeting, a or b.
"""

import os
import time

from limiter.core.store import Store
from limiter.doctor.checks import (
    BATCH,
    BATCHES,
    BRIEF,
    STALE,
    WINNERS,
    Faults,
    furnish_all,
    judge,
    judge_furnished,
    judge_skew,
    make_batch,
    make_slots,
    rename_all,
    rename_slot,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limiter.doctor.filesystem import Finding
    from limiter.doctor.meeting import Meeting

_LISTINGS = 100
_LATE = 0.1  # seconds


def _clocks(meeting: "Meeting") -> "Iterator[Finding]":
    """Each node sends the time of its clock when it receives a message, as NTP does (RFC 5905)."""
    best = (float("inf"), 0.0)
    for _ in range(5):
        for teller in "ab":
            if meeting.role == teller:
                sent = time.time()
                meeting.tell("now")
                theirs = float(meeting.hear())
                heard = time.time()
                best = min(best, ((heard - sent) / 2, abs(theirs - (sent + heard) / 2)))
            else:
                meeting.reply(lambda: f"{time.time():.6f}")
    yield judge_skew("clocks", "the other node's is", best[1], best[0])


def _renames(meeting: "Meeting") -> "Iterator[Finding]":
    tried = won_together = wrong = 0
    for batch in range(BATCHES):
        directory = f"rename-{batch}"
        if meeting.role == "a":
            make_batch(f"{meeting.path}/{directory}")
        meeting.exchange()
        won = rename_all(meeting.path, directory, meeting.role)
        others = int(meeting.exchange(str(len(won))))
        there = Store(meeting.path).names(directory)
        mine = [name for name in there if name.endswith(f".{meeting.role}")]
        tried += BATCH
        won_together += len(won) + others
        wrong += len(there) != BATCH or len(mine) != len(won)
        meeting.exchange()
    found = f"{tried} files, two nodes at each: {won_together} winners"
    found += f", {wrong} directories with other names than they wrote" if wrong else ""
    yield judge(won_together == tried and not wrong, "rename", found, WINNERS)


def _listings(meeting: "Meeting") -> "Iterator[Finding]":
    """First b lists what a renamed, then a lists what b renamed.

    The time until a message arrives is measured too.  Messages arrive by listings, so where all listings
    are stale, messages are late.
    """
    slots, store = 10, Store(meeting.path)
    faults = Faults(slots)
    waits, listings = [], []
    for writer in "ab":
        directory = f"listing-{writer}"
        if meeting.role == writer:
            make_slots(f"{meeting.path}/{directory}", slots)
        end = time.monotonic() + BRIEF
        for version in range(1, _LISTINGS + 1):
            last = "last" if version == _LISTINGS or time.monotonic() > end else "more"
            if meeting.role == writer:
                rename_slot(f"{meeting.path}/{directory}", version, slots)
            begin = time.perf_counter()
            heard = meeting.exchange(last)
            told = time.perf_counter()
            names = store.names(directory)
            listings.append(time.perf_counter() - told)
            if meeting.role != writer:
                faults.judge(names, version, version % slots)
                last = heard
            meeting.exchange()
            waits.append(time.perf_counter() - begin)
            if last == "last":
                break
    wait, listing = sorted(waits)[len(waits) // 2], sorted(listings)[len(listings) // 2]
    yield faults.finding("listing", "the other node")
    found = f"{wait * 1000:.1f} ms until a file made by each node is listed by the other"
    yield judge(wait < max(_LATE, 20 * listing), "news", found, STALE)


def _furnishing(meeting: "Meeting") -> "Iterator[Finding]":
    root = f"{meeting.path}/furnishing"
    if meeting.role == "a":
        os.mkdir(root)
    meeting.exchange()
    furnish_all(root)
    meeting.exchange()
    finding = judge_furnished(root, "two nodes")
    meeting.exchange()
    yield finding


JOINT_TRIALS: "list[tuple[str, Callable[[Meeting], Iterator[Finding]]]]" = [
    ("the clocks of both", _clocks),
    ("rename by both", _renames),
    ("listing by both", _listings),
    ("furnishing by both", _furnishing),
]
