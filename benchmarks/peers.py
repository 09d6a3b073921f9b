"""This limiter beside its peers, on the same work, in one run.  Run ``python3 -m benchmarks peers``.

1. Times of hits: the first of new clients, admitted, denied, against 10 a minute.  Each contender has a process of
   its own.  Each round times all of them, one after the other, so that noise on the machine affects all alike.
   The table has the median of the ratios to this limiter on tmpfs, their quartiles, and the median time.  The bare
   calls stand in the same table.
2. A flood: 8 processes hit one key with a limit of 100 a second.  A judge computes, from the times of the admitted
   hits, how many there were, how many there should have been, and the most in any second.
3. The same through web servers, with the CPU time of a request, in all processes of the server.
4. What a client costs, and what hits get when the store is lost in the middle of a flood.

The exit status is 1 if a peer that is exact over processes is faster than this limiter on tmpfs, or if this limiter
decides wrongly.  A peer that cannot be had here is left out, with the reason.  Takes about three minutes.  Needs
Linux, and what ``pip install --group peers`` installs; redis-server, nginx and Apache if they are to take part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from benchmarks.accidents import kill_one, lose
from benchmarks.apache import cpu_of_session
from benchmarks.contenders import CONTENDERS, EXACT, OURS
from benchmarks.contest import Flood, flood, most_allowed, most_in_a_window
from benchmarks.footprint import footprint
from benchmarks.record import Figure, is_ours, write
from benchmarks.report import file_system, machine, progress
from benchmarks.timings import KINDS, Times, beside, figures, measure
from benchmarks.web_contenders import QUOTA, WEB_CONTENDERS, WebContender, open_client

ROUNDS = 30
SECONDS = 4.5
PROCESSES = 8
CLIENTS = 1000
"""How many clients the store has when its use is measured."""

_SECOND = 1_000_000
_LOSS = 2.0
"""The most seconds of a flood in which a store is lost."""


@dataclass(frozen=True)
class Result:
    """What a flood got, as the judge sees it.

    ``kind``: of the limit; "" for none.  ``should``: how many could be admitted until the end of the flood.
    ``allowed``: how many could be admitted until the last hit that was.  ``most``: the most in a second.
    """

    name: str
    kind: str
    admitted: int
    should: int
    allowed: int
    most: int
    hits: int
    note: str = ""

    @classmethod
    def of(cls, name: str, kind: str, got: Flood, note: str = "") -> Result:
        """The result of a flood."""
        begin = got.admitted[0][0] if got.admitted else got.end
        last = max((end for _, end in got.admitted), default=begin)
        should, allowed = [most_allowed(kind, QUOTA, _SECOND, begin, end) for end in (got.end, last)]
        most = most_in_a_window(got.admitted, _SECOND, kind == "fixed")
        errors = ", ".join(f"{number:,} {error}" for error, number in got.errors.items())
        note = ", ".join(filter(None, (errors, note)))
        return cls(name, kind, len(got.admitted), should, allowed, most, got.hits, note)

    @property
    def is_too_much(self) -> bool:
        """Whether more was admitted than the limit allows, for certain."""
        if not self.kind:
            return False
        return self.admitted > self.allowed or (self.kind != "bucket" and self.most > QUOTA)

    def line(self, more: str = "") -> str:
        """A line of the table."""
        should = f"{self.should:,}" if self.kind else ""
        verdict = f"TOO MANY (at most {self.allowed:,} until its last)" if self.is_too_much else ""
        verdict = ", ".join(filter(None, (verdict, self.note)))
        numbers = f"{self.admitted:9,}{should:>9}{self.most:11,}{self.hits:11,}"
        return f"{self.name:30}{numbers}{more}  {verdict}".rstrip()


_HEAD = f"{'':30}{'admitted':>9}{'should':>9}{'a second':>11}{'hits':>11}"


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and write what is asked for.  Returns 0 if all claims hold, else 1."""
    options = _options(arguments)
    print(machine())
    print(f"Stores: {', '.join(f'{it} ({file_system(it)})' for it in ('/dev/shm', '/var/tmp'))}\n")
    names = []
    for name, entry in CONTENDERS.items():
        reason = entry.lacking()
        if reason:
            print(f"Left out: {name}: {reason}")
        else:
            names.append(name)
    times, bare = measure(names, options.rounds)
    found = figures(times, bare)
    ratios = beside(times, OURS)
    print_times(ratios, {name: found[name] for name in bare}, times)
    wrong = [
        *faster_peers(ratios),
        *(f"{it} decided wrongly" for it in names if is_ours(it) and times[it].wrong),
        *_contest(names, options.seconds),
        *_web_contest(options.seconds),
        *_costs_and_losses(names, min(_LOSS, options.seconds)),
    ]
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
    add("--record", metavar="FILE", type=Path, help="write the times there, as JSON")
    add("--output", metavar="DIRECTORY", type=Path, help="draw the pictures there")
    options = parser.parse_args(arguments)
    options.rounds = max(1, options.rounds)
    return options


def print_times(
    ratios: Mapping[str, Mapping[str, Figure]], bare: Mapping[str, Figure], times: Mapping[str, Times]
) -> None:
    """Print the table of times: the ratio to this limiter's, its quartiles, and microseconds."""
    print(f"\n{'x this on tmpfs, us':30}" + "".join(f"{kind:>27}" for kind in KINDS))
    for name, by_kind in ratios.items():
        cells = ""
        for it in by_kind.values():
            spread = f"({it.low:,.1f}-{it.high:,.1f})"
            cells += f"{it.ratio:6,.1f} {spread:11}{it.time:9,.1f}"
        wrong = f"  {times[name].wrong} decided wrongly" if times[name].wrong else ""
        print(f"{name:30}{cells}{wrong}")
    print(f"\n{'x a listing and a rename, us':30}")
    for name, it in bare.items():
        spread = f"({it.low:,.2f}-{it.high:,.2f})"
        print(f"{name:30}{it.ratio:6,.2f} {spread:13}{it.time:7,.1f}")


def faster_peers(ratios: Mapping[str, Mapping[str, Figure]]) -> Iterator[str]:
    """Each row in which a peer that is exact over processes is faster than this limiter on tmpfs."""
    for name, by_kind in ratios.items():
        if not is_ours(name) and CONTENDERS[name].promise == EXACT:
            for kind in ("admitted", "denied"):
                if by_kind[kind].ratio < 1:
                    yield f"{name}: {kind} is faster"


def _contest(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Flood each contender, and print what it admitted.  Yields where this limiter admitted too many."""
    print(f"\n{PROCESSES} processes on one key, {QUOTA} a second, {seconds:g} s")
    print(_HEAD)
    for name in names:
        progress(f"flood: {name}")
        entry = CONTENDERS[name]
        note = "" if entry.promise == EXACT else entry.promise
        with entry.new() as made:
            got = flood(partial(made.open, QUOTA, 1), PROCESSES, seconds)
        yield from _judged(Result.of(name, entry.kind, got, note))
    progress("flood: one process is killed")
    with CONTENDERS[OURS].new() as made:
        got = kill_one(made, QUOTA, PROCESSES, seconds)
    yield from _judged(Result.of("this, one process killed", CONTENDERS[OURS].kind, got))


def _web_contest(seconds: float) -> Iterator[str]:
    """The same for web servers."""
    print(f"\nOver HTTP, {PROCESSES} clients; CPU of a request, us")
    print(f"{_HEAD}{'CPU':>7}")
    for web in WEB_CONTENDERS:
        progress(f"flood: {web.name}")
        try:
            result, cpu = flood_server(web, seconds)
        except (FileNotFoundError, RuntimeError, pytest.skip.Exception) as error:
            progress("")
            print(f"Left out: {web.name}: {str(error).strip().splitlines()[-1]}")
            continue
        yield from _judged(result, f"{cpu:7,.0f}")


def flood_server(web: WebContender, seconds: float) -> tuple[Result, float]:
    """Flood a web server: the result, and the CPU time of a request in microseconds."""
    with web.serve() as server:
        before = cpu_of_session(server.pid)
        got = flood(partial(open_client, server.port), PROCESSES, seconds)
        used = cpu_of_session(server.pid) - before
    return Result.of(web.name, web.kind, got, web.note), used / max(1, got.hits) * 1e6


def _judged(result: Result, more: str = "") -> Iterator[str]:
    progress("")
    print(result.line(more), flush=True)
    if result.is_too_much and is_ours(result.name):
        yield f"{result.name} admitted too many"


def _costs_and_losses(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Print what a client costs, and what hits get when the store is lost.

    Yields where this limiter then admitted too many.
    """
    print("\nWhat a client costs")
    for name in names:
        progress(f"clients: {name}")
        with CONTENDERS[name].new() as made:
            costs = footprint(made, CLIENTS)
        progress("")
        print(f"{name:30}{costs}", flush=True)
    print(f"\nThe store is lost in the middle of a flood, {QUOTA} a second")
    for name in names:
        progress(f"loss: {name}")
        entry = CONTENDERS[name]
        with entry.new() as made:
            loss = lose(made, QUOTA, seconds, entry.kind == "fixed")
        progress("")
        if loss is None:
            continue
        is_too_much = loss.most > QUOTA and entry.kind != "bucket"
        print(f"{name:30}{loss}{'  TOO MANY' if is_too_much else ''}", flush=True)
        if is_too_much and is_ours(name):
            yield f"{name} admitted too many after the loss of its store"


def draw(directory: Path, found: Mapping[str, Figure], names: Sequence[str]) -> None:
    """Draw the times of a hit."""
    from benchmarks import plot

    groups = {
        kind: {name: found[f"{name}: {kind}"].time for name in names} for kind in ("admitted", "denied")
    }
    plot.bars(f"{directory}/peers", "A hit, by limiter", "microseconds, logarithmic", groups)
