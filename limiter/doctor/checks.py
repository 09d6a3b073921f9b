"""The doctor's checks on one node: listing, renaming, claiming, furnishing, sweeping, as hits do it.

Each check gets a directory to work in, and yields its findings.  Errors of the file system are raised as
OSError.
"""

import os
import socket
import time

from limiter.core.furnish import create, fresh, furnish, link
from limiter.core.limit import Sliding, is_name, make, number_of, time_of
from limiter.core.limiter import Limiter
from limiter.core.mount import mounted
from limiter.core.store import Store
from limiter.core.sweep import sweep_store
from limiter.doctor.filesystem import GLUSTERFS, PASS, WARN, finding
from limiter.doctor.processes import child, died, together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limiter.doctor.filesystem import Finding

BRIEF = 1.0
"""Seconds after which a check stops, if it can be cut short."""

BATCH = 100
"""The number of files that are renamed in one directory."""

BATCHES = 10
"""The greatest number of such directories."""

WINNERS = "The limiter admits too many here.  Do not use this file system for a store that is shared so."
"""The advice if two processes or nodes can both win a rename that only one may win."""

STALE = (
    "A hit that sees an old listing is denied without need, or fails.  Switch off the caching of"
    " directories, or use another file system."
)
"""The advice if changes are not visible at once."""

_PROCESSES = 4
# How often each is done, at most.
_LISTINGS = 500
_CLAIMS = 200
_APPS = 40
_SAMPLES = 300
# Seconds above which there is a warning.
_SKEW = 0.1
_SLOW = 0.05
# Seconds between two files, and before the first one.  All processes try a file at the same moment.
_STEP = 0.000_1
_HEADSTART = 0.02

_INODES = "Each slot is a file of its own here: a client costs as many inodes as its limits have slots."
_CLOCKS = "Limits are exact only up to this difference: let chrony or ntpd set the clocks of all nodes."
_SLOWNESS = (
    "Each request waits for two of these calls.  Bring the store nearer, or give each node a store and a share"
    " of the limit (LIMITER_NODES)."
)


def _check_clock(place: str) -> "Iterator[Finding]":
    if mounted(place).type == GLUSTERFS:
        # Its feature ctime is on by default since GlusterFS 6.
        found = "each node stamps its files itself: doctor --meet compares the clocks of two"
        yield PASS, "clock", found, ""
        return
    path = f"{place}/clock"
    before = time.time()
    create(path)
    made, after = os.stat(path).st_mtime, time.time()
    yield check_skew("clock", "the store's is", max(before - made, made - after, 0.0), 0.0)


def check_skew(what: str, whose: str, skew: float, error: float) -> "Finding":
    """Return the finding about a clock that is ``skew`` seconds off, within ``error`` seconds."""
    about = f", within {error * 1000:.1f} ms" if error else ""
    found = f"{whose} {skew * 1000:.1f} ms off this node's{about}"
    return finding(skew - error <= _SKEW, what, found, _CLOCKS, WARN)


def _check_renames(place: str) -> "Iterator[Finding]":
    """Several processes at once rename the same files, each to a name of its own."""
    processes = max(2, min(_PROCESSES, os.cpu_count() or 1))
    tried = winners = wrong = 0
    end = time.monotonic() + BRIEF
    for batch in range(BATCHES):
        directory = f"rename-{batch}"
        make_batch(f"{place}/{directory}")
        begin = time.monotonic() + _HEADSTART
        won = together(processes, lambda me: rename_all(place, directory, str(me), begin))  # noqa: B023
        names = [f"{number}.{me}" for me, numbers in enumerate(won) for number in numbers]
        tried += BATCH
        winners += len(names)
        wrong += sorted(names) != sorted(Store(place).names(directory))
        if time.monotonic() > end:
            break
    yield renames(tried, f"{processes} processes", winners, wrong)


def renames(tried: int, whose: str, winners: int, wrong: int) -> "Finding":
    """Return the finding about files that each of several processes or nodes tried to rename.

    ``wrong`` is in how many directories the names are not those that the winners wrote.
    """
    found = f"{tried} files, {whose} at each: {winners} winners"
    found += f", {wrong} directories with other names than they wrote" if wrong else ""
    return finding(winners == tried and not wrong, "rename", found, WINNERS)


def make_batch(directory: str) -> None:
    """Make a directory with ``BATCH`` files to rename, links of one as slots are."""
    _make(directory, list(map(str, range(BATCH))))


def _make(directory: str, names: "list[str]") -> None:
    os.mkdir(directory)
    create(f"{directory}/{names[0]}")
    for name in names[1:]:
        link(f"{directory}/{names[0]}", f"{directory}/{name}")


def rename_all(place: str, directory: str, me: str, begin: float = 0.0) -> "list[int]":
    """Try to rename all files, and return the numbers of those that this process won.

    ``begin`` is when to start, a time of time.monotonic.
    """
    store, won = Store(place), []
    for number in range(BATCH):
        while time.monotonic() < begin + number * _STEP:
            pass
        if store.rename(directory, str(number), f"{number}.{me}"):
            won.append(number)
    return won


def _check_listings(place: str) -> "Iterator[Finding]":
    """A listing shows what another process has just renamed, and each slot once."""
    slots = 10
    make_slots(f"{place}/listing", slots)
    ours, theirs = socket.socketpair()
    listings = []
    with ours, child(lambda: _rename_on_request(f"{place}/listing", slots, ours, theirs)):
        theirs.close()
        end = time.monotonic() + BRIEF
        for version in range(1, _LISTINGS + 1):
            ours.sendall(b"?")
            if not ours.recv(1):
                raise died()
            listings.append((version, Store(place).names("listing")))
            if time.monotonic() > end:
                break
    yield check_listings(listings, slots, "another process")


def _rename_on_request(directory: str, slots: int, ours: socket.socket, theirs: socket.socket) -> None:
    ours.close()  # so that this process ends if the parent dies
    version = 0
    while theirs.recv(1):
        version += 1
        rename_slot(directory, version, slots)
        theirs.sendall(b"!")


def make_slots(directory: str, slots: int) -> None:
    """Make a directory of slots with version 0."""
    _make(directory, [make(0, False, number) for number in range(slots)])


def rename_slot(directory: str, version: int, slots: int) -> None:
    """Rename one slot to the time ``version``.  Each version renames the next slot in turn."""
    number = version % slots
    old = make(max(0, version - slots), False, number)
    Store(directory).rename(".", old, make(version, False, number))


def check_listings(listings: "list[tuple[int, list[str]]]", slots: int, whom: str) -> "Finding":
    """Return the finding about listings of slots, each made after ``rename_slot`` with its version.

    Each must have the slot of this version, and every slot once.
    """
    old = missing = twice = 0
    for version, names in listings:
        there = [(number_of(name), time_of(name)) for name in names if is_name(name)]
        numbers = {number for number, _ in there}
        old += (version % slots, version) not in there
        missing += len(numbers) < slots
        twice += len(there) > len(numbers)
    is_right = not old + missing + twice
    counts = f"{old} old, {missing} lack a slot, {twice} have one twice"
    found = f"{len(listings)} after a rename by {whom}: "
    found += "all fresh, nothing missing, nothing twice" if is_right else counts
    return finding(is_right, "listing", found, STALE)


def _check_claims(place: str) -> "Iterator[Finding]":
    """Real hits until the limit is reached: as many hits must be admitted as slots are taken."""
    root = f"{place}/claims"
    os.mkdir(root)
    end = time.monotonic() + BRIEF
    answers = together(_PROCESSES, lambda _: _hit_until_denied(root, end))
    admitted = sum([count for count, _ in answers])
    taken = len(Limiter(root, f"{_CLAIMS}/day", newcomers="").hits("acme")[0])
    is_full = any([is_denied for _, is_denied in answers])
    is_right = admitted == taken and (admitted == _CLAIMS or not is_full)
    found = f"{_PROCESSES} processes at {_CLAIMS} slots: {admitted} hits admitted, {taken} slots taken"
    yield finding(is_right, "claims", found, WINNERS)


def _hit_until_denied(root: str, end: float) -> "tuple[int, bool]":
    """Return how many hits were admitted, and whether one was denied before ``end``."""
    limiter = Limiter(root, f"{_CLAIMS}/day", newcomers="")
    admitted = 0
    while limiter.hit("acme"):
        admitted += 1
        if time.monotonic() > end:
            return admitted, False
    return admitted, True


def _check_furnishing(place: str) -> "Iterator[Finding]":
    """Several processes make the same new applications at once."""
    root = f"{place}/furnishing"
    os.mkdir(root)
    together(_PROCESSES, lambda _: furnish_all(root))
    yield check_furnished(root, f"{_PROCESSES} processes")


def furnish_all(root: str) -> None:
    """Make new directories, the same ones as all other callers at the same time."""
    limit = Sliding(10, 1_000_000)
    end = time.monotonic() + BRIEF
    for number in range(_APPS):
        furnish(root, f"app{number}@{limit.name}", fresh(limit, 0, time.time_ns() // 1000))
        if time.monotonic() > end:
            break


def check_furnished(root: str, whom: str) -> "Finding":
    """Return the finding about the directories that were made."""
    store, limit = Store(root), Sliding(10, 1_000_000)
    made = store.names(".")
    wrong = sum([not limit.is_whole(store.names(name), 0) for name in made])
    found = f"{len(made)} new directories made by {whom} at once: "
    found += f"{wrong} with slots too few or too many" if wrong else "no slot too few or too many"
    return finding(bool(made) and not wrong, "furnishing", found, WINNERS)


def _check_links(place: str) -> "Iterator[Finding]":
    """Slots are hard links of one file: a rename of one must leave the others as they are."""
    directory = f"{place}/links"
    os.mkdir(directory)
    create(f"{directory}/first")
    try:
        os.link(f"{directory}/first", f"{directory}/second")
    except OSError as error:
        yield finding(False, "hard links", f"none ({error.strerror})", _INODES, WARN)
        return
    os.rename(f"{directory}/second", f"{directory}/third")
    is_right = sorted(os.listdir(directory)) == ["first", "third"]
    found = "renamed as other files are" if is_right else "a rename affects other links of the file"
    yield finding(is_right, "hard links", found, WINNERS)


def _check_sweeping(place: str) -> "Iterator[Finding]":
    """A directory is removed if its hit is too old.  A clock three hours ahead makes it old."""
    root = f"{place}/sweeping"
    os.mkdir(root)
    now = time.time_ns() // 1000
    Limiter(root, "70/minute;2/hour fixed", newcomers="", clock=lambda: now).hit("acme")
    swept = sweep_store(Store(root), 0, lambda: now + 10_800_000_000)
    is_gone = swept.removed == swept.directories == 2
    found = f"an idle client {'leaves nothing behind' if is_gone else 'cannot be removed'}"
    yield finding(is_gone, "sweeping", found, "Idle clients will stay in the store.", WARN)


def _check_latencies(place: str) -> "Iterator[Finding]":
    """One process times each basic operation, one after the other."""
    store = Store(place)
    for slots in (10, 64):
        make_slots(f"{place}/latency-{slots}", slots)

    def rename(sample: int) -> None:
        store.rename("latency-10", make(sample, False, 0), make(sample + 1, False, 0))

    def arrive(sample: int) -> None:
        os.mkdir(f"{place}/aside-{sample}")
        os.rename(f"{place}/aside-{sample}", f"{place}/arrived-{sample}")

    calls: list[tuple[str, Callable[[int], object]]] = [
        ("list 10", lambda _: store.names("latency-10")),
        ("list 64", lambda _: store.names("latency-64")),
        ("rename", rename),
        ("lost rename", lambda _: store.rename("latency-10", "gone", "new")),
        ("mkdir, rename", arrive),
    ]
    for what, call in calls:
        times = _measure(call)
        median, late = times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]
        found = f"median {median * 1000:.3f} ms, 99 % within {late * 1000:.3f} ms ({len(times)} calls)"
        yield finding(median <= _SLOW, what, found, _SLOWNESS, WARN)


def _measure(call: "Callable[[int], object]") -> "list[float]":
    """Return the times of several calls in seconds, sorted."""
    times: list[float] = []
    end = time.monotonic() + BRIEF
    while not times or (len(times) < _SAMPLES and time.monotonic() < end):
        begin = time.perf_counter()
        call(len(times))
        times.append(time.perf_counter() - begin)
    return sorted(times)


CHECKS: "list[tuple[str, Callable[[str], Iterator[Finding]]]]" = [
    ("clock", _check_clock),
    ("rename", _check_renames),
    ("listing", _check_listings),
    ("hard links", _check_links),
    ("claims", _check_claims),
    ("furnishing", _check_furnishing),
    ("sweeping", _check_sweeping),
    ("latency", _check_latencies),
]
