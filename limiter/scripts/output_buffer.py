"""The page: the output of a CGI script, held back as long as a different answer may be needed.

Nothing is sent before the headers are complete.  After that, output is sent when the script flushes,
when more than 64 KiB are held, or at the end.  Until output is sent, all of it can be replaced by
another answer.  Output that was sent can only be truncated.
"""

import io
import posix
import sys
from _thread import RLock

from limiter.scripts.cgi_header import MOST, Header

_GIVEN = "the answer had been given"


class Page(io.BufferedIOBase):
    """A binary file that replaces standard output.  Threads may share it."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._header = Header()
        self._has_left = False
        self.is_unwanted = False
        """Whether the client has left."""
        self._over = ""
        """Why no other answer can be given, as a remark for the log; empty while one can."""
        self._lock = RLock()
        posix.register_at_fork(after_in_child=self._leave_to_the_parent)

    def writable(self) -> bool:
        """Return True: it can always be written to."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of standard output, 1."""
        return 1

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Hold these bytes, or drop them if another answer was given.

        Raises ValueError if the headers are invalid, and OSError if the output cannot be sent.
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
        """Send what is held, if the headers are complete.  Raises OSError."""
        # No Python frame is the caller when the interpreter flushes, just before it reports an uncaught
        # exception.
        is_asked_for = sys._getframe().f_back is not None
        with self._lock:
            if is_asked_for and self._header.is_complete and not self._over:
                self._leave()

    def finish(self) -> None:
        """Send what is held: the script has ended.

        Raises ValueError if its headers are not complete, and OSError if the output cannot be sent.
        """
        with self._lock:
            if self._over:
                return
            if not self._header.is_complete:
                raise ValueError("The script has ended before its headers were complete")
            self._leave()
            self._over = _GIVEN

    def replace(self, answer: bytes) -> str:
        """Drop what is held and what is written later, and send this answer instead.

        If output was already sent, nothing more is sent.  Returns a remark for the log, or "" if the
        answer was sent.
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
        """Drop what is held and what is written later."""
        self._over = _GIVEN
        self._held.clear()

    def _leave_to_the_parent(self) -> None:
        self._lock = RLock()  # a thread that does not exist in this process may hold it
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
