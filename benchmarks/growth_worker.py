"""A child process of the benchmark of growth: ``python3 -m benchmarks.growth_worker FUNCTION ARGUMENT...``."""

from __future__ import annotations

import json
import resource
import sys
import time

from limiter.core.furnish import fresh, furnish
from limiter.core.hit import hit
from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError

STEP = 500
"""After so many clients it reports."""


def clients(root: str, limits: str, first: str, end: str) -> None:
    """Furnish the clients with these numbers.  Print a line for each STEP of them, or why it cannot."""
    (limit,) = parse(limits)
    try:
        for number in range(int(first), int(end)):
            directory = f"app{number}@{limit.directory(0)}"
            furnish(root, directory, fresh(limit, 0, clock()))
            if number % STEP == 0:
                print(flush=True)
    except StoreError as error:
        print(error.strerror, flush=True)


def play(root: str, limits: str, app: str, memory: str, seconds: str) -> None:
    """Hit as fast as possible for so many seconds, and print what happened as JSON.

    With ``memory`` as a long-running process does, else as a CGI request does.  Print a line when ready.
    Begin at the monotonic time, in nanoseconds, that is read then from standard input.
    """
    store, parsed = Store(root), parse(limits)
    limiter = Limiter(root, limits, newcomers="") if memory else None
    print(flush=True)
    start = int(sys.stdin.readline())
    time.sleep(max(0, start - time.monotonic_ns()) / 1e9)
    end = start + int(float(seconds) * 1e9)
    hits = admitted = 0
    used = _cpu()
    first = clock()
    while time.monotonic_ns() < end:
        decision = limiter.hit(app) if limiter else hit(store, parsed, app, 1, clock)[0]
        hits += 1
        admitted += decision.allowed
    result = {"hits": hits, "admitted": admitted, "first": first, "last": clock()}
    print(json.dumps({**result, "cpu": _cpu() - used}))


def _cpu() -> float:
    """The CPU time of this process, in microseconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
