"""Two nodes that meet in a store, to try together what each sees of the other.

They meet in one directory, ROOT/.new-doctor-meeting, which arrives whole, by rename, with an empty seat in
it.  Who made it is ``a``; who renames the seat is ``b``.  They talk by making files, whose names are the
messages: ``ROLE@STEP@TEXT``.  A step ends for each when it sees the other's message.
"""

import os
import time

from limiter.store import Store, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PLACE = ".new-doctor-meeting"
_SEAT = "seat@"
_STALE = 600
_PAUSE = 0.001


class AloneError(Exception):
    """The other node has not come, or has gone."""


class Meeting:
    """A meeting at ``path``; ``role`` is a or b.  ``patience`` is how many seconds to wait for each message."""

    def __init__(self, root: str, patience: float) -> None:
        self.path = f"{root}/{PLACE}"
        self.role = self._join(root)
        self.other = "b" if self.role == "a" else "a"
        self.patience = patience
        self._store = Store(self.path)
        self._step = 0

    def exchange(self, text: str = "") -> str:
        """Tell the other something, and wait for what it tells in the same step.

        Raises AloneError if it tells nothing, StoreError if the store fails.
        """
        self.tell(text)
        return self.hear()

    def tell(self, text: str) -> None:
        """Begin the next step, with a message: letters, digits and ``._-``.  Raises StoreError."""
        self._step += 1
        _make(f"{self.path}/{self.role}@{self._step}@{text}")

    def leave(self) -> None:
        """End the meeting, when both have come to this.  Raises as ``exchange``."""
        if self.role == "b":
            self.tell("")
            return
        self._step += 1
        self.hear()

    def reply(self, answer: "Callable[[], str]") -> None:
        """Wait for the other to begin the next step; then tell what ``answer`` says.  Raises as ``exchange``."""
        self._step += 1
        self.hear()
        self._step -= 1
        self.tell(answer())

    def hear(self) -> str:
        """Wait for the other's message of this step.  Raises as ``exchange``."""
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
        from limiter.sweep import remove

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
                raise failure(error, mine) from error
            if _move(mine, self.path):
                return "a"
            remove(mine)
        raise AloneError(f"Two nodes are meeting already (if not, remove {self.path})")


def _make(path: str) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise failure(error, path) from error


def _move(old: str, new: str) -> bool:
    try:
        os.rename(old, new)
    except OSError:
        return False
    return True
