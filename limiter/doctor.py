"""The doctor: whether a file system keeps what the limiter rests on, tried on the very store.

Everything happens in ``ROOT/.new-doctor-UNIQUE``, a store of its own into which nobody else looks; the
applications of the store are not touched.  What is tried is what hits do, with the same code: listings,
renames, claims, furnishing, sweeping; by several processes at once and, with ``meet``, by two nodes.
"""

import contextlib
import errno
import os
import pickle
import signal
import sys
import time
import traceback

from limiter.filesystem import FAIL, PASS, WARN, judge_gluster, judge_mount, mount_of
from limiter.furnish import furnish, must_exist
from limiter.limit import Sliding, is_name, make, number_of, time_of
from limiter.limiter import Limiter
from limiter.meeting import AloneError, Meeting
from limiter.owner import become_owner
from limiter.store import Store, failure
from limiter.sweep import remove, sweep_app

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from limiter.filesystem import Finding

    T = TypeVar("T")

_PROCESSES = 4
# Seconds that each trial takes at most, where what it does can be cut short; and how often it is done at most.
_BRIEF = 1.0
_BATCH = 100
_BATCHES = 10
_LISTINGS = 500
_JOINT_LISTINGS = 100
_CLAIMS = 200
_APPS = 40
_SAMPLES = 300
_SKEW = 0.1
_SLOW = 0.05
_LATE = 0.1
_PATIENCE = 60.0
_REMOVAL = 5.0
# Processes try each file at the same moment, so long after the one before.
_STEP = 0.000_1
_HEADSTART = 0.02

_WINNERS = (
    "The limiter admits too many here.  Do not use this file system for a store that is shared so."
)
_STALE = (
    "A hit that sees an old listing is denied for nothing, or fails.  Switch off the caching of directories, or"
    " use another file system."
)
_CLOCKS = "Limits are exact only up to this difference: let chrony or ntpd set the clocks of all nodes."
_SLOWNESS = (
    "Each request waits for two of these calls.  Bring the store nearer, or give each node a store and a share"
    " of the limit (LIMITER_NODES)."
)


def doctor(root: str, meet: bool = False) -> int:
    """Try the store and print a line for each thing tried; the status to exit with.

    0: nothing FAILed, 1: something did, 2: it could not be tried.  With ``meet``, also wait a minute for
    another node that does the same.  Progress is shown on a terminal.
    """
    report = _Report()
    try:
        must_exist(Store(root))
        root = os.path.realpath(root)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
            mount = mount_of(root, mountinfo.read())
        report.add("the mount", lambda: judge_mount(root, mount))
        report.add("the volume", lambda: judge_gluster(mount))
        report.add("the directory", lambda: _owner(root))
        become_owner(root)
        with _workplace(root) as place:
            for what, trial in _TRIALS:
                report.add(what, lambda trial=trial: trial(place))  # type: ignore[misc]
        if meet:
            with _meeting(root, report) as meeting:
                for what, joint in _JOINT_TRIALS:
                    report.add(what, lambda joint=joint: joint(meeting))  # type: ignore[misc]
    except (OSError, ValueError, AloneError) as error:
        report.clear()
        print(f"limiter: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        report.clear()
        print("limiter: interrupted", file=sys.stderr)
        return 2
    return report.status


class _Report:
    """Prints findings, and meanwhile on a terminal what is being tried.  ``status`` is 1 after a FAIL."""

    def __init__(self) -> None:
        self.status = 0
        self._shows = sys.stderr.isatty()

    def add(self, what: str, trial: "Callable[[], Iterator[Finding]]") -> None:
        """Print what a trial finds; an error of the file system is a FAIL."""
        self.show(f"trying {what} ...")
        try:
            findings = list(trial())
        except OSError as error:
            advice = "The file system refused what every hit needs."
            findings = [(FAIL, what, str(error), advice)]
        self.clear()
        for level, title, found, advice in findings:
            print(f"{level}  {title:<14}  {found}")
            if advice:
                print(f"{'':6}{advice}")
            if level == FAIL:
                self.status = 1
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """Show what is going on, if anybody looks."""
        if self._shows:
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take away what was shown."""
        self.show("")


# What is there


def _owner(root: str) -> "Iterator[Finding]":
    what = "directory"
    status = os.stat(root)
    mode = f"owner {status.st_uid}, mode {status.st_mode & 0o7777:04o}"
    if status.st_mode & 0o022:
        yield WARN, what, mode, f"Others can forge or remove hits: chmod go-w {root}"
    else:
        yield PASS, what, mode, ""


@contextlib.contextmanager
def _workplace(root: str) -> "Iterator[str]":
    """A directory that the limiter ignores, and that has gone in the end."""
    path = f"{root}/.new-doctor-{os.urandom(8).hex()}"
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise failure(error, path) from error
    try:
        yield path
    finally:
        # Where listings are old, it takes more than one.
        end = time.monotonic() + _REMOVAL
        while not remove(path) and time.monotonic() < end:
            time.sleep(_REMOVAL / 100)


# Trials on this node


def _clock(place: str) -> "Iterator[Finding]":
    path = f"{place}/clock"
    before = time.time()
    _make(path)
    made, after = os.stat(path).st_mtime, time.time()
    yield _judge_skew("clock", "the store's is", max(before - made, made - after, 0.0), 0.0)


def _renames(place: str) -> "Iterator[Finding]":
    """As many processes as run at once rename the same files, each to a name of its own."""
    processes = max(2, min(_PROCESSES, os.cpu_count() or 1))
    several = none = tried = 0
    shares = [0] * processes
    end = time.monotonic() + _BRIEF
    for batch in range(_BATCHES):
        directory = f"rename-{batch}"
        _make_batch(f"{place}/{directory}")
        begin = time.monotonic() + _HEADSTART
        won = _together(processes, lambda me: _rename_all(place, directory, str(me), begin))  # noqa: B023
        winners = [sum([number in numbers for numbers in won]) for number in range(_BATCH)]
        there = sorted(Store(place).names(directory))
        several += sum([winner > 1 for winner in winners])
        none += sum([winner < 1 for winner in winners])
        none += there != sorted([f"{it}.{me}" for me, mine in enumerate(won) for it in mine])
        shares = [share + len(mine) for share, mine in zip(shares, won)]
        tried += _BATCH
        if time.monotonic() > end:
            break
    found = f"{tried} files, {processes} processes at each: "
    if several or none:
        found += f"{several} had several winners, {none} none or another name"
    else:
        found += f"one winner each ({', '.join(map(str, shares))})"
    yield _judge(not several and not none, "rename", found, _WINNERS)


def _make_batch(directory: str) -> None:
    os.mkdir(directory)
    for number in range(_BATCH):
        _make(f"{directory}/{number}")


def _rename_all(place: str, directory: str, me: str, begin: float = 0.0) -> "list[int]":
    """The files that this process won."""
    store, won = Store(place), []
    for number in range(_BATCH):
        while time.monotonic() < begin + number * _STEP:
            pass
        if store.rename(directory, str(number), f"{number}.{me}"):
            won.append(number)
    return won


def _listings(place: str) -> "Iterator[Finding]":
    """What another process has just renamed is listed so, and each slot once."""
    slots = 10
    _make_slots(f"{place}/listing", slots)
    asked, ask = os.pipe()
    heard, answer = os.pipe()
    faults = _Faults(slots)
    with _child(lambda: _rename_when_asked(f"{place}/listing", slots, asked, ask, answer)):
        os.close(asked)
        os.close(answer)
        end = time.monotonic() + _BRIEF
        for version in range(1, _LISTINGS + 1):
            os.write(ask, b"?")
            if not os.read(heard, 1):
                raise _died()
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
        _rename_slot(directory, version, slots)
        os.write(answer, b"!")


def _rename_slot(directory: str, version: int, slots: int) -> None:
    """Give one slot, each in its turn, that version for a time."""
    number = version % slots
    Store(directory).rename(
        ".", make(max(0, version - slots), False, number), make(version, False, number)
    )


def _make_slots(directory: str, slots: int) -> None:
    os.mkdir(directory)
    for number in range(slots):
        _make(f"{directory}/{make(0, False, number)}")


class _Faults:
    """Counts what is wrong with listings of so many slots, one of which has just been renamed."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._stale = self._missing = self._twice = self._listings = 0

    def judge(self, names: "list[str]", version: int, number: int) -> None:
        """Look at one listing: that slot must have this version, and be there once as all others."""
        names = [name for name in names if is_name(name)]
        numbers = [number_of(name) for name in names]
        versions = [time_of(name) for name in names if number_of(name) == number]
        self._listings += 1
        self._stale += version not in versions
        self._missing += len(set(numbers)) < self._slots
        self._twice += len(numbers) > len(set(numbers))

    def finding(self, what: str, whom: str) -> "Finding":
        """The verdict on all of them."""
        wrong = self._stale + self._missing + self._twice
        found = f"{self._listings} after a rename by {whom}: "
        if wrong:
            found += f"{self._stale} old, {self._missing} lack a slot, {self._twice} have one twice"
        else:
            found += "all fresh, nothing missing, nothing twice"
        return _judge(not wrong, what, found, _STALE)


def _claims(place: str) -> "Iterator[Finding]":
    """Real hits, until there is no more room: as many are admitted as slots are taken."""
    root = f"{place}/claims"
    os.mkdir(root)
    end = time.monotonic() + _BRIEF
    answers = _together(_PROCESSES, lambda _: _hit_until_denied(root, end))
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
    yield _judge(is_right, "claims", found, _WINNERS)


def _hit_until_denied(root: str, end: float) -> "tuple[int, bool]":
    """How many hits were admitted, and whether one was denied before that time."""
    limiter = Limiter(root, f"{_CLAIMS}/day")
    admitted = 0
    while time.monotonic() < end:
        if not limiter.hit("acme"):
            return admitted, True
        admitted += 1
    return admitted, False


def _furnishing(place: str) -> "Iterator[Finding]":
    """The same new applications by several processes at once."""
    root = f"{place}/furnishing"
    os.mkdir(root)
    _together(_PROCESSES, lambda _: _furnish_all(root))
    yield _judge_furnished(root, f"{_PROCESSES} processes")


def _furnish_all(root: str) -> None:
    store, limit = Store(root), Sliding(10, 1_000_000)
    end = time.monotonic() + _BRIEF
    for number in range(_APPS):
        furnish(store, f"app{number}", {limit.name: limit.fresh(0)})
        if time.monotonic() > end:
            break


def _judge_furnished(root: str, whom: str) -> "Finding":
    store, limit = Store(root), Sliding(10, 1_000_000)
    apps = store.names(".")
    wrong = sum([name.startswith(".") for name in apps])
    for app in apps:
        is_whole = store.names(app) == [limit.name]
        wrong += not is_whole or sorted(store.names(f"{app}/{limit.name}")) != limit.fresh(0)
    found = f"{len(apps)} new applications made by {whom} at once"
    found += f": {wrong} with slots too few or too many" if wrong else ", no slot too few or too many"
    return _judge(bool(apps) and not wrong, "furnishing", found, _WINNERS)


def _sweeping(place: str) -> "Iterator[Finding]":
    """An application that has been hit, a day ago as it were, goes."""
    root = f"{place}/sweeping"
    os.mkdir(root)
    now = time.time_ns() // 1000
    Limiter(root, "70/minute;2/hour fixed", clock=lambda: now).hit("acme")
    gone = sweep_app(Store(root), "acme", 0, lambda: now + 7_200_000_000)
    advice = "Applications that nobody uses will stay in the store."
    found = "an idle application " + ("goes without a trace" if gone else "cannot be removed")
    yield (PASS if gone else WARN), "sweeping", found, "" if gone else advice


def _latencies(place: str) -> "Iterator[Finding]":
    """Each primitive, one after the other, by one process."""
    store = Store(place)
    for slots in (10, 64):
        _make_slots(f"{place}/latency-{slots}", slots)

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
    end = time.monotonic() + _BRIEF
    while len(times) < _SAMPLES and time.monotonic() < end:
        begin = time.perf_counter()
        call(len(times))
        times.append(time.perf_counter() - begin)
    times.sort()
    return times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)], len(times)


_TRIALS: "list[tuple[str, Callable[[str], Iterator[Finding]]]]" = [
    ("clock", _clock),
    ("rename", _renames),
    ("listing", _listings),
    ("claims", _claims),
    ("furnishing", _furnishing),
    ("sweeping", _sweeping),
    ("latency", _latencies),
]


# Trials of two nodes


@contextlib.contextmanager
def _meeting(root: str, report: _Report) -> "Iterator[Meeting]":
    meeting = Meeting(root, _PATIENCE)
    try:
        report.show(f"waiting {_PATIENCE:.0f} s for the other node (there: doctor --meet) ...")
        host = meeting.exchange(os.uname().nodename)
        print(f"{'':6}two nodes: {os.uname().nodename} and {host}")
        yield meeting
        meeting.leave()
    finally:
        if meeting.role == "a":
            remove(meeting.path)


def _clocks(meeting: Meeting) -> "Iterator[Finding]":
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
    yield _judge_skew("clocks", "the other node's is", best[1], best[0])


def _joint_renames(meeting: Meeting) -> "Iterator[Finding]":
    tried = won_together = wrong = 0
    for batch in range(_BATCHES):
        directory = f"rename-{batch}"
        if meeting.role == "a":
            _make_batch(f"{meeting.path}/{directory}")
        meeting.exchange()
        won = _rename_all(meeting.path, directory, meeting.role)
        others = int(meeting.exchange(str(len(won))))
        there = Store(meeting.path).names(directory)
        mine = [name for name in there if name.endswith(f".{meeting.role}")]
        tried += _BATCH
        won_together += len(won) + others
        wrong += len(there) != _BATCH or len(mine) != len(won)
        meeting.exchange()
    found = f"{tried} files, two nodes at each: {won_together} winners"
    found += f", {wrong} directories with other names than they wrote" if wrong else ""
    yield _judge(won_together == tried and not wrong, "rename", found, _WINNERS)


def _joint_listings(meeting: Meeting) -> "Iterator[Finding]":
    """First b lists what a has renamed, then the other way round; and how long it takes to hear of it.

    Messages are seen in listings, too: where these are all old, they come late.
    """
    slots, store = 10, Store(meeting.path)
    faults = _Faults(slots)
    waits, listings = [], []
    for writer in "ab":
        directory = f"listing-{writer}"
        if meeting.role == writer:
            _make_slots(f"{meeting.path}/{directory}", slots)
        end = time.monotonic() + _BRIEF
        for version in range(1, _JOINT_LISTINGS + 1):
            last = "last" if version == _JOINT_LISTINGS or time.monotonic() > end else "more"
            if meeting.role == writer:
                _rename_slot(f"{meeting.path}/{directory}", version, slots)
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
    yield _judge(wait < max(_LATE, 20 * listing), "news", found, _STALE)


def _joint_furnishing(meeting: Meeting) -> "Iterator[Finding]":
    root = f"{meeting.path}/furnishing"
    if meeting.role == "a":
        os.mkdir(root)
    meeting.exchange()
    _furnish_all(root)
    meeting.exchange()
    finding = _judge_furnished(root, "two nodes")
    meeting.exchange()
    yield finding


_JOINT_TRIALS: "list[tuple[str, Callable[[Meeting], Iterator[Finding]]]]" = [
    ("the clocks of both", _clocks),
    ("rename by both", _joint_renames),
    ("listing by both", _joint_listings),
    ("furnishing by both", _joint_furnishing),
]


# Helpers


def _judge(is_right: bool, what: str, found: str, advice: str) -> "Finding":
    return (PASS, what, found, "") if is_right else (FAIL, what, found, advice)


def _judge_skew(what: str, whose: str, skew: float, error: float) -> "Finding":
    about = f", within {error * 1000:.1f} ms" if error else ""
    found = f"{whose} {skew * 1000:.1f} ms off this node's{about}"
    return (WARN, what, found, _CLOCKS) if skew - error > _SKEW else (PASS, what, found, "")


def _make(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


@contextlib.contextmanager
def _child(action: "Callable[[], None]") -> "Iterator[None]":
    """A process that does that, and is killed in the end if it has not ended."""
    # An interrupt waits until the child is known.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            action()
            status = 0
        except OSError:
            pass  # it is missed where it is waited for
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _together(processes: int, work: "Callable[[int], T]") -> "list[T]":
    """What so many processes return that all begin at once; raises the first of their OSErrors."""
    begin, go = os.pipe()
    with contextlib.ExitStack() as stack:
        pipes = []
        for me in range(processes):
            pipe, answer = os.pipe()
            ends = [begin, go, answer]
            stack.enter_context(_child(lambda me=me, ends=ends: _answer(work, me, *ends)))  # type: ignore[misc]
            os.close(answer)
            pipes.append(stack.enter_context(os.fdopen(pipe, "rb")))
        os.write(go, bytes(processes))
        answers = [pipe.read() for pipe in pipes]
    os.close(begin)
    os.close(go)
    results: list[T] = []
    for text in answers:
        if not text:
            raise _died()
        result = pickle.loads(text)
        if isinstance(result, OSError):
            raise result
        results.append(result)
    return results


def _died() -> OSError:
    return OSError(errno.ECHILD, "A process that tried it has died")


def _answer(work: "Callable[[int], object]", me: int, begin: int, go: int, answer: int) -> None:
    os.close(go)  # so that this ends with whoever would give the word
    if not os.read(begin, 1):
        return
    try:
        result = work(me)
    except OSError as error:
        result = OSError(error.errno, error.strerror, error.filename)
    with os.fdopen(answer, "wb") as file:
        pickle.dump(result, file)
