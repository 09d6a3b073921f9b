"""What a client behind the address gets while something happens, and what that costs."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.laboratories.balancer.laboratory import VIP
from tests.laboratories.cluster.laboratory import Laboratory
from tests.places import PYTHON

RATE = 10
"""Requests per second."""

PATIENCE = 20
"""Seconds without an answer after which a request is abandoned: more than a busy machine needs."""

_CLIENT = Path(__file__).with_name("client.py")
_DEADLINE = 180
_SERVED = (200, 429)
_QUIET = 1.5


@dataclass
class Request:
    """One request; times are in microseconds.

    Without an answer ``status`` is 0, and ``error`` says why.
    """

    number: int
    begun: int
    ended: int
    status: int
    server: str
    error: str

    @property
    def is_served(self) -> bool:
        """Whether it got a decision of the limiter."""
        return self.status in _SERVED


@dataclass
class Play:
    """The requests that have ended so far; all of them, when the play is over.

    ``rate`` is requests per second.
    """

    rate: int
    requests: list[Request] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, request: Request) -> None:
        """Add a request that has ended."""
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[list[Request]], bool], what: str) -> None:
        """Return as soon as the condition holds for the requests so far."""
        with self.changed:
            held = self.changed.wait_for(lambda: condition(self.requests), _DEADLINE)
            assert held, f"not within {_DEADLINE} s: {what}: {self.requests[-RATE:]}"

    def wait_until_served(self) -> None:
        """Return when all requests of 1.5 s in a row, begun from now on, have been served.

        By then each web server has served several times.
        """
        begun = now()

        def is_served(requests: list[Request]) -> bool:
            served = sorted(it.number for it in requests if it.begun >= begun and it.is_served)
            length = int(_QUIET * self.rate)
            # A request that still waits may yet be lost.
            return any(last - first == length for first, last in zip(served, served[length:]))

        self.wait_for(is_served, "every request is served")

    def wait_for_server(self, name: str, since: int) -> None:
        """Return when this server has served a request begun at ``since`` or later."""
        self.wait_for(
            lambda requests: any(
                it.server == name and it.is_served and it.begun >= since for it in requests
            ),
            f"{name} serves",
        )

    def wait_for_status(self, status: int) -> None:
        """Return as soon as a request was answered with this status."""
        self.wait_for(lambda requests: requests[-1].status == status, f"a {status}")

    def wait_for_number(self, number: int) -> None:
        """Return when so many requests have ended."""
        self.wait_for(lambda requests: len(requests) >= number, f"{number} requests")

    def lost(self, since: int = 0) -> list[Request]:
        """Return the requests, begun at ``since`` or later, that got no decision."""
        return [it for it in self.requests if it.begun >= since and not it.is_served]


@dataclass
class Outage:
    """What the loss of a part cost.

    Seconds from the loss until the client was served again, seconds from the part's return until it
    served, requests lost, all requests, and their rate per second.
    """

    part: str
    until_served: float
    until_back: float | None
    lost: int
    requests: int
    rate: int


def now() -> int:
    """Return the time in microseconds."""
    return time.time_ns() // 1000


def measure(part: str, play: Play, lost: int, returned: int | None = None, server: str = "") -> Outage:
    """Measure what the loss of a part cost, and its return if there was one.

    ``server`` is the server that must serve again after the return.
    """
    unserved = play.lost(lost)
    since = max((it.begun for it in unserved), default=lost)
    served = min(it.ended for it in play.requests if it.is_served and it.begun > since)
    back = None
    if returned is not None:
        answers = [it for it in play.requests if it.server == server and it.begun > returned]
        back = (min(it.ended for it in answers if it.is_served) - returned) / 1e6
    return Outage(part, (served - lost) / 1e6, back, len(unserved), len(play.requests), play.rate)


def table(outages: list[Outage]) -> str:
    """Return the costs as a Markdown table."""
    lines = [
        "| what is lost | served again after | back after | requests lost |",
        "|---|---|---|---|",
    ]
    for it in outages:
        back = "" if it.until_back is None else f"{it.until_back:.1f} s"
        lost = f"{it.lost} of {it.requests}, {it.rate} a second"
        lines.append(f"| {it.part} | {it.until_served:.1f} s | {back} | {lost} |")
    return "\n".join(lines)


@contextmanager
def asking(
    laboratory: Laboratory, path: str, rate: int = RATE, patience: int = PATIENCE
) -> Iterator[Play]:
    """Request this path as long as the block lasts; the play is complete after it.

    ``{}`` in the path stands for the number of the request.
    """
    play = Play(rate)
    words = (f"http://{VIP}{path}", str(rate), str(patience))
    client = subprocess.Popen(
        [*laboratory.inside, PYTHON, "-I", str(_CLIENT), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    reader = threading.Thread(target=_read, args=(client.stdout, play))
    reader.start()
    try:
        yield play
    finally:
        client.stdin.close()
        reader.join()
        client.wait()
        client.stdout.close()


def _read(lines: IO[str], play: Play) -> None:
    for line in lines:
        play.add(Request(**json.loads(line)))
