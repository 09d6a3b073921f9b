"""A trial of a store: make a slot, list, claim and remove it, as the first hit of a new client does.

It works in ``ROOT/.new-trial-UNIQUE``, a directory that nothing else reads.  So no client is counted, and trials
do not disturb each other.  If one is killed, a later sweep removes what is left.
"""

import errno
import posix

from limiter.core.furnish import furnish
from limiter.core.limit import clock, make
from limiter.core.store import Store, StoreError

_ASIDE = ".new-trial-"


def claim(store: Store) -> None:
    """Make a slot, claim it, and remove it.  Raises StoreError."""
    directory = f"{_ASIDE}{posix.urandom(8).hex()}"
    path = f"{store.root}/{directory}"
    free, taken = make(0, False, 0), make(clock(), False, 0)
    furnish(store.root, directory, [free])
    if free not in store.names(directory) or not store.rename(directory, free, taken):
        raise StoreError(errno.EIO, "A slot is missing that has just been made", f"{path}/{free}")
    try:
        posix.unlink(f"{path}/{taken}")
        posix.rmdir(path)
    except OSError as error:
        raise StoreError.of(error, path) from error
