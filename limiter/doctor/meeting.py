"""Checks by two nodes that meet in a store (``doctor --meet``): each must see what the other does.

They meet in one directory, ROOT/.new-doctor-meeting.  It appears complete, by a rename, and contains an
empty seat.  The node that made it is ``a``.  The node that renames the seat is ``b``.  The nodes send
messages by making files whose names are the messages: ``ROLE@NUMBER@TEXT``.  Both run the same checks at
the same time.
"""

import os
import time

from limiter.core.furnish import create
from limiter.core.removal import remove
from limiter.core.store import Store
from limiter.doctor.checks import (
    BATCH,
    BATCHES,
    BRIEF,
    STALE,
    check_furnished,
    check_listings,
    check_skew,
    furnish_all,
    make_batch,
    make_slots,
    rename_all,
    rename_slot,
    renames,
)
from limiter.doctor.filesystem import finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limiter.doctor.filesystem import Finding

PLACE = ".new-doctor-meeting"
"""The directory of a meeting.  The limiter ignores it."""

_SEAT = "seat@"
_LISTINGS = 100
# Seconds.
_OLD = 600
_PAUSE = 0.001
_LATE = 0.1


class AloneError(Exception):
    """The other node did not come, or has left."""


class Meeting:
    """A meeting in the directory ``path``.  ``role`` is a or b.

    ``patience`` is how many seconds to wait for each message.  Raises AloneError if two other nodes are
    meeting, and OSError if the file system fails.
    """

    def __init__(self, root: str, patience: float) -> None:
        self.path = f"{root}/{PLACE}"
        self._store = Store(self.path)
        self.role = self._join(root)
        self._other = "b" if self.role == "a" else "a"
        self._patience = patience
        self._sent = self._received = 0

    def exchange(self, text: str = "") -> str:
        """Send a message, and wait for the other node's next one.  Raises as ``receive``."""
        self.send(text)
        return self.receive()

    def send(self, text: str = "") -> None:
        """Send a message of letters, digits and ``._-``.  Raises OSError."""
        self._sent += 1
        create(f"{self.path}/{self.role}@{self._sent}@{text}")

    def receive(self) -> str:
        """Wait for the other node's next message.

        Raises AloneError if no message comes, and OSError if the file system fails.
        """
        self._received += 1
        begin = f"{self._other}@{self._received}@"
        end = time.monotonic() + self._patience
        while True:
            for name in self._store.names("."):
                if name.startswith(begin):
                    return name[len(begin) :]
            if time.monotonic() > end:
                raise AloneError(
                    f"The other node sent nothing for {self._patience:g} s (run doctor --meet on both nodes)"
                )
            time.sleep(_PAUSE)

    def leave(self) -> None:
        """End the meeting when both nodes have reached this point.  Raises as ``receive``."""
        if self.role == "b":
            self.send()
        else:
            self.receive()

    def _join(self, root: str) -> str:
        unique = os.urandom(8).hex()
        mine = f"{root}/.new-doctor-{unique}"
        now = int(time.time())
        for _ in range(3):
            for seat in [name for name in self._store.names(".") if name.startswith(_SEAT)]:
                if now - int(seat[len(_SEAT) :]) > _OLD:
                    _move(self.path, mine)
                    remove(mine)
                elif self._store.rename(".", seat, f"b@0@{unique}"):
                    return "b"
            os.mkdir(mine, 0o700)
            create(f"{mine}/{_SEAT}{now}")
            if _move(mine, self.path):
                return "a"
            remove(mine)
        raise AloneError(f"Two nodes are meeting already (if not, remove {self.path})")


def _move(old: str, new: str) -> bool:
    try:
        os.rename(old, new)
    except OSError:
        return False
    return True


def _check_clocks(meeting: Meeting) -> "Iterator[Finding]":
    """Each node sends the time of its clock when it receives a message, as NTP does (RFC 5905)."""
    best = (float("inf"), 0.0)
    for _ in range(5):
        for first in "ab":
            if meeting.role == first:
                sent = time.time()
                theirs = float(meeting.exchange())
                received = time.time()
                best = min(best, ((received - sent) / 2, abs(theirs - (sent + received) / 2)))
            else:
                meeting.receive()
                meeting.send(f"{time.time():.6f}")
    yield check_skew("clocks", "the other node's is", best[1], best[0])


def _check_renames(meeting: Meeting) -> "Iterator[Finding]":
    tried = winners = wrong = 0
    for batch in range(BATCHES):
        directory = f"rename-{batch}"
        if meeting.role == "a":
            make_batch(f"{meeting.path}/{directory}")
        meeting.exchange()
        won = len(rename_all(meeting.path, directory, meeting.role))
        winners += won + int(meeting.exchange(str(won)))
        there = Store(meeting.path).names(directory)
        mine = [name for name in there if name.endswith(f".{meeting.role}")]
        wrong += len(there) != BATCH or len(mine) != won
        tried += BATCH
        meeting.exchange()
    yield renames(tried, "two nodes", winners, wrong)


def _check_listings(meeting: Meeting) -> "Iterator[Finding]":
    """First b lists what a renamed, then a lists what b renamed.

    The time until a message arrives is measured too.  Messages arrive by listings, so where all listings
    are stale, messages are late.
    """
    slots, store = 10, Store(meeting.path)
    waits, times, listings = [], [], []
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
            theirs = meeting.exchange(last)
            arrived = time.perf_counter()
            names = store.names(directory)
            times.append(time.perf_counter() - arrived)
            if meeting.role != writer:
                listings.append((version, names))
                last = theirs
            meeting.exchange()
            waits.append(time.perf_counter() - begin)
            if last == "last":
                break
    wait, listing = sorted(waits)[len(waits) // 2], sorted(times)[len(times) // 2]
    yield check_listings(listings, slots, "the other node")
    found = f"{wait * 1000:.1f} ms until a file made by each node is listed by the other"
    yield finding(wait < max(_LATE, 20 * listing), "news", found, STALE)


def _check_furnishing(meeting: Meeting) -> "Iterator[Finding]":
    root = f"{meeting.path}/furnishing"
    if meeting.role == "a":
        os.mkdir(root)
    meeting.exchange()
    furnish_all(root)
    meeting.exchange()
    found = check_furnished(root, "two nodes")
    meeting.exchange()
    yield found


PAIR_CHECKS: "list[tuple[str, Callable[[Meeting], Iterator[Finding]]]]" = [
    ("the clocks of both", _check_clocks),
    ("rename by both", _check_renames),
    ("listing by both", _check_listings),
    ("furnishing by both", _check_furnishing),
]
