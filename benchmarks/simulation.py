"""One limit over several nodes: one shared store, compared with a store and a share for each node.

Run ``python3 -m benchmarks.simulation`` in the repository.  It needs numpy, and matplotlib for the
picture (``--output docs/per-node.svg``).  It shows what LIMITER_NODES loses, and what it wins.  Takes
about 10 s.  The tables go to standard output.  Progress goes to standard error if that is a terminal.
The exit status is 1 if a claim is false; the output then names the claim.

Precision is simulated.  Some app_ids send hits, each app_id as a Poisson process.  The hits are dealt to
nodes as a load balancer would, and each node decides with the arithmetic of its share
(``limiter.request.node_share``).  The figure compares the hits that all nodes admit with those that the
exact limiter admits of the same hits: percent more (+) or less (-).  Everything is drawn from one seed
and counted in whole microseconds, so the result is the same on every machine.

Throughput is calculated, as the least of three upper bounds (the asymptotes of a closed system):

* the processes: each of the 32 processes of a node decides one hit after another.  A hit takes the CPU
  time of the limiter (150 us, benchmarks.apache) and then the latency of the store;
* the processors: a node has two, and they do nothing else;
* the shared store: it serves 16 calls at a time (performance.io-thread-count of GlusterFS, its default),
  for all nodes together.  A hit is a listing and a rename: 1.4 and 2.9 ms on three replicas.  A longer
  latency means a longer way to the store, which occupies no thread there.  A shorter latency means a
  faster store.

Every hit is admitted, and there are many app_ids.  (Hits of one app_id on one mount also wait for each
other: the kernel renames one file of a directory at a time.)
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

from benchmarks.report import progress
from limiter.core.burst import Burst
from limiter.core.fixed import Fixed
from limiter.core.limit import SECOND, Limit
from limiter.request.node_share import share
from tests.history import only

Numbers = npt.NDArray[np.int64]

SEED = 20171213
START = 1_513_123_200 * SECOND
"""The earliest time of a hit: the beginning of a minute."""

NODES = (1, 2, 3, 5, 10, 30, 100, 300)
LIMITS = ("1000/minute", "10/second", "1000/minute fixed", "1000/minute burst 100")
AT_ONCE = "at once"
DEMANDS = {"0.5 x": 0.5, "1 x": 1.0, "2 x": 2.0, AT_ONCE: float("inf")}
"""The rate of hits as a multiple of what the limit admits, or all within a second after a pause."""

BELIEVED = 10
"""The value of LIMITER_NODES where it is wrong."""

APPS = 4
HITS = 10_000
"""The number of hits that the limit admits of one app_id in the time simulated."""


# One limit, on given times: what a Limiter answers, without its files.


def admitted(limit: Limit, times: Sequence[int]) -> list[int]:
    """Return those of the times at which a hit is admitted.

    In microseconds, in order; nothing came before.
    """
    if isinstance(limit, Fixed):
        return _fixed(limit, times)
    if isinstance(limit, Burst):
        return _burst(limit, times)
    return _sliding(limit, times)


def _sliding(limit: Limit, times: Sequence[int]) -> list[int]:
    window, last = limit.window, limit.quota - 1
    slots = [0] * limit.quota  # taken in turn, so the next one is the oldest
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
    full = 0  # when the bucket will be full, in units of 1/rate of a microsecond
    hits = []
    for time in times:
        now = time * rate
        if full - now <= room:
            full = max(full, now) + token
            hits.append(time)
    return hits


# The hits, and the load balancer.


def arrivals(limit: Limit, demand: str, draw: np.random.RandomState) -> Numbers:
    """Return the times of the hits of one app_id, in microseconds and in order."""
    if demand == AT_ONCE:
        number, duration = 10 * max(limit.quota, NODES[-1]), SECOND
    else:
        hits, window = (
            (limit.rate, limit.period) if isinstance(limit, Burst) else (limit.quota, limit.window)
        )
        number, duration = int(DEMANDS[demand] * HITS), HITS * window // hits
    return START + np.sort((draw.random_sample(number) * duration).astype(np.int64))


Balance = Callable[[int, int, np.random.RandomState], Numbers]
"""Returns for each of so many hits the node that it goes to, from 0, of so many nodes."""


def in_turn(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """Round robin among the hits of this app_id alone."""
    return np.arange(number, dtype=np.int64) % nodes


def at_random(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """Round robin among hits of many other app_ids, least connections, or a hash of the connection."""
    return (draw.random_sample(number) * nodes).astype(np.int64)


def uneven(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """Weights that rise from 1 on the first node to 3 on the last, though all shares are equal."""
    weights = np.linspace(1, 3, nodes).cumsum()
    place = draw.random_sample(number) * weights[-1]
    chosen: Numbers = np.searchsorted(weights, place, "right")
    return chosen


def sticky(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """A hash of the client: the app_id has 20 clients, and each stays on its node."""
    node = at_random(20, nodes, draw)
    return node[at_random(number, 20, draw)]


def one_client(number: int, nodes: int, draw: np.random.RandomState) -> Numbers:
    """A hash of the client, if there is only one, or of the app_id: all hits go to one node."""
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
    """What so many nodes admitted of a limit, together.

    ``error`` is the number of hits admitted, in percent more than the exact limiter admits.  ``kept``
    means that no app_id got more hits than from the exact limiter, and that S1 holds: no window has more
    hits of all nodes than the limit.
    """

    limit: str
    demand: str
    balance: str
    nodes: int
    error: float
    kept: bool

    @property
    def promised(self) -> bool:
        """Whether ``kept`` is promised: it is if each node has at least one hit of the limit."""
        return only(self.limit).quota >= self.nodes


def play(text: str, demand: str, balance: str, nodes: int, believed: int | None = None) -> Outcome:
    """Let so many nodes decide, each with its share.

    ``believed`` is the LIMITER_NODES of all of them.
    """
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
        # The exact limiter admits every hit of a history if, and only if, S1 holds in it.
        kept = kept and len(together) <= len(reference) and admitted(limit, together) == together
    return Outcome(text, demand, balance, nodes, 100 * (total / exact - 1), kept)


def on_nodes(part: Limit, times: Numbers, chosen: Numbers, nodes: int) -> list[int]:
    """Return the times at which hits are admitted, each by the node it was dealt to."""
    together: list[int] = []
    if len(times):
        ordered = times[np.argsort(chosen, kind="stable")]
        ends = np.bincount(chosen, minlength=nodes).cumsum()
        for mine in np.split(ordered, ends[:-1]):
            together += admitted(part, mine.tolist())
    return sorted(together)


def precision() -> Iterator[Outcome]:
    """Play each limit, balance and demand on each number of nodes."""
    for limit in LIMITS:
        for balance in BALANCES:
            progress(f"{limit}, {balance}")
            for demand in DEMANDS:
                for nodes in NODES:
                    yield play(limit, demand, balance, nodes)
    progress("")


def miscounted() -> Iterator[Outcome]:
    """Play with a wrong LIMITER_NODES: nodes have failed, or were added."""
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
"""Of a listing and a rename together, in microseconds.

CPU, LOCAL and GLUSTER are in microseconds, too.
"""


def rate_apart(nodes: int, latency: int = LOCAL) -> float:
    """Return the hits per second of nodes that each have a store of their own in memory."""
    return SECOND * nodes * min(PROCESSES / (CPU + latency), PROCESSORS / CPU)


def rate_shared(nodes: int, latency: int) -> float:
    """Return the hits per second of nodes that share one store with this latency."""
    return min(rate_apart(nodes, latency), SECOND * CALLS / min(latency, GLUSTER))


# The report.


def main(arguments: list[str] | None = None) -> int:
    """Simulate, print, and draw if asked to.  Return 0 if all claims hold, else 1."""
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.simulation",
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
    return f"{round(outcome.error, 1) + 0.0:+.1f}"  # + 0.0: no minus sign before a zero


def _thousands(rate: float) -> str:
    return f"{rate / 1000:,.1f}"


def _judge(outcomes: Sequence[Outcome]) -> int:
    """Print whether the claims hold.  Return 0, or 1 if not."""
    false = [outcome for outcome in outcomes if outcome.promised and not outcome.kept]
    for it in false:
        print(f"FALSE: {it.limit}, {it.balance}, {it.demand}, {it.nodes} nodes admitted too many")
    if not false:
        print(
            "\nAs claimed: with no more nodes than hits in the limit, no window of all nodes together"
            " held more\nthan the limit, and never more were admitted than by the exact limiter."
        )
    return 1 if false else 0


# The picture.


Lines = dict[str, list[float]]
"""Maps each name in the legend to a figure for each of NODES."""


def pictured() -> tuple[Lines, Lines]:
    """Return what the two panels show."""
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
    # Colours of Okabe and Ito, which colour-blind people can tell apart; each line also has a marker.
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
