"""The doctor's trials on one node: listing, renaming, claiming, furnishing, sweeping, as hits do it.

Each trial gets a directory to work in, and yields its findings.  Errors of the file system are raised as
OSError.
"""

import os
import time

from limiter.core.furnish import furnish
from limiter.core.limit import Sliding, is_name, make, number_of, time_of
from limiter.core.limiter import Limiter
from limiter.core.store import Store
from limiter.core.sweep import sweep_app
from limiter.doctor.filesystem import FAIL, GLUSTERFS, PASS, WARN, mounted
from limiter.doctor.processes import child, died, together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limiter.doctor.filesystem import Finding

BRIEF = 1.0
"""Seconds after which a trial stops, if it can be cut short."""

BATCH = 100
"""The number of files that are renamed in one directory."""

BATCHES = 10
"""The greatest number of such directories."""

WINNERS = "The limiter admits too many here.  Do not use this file system for a store that is shared so."
"""The advice if two processes or nodes can both win a rename that only one may win."""

STALE = (
    "A hit that sees an old listing is denied for nothing, or fails.  Switch off the caching of directories, or"
    " use another file system."
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

_CLOCKS = "Limits are exact only up to this difference: let chrony or ntpd set the clocks of all nodes."
_SLOWNESS = (
    "Each request waits for two of these calls.  Bring the store nearer, or give each node a store and a share"
    " of the limit (LIMITER_NODES)."
)


def _clock(place: str) -> "Iterator[Finding]":
    if mounted(place).type == GLUSTERFS:
        # Its feature ctime is on by default since GlusterFS 6.
        yield (
            PASS,
            "clock",
            "each node stamps its files itself: doctor --meet compares the clocks of two",
            "",
        )
        return
    path = f"{place}/clock"
    before = time.time()
    _make(path)
    made, after = os.stat(path).st_mtime, time.time()
    yield judge_skew("clock", "the store's is", max(before - made, made - after, 0.0), 0.0)


def _renames(place: str) -> "Iterator[Finding]":
    """Several processes at once rename the same files, each to a name of its own."""
    processes = max(2, min(_PROCESSES, os.cpu_count() or 1))
    several = none = tried = 0
    shares = [0] * processes
    end = time.monotonic() + BRIEF
    for batch in range(BATCHES):
        directory = f"rename-{batch}"
        make_batch(f"{place}/{directory}")
        begin = time.monotonic() + _HEADSTART
        won = together(processes, lambda me: rename_all(place, directory, str(me), begin))  # noqa: B023
        winners = [sum([number in numbers for numbers in won]) for number in range(BATCH)]
        there = sorted(Store(place).names(directory))
        several += sum([winner > 1 for winner in winners])
        none += sum([winner < 1 for winner in winners])
        none += there != sorted([f"{it}.{me}" for me, mine in enumerate(won) for it in mine])
        shares = [share + len(mine) for share, mine in zip(shares, won)]
        tried += BATCH
        if time.monotonic() > end:
            break
    found = f"{tried} files, {processes} processes at each: "
    if several or none:
        found += f"{several} had several winners, {none} none or another name"
    else:
        found += f"one winner each ({', '.join(map(str, shares))})"
    yield judge(not several and not none, "rename", found, WINNERS)


def make_batch(directory: str) -> None:
    """Make a directory with ``BATCH`` files to rename."""
    os.mkdir(directory)
    for number in range(BATCH):
        _make(f"{directory}/{number}")


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


def _listings(place: str) -> "Iterator[Finding]":
    """A listing shows what another process has just renamed, and each slot once."""
    slots = 10
    make_slots(f"{place}/listing", slots)
    asked, ask = os.pipe()
    heard, answer = os.pipe()
    faults = Faults(slots)
    with child(lambda: _rename_when_asked(f"{place}/listing", slots, asked, ask, answer)):
        os.close(asked)
        os.close(answer)
        end = time.monotonic() + BRIEF
        for version in range(1, _LISTINGS + 1):
            os.write(ask, b"?")
            if not os.read(heard, 1):
                raise died()
            faults.judge(Store(place).names("listing"), version, version % slots)
            if time.monotonic() > end:
                break
        os.close(ask)
        os.close(heard)
    yield faults.finding("listing", "another process")


def _rename_when_asked(directory: str, slots: int, asked: int, ask: int, answer: int) -> None:
    os.close(ask)
    version = 0
    while os.read(asked, 1):
        version += 1
        rename_slot(directory, version, slots)
        os.write(answer, b"!")


def rename_slot(directory: str, version: int, slots: int) -> None:
    """Rename one slot to the time ``version``.  Each version renames the next slot in turn."""
    number = version % slots
    Store(directory).rename(
        ".", make(max(0, version - slots), False, number), make(version, False, number)
    )


def make_slots(directory: str, slots: int) -> None:
    """Make a directory of slots with version 0."""
    os.mkdir(directory)
    for number in range(slots):
        _make(f"{directory}/{make(0, False, number)}")


class Faults:
    """Counts faults in listings of ``slots`` slots, one of which has just been renamed."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._stale = self._missing = self._twice = self._listings = 0

    def judge(self, names: "list[str]", version: int, number: int) -> None:
        """Check one listing: slot ``number`` must have this version, and every slot must be there once."""
        names = [name for name in names if is_name(name)]
        numbers = [number_of(name) for name in names]
        versions = [time_of(name) for name in names if number_of(name) == number]
        self._listings += 1
        self._stale += version not in versions
        self._missing += len(set(numbers)) < self._slots
        self._twice += len(numbers) > len(set(numbers))

    def finding(self, what: str, whom: str) -> "Finding":
        """Return the finding about all listings."""
        wrong = self._stale + self._missing + self._twice
        found = f"{self._listings} after a rename by {whom}: "
        if wrong:
            found += f"{self._stale} old, {self._missing} lack a slot, {self._twice} have one twice"
        else:
            found += "all fresh, nothing missing, nothing twice"
        return judge(not wrong, what, found, STALE)


def _claims(place: str) -> "Iterator[Finding]":
    """Real hits until the limit is reached: as many hits must be admitted as slots are taken."""
    root = f"{place}/claims"
    os.mkdir(root)
    end = time.monotonic() + BRIEF
    answers = together(_PROCESSES, lambda _: _hit_until_denied(root, end))
    admitted = sum([count for count, _ in answers])
    limit = Limiter(root, f"{_CLAIMS}/day").limits[0]
    segments = [f"acme/{limit.directory(segment)}" for segment in range(limit.segments)]
    names = [name for segment in segments for name in Store(root).names(segment) if is_name(name)]
    numbers = [number_of(name) for name in names]
    taken = sum([time_of(name) > 0 for name in names])
    is_right = admitted == taken and len(numbers) == len(set(numbers))
    if any([is_full for _, is_full in answers]):
        is_right = is_right and admitted == _CLAIMS
    found = f"{_PROCESSES} processes at {_CLAIMS} slots: {admitted} hits admitted, {taken} slots taken"
    yield judge(is_right, "claims", found, WINNERS)


def _hit_until_denied(root: str, end: float) -> "tuple[int, bool]":
    """Return how many hits were admitted, and whether one was denied before ``end``."""
    limiter = Limiter(root, f"{_CLAIMS}/day")
    admitted = 0
    while limiter.hit("acme"):
        admitted += 1
        if time.monotonic() > end:
            return admitted, False
    return admitted, True


def _furnishing(place: str) -> "Iterator[Finding]":
    """Several processes make the same new applications at once."""
    root = f"{place}/furnishing"
    os.mkdir(root)
    together(_PROCESSES, lambda _: furnish_all(root))
    yield judge_furnished(root, f"{_PROCESSES} processes")


def furnish_all(root: str) -> None:
    """Make new applications, the same ones as all other callers at the same time."""
    store, limit = Store(root), Sliding(10, 1_000_000)
    end = time.monotonic() + BRIEF
    for number in range(_APPS):
        furnish(store, f"app{number}", {limit.name: limit.fresh(0)})
        if time.monotonic() > end:
            break


def judge_furnished(root: str, whom: str) -> "Finding":
    """Return the finding about the applications that were made."""
    store, limit = Store(root), Sliding(10, 1_000_000)
    apps = store.names(".")
    wrong = sum([name.startswith(".") for name in apps])
    for app in apps:
        is_whole = store.names(app) == [limit.name]
        wrong += not is_whole or sorted(store.names(f"{app}/{limit.name}")) != limit.fresh(0)
    found = f"{len(apps)} new applications made by {whom} at once"
    found += f": {wrong} with slots too few or too many" if wrong else ", no slot too few or too many"
    return judge(bool(apps) and not wrong, "furnishing", found, WINNERS)


def _sweeping(place: str) -> "Iterator[Finding]":
    """An application is removed if its hit is too old.  A clock two hours ahead makes it old."""
    root = f"{place}/sweeping"
    os.mkdir(root)
    now = time.time_ns() // 1000
    Limiter(root, "70/minute;2/hour fixed", clock=lambda: now).hit("acme")
    gone = sweep_app(Store(root), "acme", 0, lambda: now + 7_200_000_000)
    advice = "Applications that nobody uses will stay in the store."
    found = "an idle application " + ("goes without a trace" if gone else "cannot be removed")
    yield (PASS if gone else WARN), "sweeping", found, "" if gone else advice


def _latencies(place: str) -> "Iterator[Finding]":
    """One process times each basic operation, one after the other."""
    store = Store(place)
    for slots in (10, 64):
        make_slots(f"{place}/latency-{slots}", slots)

    def rename(sample: int) -> None:
        old, new = make(sample, False, 0), make(sample + 1, False, 0)
        store.rename("latency-10", old, new)

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
        median, late, count = _measure(call)
        found = f"median {median * 1000:.3f} ms, 99 % within {late * 1000:.3f} ms ({count} calls)"
        yield (WARN, what, found, _SLOWNESS) if median > _SLOW else (PASS, what, found, "")


def _measure(call: "Callable[[int], object]") -> "tuple[float, float, int]":
    times: list[float] = []
    end = time.monotonic() + BRIEF
    while not times or (len(times) < _SAMPLES and time.monotonic() < end):
        begin = time.perf_counter()
        call(len(times))
        times.append(time.perf_counter() - begin)
    times.sort()
    return times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)], len(times)


TRIALS: "list[tuple[str, Callable[[str], Iterator[Finding]]]]" = [
    ("clock", _clock),
    ("rename", _renames),
    ("listing", _listings),
    ("claims", _claims),
    ("furnishing", _furnishing),
    ("sweeping", _sweeping),
    ("latency", _latencies),
]


def judge(is_right: bool, what: str, found: str, advice: str) -> "Finding":
    """Return a finding: PASS without the advice, or FAIL with it."""
    return (PASS, what, found, "") if is_right else (FAIL, what, found, advice)


def judge_skew(what: str, whose: str, skew: float, error: float) -> "Finding":
    """Return the finding about a clock that is ``skew`` seconds off, within ``error`` seconds."""
    about = f", within {error * 1000:.1f} ms" if error else ""
    found = f"{whose} {skew * 1000:.1f} ms off this node's{about}"
    return (WARN, what, found, _CLOCKS) if skew - error > _SKEW else (PASS, what, found, "")


def _make(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
