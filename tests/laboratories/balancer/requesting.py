"""What a client behind the address gets while something happens, and what that costs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.laboratories.machines import DISK, VIP, Laboratory, wait_for
from tests.laboratories.recording import Recording, Request, now
from tests.places import PYTHON

RATE = 10
"""Requests per second."""

_PATIENCE = 20  # seconds until a request is abandoned: more than a busy machine needs for an answer
_CLIENT = Path(__file__).with_name("client.py")
_QUIET = 1.5


class ClientRecording(Recording):
    """The requests of a client, in the order in which they ended.  ``rate`` is requests per second."""

    def __init__(self, rate: int, requests: Iterable[Request] = ()) -> None:
        super().__init__(requests)
        self.rate = rate

    def wait_for(self, condition: Callable[[list[Request]], bool], what: str) -> None:
        """Return as soon as the condition holds for the requests so far."""
        wait_for(lambda: condition(self.so_far()), what)

    def wait_until_served(self) -> None:
        """Return when all requests of 1.5 s in a row, begun from now on, have been served.

        By then each web server has served several times.
        """
        begun = now()

        def is_served(requests: list[Request]) -> bool:
            served = sorted(it.number for it in requests if it.begun >= begun and it.is_decided)
            length = int(_QUIET * self.rate)
            # A request that still waits may yet be lost.
            return any(last - first == length for first, last in zip(served, served[length:]))

        self.wait_for(is_served, "every request is served")

    def wait_for_server(self, name: str, since: int) -> None:
        """Return when this server has served a request begun at ``since`` or later."""
        self.wait_for(
            lambda requests: any(
                it.server == name and it.is_decided and it.begun >= since for it in requests
            ),
            f"{name} serves",
        )

    def lost(self, since: int = 0) -> list[Request]:
        """Return the requests, begun at ``since`` or later, that got no decision."""
        return [it for it in self.requests if it.begun >= since and not it.is_decided]


HEADER = """\
| what is lost | served again after | back after | requests lost |
|---|---|---|---|"""


def cost(
    part: str, recording: ClientRecording, lost: int, returned: int | None = None, server: str = ""
) -> str:
    """Return what the loss of a part cost, and its return if there was one: a row of a Markdown table.

    ``server`` is the server that must serve again after the return.
    """
    unserved = recording.lost(lost)
    since = max((it.begun for it in unserved), default=lost)
    decided = [it for it in recording.requests if it.is_decided]
    served = min(it.ended for it in decided if it.begun > since)
    back = ""
    if returned is not None:
        first = min(it.ended for it in decided if it.server == server and it.begun > returned)
        back = f"{(first - returned) / 1e6:.1f} s"
    requests = f"{len(unserved)} of {len(recording.requests)}, {recording.rate} a second"
    return f"| {part} | {(served - lost) / 1e6:.1f} s | {back} | {requests} |"


@contextmanager
def requesting(laboratory: Laboratory, path: str, rate: int = RATE) -> Iterator[ClientRecording]:
    """Request this path as long as the block lasts; the recording is complete after it.

    ``{}`` in the path stands for the number of the request.
    """
    recording = ClientRecording(rate)
    file = laboratory.path(f"{DISK}/client")
    recording.follow(file)
    words = (f"http://{VIP}{path}", str(rate), str(_PATIENCE))
    command = [*laboratory.inside, PYTHON, "-I", str(_CLIENT), *words]
    # The client ends with its standard input, at the end of the block.
    with file.open("wb") as output, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output):
        yield recording
    recording.complete()
