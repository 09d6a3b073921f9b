"""The RewriteMap door: one program that answers for a whole Apache, line by line.

Apache writes what it knows of a request and waits for the answer::

    ADDRESS QUERY HEADER             %{REMOTE_ADDR} %{QUERY_STRING} %{HTTP:...}
    STATUS|POLICY|RATELIMIT|RETRY    429|"10-per-1s";q=10;w=1|"10-per-1s";r=0;t=1|1

QUERY is as it came, without blanks; HEADER, which may have some, is the one that the key is taken from,
else X-Forwarded-For.  Both may be empty, and so may all of an answer but its status.

The settings are arguments, as for env(1): the program has the environment of Apache's parent, not SetEnv's
variables.  Started by root, as Apache does, it acts as the owner of the store before it touches it.
"""

import errno
import os
import sys

from limiter.cgi import log
from limiter.furnish import must_exist
from limiter.gate import Gate
from limiter.handover import Handover
from limiter.owner import become_owner
from limiter.response import INTERNAL_SERVER_ERROR, fields
from limiter.store import Store, StoreError
from limiter.verdict import tell, tell_denial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from limiter.hit import Decision
    from limiter.verdict import Verdict

_FORWARDED = b"HTTP_X_FORWARDED_FOR"
_ADDRESS = b"REMOTE_ADDR"
_ROOTS = "The store belongs to root (give it to the user that Apache runs as)"


def main(handover: Handover) -> None:
    """Answer what comes by standard input until it ends."""
    variables = [argument.partition("=") for argument in sys.argv[1:]]
    environ = {name.encode(): os.fsencode(value) for name, _, value in variables}
    try:
        answer_all(handover.lines(sys.stdin.buffer), sys.stdout.buffer, environ)
    except (BrokenPipeError, KeyboardInterrupt):
        # Apache has ended, or is being ended from its terminal; and nothing is to be flushed.
        os._exit(0)


def answer_all(requests: "Iterable[bytes]", answers: "BinaryIO", environ: "dict[bytes, bytes]") -> None:
    """Answer each line of ``requests`` at once.

    A mistake in the settings is the answer 500 to each, and a line in the log.
    """
    try:
        gate: _Gate | ValueError = _Gate(environ)
    except ValueError as error:
        gate = error
    for line in requests:
        answers.write(_line(*_judge(gate, line, environ)))
        answers.flush()


class _Gate(Gate):
    """A gate that asks the store only as its owner."""

    def __init__(self, environ: "dict[bytes, bytes]") -> None:
        super().__init__(environ)
        variable = self.key.variable
        if variable is not None and variable != _ADDRESS and self._settings.key.startswith("env:"):
            raise ValueError(
                f"LIMITER_KEY={self._settings.key!r:.200}: Apache asks before it has any other variable"
                " than REMOTE_ADDR (take that, a header or a parameter)"
            )
        self.header = _FORWARDED if variable in (None, _ADDRESS) else variable

    def hit(self, limits: str, app_id: str) -> "Decision":
        """Count a hit, never as root."""
        if os.geteuid() == 0:
            root = self._settings.root(app_id)
            become_owner(root)
            if os.geteuid() == 0:
                must_exist(Store(root))
                raise StoreError(errno.EPERM, _ROOTS, root)
        return super().hit(limits, app_id)


def _judge(gate: "_Gate | ValueError", line: bytes, environ: "dict[bytes, bytes]") -> "Verdict":
    def request() -> "dict[bytes, bytes]":
        return {**environ, b"QUERY_STRING": line.partition(b" ")[2].partition(b" ")[0]}

    def tell_log(problem: "Exception | str") -> None:
        tell(request(), problem, log)

    if isinstance(gate, ValueError):
        tell_log(gate)
        return INTERNAL_SERVER_ERROR, None

    def find() -> "str | None":
        address, query, header = line.rstrip(b"\n").split(b" ", 2)
        return gate.key.find({_ADDRESS: address, gate.header: header}.get, query)

    verdict = gate.judge(find, tell_log)
    if verdict[0][0] == "4" and environ.get(b"LIMITER_LOG_LEVEL") == b"warning":
        tell_denial(request(), verdict[0])
    return verdict


def _line(status: str, decision: "Decision | None") -> bytes:
    values = dict(fields(status, decision))
    names = ("RateLimit-Policy", "RateLimit", "Retry-After")
    return "|".join([status[:3], *[values.get(name, "") for name in names]]).encode() + b"\n"
