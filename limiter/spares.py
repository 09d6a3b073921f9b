"""Spare file descriptors: what tells of a failure needs some, and a program may have failed for want of them."""

import posix

# A module that is loaded, a log and a mail each take up to four at a time.
_MOST = 12


class Spares:
    """They are free within ``with``, and kept again after it.  Threads may share them.

    Where there is no room for all of them there are fewer.
    """

    def __init__(self) -> None:
        # Each with what tells it from another file: a program may close what it does not know, and use the number.
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
                # There is no other file with the identity of a pipe.
                self._files += [(file, _identity(file)) for file in posix.pipe()]
        except OSError:
            pass  # then there may be fewer


def _identity(file: int) -> "tuple[int, ...]":
    found = posix.fstat(file)
    return found.st_dev, found.st_ino
