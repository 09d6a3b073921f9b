"""One limit over several nodes, two ways: a store that all share, or a store and a share for each.

Run ``python3 -m tests.simulation`` in the repository; it needs numpy, and for the picture matplotlib
(``--output docs/per-node.svg``).  It shows what LIMITER_NODES loses, and what it wins.  Takes about 10 s; the
tables go to standard output, progress to standard error if that is a terminal.  Ends with 1, and says which, if
a claim is false.

Precision is played: the hits of some app_ids, each a Poisson process, are dealt to nodes as a load
balancer would, and each node decides with the arithmetic of its share (``limiter.share``).  The figure is
the hits admitted by all nodes, in percent more (+) or less (-) than the exact limiter admits of the same
hits.  Everything is drawn from one seed and counted in whole microseconds, so it is the same everywhere.

Throughput is calculated, as the least of three upper bounds (a closed system's asymptotes):

* the processes: each of a node's 32 decides one hit after another, and a hit takes it the limiter's CPU time
  (150 us, tests.benchmark_apache) and then the store's latency;
* the processors: a node has two, and nothing else to do;
* the shared store: 16 calls at a time (performance.io-thread-count of GlusterFS, its default), whoever
  asks.  A hit is a listing and a rename: 1.4 and 2.9 ms on three replicas.  What is longer is the way
  there, and occupies nobody; what is shorter is a faster store.

Every hit is admitted, and there are many app_ids: hits of one app_id on one mount also wait for each other,
since the kernel renames one file of a directory at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from limiter.burst import Burst
from limiter.fixed import Fixed
from limiter.limit import SECOND, Limit
from limiter.notation import parse
from limiter.share import share

Numbers = npt.NDArray[np.int64]

SEED = 20171213
START = 1_513_123_200 * SECOND
"""When the first hit may come: the beginning of a minute."""

NODES = (1, 2, 3, 5, 10, 30, 100, 300)
LIMITS = ("1000/minute", "10/second", "1000/minute fixed", "1000/minute burst 100")
AT_ONCE = "at once"
DEMANDS = {"0.5 x": 0.5, "1 x": 1.0, "2 x": 2.0, AT_ONCE: float("inf")}
"""Hits that come, as a multiple of what the limit admits; or all within a second, after silence."""

BELIEVED = 10
"""LIMITER_NODES where it is wrong."""

APPS = 4
HITS = 10_000
"""What the limit admits of one app_id, in the time that is played."""


# One limit, on times that are given: what a Limiter answers, without its files.


def admitted(limit: Limit, times: Sequence[int]) -> list[int]:
    """Those of the times, in microseconds and in order, at which a hit is admitted.  From silence."""
    if isinstance(limit, Fixed):
        return _fixed(limit, times)
    if isinstance(limit, Burst):
        return _burst(limit, times)
    return _sliding(limit, times)


def _sliding(limit: Limit, times: Sequence[int]) -> list[int]:
    window, last = limit.window, limit.quota - 1
    slots = [0] * limit.quota  # taken in turn, so the next is the oldest
    oldest = 0
    hits = []
    for time in times:
        if time - slots[oldest] >= window:
            slots[oldest] = time
            oldest = oldest + 1 if oldest < last else 0
            hits.append(time)
    return hits


def _fixed(limit: Fixed, times: Sequence[int]) -> list[int]:
    end = used = 0
    hits = []
    for time in times:
        if time >= end:
            end = (time // limit.window + 1) * limit.window
            used = 0
        if used < limit.quota:
            used += 1
            hits.append(time)
    return hits


def _burst(limit: Burst, times: Sequence[int]) -> list[int]:
    rate, token = limit.rate, limit.period
    room = (limit.quota - 1) * token
    full = 0  # when the bucket will be, in units of 1/rate of a microsecond
    hits = []
    for time in times:
        now = time * rate
        if full - now <= room:
            full = max(full, now) + token
            hits.append(time)
    return hits


# The hits, and the load balancer.


def arrivals(limit: Limit, demand: str, draw: np.random.RandomState) -> Numbers:
    """When the hits of one app_id come, in microseconds and in order."""
    if demand == AT_ONCE:
        number, duration = 10 * max(limit.quota, NODES[-1]), SECOND
    else:
        hits, window = (
            (limit.rate, limit.period) if isinstance(limit, Burst) else (limit.quota, limit.window)
        )
        number, duration = int(DEMANDS[demand] * HITS), HITS * window // hits
    return START + np.sort((draw.random_sample(number) * duration).astype(np.int64))


Balance = Callable[[int, int, np.random.RandomState], Numbers]
"""The node, from 0, that each of so many hits goes to, of so many nodes."""


def in_turn(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """Round robin, of this app_id's hits alone."""
    return np.arange(number, dtype=np.int64) % nodes


def at_random(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """Round robin among the hits of many others, least connections, or by each connection's hash."""
    return (draw.random_sample(number) * nodes).astype(np.int64)


def uneven(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """By weights that rise from 1 on the first node to 3 on the last, though all have equal shares."""
    weights = np.linspace(1, 3, nodes).cumsum()
    place = draw.random_sample(number) * weights[-1]
    chosen: Numbers = np.searchsorted(weights, place, "right")
    return chosen


def sticky(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """By the hash of the client: the app_id has 20, and each stays on its node."""
    node = at_random(20, nodes, draw)
    return node[at_random(number, 20, draw)]


def one_client(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """By the hash of the client, or of the app_id: all on one node."""
    return np.zeros(number, dtype=np.int64)


BALANCES: dict[str, Balance] = {
    "round robin": in_turn,
    "random": at_random,
    "weights 1 to 3": uneven,
    "sticky, 20 clients": sticky,
    "sticky, 1 client": one_client,
}


# Precision.


@dataclass(frozen=True)
class Outcome:
    """What so many nodes made of a limit, together.

    ``error`` is the hits admitted, in percent more than the exact limiter admits.  ``kept`` says that none
    of the app_ids got more than from that one, and S1: no window holds more hits of all nodes than the limit.
    """

    limit: str
    demand: str
    balance: str
    nodes: int
    error: float
    kept: bool

    @property
    def promised(self) -> bool:
        """Whether ``kept`` is: each node has at least one of the limit's hits."""
        return only(self.limit).quota >= self.nodes


def play(text: str, demand: str, balance: str, nodes: int, believed: int | None = None) -> Outcome:
    """Let so many nodes decide, each with its share; ``believed`` is the LIMITER_NODES of them all."""
    limit, part = only(text), only(share(text, believed or nodes))
    total = exact = 0
    kept = True
    for app in range(APPS):
        times = arrivals(limit, demand, np.random.RandomState([SEED, app]))
        reference = admitted(limit, times.tolist())
        chosen = BALANCES[balance](len(times), nodes, np.random.RandomState([SEED, app, nodes]))
        together = on_nodes(part, times, chosen, nodes)
        total += len(together)
        exact += len(reference)
        # The exact limiter admits all of a history if, and only if, S1 holds in it.
        kept = kept and len(together) <= len(reference) and admitted(limit, together) == together
    return Outcome(text, demand, balance, nodes, 100 * (total / exact - 1), kept)


def on_nodes(part: Limit, times: Numbers, chosen: Numbers, nodes: int) -> list[int]:
    """When hits are admitted, by any of the nodes that they were dealt to."""
    together: list[int] = []
    if len(times):
        ordered = times[np.argsort(chosen, kind="stable")]
        ends = np.bincount(chosen, minlength=nodes).cumsum()
        for mine in np.split(ordered, ends[:-1]):
            together += admitted(part, mine.tolist())
    return sorted(together)


def only(text: str) -> Limit:
    """The one limit that a text names."""
    (limit,) = parse(text)
    return limit


def precision() -> Iterator[Outcome]:
    """Each limit, balance and demand on each number of nodes."""
    for limit in LIMITS:
        for balance in BALANCES:
            progress(f"{limit}, {balance}")
            for demand in DEMANDS:
                for nodes in NODES:
                    yield play(limit, demand, balance, nodes)
    progress("")


def miscounted() -> Iterator[Outcome]:
    """What comes of a LIMITER_NODES that is wrong: nodes have failed, or were added."""
    for nodes in (1, 5, 9, 10, 11, 20):
        yield play("1000/minute", "2 x", "random", nodes, BELIEVED)


# Throughput.


PROCESSES = 32
PROCESSORS = 2
CPU = 150
CALLS = 16
LOCAL = 20
GLUSTER = 1401 + 2936
LATENCIES = (200, 1000, GLUSTER, 50_000)
"""Of a listing and a rename, in microseconds, as are CPU, LOCAL and GLUSTER."""


def rate_apart(nodes: int, latency: int = LOCAL) -> float:
    """The hits that nodes decide in a second, each with a store of its own in memory."""
    return SECOND * nodes * min(PROCESSES / (CPU + latency), PROCESSORS / CPU)


def rate_shared(nodes: int, latency: int) -> float:
    """The hits that nodes decide in a second with one store, so far away."""
    return min(rate_apart(nodes, latency), SECOND * CALLS / min(latency, GLUSTER))


# The report.


def main(arguments: list[str] | None = None) -> int:
    """Play, print, draw if asked to, and return 0 if all claims hold, else 1."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", metavar="FILE", help="draw the picture, as SVG")
    output = parser.parse_args(arguments).output
    outcomes = list(precision())
    _print_precision(outcomes)
    _print_miscounted()
    _print_throughput()
    if output:
        draw(output)
    return _judge(outcomes)


def _print_precision(outcomes: Sequence[Outcome]) -> None:
    print("Hits admitted, in percent more (+) or less (-) than by the exact limiter, by number of nodes")
    for limit, rows in groupby(outcomes, lambda outcome: outcome.limit):
        print(f"\n{_line(limit, 'demand', map(str, NODES))}")
        for (balance, demand), row in groupby(rows, lambda outcome: (outcome.balance, outcome.demand)):
            print(_line(balance, demand, map(_percent, row)))


def _print_miscounted() -> None:
    print(f"\nThe same where LIMITER_NODES={BELIEVED}, whatever there is\n")
    outcomes = list(miscounted())
    print(_line(outcomes[0].limit, "demand", [str(outcome.nodes) for outcome in outcomes]))
    print(_line(outcomes[0].balance, outcomes[0].demand, map(_percent, outcomes)))


def _print_throughput() -> None:
    print("\nThousands of hits decided in a second, at most, by number of nodes\n")
    print(_line("store", "latency", map(str, NODES)))
    print(
        _line(
            "one a node, in memory",
            f"{LOCAL / 1000:g} ms",
            [_thousands(rate_apart(nodes)) for nodes in NODES],
        )
    )
    for latency in LATENCIES:
        rates = [_thousands(rate_shared(nodes, latency)) for nodes in NODES]
        print(_line("one for all", f"{latency / 1000:.2g} ms", rates))


def _line(name: str, what: str, cells: Iterable[str]) -> str:
    return f"{name:22}{what:>8}" + "".join([f"{cell:>8}" for cell in cells])


def _percent(outcome: Outcome) -> str:
    return f"{round(outcome.error, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def _thousands(rate: float) -> str:
    return f"{rate / 1000:,.1f}"


def _judge(outcomes: Sequence[Outcome]) -> int:
    """Print whether the claims hold, and return 0, or 1 if not."""
    false = [outcome for outcome in outcomes if outcome.promised and not outcome.kept]
    for it in false:
        print(f"FALSE: {it.limit}, {it.balance}, {it.demand}, {it.nodes} nodes admitted too many")
    if not false:
        print(
            "\nAs claimed: with no more nodes than hits in the limit, no window of all nodes together"
            " held more\nthan the limit, and never more were admitted than by the exact limiter."
        )
    return 1 if false else 0


def progress(what: str) -> None:
    """Show on a terminal what is being done."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


# The picture.


Lines = dict[str, list[float]]
"""By its name in the legend a figure for each of NODES."""


def pictured() -> tuple[Lines, Lines]:
    """What the two panels show."""
    lost = {balance: _errors("1000/minute", "1 x", balance) for balance in BALANCES}
    lost["random: 10/second, all at once"] = _errors("10/second", AT_ONCE, "random")
    won: Lines = {"one a node, in memory": [round(rate_apart(nodes)) for nodes in NODES]}
    for latency in LATENCIES:
        rates: list[float] = [round(rate_shared(nodes, latency)) for nodes in NODES]
        won[f"one for all, {latency / 1000:.2g} ms away"] = rates
    return lost, won


def _errors(limit: str, demand: str, balance: str) -> list[float]:
    return [round(play(limit, demand, balance, nodes).error, 2) + 0.0 for nodes in NODES]


def draw(path: str) -> None:
    """Draw both panels into an SVG file, with their figures as its description."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lost, won = pictured()
    # Okabe and Ito's colours, told apart by all eyes; and a marker each.
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "limiter", "font.size": 11}):
        figure = Figure(figsize=(13, 6), layout="constrained", facecolor="white")
        figure.suptitle("LIMITER_NODES: a store for each node, in place of one for all ...")
        left, right = figure.subplots(1, 2)
        for panel, lines in ((left, lost), (right, won)):
            for (name, values), colour, marker in zip(lines.items(), colours, "osD^vP"):
                panel.plot(NODES, values, color=colour, marker=marker, label=name, clip_on=False)
            panel.set_xscale("log")
            panel.set_xticks(NODES, [str(nodes) for nodes in NODES])
            panel.set_xlabel("nodes")
            panel.grid(color="#DDDDDD", linewidth=0.8)
            panel.spines[["top", "right"]].set_visible(False)
        left.set_title("loses precision: 1000/minute, demand 1 x", loc="left")
        left.set_yscale("symlog", linthresh=100)
        left.set_ylim(-105, 5000)
        ticks = (-100, -80, -60, -40, -20, 0, 100, 1000)
        left.set_yticks(ticks, [f"{tick:+,} %" if tick else "exact" for tick in ticks])
        left.axhline(0, color="#333333", linewidth=1)
        left.set_ylabel("hits admitted, more or less than by the exact limiter")
        left.legend(title="load balancer", frameon=False, loc="upper left")
        right.set_title("wins throughput: hits decided in a second, at most", loc="left")
        right.set_yscale("log")
        right.set_ylim(300, 9_000_000)
        right.yaxis.set_major_formatter("{x:,.0f}")
        right.set_ylabel("hits a second, all nodes together")
        right.legend(title="store", frameon=False, loc="upper left")
        for panel in (left, right):
            panel.minorticks_off()
        about = {
            "Title": "A store for each node, and one for all: precision and throughput",
            "Description": json.dumps([lost, won]),
            "Date": None,
            "Creator": None,
        }
        figure.savefig(path, format="svg", metadata=about)


if __name__ == "__main__":
    sys.exit(main())
