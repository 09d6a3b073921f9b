"""What tests run as a process on a machine: ``inside.py FUNCTION COPY ROOT ARGUMENT...``."""

import errno
import os
import posix
import select
import statistics
import sys
import threading
from time import perf_counter, process_time

sys.path.insert(0, sys.argv[2])

from limiter.core.furnish import _arrive
from limiter.core.hit import Decision, hit
from limiter.core.limit import Limit, clock, stamp
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError
from limiter.core.sweep import sweep_store
from limiter.request.deadline import watch_call

_SECONDS = 60.0


def latency(root: str, apps: str) -> None:
    """Print the CPU time that a hit adds to a listing and a rename, and the least time of these two.

    In microseconds.  The CPU time added is the difference of the two medians.
    """
    limits = parse("10/day")
    store = Store(root)
    hits, calls, least = [], [], []
    for number in range(int(apps)):
        for app in (f"hit{number}", f"calls{number}"):
            hit(store, limits, app, 1, clock)
        directory = f"{root}/calls{number}/{limits[0].directory(0)}"
        for _ in range(limits[0].quota - 1):
            begun, used = perf_counter(), process_time()
            name = min(posix.listdir(directory))
            posix.rename(f"{directory}/{name}", f"{directory}/{stamp(clock())}-{name[18:]}")
            least.append(perf_counter() - begun)
            between = process_time()
            assert _decide(store, limits, f"hit{number}")
            hits.append(process_time() - between)
            calls.append(between - used)
    print((statistics.median(hits) - statistics.median(calls)) * 1e6, min(least) * 1e6)


def _decide(store: Store, limits: "tuple[Limit, ...]", app: str) -> Decision:
    """Decide as the CGI door does."""

    def late(error: StoreError) -> None:
        raise error

    decision, _ = watch_call(_SECONDS, late, hit, store, limits, app, 1, clock)  # type: ignore[arg-type]
    return decision


def list_at_once(root: str, threads: str) -> None:
    """Hit a denied application, with so many threads and without a pause, until standard input ends.

    Print a line when each thread was denied; then the errors of the listings, and the errors of the
    hits.
    """
    met: list[str] = []
    ended: list[str] = []
    limits, store, over = parse("1/day"), Store(root), threading.Event()
    begun = threading.Barrier(int(threads) + 1)
    listdir = posix.listdir

    def meeting_listdir(path: str) -> "list[str]":
        try:
            return listdir(path)
        except OSError as error:
            met.append(errno.errorcode[error.errno or 0])
            raise

    def work(app: str) -> None:
        while hit(store, limits, app, 1, clock)[0]:
            pass
        begun.wait()
        while not over.is_set():
            try:
                assert not hit(store, limits, app, 1, clock)[0]
            except StoreError as error:
                ended.append(str(error))

    workers = [threading.Thread(target=work, args=(f"full{it % 8}",)) for it in range(int(threads))]
    for worker in workers:
        worker.start()
    begun.wait()
    posix.listdir = meeting_listdir  # type: ignore[assignment]
    print("begun", flush=True)
    sys.stdin.read()
    over.set()
    for worker in workers:
        worker.join()
    print(*met)
    print(*ended, sep="; ")


def furnish(root: str, limit: str, apps: str) -> None:
    """Hit each of so many new applications once, at the same time as another process does.

    The other process is at the other end of standard input.  Print how many hits were admitted.
    """
    limits = parse(limit)
    store = Store(root)
    admitted = 0
    for number in range(int(apps)):
        os.write(0, b".")
        assert os.read(0, 1), "the other has ended"
        admitted += bool(hit(store, limits, f"new{number}", 1, clock)[0])
    print(admitted)


def arrive(root: str, limit: str, app: str) -> None:
    """Furnish an application that may already exist; print whether this process has furnished it."""
    print(_arrive(root, app, {it.directory(0): it.fresh(0) for it in parse(limit)}))


def sweep(root: str, idle: str, least: str) -> None:
    """Sweep again and again all that was idle for so many seconds.

    Stop when standard input has ended and at least so many applications were removed.  Print how many
    applications were removed, and how often the store failed.
    """
    removed = failed = 0
    while removed < int(least) or not select.select([sys.stdin], [], [], 0)[0]:
        try:
            removed += sweep_store(Store(root), float(idle)).removed
        except StoreError:
            failed += 1
    print(removed, failed)


globals()[sys.argv[1]](*sys.argv[3:])
