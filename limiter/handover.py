"""Handing over: a program that Apache ends at a graceful restart, while old children still ask it.

Apache starts another for its new children, and does not mind that the old ones get no answer any more.  So
the program, told to end by SIGTERM, leaves a copy of itself to them; that ends when nobody can ask it any
more, or at the next SIGTERM.
"""

import posix
from _signal import SIG_DFL, SIGTERM, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


class Handover:
    """Takes SIGTERM from now on.  To be made before anything that takes time, for a restart may come early."""

    def __init__(self) -> None:
        self._is_idle = True
        self._is_told = False
        signal(SIGTERM, self._end)

    def lines(self, file: "BinaryIO") -> "Iterator[bytes]":
        """The lines of the file, as they come.  The copy is made between two of them."""
        while True:
            self._is_idle = True
            if self._is_told:
                self._leave_a_copy()
            line = file.readline()
            # From here on other threads may be at work, which the copy would not have.
            self._is_idle = False
            if not line:
                return
            yield line

    def _end(self, *_: object) -> None:
        self._is_told = True
        if self._is_idle:
            self._leave_a_copy()

    def _leave_a_copy(self) -> None:
        if posix.fork():
            posix._exit(0)
        self._is_told = False
        signal(SIGTERM, SIG_DFL)
