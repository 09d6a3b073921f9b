"""This limiter beside its peers, on the same work, in one run.  Run ``python3 -m benchmarks peers``.

Each round times all contenders, one after the other, so that noise on the machine affects all alike: the
first hit of new clients, admitted hits, and denied ones, all against 10 hits a minute.  The table has medians,
as multiples of this limiter's, and quartiles.  The bare calls stand in the same table.

Then 8 processes flood one key for some seconds with a limit of 100 a second.  A judge computes, from the times
of the admitted hits, how many were admitted, how many should have been at most, and the most in any second.
Last, the store is lost in the middle of a flood: what do the hits get then?

The exit status is 1 if a peer that is exact over processes is faster than this limiter on tmpfs, or if this
limiter admits too many.  A peer that cannot be had here is left out, with the reason.  Takes about two
minutes.  Needs Linux, and what ``pip install --group peers`` installs; redis-server, nginx and Apache if they
are to take part.
"""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.contenders import CONTENDERS, EXACT, OURS, Contender
from benchmarks.contest import Flood, flood, most_allowed, most_in_a_window
from benchmarks.record import Figure, write
from benchmarks.report import machine, progress
from benchmarks.timings import figures, measure
from benchmarks.web_contenders import QUOTA, WEB_CONTENDERS, open_client

ROUNDS = 30
SECONDS = 4.5
PROCESSES = 8
CLIENTS = 200
"""How many clients the store has when its use is measured."""

_HITS = 10
_SECOND = 1_000_000


def usage(made: Contender) -> str:
    """What a client costs: bytes and inodes of the store, or else bytes of each process."""
    hit = made.open(_HITS, 60)
    hit("warm")
    if made.usage is None:
        tracemalloc.start()
    measured = made.usage or (lambda: (tracemalloc.get_traced_memory()[0], 0))
    before = measured()
    for nth in range(CLIENTS):
        hit(f"client-{nth}")
    size, inodes = [(now - then) / CLIENTS for now, then in zip(measured(), before)]
    if made.usage is None:
        tracemalloc.stop()
        return f"{size:,.0f} bytes of each process"
    return f"{size:,.0f} bytes" + (f", {inodes:,.0f} inodes" if inodes >= 1 else "")


@dataclass(frozen=True)
class Result:
    """What a flood got, as the judge sees it."""

    name: str
    admitted: int
    allowed: int
    most: int
    hits: int

    @classmethod
    def of(cls, name: str, kind: str, got: Flood) -> Result:
        """The result of a flood against a limit of this kind."""
        begin, end = (
            (got.admitted[0][0], max(end for _, end in got.admitted)) if got.admitted else (0, 0)
        )
        allowed = most_allowed(kind, QUOTA, _SECOND, begin, end)
        most = most_in_a_window(got.admitted, _SECOND, kind == "fixed")
        return cls(name, len(got.admitted), allowed, most, got.hits)

    def is_too_much(self, kind: str) -> bool:
        """Whether more was admitted than the limit allows, for certain."""
        return self.admitted > self.allowed or (kind != "bucket" and self.most > QUOTA)


def lose(made: Contender, seconds: float) -> str:
    """Lose the store in the middle of a flood.  Returns what the hits got after that."""
    lost: list[tuple[str, int]] = []
    accident = made.lose
    if accident is None:
        return "there is no store to lose"

    def in_the_middle(_: Sequence[int]) -> None:
        time.sleep(seconds / 2)
        lost.append((accident(), time.time_ns() // 1000))

    got = flood(partial(made.open, QUOTA, 1), 4, seconds, meanwhile=in_the_middle)
    what, moment = lost[0]
    errors = ", ".join(f"{number:,} {name}" for name, number in got.errors.items()) or "no error"
    return f"{what}: then {got.since(moment):,} admitted, {errors}"


def kill_one(made: Contender, seconds: float) -> Flood:
    """Flood a key, and kill one of the processes in the middle."""

    def in_the_middle(processes: Sequence[int]) -> None:
        time.sleep(seconds / 2)
        os.kill(processes[0], 9)

    return flood(partial(made.open, QUOTA, 1), PROCESSES, seconds, meanwhile=in_the_middle)


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and write what is asked for.  Returns 0 if all claims hold, else 1."""
    options = _options(arguments)
    print(f"{machine()}\n")
    names = []
    for name in CONTENDERS:
        reason = CONTENDERS[name].lacking()
        if reason:
            print(f"Left out: {name}: {reason}")
        else:
            names.append(name)
    times, bare = measure(names, options.rounds)
    found = figures(times, bare)
    print_times(found, names)
    wrong = list(faster_peers(found, names))
    for name in [name for name in names if times[name].wrong]:
        print(f"{name}: {times[name].wrong} of these hits were denied with room, or admitted without")
        if name.startswith("this"):
            wrong.append(f"{name} decided wrongly")
    wrong += _contest(names, options.seconds)
    if options.record:
        write(options.record, found)
    if options.output:
        draw(options.output, found, names)
    print(f"\nNot as claimed: {'; '.join(wrong)}" if wrong else "\nAll as claimed.")
    return 1 if wrong else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=ROUNDS, help="measurements of each time (default: %(default)s)")
    add("--seconds", type=float, default=SECONDS, help="how long a flood lasts (default: %(default)s)")
    add("--record", metavar="FILE", type=Path, help="write the figures there, as JSON")
    add("--output", metavar="DIRECTORY", type=Path, help="draw the pictures there")
    return parser.parse_args(arguments)


def print_times(found: dict[str, Figure], names: Sequence[str]) -> None:
    """Print the table of times, as multiples of this limiter's."""
    kinds = ("admitted", "denied", "first")
    print(f"\n{'microseconds; x this on tmpfs':32}" + "".join(f"{kind:>19}" for kind in kinds))
    for name in names:
        cells = ""
        for kind in kinds:
            it, ours = found[f"{name}: {kind}"], found[f"{OURS}: {kind}"]
            cells += f"{it.time:10,.1f} {f'x {it.ratio / ours.ratio:,.1f}':>8}"
        print(f"{name:32}{cells}")
    print()
    for name in [name for name in found if ": " not in name]:
        it = found[name]
        print(f"{name:32}{it.time:10,.1f}   quartiles {it.low:.2f} to {it.high:.2f}")


def faster_peers(found: dict[str, Figure], names: Sequence[str]) -> Iterator[str]:
    """Each row in which a peer that is exact over processes is faster than this limiter."""
    for name in names:
        if name.startswith("this") or CONTENDERS[name].promise != EXACT:
            continue
        for kind in ("admitted", "denied"):
            if found[f"{name}: {kind}"].ratio < found[f"{OURS}: {kind}"].ratio:
                yield f"{name}: {kind} is faster"


def _contest(names: Sequence[str], seconds: float) -> list[str]:
    """Flood each contender, print what it admitted, and return where this limiter admitted too many."""
    wrong = []
    print(f"\n{PROCESSES} processes on one key, {QUOTA} a second, {seconds:g} s")
    print(f"{'':32}{'admitted':>9}{'at most':>9}{'in a second':>13}{'hits':>11}")

    def show(result: Result, kind: str, note: str) -> None:
        verdict = "too many" if result.is_too_much(kind) else ""
        if verdict and result.name.startswith("this"):
            wrong.append(f"{result.name} admitted too many")
        line = (
            f"{result.name:32}{result.admitted:9,}{result.allowed:9,}{result.most:13,}{result.hits:11,}"
        )
        print(f"{line}  {', '.join(filter(None, (verdict, note)))}".rstrip(), flush=True)

    for name in names:
        progress(f"flood: {name}")
        entry = CONTENDERS[name]
        with entry.new() as made:
            got = flood(partial(made.open, QUOTA, 1), PROCESSES, seconds)
        note = "" if entry.promise == EXACT else entry.promise
        show(Result.of(name, entry.kind, got), entry.kind, note)
    with CONTENDERS[OURS].new() as made:
        got = kill_one(made, seconds)
    note = "what it admitted itself is not counted"
    show(Result.of("this, one process killed", "sliding", got), "sliding", note)
    for web in WEB_CONTENDERS:
        progress(f"flood: {web.name}")
        try:
            with web.serve() as port:
                got = flood(partial(open_client, port), PROCESSES, seconds)
        except (FileNotFoundError, RuntimeError) as error:
            print(f"Left out: {web.name}: {str(error).splitlines()[-1]}")
            continue
        show(Result.of(web.name, web.kind, got), web.kind, web.note)
    print("\nWhat a client costs, and what hits get when the store is lost in the middle")
    for name in names:
        progress(f"loss: {name}")
        with CONTENDERS[name].new() as made:
            costs = usage(made)
        with CONTENDERS[name].new() as made:
            print(f"{name:32}{costs}; {lose(made, min(2.0, seconds))}", flush=True)
    progress("")
    return wrong


def draw(directory: Path, found: dict[str, Figure], names: Sequence[str]) -> None:
    """Draw the times of a hit."""
    from benchmarks import plot

    groups = {
        kind: {name: found[f"{name}: {kind}"].time for name in names} for kind in ("admitted", "denied")
    }
    plot.bars(f"{directory}/peers", "A hit, by limiter", "microseconds, logarithmic", groups)
