"""Exits that tell of a failure, ``sys.exit("no database")``, seen when Python takes them.

An exit is an exception, which may be caught as any other.  Only Python itself knows that nobody has: then it asks
the exception for its ``code``, to end the process with that.
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
    """Call ``take`` with an exit that is about to end the process with another status than 0.

    What it returns is the status instead.  Seen are ``sys.exit``, and the module site's ``exit`` and ``quit``, as they
    are called from now on; not ``raise SystemExit``.
    """
    global _take  # noqa: PLW0603
    _take = take
    sys.exit = _exit
    for name in ("exit", "quit"):
        if hasattr(builtins, name):
            setattr(builtins, name, _exit)


class _Exit(SystemExit):
    """One that knows where it was asked for: Python loses that before it asks for the code."""

    calls: "TracebackType | None" = None

    @property
    def code(self) -> object:  # type: ignore[override]
        """What it was called with; to Python, what is made of that."""
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
    """The calls that have led to ``sys.exit``."""
    from types import TracebackType

    calls = None
    frame = sys._getframe(2)
    while frame is not None:
        calls = TracebackType(calls, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return calls
