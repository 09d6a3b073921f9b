"""The page: what a CGI script writes, held back until it is too late to answer anything else.

Nothing leaves before the headers are complete; after that it leaves when the script flushes, when 64 KiB are held,
or at the end.  Until then all of it can be dropped for another answer; after that it can only be cut off.
"""

import io
import posix
import sys
from _thread import RLock

from limiter.header import MOST, Header

_GIVEN = "the answer had been given"


class Page(io.BufferedIOBase):
    """A binary file, to take the place of standard output.  Threads may share it."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._header = Header()
        self._has_left = False
        self.is_unwanted = False
        """Whether nobody is there any more to take it: the client has left."""
        self._over = ""
        """What is to be said of it once no other answer can be given; nothing until then."""
        self._lock = RLock()
        posix.register_at_fork(after_in_child=self._leave_to_the_parent)

    def writable(self) -> bool:
        """Whether it can be written to: always."""
        return True

    def fileno(self) -> int:
        """That of standard output."""
        return 1

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Take these bytes; they are dropped if another answer has been given.

        Raises ValueError if they are no headers, though they should be, and OSError if nobody takes them.
        """
        data = bytes(data)
        with self._lock:
            if self.closed:
                raise ValueError("write to closed file")
            if self._over:
                return len(data)
            self._held += data
            try:
                self._header.read(self._held)
            except ValueError as error:
                raise ValueError(f"The script's output is no response: {error}") from None
            if len(self._held) > MOST:
                self._leave()
        return len(data)

    def flush(self) -> None:
        """Let go what is held, if the headers are complete.  Raises OSError."""
        # Nobody calls it when the interpreter does, just before it tells of an exception that nobody caught.
        is_asked_for = sys._getframe().f_back is not None
        with self._lock:
            if is_asked_for and self._header.is_complete and not self._over:
                self._leave()

    def finish(self) -> None:
        """Let go what is held, for the script has ended.

        Raises ValueError if its headers are not complete, and OSError if nobody takes it.
        """
        with self._lock:
            if self._over:
                return
            if not self._header.is_complete:
                raise ValueError("The script has ended before its headers were complete")
            self._leave()
            self._over = _GIVEN

    def replace(self, answer: bytes) -> str:
        """Drop what is held, and what may still be written, and let this answer leave; what is to be said of that.

        If something has left before, nothing more does.
        """
        with self._lock:
            if self._over:
                return self._over
            self.drop()
            if self._has_left:
                return "headers had been sent"
            try:
                _write(answer)
            except OSError as error:
                return _not_taken(error)
        return ""

    def drop(self) -> None:
        """Drop what is held, and what may still be written."""
        self._over = _GIVEN
        self._held.clear()

    def _leave_to_the_parent(self) -> None:
        self._lock = RLock()  # a thread that is not in this process may have it
        self.drop()

    def _leave(self) -> None:
        held = bytes(self._held)
        self._held.clear()
        self._has_left = self._has_left or bool(held)
        try:
            _write(held)
        except OSError as error:
            self._over = _not_taken(error)
            self.is_unwanted = isinstance(error, ConnectionError)
            raise


def _not_taken(error: OSError) -> str:
    return f"nobody took the answer: {type(error).__name__}: {error}"


def _write(data: bytes) -> None:
    while data:
        data = data[posix.write(1, data) :]
