"""The file of rules that LIMITER_RULES names: read it, and read it again when it has changed.

Replace it in one step (``mv``): a process may read it at any moment.  It belongs on a local disk.
"""

import posix
from time import monotonic

from limiter.request.rules import Rules, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MOST = 1_000_000
_PAUSE = 1.0  # seconds between two looks at the file


def load(path: str) -> Rules:
    """The rules in this file.  Raises ValueError if it cannot be read or has no rule, and RulesError."""
    name = f"LIMITER_RULES={path}"
    rules = parse(read(path, name), name)
    if not rules.all:
        raise ValueError(f"{name}: expected at least one rule (docs/rules.md)")
    return rules


def read(path: str, name: str) -> str:
    """The text of this file.  Raises ValueError if it cannot be read, whose text begins with ``name``."""
    try:
        data = _content(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{name}: {why}: expected a file of rules that this user can read") from None
    if len(data) > _MOST:
        raise ValueError(f"{name}: expected a file of at most {_MOST:,} bytes")
    return data.decode("utf-8", "surrogateescape").lstrip("\ufeff")


def _content(path: str) -> bytes:
    # Not to wait for ever if somebody names a pipe.
    file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    data = b""
    try:
        while len(data) <= _MOST:
            part = posix.read(file, _MOST + 1)
            if not part:
                break
            data += part
    finally:
        posix.close(file)
    return data


class RulesFile:
    """A file of rules in a long-running process, and what ``prepare`` makes of the rules.

    Looks at the file at most once a second.  Threads may share it.  Raises ValueError if the file cannot be
    used now, as ``load`` does, or as ``prepare`` does.
    """

    def __init__(
        self, path: str, prepare: "Callable[[Rules], Any]", clock: "Callable[[], float]" = monotonic
    ) -> None:
        self._path = path
        self._prepare = prepare
        self._clock = clock
        self._next = clock() + _PAUSE
        self._seen = self._state()
        self._prepared = prepare(load(path))
        self._failure = ""

    def current(self, log: "Callable[[str], None]") -> "Any":
        """What was made of the present rules.

        If the file has a mistake now, or is gone, the rules from before stay, and the log gets one line.
        """
        now = self._clock()
        if now >= self._next:
            self._next = now + _PAUSE
            self._look(log)
        return self._prepared

    def _look(self, log: "Callable[[str], None]") -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._prepared = self._prepare(load(self._path))
            self._failure = ""
        except ValueError as error:
            if str(error) != self._failure:
                self._failure = str(error)
                log(f"{error} (until then, the rules from before apply)")

    def _state(self) -> "tuple[int, int, int] | None":
        """What changes whenever the file does; None if it cannot be looked at."""
        try:
            status = posix.stat(self._path)
        except (OSError, ValueError):
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size
