"""A meeting of two nodes in a store, to test together what each node sees of the other.

They meet in one directory, ROOT/.new-doctor-meeting.  It appears complete, by a rename, and contains an
empty seat.  The node that made it is ``a``.  The node that renames the seat is ``b``.  The nodes send
messages by making files whose names are the messages: ``ROLE@STEP@TEXT``.  A step ends for a node when
it sees the other's message.
"""

import os
import time

from limiter.core.store import Store, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PLACE = ".new-doctor-meeting"
_SEAT = "seat@"
_STALE = 600
_PAUSE = 0.001


class AloneError(Exception):
    """The other node did not come, or has left."""


class Meeting:
    """A meeting in the directory ``path``.  ``role`` is a or b.

    ``patience`` is how many seconds to wait for each message.  Raises AloneError if two other nodes are
    meeting, and StoreError if the store fails.
    """

    def __init__(self, root: str, patience: float) -> None:
        self.path = f"{root}/{PLACE}"
        self.role = self._join(root)
        self.other = "b" if self.role == "a" else "a"
        self.patience = patience
        self._store = Store(self.path)
        self._step = 0

    def exchange(self, text: str = "") -> str:
        """Send a message, and wait for the other node's message of the same step.

        Raises AloneError if no message comes, and StoreError if the store fails.
        """
        self.tell(text)
        return self.hear()

    def tell(self, text: str) -> None:
        """Begin the next step, and send a message of letters, digits and ``._-``.  Raises StoreError."""
        self._step += 1
        _make(f"{self.path}/{self.role}@{self._step}@{text}")

    def leave(self) -> None:
        """End the meeting when both nodes have reached this point.  Raises as ``exchange``."""
        if self.role == "b":
            self.tell("")
            return
        self._step += 1
        self.hear()

    def reply(self, answer: "Callable[[], str]") -> None:
        """Wait for the other node's next step, then send ``answer()``.  Raises as ``exchange``."""
        self._step += 1
        self.hear()
        self._step -= 1
        self.tell(answer())

    def hear(self) -> str:
        """Wait for the other node's message of this step.  Raises as ``exchange``."""
        begin = f"{self.other}@{self._step}@"
        end = time.monotonic() + self.patience
        while True:
            for name in self._store.names("."):
                if name.startswith(begin):
                    return name[len(begin) :]
            if time.monotonic() > end:
                raise AloneError(f"The other node has been silent for {self.patience:g} s")
            time.sleep(_PAUSE)

    def _join(self, root: str) -> str:
        from limiter.core.sweep import remove

        unique = os.urandom(8).hex()
        mine = f"{root}/.new-doctor-{unique}"
        now = int(time.time())
        for _ in range(3):
            for seat in [name for name in Store(self.path).names(".") if name.startswith(_SEAT)]:
                if now - int(seat[len(_SEAT) :]) > _STALE:
                    _move(self.path, mine)
                    remove(mine)
                elif Store(self.path).rename(".", seat, f"b@0@{unique}"):
                    return "b"
            try:
                os.mkdir(mine, 0o700)
                _make(f"{mine}/{_SEAT}{now}")
            except OSError as error:
                raise StoreError.of(error, mine) from error
            if _move(mine, self.path):
                return "a"
            remove(mine)
        raise AloneError(f"Two nodes are meeting already (if not, remove {self.path})")


def _make(path: str) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise StoreError.of(error, path) from error


def _move(old: str, new: str) -> bool:
    try:
        os.rename(old, new)
    except OSError:
        return False
    return True
