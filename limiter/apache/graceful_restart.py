"""Keeps the RewriteMap program available to Apache's old children during a graceful restart.

At a graceful restart, Apache ends the program with SIGTERM, and starts another one for its new children.
Its old children still call the old program.  So at SIGTERM the program leaves a copy of itself for them.
The copy ends when no process can call it any more, or at the next SIGTERM.
"""

import posix
from _signal import SIG_DFL, SIGTERM, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO


class Handover:
    """Handles SIGTERM from now on.  Make it before anything slow, because a restart may come early."""

    def __init__(self) -> None:
        self._is_idle = True
        self._is_ending = False
        self.in_copy: Callable[[], None] | None = None
        """Called in the copy, when that is the program."""
        signal(SIGTERM, self._end)

    def lines(self, file: "BinaryIO") -> "Iterator[bytes]":
        """Yield the lines of the file as they arrive.  The copy is made between two lines."""
        while True:
            self._is_idle = True
            if self._is_ending:
                self._leave_a_copy()
            line = file.readline()
            # From here on, other threads may be working, and a copy would not have them.
            self._is_idle = False
            if not line:
                return
            yield line

    def _end(self, *_: object) -> None:
        self._is_ending = True
        if self._is_idle:
            self._leave_a_copy()

    def _leave_a_copy(self) -> None:
        if posix.fork():
            posix._exit(0)
        self._is_ending = False
        signal(SIGTERM, SIG_DFL)
        if self.in_copy is not None:
            self.in_copy()
