"""The page: the output of a CGI script, held back as long as a different answer may be needed.

docs/python.md says when output is sent.  Until then all of it can be replaced by another answer.  Output
that was sent can only be truncated.
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
        self.is_unwanted = False
        """Whether the client has left."""
        self._held = bytearray()
        self._header = Header()
        self._has_begun = False
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
            if self._over:
                return len(data)
            self._held += data
            try:
                self._header.read(self._held)
            except ValueError as error:
                raise ValueError(f"The script's output is no response: {error}") from None
            if len(self._held) > MOST:
                self._send()
        return len(data)

    def flush(self) -> None:
        """Send what is held, if the headers are complete.  Raises OSError."""
        # The interpreter itself also flushes, just before it reports an uncaught exception.  Then no
        # Python frame is the caller, and the output must stay replaceable.
        is_asked_for = sys._getframe().f_back is not None
        with self._lock:
            if is_asked_for and self._header.is_complete and not self._over:
                self._send()

    def finish(self) -> None:
        """Send what is held: the script has ended.

        Raises ValueError if its headers are not complete, and OSError if the output cannot be sent.
        """
        with self._lock:
            if self._over:
                return
            if not self._header.is_complete:
                raise ValueError("The script has ended before its headers were complete")
            self._send()
            self._over = _GIVEN

    def replace(self, answer: bytes) -> str:
        """Drop what is held and what is written later, and send this answer instead.

        If output was already sent, nothing more is sent.  Returns a remark for the log, or "" if the
        answer was sent.
        """
        with self._lock:
            if self._over:
                return self._over
            self._drop()
            if self._has_begun:
                return "headers had been sent"
            try:
                _write(answer)
            except OSError as error:
                return _not_taken(error)
        return ""

    def _drop(self) -> None:
        self._over = _GIVEN
        self._held.clear()

    def _leave_to_the_parent(self) -> None:
        self._lock = RLock()  # a thread that does not exist in this process may hold it
        self._drop()

    def _send(self) -> None:
        held = bytes(self._held)
        self._held.clear()
        self._has_begun = self._has_begun or bool(held)
        try:
            _write(held)
        except OSError as error:
            self._over = _not_taken(error)
            self.is_unwanted = isinstance(error, ConnectionError)
            raise


def hold_back() -> Page:
    """Replace ``sys.stdout`` with a file that writes to a new page."""
    page = Page()
    old = sys.stdout
    sys.stdout = io.TextIOWrapper(page, old.encoding, old.errors, newline="\n", write_through=True)
    return page


def _not_taken(error: OSError) -> str:
    return f"nobody took the answer: {type(error).__name__}: {error}"


def _write(data: bytes) -> None:
    while data:
        data = data[posix.write(1, data) :]
