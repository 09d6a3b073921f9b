"""What two nodes that meet try together: whether what one does is what the other sees, and only one wins.

Each of them runs the same trials at the same time, and takes one of the roles of the meeting, a and b.
"""

import os
import time

from limiter.store import Store
from limiter.trials import (
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

    from limiter.filesystem import Finding
    from limiter.meeting import Meeting

_LISTINGS = 100
_LATE = 0.1  # seconds


def _clocks(meeting: "Meeting") -> "Iterator[Finding]":
    """Each says what its clock shows when it hears the other, as NTP does (RFC 5905)."""
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
    """First b lists what a has renamed, then the other way round; and how long it takes to hear of it.

    Messages are seen in listings, too: where these are all old, they come late.
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
