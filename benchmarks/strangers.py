"""Whether strangers can fill the store.  Run ``python3 -m benchmarks.strangers`` in the repository.

A flood of invented app_ids comes through check.py, the map's program and WSGI: a second of flood, a second
of quiet, and so on for a minute.  All the time, 50 known clients hit once a second.  Law B1 says how many
directories there may be, and that known clients notice nothing.  At the end the clock of a sweep is set
ahead by the idle time, and the store must be empty.

The table goes to standard output, progress to standard error.  The exit status is 1 if a claim does not
hold here.  Takes a minute.  Needs Linux.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from statistics import median

from benchmarks.report import Row, file_system, machine, progress, read_rounds, report
from limiter.core.limit import SECOND, clock
from limiter.core.limiter import NEWCOMERS
from limiter.core.notation import parse
from limiter.core.store import Store
from limiter.core.sweep import GRACE, HOUR, sweep_store
from limiter.wsgi import RateLimit
from tests.places import PYTHON, install, temporary

DISK = "/var/tmp"
STRANGERS = 100_000
KNOWN = 50
SECONDS = 60
LIMIT = "30/minute"
NOBODY = 65534

AT_MOST = {
    "directories beyond the bound": 0,
    "strangers with another answer": 0,
    "wrong answers to known clients": 0,
    "known client's hit in the flood": 1.10,
    "directories left after an hour": 0,
}
"""The claims: the figure with this name is at most this."""

Ask = Callable[[str], int]
"""Sends a request of this app_id through a door; returns the status of the answer."""


def wsgi(root: str) -> Ask:
    """The middleware, in this process."""
    statuses: list[str] = []

    def application(_: object, start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [])
        return []

    limited = RateLimit(application)

    def ask(app: str) -> int:
        environ = {
            "LIMITER_ROOT": root,
            "LIMITER_LIMIT": LIMIT,
            "QUERY_STRING": f"app_id={app}",
            "REQUEST_METHOD": "GET",
            "wsgi.errors": sys.stderr,
        }
        list(limited(environ, lambda status, *_: statuses.append(status)))  # type: ignore[arg-type]
        return int(statuses.pop()[:3])

    return ask


@contextmanager
def rewrite_map(home: Path, environ: dict[str, str]) -> Iterator[Ask]:
    """The map's program, as Apache runs it."""
    variables = [f"{name}={value}" for name, value in environ.items()]
    command = [PYTHON, "-IS", str(home / "rewritemap"), *variables]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(app: str) -> int:
            print(f"192.0.2.1 app_id={app} ", file=process.stdin, flush=True)
            return int(process.stdout.readline()[:3])  # type: ignore[union-attr]

        yield ask
        process.stdin.close()


def cgi(home: Path, environ: dict[str, str]) -> Ask:
    """check.py, a process for each request."""

    def ask(app: str) -> int:
        answer = subprocess.check_output(
            [PYTHON, "-IS", str(home / "cgi-bin/check.py")],
            env={**environ, "QUERY_STRING": f"app_id={app}", "REQUEST_METHOD": "GET"},
        )
        return int(answer.split(None, 2)[1])

    return ask


class Crowd:
    """The known clients, and what they were answered."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.answers: dict[str, list[tuple[int, int]]] = {f"known{n}": [] for n in range(KNOWN)}

    def hit(self, app: str) -> float:
        """Let one of them hit; return how long its answer took, in us."""
        began, start = clock(), time.perf_counter_ns()
        status = self._ask(app)
        took = (time.perf_counter_ns() - start) / 1000
        self.answers[app].append((began, status))
        return took

    def wrong(self) -> int:
        """How many of them were not admitted exactly as often as the limit says, as soon as it says."""
        (limit,) = parse(LIMIT)
        wrong = 0
        for answers in self.answers.values():
            admitted: list[int] = []
            for began, status in answers:
                counted = [it for it in admitted if began - it < limit.window]
                # Its stamp is a little later than ``began``: at the edge of a window, either is right.
                edge = any([abs(began - it - limit.window) < SECOND // 2 for it in admitted])
                wrong += (status == 200) != (len(counted) < limit.quota) and not edge
                admitted += [began] if status == 200 else []
        return wrong


def measure(rounds: int) -> Iterator[Row]:
    """Yield the rows of the table.  ``rounds``: how many strangers."""
    with temporary(DISK) as place:
        home, store = place / "home", place / "store"
        home.mkdir()
        store.mkdir()
        if os.geteuid() == 0:
            os.chown(store, NOBODY, NOBODY)  # as root, the map's program touches no store of root's
            os.chmod(place, 0o755)
        install(home)
        environ = {"LIMITER_ROOT": str(store), "LIMITER_LIMIT": LIMIT, "PATH": os.environ["PATH"]}
        yield from flood(rounds, home, str(store), environ)


def flood(strangers: int, home: Path, root: str, environ: dict[str, str]) -> Iterator[Row]:
    """Play all of it."""
    crowd = Crowd(wsgi(root))
    times: dict[bool, list[float]] = {False: [], True: []}
    asked: Counter[int] = Counter()
    with rewrite_map(home, environ) as by_map:
        doors = cycle([wsgi(root), by_map, *[wsgi(root), by_map] * 100, cgi(home, environ)])
        began = time.monotonic()
        for second in range(SECONDS):
            is_flood = second % 2 == 1
            due = strangers * (second + 1) // SECONDS
            for number, app in enumerate(crowd.answers, 1):
                times[is_flood].append(crowd.hit(app))
                end = began + second + number / KNOWN
                while is_flood and asked.total() < due and time.monotonic() < end:
                    asked[next(doors)(f"stranger{asked.total()}")] += 1
                time.sleep(max(0, end - time.monotonic()))
            progress(f"{asked.total():,} of {strangers:,} strangers")
        took = time.monotonic() - began
    progress("")
    (newcomers,) = parse(NEWCOMERS)
    names = Store(root).names(".")
    taken_in = len([name for name in names if name.startswith("stranger")])
    most = newcomers.quota + 20 * took
    yield Row("strangers", asked.total(), f"in {took:.0f} s")
    yield Row("strangers admitted", asked[200], "by all doors")
    yield Row("directories of strangers", taken_in, f"of at most {most:.0f}")
    yield Row("directories beyond the bound", max(0, taken_in + KNOWN - most), "directories")
    others = asked.total() - asked[200] - asked[429]
    yield Row("strangers with another answer", others, "strangers")
    yield Row("wrong answers to known clients", crowd.wrong(), f"of {KNOWN} clients' hits")
    ratio = median(times[True]) / median(times[False])
    yield Row("known client's hit in the flood", ratio, "x without it", time=median(times[True]))
    later = clock() + int(HOUR * SECOND) + GRACE + 120 * SECOND
    sweep_store(Store(root), HOUR, lambda: later)
    yield Row("directories left after an hour", len(Store(root).names(".")), "directories")


def main(arguments: list[str] | None = None) -> int:
    """Print the table, and return the exit status."""
    strangers = read_rounds("benchmarks.strangers", __doc__, STRANGERS, arguments)
    print(f"{machine()}; {file_system(DISK)}\n")
    return report(measure(strangers), AT_MOST)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
