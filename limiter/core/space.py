"""How much room the file system of a store has left."""

import posix

from limiter.core.furnish import must_exist
from limiter.core.store import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import statvfs_result

_RESERVE = 1000  # inodes, or a tenth: for clients that the register names, and for other programs
_SHORT = 10  # per cent of inodes or bytes free: then sweep sooner


def is_nearly_full(root: str) -> bool:
    """Whether so few inodes are free that no strangers are taken in.  Raises StoreError."""
    status = _status(root)
    return status.f_favail < min(status.f_files // 10, _RESERVE)  # some file systems count no inodes


def is_running_short(root: str) -> bool:
    """Whether less than a tenth of the inodes or bytes is free.  Raises StoreError."""
    status = _status(root)
    parts = ((status.f_favail, status.f_files), (status.f_bavail, status.f_blocks))
    return any([free * 100 < every * _SHORT for free, every in parts])


def _status(root: str) -> "statvfs_result":
    try:
        return posix.statvfs(root)
    except OSError as error:
        must_exist(root)
        raise StoreError.of(error, root) from error
