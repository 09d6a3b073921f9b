"""The store: the only module on the hot path that touches files.  It uses two calls, listdir and rename.

A lost race is an answer, not an error.  Every other error is a StoreError with its number and path.
docs/store-format.md defines the format, and says why it needs no lock.
"""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

ROUNDS = 1000
"""So many times a process looks again after it has lost races.  To lose all of them is no normal race."""

_APP = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


class StoreError(OSError):
    """The store has failed.  ``errno``, ``strerror`` and ``path`` say how and where."""

    @classmethod
    def of(cls, error: OSError, path: str) -> "StoreError":
        """The file system reported this error at this path."""
        why = error.strerror or ""
        if isinstance(error, PermissionError):
            from limiter.core.ownership import whose

            why += whose(path)
        return cls(error.errno, why, path)

    @classmethod
    def timed_out(cls, seconds: float) -> "StoreError":
        """The file system did not answer within so many seconds."""
        import errno  # few requests need it, and it takes as long to load as this whole module

        return cls(errno.ETIMEDOUT, f"The store did not answer within {seconds:g} s (LIMITER_TIMEOUT)")

    @classmethod
    def no_thread(cls, error: RuntimeError) -> "StoreError":
        """No thread could be started to call the file system."""
        import errno

        return cls(errno.EAGAIN, f"No thread to call the store: {error}")

    @classmethod
    def contention(cls, path: str) -> "StoreError":
        """Other hits claimed every free slot first.  This is no normal race, so the store is suspect."""
        import errno

        why = f"Other hits claimed every free slot first, {ROUNDS} times in a row"
        return cls(errno.EBUSY, f"{why} (test the store: python3 -m limiter doctor)", path)

    @property
    def path(self) -> str:
        """The file or directory concerned; empty if it is not known."""
        return str(self.filename or "")


def is_app(name: str) -> bool:
    """Whether this name is a valid app_id.  So it is not a path, and does not begin with a dot."""
    return 0 < len(name) <= 64 and name[0] not in "._-" and not name.strip(_APP)


class Store:
    """The directories below ``root``.  Their names are relative to it: ``acme@10-per-1s``.

    Any number of processes and threads may use one root at once.  Every method raises StoreError
    if the file system fails.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def names(self, directory: str) -> list[str]:
        """The names in a directory, in no order; none if there is no such directory."""
        path = f"{self.root}/{directory}"
        try:
            return posix.listdir(path)
        except OSError as error:
            if is_lost(error):
                return []
            raise StoreError.of(error, path) from error

    def rename(self, directory: str, old: str, new: str) -> bool:
        """Rename one file of a directory.  If several try the same old name, at most one gets True."""
        path = f"{self.root}/{directory}/"
        return done(posix.rename, path + old, path + new)


def done(call: "Callable[..., object]", path: str, *more: str) -> bool:
    """Call the file system for this path.  False: the path is gone.  Raises StoreError."""
    try:
        call(path, *more)
    except OSError as error:
        if is_lost(error):
            return False
        raise StoreError.of(error, path) from error
    return True


def patiently(function: "Callable[..., T]", *arguments: object) -> "T":
    """What the function returns.  Calls it again after faults that may pass (see limiter.core.retry)."""
    faults: list[float] = []
    while True:
        try:
            return function(*arguments)
        except StoreError as error:
            from limiter.core.retry import survive  # very few requests need it

            survive(error, faults)


def is_lost(error: OSError) -> bool:
    """Whether the error only says that a name is gone: another process claimed or removed it."""
    import errno  # only after an error: it takes as long to load as this whole module

    return error.errno in (errno.ENOENT, errno.ESTALE)
