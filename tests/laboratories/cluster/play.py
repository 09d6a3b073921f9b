"""Real requests on all machines at once, and what happened to them.

``tests.history`` judges by what a hit claimed and by its clock, not by when the answer arrived.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from limiter.core.limit import is_name, time_of
from tests.history import Admitted, History
from tests.laboratories.cluster.laboratory import AS_USER, COPY, DISK, STORE, Laboratory, Machine

CHECK = f"{COPY}/cgi-bin/check.py"
TIMEOUT = 60
"""LIMITER_TIMEOUT in seconds.

It is longer than a busy machine needs, and longer than GlusterFS waits for what is lost.
"""

_PLAYERS = 2  # on each machine
_CONFIRMED = 1  # microsecond: a rename by this much confirms a slot or gives it back; it is not a claim
_LOST = (errno.ENOENT, errno.ESTALE)


@dataclass
class Request:
    """One request: its answer, and what it did before.  Times are in microseconds.

    ``begun`` and ``ended`` are the client's times; ``asked`` is when the request first called the store.
    ``listed`` are the slots that it saw, ``claimed`` those that it is known to have written, ``lost``
    those that others were faster to write, ``maybe`` those that it tried to write when something stopped
    it.  ``status`` is empty if there was no answer.
    """

    app: str
    begun: int = 0
    asked: int = 0
    ended: int = 0
    status: str = ""
    times: list[int] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    claimed: list[str] = field(default_factory=list)
    maybe: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


@dataclass
class Play:
    """All requests of a play, by machine."""

    requests: dict[str, list[Request]] = field(default_factory=dict)
    _files: list[tuple[Machine, Path]] = field(default_factory=list)

    def so_far(self) -> dict[str, list[Request]]:
        """Return the requests until now by machine, in no order; also during the play."""
        requests: dict[str, list[Request]] = {}
        for machine, file in self._files:
            requests.setdefault(machine.name, []).extend(requests_of(file.read_text()))
        return requests

    def add(self, other: Play) -> None:
        """Add the requests of another play to this one."""
        for name, requests in other.requests.items():
            self.requests.setdefault(name, []).extend(requests)

    def of(self, app: str) -> Play:
        """Return the requests of one application."""
        chosen = {
            name: [request for request in requests if request.app == app]
            for name, requests in self.requests.items()
        }
        return Play(chosen)

    def all(self) -> Iterator[Request]:
        """Yield the requests of all machines."""
        for requests in self.requests.values():
            yield from requests

    def statuses(self) -> set[str]:
        """Return the statuses of all answers."""
        return {request.status for request in self.all()}

    def history(self) -> History:
        """Return what the judge of S1 needs: which hits were admitted and which denied."""
        history = History()
        for request in self.all():
            if request.status == "200":
                history.admitted.append(_admitted(request.claimed))
            elif request.status == "429":
                history.denied.append(request.times[-1])
        return history

    def full_history(self) -> History:
        """Return what the judge of L1 needs: also slots that were taken without a 200 for a client."""
        history = self.history()
        for request in self.all():
            if request.status != "200":
                history.admitted += [_admitted([name]) for name in request.claimed + request.maybe]
        history.admitted += [_admitted([name]) for name in self.phantoms()]
        return history

    def phantoms(self) -> set[str]:
        """Return slots that the store showed, though no request was informed of writing them.

        A brick that comes back can accept a rename that the other bricks refuse.
        """
        listed = set[str]().union(*[request.listed for request in self.all()])
        lost = set[str]().union(*[request.lost for request in self.all()])
        # If several requests tried to write a name, one of them may have succeeded.
        return (listed & lost).difference(*[request.claimed for request in self.all()])


def _admitted(names: list[str]) -> Admitted:
    first, last = time_of(names[0]), time_of(names[-1])
    return Admitted(first, last, first, last, names[-1])


@contextmanager
def playing(
    laboratory: Laboratory,
    apps: str | Sequence[str],
    limit: str,
    offsets: Mapping[str, int] = {},
    machines: Iterable[Machine] | None = None,
) -> Iterator[Play]:
    """Play requests on these machines, or all, during the block; the play is complete after it.

    Each player requests each of ``apps`` in turn, as fast as the other work of the machines allows.
    ``offsets``, by machine, set its clock ahead, in microseconds.
    """
    play = Play()
    players: list[subprocess.Popen[bytes]] = []
    environ = {
        "LIMITER_ROOT": STORE,
        "LIMITER_LIMIT": limit,
        "LIMITER_TIMEOUT": str(TIMEOUT),
    }
    try:
        for machine in machines or laboratory.machines:
            for _ in range(_PLAYERS):
                history = f"{DISK}/history/{len(list(laboratory.path(f'{DISK}/history').iterdir()))}"
                laboratory.path(history).touch()
                laboratory.path(history).chmod(0o666)
                player = [f"{DISK}/player.py", CHECK, history, str(offsets.get(machine.name, 0))]
                player += [f"{DISK}/recorder.py", *([apps] if isinstance(apps, str) else apps)]
                settings = [f"{name}={value}" for name, value in environ.items()]
                command = [*AS_USER, "nice", "env", *settings, "python3", "-I", *player]
                players.append(subprocess.Popen(machine.command(*command), stdin=subprocess.PIPE))
                play._files.append((machine, laboratory.path(history)))
        yield play
    finally:
        for process in players:
            assert process.stdin is not None
            process.stdin.close()
        for process in players:
            process.wait()
    play.requests = play.so_far()


def requests_of(text: str) -> Iterator[Request]:
    """Yield the requests that were recorded, one after the other (see player.py and recorder.py)."""
    request = Request("")
    is_claim = False
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # killed while writing
        what, _, value = line[:-1].partition(" ")
        if what == "app":
            if request.begun:
                yield request
            request = Request(value)
        elif what == "begin":
            request.begun = int(value)
        elif what == "time":
            request.times.append(int(value))
        elif what == "ask":
            request.asked = request.asked or int(value)
        elif what == "list":
            request.listed.update(filter(is_name, value.split()))
        elif what == "end":
            request.ended = int(value)
        elif what == "answer":
            request.status = value
        elif what == "log":
            request.log.append(value)
        elif what == "try":
            old, new = [path.rpartition("/")[2] for path in value.split()]
            is_claim = is_name(old) and is_name(new) and time_of(new) > time_of(old) + _CONFIRMED
            if is_claim:
                request.maybe.append(new)
        elif what == "did" and is_claim:
            request.claimed.append(request.maybe.pop())
        elif what == "not":
            request.errors.append(errno.errorcode[int(value)])
            if int(value) in _LOST and is_claim:
                request.lost.add(request.maybe.pop())
    if request.begun:
        yield request
