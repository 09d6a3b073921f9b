"""Notices exits that report a failure, such as ``sys.exit("no database")``, when Python acts on them.

An exit is an exception, and a program may catch it like any other.  Only Python itself knows that nobody
caught it: it then reads the exception's ``code``, to end the process with that.
"""

import builtins
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn

_plain_exit = sys.exit
_take: "Callable[[SystemExit], object]"


def watch(take: "Callable[[SystemExit], object]") -> None:
    """Call ``take`` with an exit that is about to end the process with a status other than 0.

    The value that ``take`` returns is used as the status instead.  This covers later calls of
    ``sys.exit``, and of ``exit`` and ``quit`` from the module site.  It does not cover
    ``raise SystemExit``.
    """
    global _take  # noqa: PLW0603
    _take = take
    sys.exit = _exit
    for name in ("exit", "quit"):
        if hasattr(builtins, name):
            setattr(builtins, name, _exit)


class _Exit(SystemExit):
    """An exit that keeps the place of its call: Python loses that before it reads the code."""

    calls: "TracebackType | None" = None

    @property
    def code(self) -> object:  # type: ignore[override]
        """The argument of the exit.  When Python itself reads this, the result of ``take``."""
        if sys._getframe().f_back is None:
            return _take(self.with_traceback(self.calls))
        return self.args[0]


_Exit.__name__ = SystemExit.__name__


def _exit(status: object = None) -> "NoReturn":
    if status is None or (isinstance(status, int) and not status):
        _plain_exit(status)
    error = _Exit(status)
    error.calls = _calls()
    raise error


def _calls() -> "TracebackType | None":
    """Return a traceback of the calls that led to ``sys.exit``."""
    from types import TracebackType

    calls = None
    frame = sys._getframe(2)
    while frame is not None:
        calls = TracebackType(calls, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return calls
