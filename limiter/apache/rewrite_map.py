"""The RewriteMap door: one program that answers for a whole Apache server, line by line.

Apache writes one line about a request, and waits for the answer::

    ADDRESS QUERY HEADER             %{REMOTE_ADDR} %{QUERY_STRING} %{HTTP:...}
    STATUS|POLICY|RATELIMIT|RETRY    429|"10-per-1s";q=10;w=1|"10-per-1s";r=0;t=1|1

QUERY is the query string as sent.  HEADER is the header that the key is taken from, else X-Forwarded-For.
Both may be empty, and only HEADER may contain blanks.  All fields of an answer but the status may be empty.

The settings are arguments, because the program gets the environment of Apache's parent process, without
the variables of SetEnv.  Apache starts it as root.
"""

import errno
import os
import sys

from limiter.apache.graceful_restart import Handover
from limiter.cgi import log
from limiter.core.furnish import must_exist
from limiter.core.privileges import become_owner
from limiter.core.store import StoreError
from limiter.report import reporter  # noqa: F401  (load it while descriptors are free)
from limiter.report.problems import report_denial, report_problem
from limiter.request.long_running import LongRunningGate
from limiter.request.response import INTERNAL_SERVER_ERROR, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from limiter.core.decision import Decision
    from limiter.request.gate import Verdict

_FORWARDED = b"HTTP_X_FORWARDED_FOR"
_ADDRESS = b"REMOTE_ADDR"
_ROOTS = "The store belongs to root (give it to the user that Apache runs as)"


def main(handover: Handover) -> None:
    """Answer the lines of standard input until it ends.

    The settings are the arguments of the process, each ``NAME=VALUE``.
    """
    variables = [argument.partition("=") for argument in sys.argv[1:]]
    environ = {name.encode(): os.fsencode(value) for name, _, value in variables}
    try:
        answer_all(handover.lines(sys.stdin.buffer), sys.stdout.buffer, environ)
    except (BrokenPipeError, KeyboardInterrupt):
        # Apache has ended, or is being ended from its terminal.  Nothing is left to flush.
        os._exit(0)


def answer_all(requests: "Iterable[bytes]", answers: "BinaryIO", environ: "dict[bytes, bytes]") -> None:
    """Answer each line of ``requests`` at once.

    If the settings contain a mistake, each answer is 500, and each is logged.
    """
    try:
        gate: _Gate | ValueError = _Gate(environ)
    except ValueError as error:
        gate = error
    for line in requests:
        answers.write(_line(*_verdict(gate, line, environ)))
        answers.flush()


class _Gate(LongRunningGate):
    """A gate that calls the store only as its owner."""

    def __init__(self, environ: "dict[bytes, bytes]") -> None:
        super().__init__(environ)
        variable = self.key.variable
        if variable is not None and variable != _ADDRESS and self.settings.key.startswith("env:"):
            raise ValueError(
                f"LIMITER_KEY={self.settings.key!r:.200}: Apache asks before it has any other variable"
                " than REMOTE_ADDR (take that, a header or a parameter)"
            )
        self.header = _FORWARDED if variable in (None, _ADDRESS) else variable

    def hit(self, limits: str, app_id: str, newcomers: str) -> "Decision":
        """Count a hit, never as root."""
        if os.geteuid() == 0:
            root = self.settings.store(app_id)
            become_owner(root)
            if os.geteuid() == 0:
                must_exist(root)
                raise StoreError(errno.EPERM, _ROOTS, root)
        return super().hit(limits, app_id, newcomers)


def _verdict(gate: "_Gate | ValueError", line: bytes, environ: "dict[bytes, bytes]") -> "Verdict":
    def request() -> "dict[bytes, bytes]":
        return {**environ, b"QUERY_STRING": line.partition(b" ")[2].partition(b" ")[0]}

    def log_problem(problem: "Exception | str") -> None:
        report_problem(request(), problem, log)

    if isinstance(gate, ValueError):
        log_problem(gate)
        return INTERNAL_SERVER_ERROR, None

    def find() -> "str | None":
        address, query, header = line.rstrip(b"\n").split(b" ", 2)
        return gate.key.find({_ADDRESS: address, gate.header: header}.get, query)

    verdict = gate.verdict(find, log_problem)
    report_denial(verdict[0], environ.get(b"LIMITER_LOG_LEVEL"), request)
    return verdict


def _line(status: str, decision: "Decision | None") -> bytes:
    values = dict(fields(status, decision))
    names = ("RateLimit-Policy", "RateLimit", "Retry-After")
    return "|".join([status[:3], *[values.get(name, "") for name in names]]).encode() + b"\n"
