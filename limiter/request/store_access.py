"""How a long-running process calls its store: at once, or through a Breaker where a call may hang.

A call to a store on a local file system returns.  One on a network file system, or on FUSE, may wait for ever
for another machine or program.
"""

from os.path import realpath
from time import monotonic

from limiter.core.mount import LOCAL, mounted
from limiter.request.breaker import Breaker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    T = TypeVar("T")

_TRUST = 60.0  # seconds until it looks again: something else may have been mounted there


class StoreAccess:
    """Access to one store, with the Breaker's ``timeout``.  Threads may share it.

    ``places()`` returns the paths that a call uses, or raises ValueError.  It is called after a call, in the
    same thread.
    """

    def __init__(
        self,
        timeout: float,
        places: "Callable[[], Iterable[str]]",
        *,
        clock: "Callable[[], float]" = monotonic,
    ) -> None:
        self._breaker = Breaker(timeout)
        self._places = places
        self._clock = clock
        self._is_local = False
        self._next_look = 0.0

    def is_direct(self) -> bool:
        """Whether the store is certain not to hang, so that nobody needs to watch a call."""
        return self._is_local and self._clock() < self._next_look

    def call(self, function: "Callable[..., T]", *arguments: object) -> "T":
        """What the function returns, which calls the store.  Raises StoreError, also as a Breaker does."""
        if self.is_direct():
            return function(*arguments)
        if self._clock() < self._next_look:
            return self._breaker.call(function, *arguments)
        # mypy does not see through two generic functions.
        result: T = self._breaker.call(self._call_and_look, function, arguments)
        return result

    def _call_and_look(self, function: "Callable[..., T]", arguments: "tuple[object, ...]") -> "T":
        result = function(*arguments)
        # To look where the store lies may hang as the store itself may.
        try:
            self._is_local = all([mounted(realpath(it)).type in LOCAL for it in self._places()])
        except (OSError, ValueError):
            self._is_local = False
        self._next_look = self._clock() + _TRUST
        return result
