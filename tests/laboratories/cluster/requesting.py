"""Requests on all machines at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.laboratories.cluster.laboratory import HISTORY, STORE, Cluster, inside
from tests.laboratories.machines import COPY, DISK, Machine, finish
from tests.laboratories.recording import Recording

_CHECK = f"{COPY}/cgi-bin/check.py"
_TIMEOUT = 60  # seconds: longer than a busy machine needs, or than GlusterFS waits for what is lost
_PLAYERS = 2  # on each machine


@contextmanager
def requesting(
    cluster: Cluster,
    apps: str | Sequence[str],
    limit: str,
    offsets: Mapping[str, int] = {},
    machines: Iterable[Machine] | None = None,
) -> Iterator[Recording]:
    """Send requests on these machines, or all, during the block; the recording is complete after it.

    Each player requests each of ``apps`` in turn, as fast as the other work of the machines allows.
    ``offsets``, by machine, set its clock ahead, in microseconds.
    """
    recording = Recording()
    players = []
    names = [apps] if isinstance(apps, str) else apps
    settings = [f"LIMITER_ROOT={STORE}", f"LIMITER_LIMIT={limit}", f"LIMITER_TIMEOUT={_TIMEOUT}"]
    try:
        for machine in machines or cluster.machines:
            for _ in range(_PLAYERS):
                history = f"{HISTORY}/{len(list(cluster.path(HISTORY).iterdir()))}"
                file = cluster.path(history)
                file.touch()
                file.chmod(0o666)
                recording.follow(file, machine.name)
                offset = str(offsets.get(machine.name, 0))
                words = (_CHECK, history, offset, f"{DISK}/recorder.py", *names)
                players.append(machine.begin("nice", *inside("request", *words, environ=settings)))
        yield recording
    finally:
        print(*finish(players), sep="", end="")  # a player reports only its own failure
    recording.complete()
