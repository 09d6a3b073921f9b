"""The RewriteMap door: one program that answers for a whole Apache server, line by line.

Apache writes one line about a request, and waits for the answer::

    ADDRESS METHOD PATH QUERY FORWARDED HEADER
    STATUS|LIMITS|COUNTED|RETRY|X|PROBLEM          429|10;1;0;1||1

PATH is the decoded path, escaped again (int:escape).  QUERY is the query string as sent.  FORWARDED is
X-Forwarded-For, escaped likewise.  HEADER is the header that the argument ``HEADER`` names.  Only HEADER may
contain blanks.  All may be empty.

An answer is short, because Apache reads it byte by byte, each with a system call.  All fields but the status
may be empty, and empty ones at the end are left out.  LIMITS has the hits, window, remaining hits and reset of
a limit, after its name if that is another than 10-per-1s, or the header fields of several limits with ``~``
between.  COUNTED names what was counted (``limiter.request.one_hit``).  RETRY is in seconds.  If the settings
ask for them, X has the limit, the remaining hits and the reset of X-RateLimit, with blanks between, and PROBLEM
the members of a JSON object but the status, each with a comma after it (``limiter.request.problem_details``).
The answer is ``none`` if neither a rule nor LIMITER_PATHS is for the path.

The settings are arguments, because the program gets the environment of Apache's parent process, without
the variables of SetEnv.  Apache starts it as root.  It reads no request before it is the owner of the store.
"""

import errno
import os
import sys
from functools import partial
from stat import S_ISFIFO

from limiter.apache import preload  # noqa: F401
from limiter.apache.graceful_restart import Handover
from limiter.apache.map_rules import Guarded, read_arguments
from limiter.apache.watcher import Watched
from limiter.cgi import log
from limiter.core.furnish import must_exist
from limiter.core.privileges import become_owner
from limiter.core.store import StoreError
from limiter.report.problems import report_denial, report_problem
from limiter.report.sampler import EVERY, Sampler
from limiter.request.key import unquote
from limiter.request.long_running import LongRunningGate
from limiter.request.paths import text_of
from limiter.request.problem_details import StoreFailed, members
from limiter.request.response import (
    INTERNAL_SERVER_ERROR,
    OK,
    TOO_MANY_REQUESTS,
    numbers,
    retry_after,
    standings,
)
from limiter.request.x_ratelimit import x_standings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import BinaryIO

    from limiter.core.decision import Decision
    from limiter.request.rule import Rule
    from limiter.request.rules import Rules
    from limiter.request.settings import Settings

_FORWARDED = b"HTTP_X_FORWARDED_FOR"
_ADDRESS = b"REMOTE_ADDR"
_ROOTS = "The store belongs to root (give it to the user that Apache runs as)"
_NOT_GUARDED = b"none\n"
# Seconds that the program may take beyond LIMITER_TIMEOUT.
_MORE = 1.0


def main(handover: Handover) -> None:
    """Answer the lines of standard input until it ends.

    The settings and rules are the arguments of the process: ``limiter.apache.map_rules``.
    """
    try:
        door = _Door(sys.argv[1:])
        watched = None
        if _is_pipe(sys.stdin.buffer):
            watched = Watched(door.timeout + _MORE, door.failed)
            handover.in_copy = watched.is_another
        lines = handover.lines(sys.stdin.buffer)
        answer_all(lines, partial(os.write, sys.stdout.fileno()), door, watched)
    except (BrokenPipeError, KeyboardInterrupt):
        # Apache has ended, or is being ended from its terminal.  Nothing is left to flush.
        os._exit(0)


def answer_all(
    requests: "Iterable[bytes]",
    write: "Callable[[bytes], object]",
    door: "_Door",
    watched: "Watched | None",
) -> None:
    """Answer each line of ``requests`` at once."""
    if watched is None:
        for line in requests:
            write(door.answer(line))
        return
    for line in requests:
        watched.works()
        answer = door.answer(line)
        watched.writes()
        write(answer)
        watched.waits()


def _is_pipe(file: "BinaryIO") -> bool:
    """Whether Apache writes the lines, or a test, which has no file descriptor."""
    try:
        return S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except OSError:
        return False


class _Gate(LongRunningGate):
    """A gate for lines of the map.  ``name``: the header that they have, None for that of the key."""

    sees_status = False

    def __init__(
        self, environ: "dict[bytes, bytes]", rules: "Rules | None" = None, name: "str | None" = None
    ) -> None:
        self.header = _FORWARDED if name is None else _variable(name)
        key = environ.get(b"LIMITER_KEY", b"")
        if name is None and key.startswith(b"header:"):
            self.header = _variable(os.fsdecode(key[7:]))
        super().__init__(environ, rules=rules)
        self.check_key()

    def check_key(self) -> None:
        """Raise ValueError if a line does not say who asks."""
        variable = self.key.variable
        if variable in (None, _ADDRESS, _FORWARDED, self.header):
            return
        kind, _, name = self._key_text.partition(":")
        if kind == "env":
            raise ValueError(
                f"LIMITER_KEY={self._key_text!r:.200}: Apache asks before it has any other variable"
                " than REMOTE_ADDR (take that, a header or a parameter)"
            )
        raise ValueError(
            f"key={self._key_text!r:.200}: Apache sends another header (Define LIMITER_HEADER {name!r:.100})"
        )

    def for_rule(self, rule: "Rule") -> "LongRunningGate":
        """As in any long-running gate.  Raises ValueError if a line does not say who asks."""
        gate = super().for_rule(rule)
        assert isinstance(gate, _Gate)
        gate.check_key()
        return gate

    def leave_root(self) -> None:
        """If this process is root, become the owner of a store, for good.  Raises StoreError if it cannot."""
        roots = self.settings.root or (self.settings.store(""),)
        for root in roots:
            become_owner(root)
            if os.geteuid() != 0:
                return
        for root in roots:
            must_exist(root)
        raise StoreError(errno.EPERM, _ROOTS, roots[0])

    def describe(self, line: "_Line") -> "dict[bytes, bytes]":
        """The variables that describe a request in the log."""
        variables = {
            _ADDRESS: line.address,
            b"REQUEST_METHOD": line.method,
            b"PATH_INFO": line.path,
            b"QUERY_STRING": line.query,
        }
        return {**variables, b"LIMITER_KEY": os.fsencode(self._key_text)}


class _Line:
    """A request: what a line of Apache says.  Raises ValueError if it is no such line."""

    def __init__(self, line: bytes, header: bytes) -> None:
        fields = line.rstrip(b"\n").split(b" ", 5)
        self.address, self.method, path, self.query, forwarded, value = fields
        self.path = unquote(path)
        self._variables = {_FORWARDED: unquote(forwarded), header: value, _ADDRESS: self.address}
        self.who = (self._variables.get, self.query)


class _Door:
    """Answers lines by the settings and rules in the arguments.

    If they contain a mistake, each answer is 500.  ``timeout``: the seconds that the store may take.
    ``failed``: the answer if the store fails.
    """

    timeout = 2.0
    failed = b"500\n"

    def __init__(self, arguments: "Sequence[str]") -> None:
        self._sampler = Sampler()
        self._environ: dict[bytes, bytes] = {}
        self._mistake: ValueError | None = None
        self._settings: Settings | None = None
        try:
            settings, rules = read_arguments(arguments)
            self._environ = {name.encode(): os.fsencode(value) for name, value in settings.items()}
            self._gate = _Gate(self._environ, rules, settings.get("HEADER"))
            self._settings = self._gate.settings
            self.timeout = self._settings.timeout
            is_admitted = self._settings.on_error == "admit"
            self.failed = self._line(OK if is_admitted else StoreFailed(INTERNAL_SERVER_ERROR))
            self._guarded = Guarded(settings.get("PATHS"), rules is None)
        except ValueError as error:
            self._mistake = error
        self._has_rules = self._mistake is None and rules is not None
        self._is_root = os.geteuid() == 0
        if self._is_root and self._mistake is None:
            try:
                self._leave_root()
            except StoreError:
                pass  # the first request reports it, unless the store is there by then

    def answer(self, text: bytes) -> bytes:
        """Return the answer to a line."""
        if self._mistake is not None:
            self._log(self._mistake)
            return self._line(INTERNAL_SERVER_ERROR)
        if self._gate.constant:
            return self._line(OK)
        try:
            if self._is_root:
                self._leave_root()
            line = _Line(text, self._gate.header)
        except (StoreError, ValueError) as error:
            return self._line(self._gate.failed(None, error, self._log)[0])
        return self._decide(line)

    def _decide(self, line: _Line) -> bytes:
        path = text_of(line.path)
        is_guarded = self._guarded.has(path)
        gate = self._gate

        def report(problem: "Exception | str") -> None:
            self._log(problem, gate.describe(line))

        if is_guarded or self._has_rules:
            met = gate.meet(path, line.method.decode("latin-1"), report)
            assert isinstance(met, _Gate)
            gate = met
        if gate is self._gate and not is_guarded:
            return _NOT_GUARDED
        app_ids: list[str | None] = []

        def find() -> "str | None":
            app_ids.append(gate.key.find(*line.who))
            return app_ids[0]

        status, decision = gate.verdict(find, report)
        counted = ""
        if status is not OK:
            level = self._environ.get(b"LIMITER_LOG_LEVEL")
            report_denial(
                *(status, level, lambda: {**self._environ, **gate.describe(line)}),
                lambda: gate.why(*line.who),
            )
        elif app_ids and (decision is not None or gate.settings.mode != "enforce"):
            counted = gate.policy(app_ids[0] or "")
        return self._line(status, decision, counted)

    def _line(self, status: str, decision: "Decision | None" = None, counted: str = "") -> bytes:
        settings = self._settings
        limits = retry = x = problem = ""
        if decision is not None and settings is not None:
            limits = _limits(decision) if settings.headers in ("draft", "both") else ""
            if status is TOO_MANY_REQUESTS:
                retry = str(retry_after(decision, settings))
            if settings.headers in ("x-ratelimit", "both"):
                x = " ".join([value for _, value in x_standings(decision)])
        if settings is not None and settings.problem == "1" and status is not OK:
            problem = f"{members(status, decision)}, "
        parts = status[:3], limits, counted, retry, x, problem
        return "|".join(parts).rstrip("|").encode() + b"\n"

    def _log(self, problem: "Exception | str", variables: "dict[bytes, bytes] | None" = None) -> None:
        if isinstance(problem, str):
            log(problem)
            return
        number = self._sampler.number(problem)
        if number:
            report_problem({**self._environ, **(variables or {})}, problem, log)
        if number > 1:
            log(f"this was error {number} of its kind; one in {EVERY} is logged")

    def _leave_root(self) -> None:
        self._gate.leave_root()
        self._is_root = False


def _variable(name: str) -> bytes:
    return b"HTTP_" + os.fsencode(name).upper().replace(b"-", b"_")


def _limits(decision: "Decision") -> str:
    quotas = decision.quotas
    if len(quotas) == 1:
        name, hits, window, *more = numbers(quotas[0])
        own = () if name == f"{hits}-per-{window}s" else (name,)
        return ";".join(map(str, (*own, hits, window, *more)))
    return "~".join([value for _, value in standings(decision)])
