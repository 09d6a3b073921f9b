"""Threads of the system, and how to wait for them: also where gevent has replaced Python's own.

After ``gevent.monkey.patch_all()`` a process runs all its requests in one thread.  A call that may hang must
be made in a real thread, and the wait for it must let the other requests go on.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable
    from typing import Any, Union

    Lock = Union[LockType, "GreenLock"]


def original(module: str, name: str) -> "Any":
    """What this module of Python's own has under this name, whatever gevent has put in its place."""
    gevent = _gevent()
    return getattr(sys.modules[module], name) if gevent is None else gevent.get_original(module, name)


def green_lock() -> "Callable[[], GreenLock] | None":
    """What makes the lock to wait for another thread with; None: a usual lock will do."""
    return None if _gevent() is None else GreenLock


def _gevent() -> "Any":
    """The module gevent.monkey, if it has replaced the threads of this process."""
    gevent = sys.modules.get("gevent.monkey")
    return gevent if gevent is not None and gevent.is_module_patched("_thread") else None


class GreenLock:
    """A lock that is acquired once: while one greenlet waits for it, others run."""

    def __init__(self) -> None:
        from gevent.event import Event  # type: ignore[import-untyped, unused-ignore]

        self._event = Event()  # another thread may set it

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As for any lock."""
        return bool(self._event.wait(timeout) if blocking else self._event.is_set())

    def release(self) -> None:
        """As for any lock."""
        self._event.set()
