"""Spare file descriptors.  Reporting a failure needs some, and the failure may be that none are left."""

import posix

# Loading a module, writing a log and sending a mail need up to four each.
_MOST = 12


class Spares:
    """Keeps spare descriptors: free inside ``with``, taken again after it.  Threads may share them.

    If the process has too few descriptors, it keeps fewer.
    """

    def __init__(self) -> None:
        # Each with its identity: a program may close descriptors that it does not know, and use the
        # number again.
        self._files: list[tuple[int, tuple[int, ...]]] = []
        self._keep()

    def __enter__(self) -> None:
        while self._files:
            try:
                file, identity = self._files.pop()
                if _identity(file) == identity:
                    posix.close(file)
            except (IndexError, OSError):
                pass  # another thread, or the program itself, was faster

    def __exit__(self, *_: object) -> None:
        self._keep()

    def _keep(self) -> None:
        try:
            while len(self._files) < _MOST:
                # No other file has the identity of a pipe.
                self._files += [(file, _identity(file)) for file in posix.pipe()]
        except OSError:
            pass  # then it keeps fewer


def _identity(file: int) -> "tuple[int, ...]":
    found = posix.fstat(file)
    return found.st_dev, found.st_ino
