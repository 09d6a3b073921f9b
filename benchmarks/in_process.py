"""What the limiter costs.  Run ``python3 -m benchmarks.in_process`` in the repository.

Times depend on the machine, so every claim is about a ratio or a count.  Ratios come from interleaved
measurements: each round times all contenders, one after the other, and the median of the ratios counts.
Noise on the machine then affects all contenders alike.

The table goes to standard output, progress to standard error.  The exit status is 1 if a claim does not
hold here; the output then names the claim.  Takes about a minute.  Needs Linux, /usr/bin/python3 for the
CGI requests, and no other package.  Where valgrind and strace are installed, it also counts instructions
and system calls.
"""

from __future__ import annotations

import os
import platform
import posix
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from statistics import median

from benchmarks.report import Row, file_system, machine, read_rounds, report
from limiter.core.decision import Decision
from limiter.core.hit import hit
from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.store import Store
from limiter.request.rules import Rules
from limiter.request.rules import parse as parse_rules
from tests.places import PYTHON, REPOSITORY, install, temporary

MEMORY = "/dev/shm"
DISK = "/var/tmp"
FEW_CLIENTS, MANY_CLIENTS = 1_000, 100_000
ROUNDS = 200
BATCH = 50

AT_MOST = {
    # The limiter saves what Python would clean up at exit.  The time-out may cost 2 % more.
    "request admitted: CPU": 1.02,
    "request denied: CPU": 1.02,
    "request admitted: instructions": 1.00,
    "request denied: instructions": 1.00,
    "10/second admitted, tmpfs": 2.0,
    "two limits admitted": 4.0,
    "10/second denied, tmpfs": 2.0,
    "denied from memory: listings": 0,
    "denied from memory: renames": 0,
    "denied from memory: system calls": 0,
    "admitted from memory: listings": 0,
    "admitted from memory: renames": 1,
    "first of 1000/hour: more calls": 0,
    "10/second admitted among many clients, disk": 1.10,
    "1 rule": 2.0,
    "1000 rules": 20.0,
    "1000 expressions": 20.0,
}
"""The claims: the figure with this name is at most this."""
GOALS = {"10/second admitted, tmpfs": 1.4, "two limits admitted": 1.9}
"""Not reached: docs/performance.md says what is left."""


# The tools of measurement.


Run = Callable[[], float]
"""Does something, and returns how many microseconds that took."""


def compare(rounds: int, base: Run, *others: Run) -> list[tuple[float, float]]:
    """Return for each of the others its median time, and the median of its ratios to the base."""
    runs = (base, *others)
    for run in runs:
        run()  # pays for all that is slow only once
    times = [[run() for run in runs] for _ in range(rounds)]
    return [
        (median(each[nth] for each in times), median(each[nth] / each[0] for each in times))
        for nth in range(1, len(runs))
    ]


def batch(work: Callable[[], object], prepare: Callable[[], object] = int) -> Run:
    """Return a function that runs a batch of ``work`` and returns the time of one.

    ``prepare`` runs before it, untimed.
    """

    def run() -> float:
        prepare()
        start = time.perf_counter_ns()
        for _ in range(BATCH):
            work()
        return (time.perf_counter_ns() - start) / BATCH / 1000

    return run


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count the calls of ``posix``.  The package reaches files only through that module."""
    calls: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object) -> object:
            calls[name] += 1
            return function(*arguments)

        return wrapper

    functions = {name: it for name, it in vars(posix).items() if type(it) is type(posix.listdir)}
    for name, function in functions.items():
        setattr(posix, name, counting(name, function))
    try:
        yield calls
    finally:
        for name, function in functions.items():
            setattr(posix, name, function)


class Bare:
    """The calls that every hit needs, on a directory like those of the store."""

    def __init__(self, root: Path, files: int) -> None:
        """Make the directory, with so many files in it."""
        self._directory = tempfile.mkdtemp(dir=root)
        for number in range(files):
            Path(f"{self._directory}/1513123456.123456-{number}").touch()
        self._name = f"{self._directory}/1513123456.123456-0"
        # Each name is new, as it is for a slot.
        self._names = cycle([f"{self._directory}/1613123456.{number:06}-0" for number in range(1000)])

    def listdir(self) -> None:
        """Make the call that a denied hit needs."""
        posix.listdir(self._directory)

    def listdir_rename(self) -> None:
        """Make the calls that an admitted hit needs."""
        posix.listdir(self._directory)
        old, self._name = self._name, next(self._names)
        posix.rename(old, self._name)


class Player:
    """Plays hits as fast as it can: all are admitted, or all are denied.

    Without memory it calls ``limiter.core.hit.hit``.  A CGI request does only that, and so does
    ``Limiter.hit`` for an application that it does not remember.
    """

    def __init__(self, root: Path, limits: str, remembers: bool) -> None:
        """Play the first hit, which furnishes the limits."""
        self._limits = parse(limits)
        self._store = Store(str(root))
        self._limiter = None
        if remembers:
            self._limiter = Limiter(str(root), limits, newcomers="", clock=self._clock)
        self._ahead = 0
        self._window = max(limit.window for limit in self._limits)
        # At half the speed that a limit admits, each hit finds other hits, and room.
        self._step = max(2 * limit.window // limit.quota for limit in self._limits)
        self.hit()

    def _clock(self) -> int:
        """A clock that can be set.  It costs as much as the real clock plus this call."""
        return clock() + self._ahead

    def hit(self, app: str = "acme") -> Decision:
        """Play one hit at the present time of the clock."""
        if self._limiter is not None:
            return self._limiter.hit(app)
        return hit(self._store, self._limits, app, 1, self._clock)[0]

    def admitted(self) -> None:
        """Play one hit when there is room."""
        self._ahead += self._step
        self.hit()

    def fill(self) -> None:
        """Use up a new window, so that the next hits are denied."""
        self._ahead += self._window
        while self.hit():
            pass


# A request: the whole process.


def requests(rounds: int) -> Iterator[Row]:
    """A request to check.py, compared with an interpreter that starts and does nothing."""
    with temporary("/tmp") as place, temporary(MEMORY) as root:
        install(place)
        script = f"{place}/cgi-bin/check.py"
        full = new_store(root)
        # Many stores in turn: none of them gets more than a few requests in a second.
        others = cycle([new_store(root) for _ in range(32)])
        nothing = [PYTHON, "-I", "-S", "-c", "pass"]
        plain = [PYTHON, "-c", "pass"]

        def denied() -> float:
            fill(full)
            return process([script], full, b"Status: 429 ")

        ratios = compare(
            2 * rounds,  # this claim has the smallest margin
            lambda: process(nothing, full, b""),
            lambda: process([script], next(others), b"Status: 200 "),
            denied,
            lambda: process(plain, full, b""),
        )
        names = ("request admitted", "request denied", "python3 -c pass")
        for name, (cpu, ratio) in zip(names, ratios):
            yield Row(f"{name}: CPU", ratio, "x -I -S -c pass", cpu)
        if shutil.which("valgrind") is None:
            return
        hourly = new_store(root, "10/hour")  # still full after the seconds that valgrind needs to start
        fill(hourly)
        base = instructions(nothing, full)
        request = [PYTHON, "-IS", script]
        for name, command, store in zip(names, (request, request, plain), (next(others), hourly, full)):
            ratio = instructions(command, store) / base
            yield Row(f"{name}: instructions", ratio, "x -I -S -c pass")


def new_store(parent: str | Path, limit: str = "10/second") -> dict[str, str]:
    """Make a store and furnish it for acme.  Return the environment of a request to it."""
    root = tempfile.mkdtemp(dir=parent)
    Limiter(root, limit, newcomers="").hit("acme")
    return {"LIMITER_ROOT": root, "LIMITER_LIMIT": limit, "QUERY_STRING": "app_id=acme"}


def fill(environ: dict[str, str]) -> None:
    """Use up the whole limit of a store again."""
    limiter = Limiter(environ["LIMITER_ROOT"], environ["LIMITER_LIMIT"])
    limiter.reset("acme")
    while limiter.hit("acme"):
        pass


def process(command: list[str], environ: dict[str, str], expected: bytes) -> float:
    """Run a command to its end.  Return its CPU time, user and system, in microseconds."""
    output, its_output = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, its_output, 1)]
    child = os.posix_spawn(command[0], command, environ, file_actions=actions)
    os.close(its_output)
    _, status, usage = os.wait4(child, 0)
    answer = os.read(output, 4096)  # a pipe holds more than this, so the child did not have to wait
    os.close(output)
    if status or expected not in answer:
        raise RuntimeError(f"{command} ended with {status} and answered {answer!r}")
    return (usage.ru_utime + usage.ru_stime) * 1e6


def instructions(command: list[str], environ: dict[str, str]) -> int:
    """Return the number of instructions a command executes: within 0.15 % the same from run to run."""
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    environ = {"PATH": os.defpath, **environ}
    result = subprocess.run(tool + command, env=environ, capture_output=True, text=True, check=True)
    found = re.search(r"I +refs: +([0-9,]+)", result.stderr)
    if found is None:
        raise RuntimeError(f"valgrind said: {result.stderr}")
    return int(found[1].replace(",", ""))


# Hits, in this process.


def looks(rounds: int) -> Iterator[Row]:
    """A hit that must list the directory, compared with the calls that this takes."""
    for place, kind in ((MEMORY, "tmpfs"), (DISK, "disk")):
        for quota in (10, 64):
            yield from _looks(rounds, place, f"{quota}/second", quota, f", {kind}")


def others(rounds: int) -> Iterator[Row]:
    """The same for other kinds of limits, and for several limits."""
    yield from _looks(rounds, MEMORY, "10/second fixed", 1)
    yield from _looks(rounds, MEMORY, "10/second burst 10", 1)
    yield from _looks(rounds, MEMORY, "10/second;100/minute", 10)
    with temporary(MEMORY) as root:
        one, two = [
            Player(root, limits, remembers=False) for limits in ("10/second", "10/second;100/minute")
        ]
        ((each, ratio),) = compare(rounds, batch(one.admitted), batch(two.admitted))
        yield Row("two limits admitted", ratio, "x one", each)
    with temporary(MEMORY) as root:
        player, bare = Player(root, "1000/hour", remembers=False), Bare(root, 64)
        player.fill()  # for an hour
        ((each, ratio),) = compare(rounds, batch(bare.listdir), batch(player.hit))
        yield Row("1000/hour denied, 17 directories", ratio, "x listdir", each)


def _looks(rounds: int, place: str, limits: str, files: int, suffix: str = "") -> Iterator[Row]:
    with temporary(place) as root:
        player, bare = Player(root, limits, remembers=False), Bare(root, files)
        ((each, ratio),) = compare(rounds, batch(bare.listdir_rename), batch(player.admitted))
        yield Row(f"{limits} admitted{suffix}", ratio, "x listdir + rename", each)
        ((each, ratio),) = compare(rounds, batch(bare.listdir), batch(player.hit, player.fill))
        yield Row(f"{limits} denied{suffix}", ratio, "x listdir", each)


def stays(rounds: int) -> Iterator[Row]:
    """A Limiter that remembers: it denies without a system call, and admits with one rename."""
    with temporary(MEMORY) as root:
        player, bare = Player(root, "10/second", remembers=True), Bare(root, 10)
        for name, work, prepare in (
            ("denied from memory", player.hit, player.fill),
            ("admitted from memory", player.admitted, player.admitted),
        ):
            ((each, ratio),) = compare(rounds, batch(bare.listdir), batch(work, prepare))
            yield Row(name, ratio, "x listdir", each, 1e6 / each)
            prepare()
            with counted_calls() as calls:
                batch(work)()
            yield Row(f"{name}: listings", calls["listdir"] / BATCH, "a hit")
            yield Row(f"{name}: renames", calls["rename"] / BATCH, "a hit")
        if shutil.which("strace") is not None:
            hourly = new_store(root, "10/hour")
            fill(hourly)
            further = system_calls(hourly, 11_000) - system_calls(hourly, 1000)
            # Rounded: the number of calls with which Python starts varies slightly.
            yield Row("denied from memory: system calls", round(further / 10_000, 2), "a hit")


def system_calls(environ: dict[str, str], hits: int) -> int:
    """Return the number of system calls of a process whose hits, so many, are all denied."""
    text = (
        "from limiter.core.limiter import Limiter\n"
        f"limiter = Limiter({environ['LIMITER_ROOT']!r}, {environ['LIMITER_LIMIT']!r})\n"
        f"for _ in range({hits}): limiter.hit('acme')\n"
    )
    with tempfile.NamedTemporaryFile("r") as trace:
        # Reading the clock is a system call only on a few virtual machines.
        tool = ["strace", "-f", "-o", trace.name, "-e", "trace=!clock_gettime"]
        subprocess.run([*tool, sys.executable, "-c", text], cwd=REPOSITORY, check=True)
        return len(trace.readlines())


def firsts(rounds: int) -> Iterator[Row]:
    """The first hit of an application, which furnishes: more than 16 slots cost no more than 16."""
    with temporary(MEMORY) as root, temporary(MEMORY) as other_root:
        small = Player(root, "16/hour", remembers=False)
        large = Player(other_root, "1000/hour", remembers=False)
        apps = map("app{}".format, count())

        def first(player: Player) -> float:
            start = time.perf_counter_ns()
            player.hit(next(apps))
            return (time.perf_counter_ns() - start) / 1000

        ((each, ratio),) = compare(rounds, lambda: first(small), lambda: first(large))
        yield Row("first of 1000/hour", ratio, "x first of 16/hour", each)
        further = sum(calls_of_first_hit(large).values()) - sum(calls_of_first_hit(small).values())
        yield Row("first of 1000/hour: more calls", further, "beyond 16/hour's")


def calls_of_first_hit(player: Player) -> Counter[str]:
    """Return the calls that the first hit of an application makes."""
    with counted_calls() as calls:
        player.hit("first")
    return calls


def crowds(rounds: int) -> Iterator[Row]:
    """A hit in a store of many clients, compared with one in a store of few."""
    with temporary(DISK) as few, temporary(DISK) as many:
        for root, clients in ((few, FEW_CLIENTS), (many, MANY_CLIENTS)):
            for number in range(clients):
                os.mkdir(f"{root}/app{number}@10-per-1s")
        base, other = [Player(root, "10/second", remembers=False) for root in (few, many)]
        ((each, ratio),) = compare(rounds, batch(base.admitted), batch(other.admitted))
        yield Row("10/second admitted among many clients, disk", ratio, f"x among {FEW_CLIENTS:,}", each)


def rules(rounds: int) -> Iterator[Row]:
    """Which rule a request meets, in microseconds: an absolute time, since that was promised."""
    numbers = range(1000)
    texts = {
        "1 rule": ["/api/ GET 1/second"],
        "1000 rules": [f"/api/v{it % 10}/{'x' * (it % 40)}{it} * 1/second" for it in numbers],
        "1000 expressions": [rf"^/api/v{it % 10}/item{it}/\d+$ * 1/second" for it in numbers],
    }
    long = 39 * "x"
    paths = cycle(
        ["/", "/api/v7/item997/12", f"/api/v3/{long}{long}", 9 * "/other", f"/api/v9/{long}999"]
    )
    for name, lines in texts.items():
        met = parse_rules("\n".join(lines))

        def find(met: Rules = met) -> object:
            return met.find(next(paths), "GET")

        each = median(batch(find)() for _ in range(rounds))
        yield Row(name, each, "us a request", each)


# The report.


def machine_and_stores() -> str:
    """The machine, the file systems and the versions that were measured."""
    python = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    stores = ", ".join(f"{place} ({file_system(place)})" for place in (MEMORY, DISK))
    return (
        f"{machine()}\n"
        f"Requests: {PYTHON} {python}; hits: Python {platform.python_version()}\n"
        f"Stores: {stores}"
    )


MEASURES = (requests, looks, stays, firsts, others, crowds, rules)


def measure(rounds: int) -> Iterator[Row]:
    """Measure everything."""
    for each in MEASURES:
        print(each.__doc__, file=sys.stderr)
        yield from each(rounds)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print.  Return 0 if all claims hold, else 1."""
    number = read_rounds("benchmarks.in_process", __doc__, ROUNDS, arguments)
    print(machine_and_stores(), end="\n\n")
    return report(measure(number), AT_MOST, GOALS)


if __name__ == "__main__":
    sys.exit(main())
