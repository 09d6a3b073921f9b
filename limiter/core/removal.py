"""Remove directories of a store.  That one is gone already is no error.  Very few hits need this module."""

import errno
import posix

from limiter.core.store import Store, StoreError, done


def remove_empty(path: str) -> bool:
    """Remove a directory if it is empty.  Returns whether it is gone.  Raises StoreError."""
    try:
        done(posix.rmdir, path)
    except StoreError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK):
            raise
        return False
    return True


def remove(path: str) -> bool:
    """Remove a file, or a directory and all that is in it.  Nobody else may use it.

    Returns whether it is gone.  Raises StoreError.
    """
    try:
        done(posix.unlink, path)
    except StoreError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM, errno.EACCES):
            raise
        for name in Store(path).names("."):
            remove(f"{path}/{name}")
        return remove_empty(path)
    return True
