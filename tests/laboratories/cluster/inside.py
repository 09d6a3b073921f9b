"""What tests run as a process on a machine: ``inside.py FUNCTION COPY ARGUMENT...``."""

import errno
import itertools
import os
import posix
import select
import subprocess
import sys
import threading
import time

sys.path.insert(0, sys.argv[2])

from limiter.core import furnish as furnishing
from limiter.core import sweep as sweeping
from limiter.core.hit import hit
from limiter.core.limit import clock
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError


def request(check: str, history: str, offset: str, recorder: str, *apps: str) -> None:
    """Send requests to check.py, for each app in turn, at least one, until standard input ends.

    Add to the file ``history`` what each request records (see recorder.py), and before and after that these
    lines: ``begun`` and the time, in microseconds of the machine's own clock; ``app`` and the app_id;
    ``log`` and a line of standard error; ``ended`` and the time; ``status`` and the status.
    """
    os.dup2(os.open(history, os.O_WRONLY | os.O_APPEND), 3)

    def record(what: str, value: object) -> None:
        os.write(3, f"{what} {value}\n".encode())

    for app in itertools.cycle(apps):
        record("begun", time.time_ns() // 1000)
        record("app", app)
        request = subprocess.Popen(
            ["/usr/bin/python3", "-IS", recorder, check, offset],
            env={**os.environ, "QUERY_STRING": f"app_id={app}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[3],
        )
        # For the client a request ends with its output.  The process may still hang in a call then.
        assert request.stdout is not None
        assert request.stderr is not None
        output, log = request.stdout.read(), request.stderr.read()
        end = time.time_ns() // 1000
        for line in log.decode().splitlines():
            record("log", line)
        record("ended", end)
        record("status", output.decode()[8:11])
        request.poll()
        if select.select([sys.stdin], [], [], 0)[0]:
            break


def list_at_once(root: str, threads: str) -> None:
    """Hit a denied application, with so many threads and without a pause, until standard input ends.

    Print a line when each thread was denied; then the errors of the listings, and the errors of the
    hits.
    """
    listings: list[str] = []
    hits: list[str] = []
    limits, store, over = parse("1/day"), Store(root), threading.Event()
    begun = threading.Barrier(int(threads) + 1)
    listdir = posix.listdir

    def recording_listdir(path: str) -> "list[str]":
        try:
            return listdir(path)
        except OSError as error:
            listings.append(errno.errorcode[error.errno or 0])
            raise

    def work(app: str) -> None:
        while hit(store, limits, app, 1, clock)[0]:
            pass
        begun.wait()
        while not over.is_set():
            try:
                assert not hit(store, limits, app, 1, clock)[0]
            except StoreError as error:
                hits.append(str(error))

    workers = [threading.Thread(target=work, args=(f"full{it % 8}",)) for it in range(int(threads))]
    for worker in workers:
        worker.start()
    begun.wait()
    posix.listdir = recording_listdir  # type: ignore[assignment]
    print("begun", flush=True)
    sys.stdin.read()
    over.set()
    for worker in workers:
        worker.join()
    print(*listings)
    print(*hits, sep="; ")


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
    """Furnish an application as one who has found nothing; print whether this process has furnished it."""
    vars(furnishing)["remove_empty"] = lambda _: True
    (it,) = parse(limit)
    print(furnishing.furnish(root, f"{app}@{it.directory(0)}", furnishing.fresh(it, 0, clock())))


def leave(root: str, limit: str, then: str, *apps: str) -> None:
    """Leave applications whose last hit was at a time, in microseconds."""
    (it,) = parse(limit)
    for app in apps:
        assert furnishing.furnish(root, f"{app}@{it.directory(0)}", furnishing.fresh(it, 0, int(then)))


def sweep(root: str, idle: str, grace: str, least: str) -> None:
    """Sweep again and again all that was idle for so many seconds, or its window and the grace.

    Stop when standard input has ended and at least so many directories were removed.  Print each failure
    of the store on a line, and last how many directories were removed.
    """
    sweeping.GRACE = int(grace)
    removed = 0
    while removed < int(least) or not select.select([sys.stdin], [], [], 0)[0]:
        try:
            removed += sweeping.sweep_store(Store(root), float(idle)).removed
        except StoreError as error:
            print(error)
    print(removed)


globals()[sys.argv[1]](*sys.argv[3:])
