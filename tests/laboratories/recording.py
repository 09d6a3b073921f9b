"""Real requests, and what happened to them: recorded by the requests themselves, and by who sends them.

``tests.history`` judges by what a hit claimed and by its clock, not by when the answer arrived.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from limiter.core.limit import is_name, time_of
from tests.history import Admitted, History

_CONFIRMED = 1  # microsecond: a rename by this much confirms a slot or gives it back; it is not a claim
_LOST = (errno.ENOENT, errno.ESTALE)


def now() -> int:
    """Return the time in microseconds."""
    return time.time_ns() // 1000


@dataclass
class Request:
    """One request: its answer, and what it did before.  Times are in microseconds.

    ``begun`` and ``ended`` are the client's times, ``times`` those that the request itself read.
    ``listed`` are the slots that it saw, ``claimed`` those that it is known to have written, ``lost``
    those that others claimed first, ``maybe`` those that it tried to write when something stopped it.
    ``status`` is empty if there was no answer.
    """

    begun: int
    server: str = ""
    app: str = ""
    number: int = 0
    ended: int = 0
    status: str = ""
    times: list[int] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    claimed: list[str] = field(default_factory=list)
    maybe: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    _claims: bool = False

    @property
    def is_decided(self) -> bool:
        """Whether it got a decision of the limiter."""
        return self.status in {"200", "429"}

    def read(self, what: str, value: str) -> None:
        """Add what one line records (see inside.py, recorder.py and client.py)."""
        if what in _FIELDS:
            setattr(self, what, _FIELDS[what](value))
        elif what == "time":
            self.times.append(int(value))
        elif what == "list":
            self.listed.update(filter(is_name, value.split()))
        elif what == "log":
            self.log.append(value)
        elif what == "error":
            self.errors.append(value)
        elif what == "try":
            old, new = [path.rpartition("/")[2] for path in value.split()]
            self._claims = is_name(old) and is_name(new) and time_of(new) > time_of(old) + _CONFIRMED
            if self._claims:
                self.maybe.append(new)
        elif what == "did" and self._claims:
            self.claimed.append(self.maybe.pop())
        elif what == "not":
            self.errors.append(errno.errorcode[int(value)])
            if int(value) in _LOST and self._claims:
                self.lost.add(self.maybe.pop())


_FIELDS: dict[str, Callable[[str], object]] = {
    "app": str,
    "number": int,
    "server": str,
    "ended": int,
    "status": str,
}


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yield what the lines of a file record, and its value."""
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # otherwise the writer was killed
            what, _, value = line[:-1].partition(" ")
            yield what, value


class Recording:
    """Requests, and the files in which they are recorded.

    ``requests`` is complete when all have ended.
    """

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        self.requests = list(requests)
        self._files: list[tuple[Path, str]] = []

    def follow(self, file: Path, server: str = "") -> None:
        """Read this file, too, in which the requests to a server are recorded one after another."""
        self._files.append((file, server))

    def so_far(self) -> list[Request]:
        """Return the requests until now, those of each file in their order."""
        requests: list[Request] = []
        for file, server in self._files:
            for what, value in lines_of(file):
                if what == "begun":
                    requests.append(Request(int(value), server))
                else:
                    requests[-1].read(what, value)
        return requests

    def count(self, status: str) -> int:
        """Return how many requests until now were answered with this status."""
        return [it.status for it in self.so_far()].count(status)

    def complete(self) -> None:
        """Set ``requests``: all have ended."""
        self.requests = self.so_far()

    def of(self, app: str) -> Recording:
        """Return the requests of one application."""
        return Recording(it for it in self.requests if it.app == app)

    def statuses(self, server: str = "") -> set[str]:
        """Return the statuses of all answers, or of those of one server."""
        return {it.status for it in self.requests if server in ("", it.server)}

    def history(self) -> History:
        """Return what the judge of S1 needs: which hits were admitted and which denied."""
        history = History()
        for request in self.requests:
            if request.status == "200":
                history.admitted.append(_admitted(request.claimed))
            elif request.status == "429":
                history.denied.append(request.times[-1])
        return history

    def full_history(self) -> History:
        """Return what the judge of L1 needs: also slots that were taken without a 200 for a client."""
        history = self.history()
        for request in self.requests:
            if request.status != "200":
                history.admitted += [_admitted([name]) for name in request.claimed + request.maybe]
        history.admitted += [_admitted([name]) for name in self.phantoms()]
        return history

    def phantoms(self) -> set[str]:
        """Return slots that the store showed, though no request knows that it has written them.

        A brick that comes back can accept a rename that the other bricks refuse.
        """
        listed = set[str]().union(*[request.listed for request in self.requests])
        lost = set[str]().union(*[request.lost for request in self.requests])
        # If several requests tried to write a name, one of them may have succeeded.
        return (listed & lost).difference(*[request.claimed for request in self.requests])


def _admitted(names: list[str]) -> Admitted:
    first, last = time_of(names[0]), time_of(names[-1])
    return Admitted(first, last, first, last, names[-1])
