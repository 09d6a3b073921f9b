"""Act as the owner of a store: a program that reads the requests of strangers should not be root."""

import os

from limiter.core.store import StoreError


def become_owner(root: str) -> None:
    """If this process is root, become the owner of the store, for good.

    Nothing changes if the store does not exist or belongs to root.  Raises StoreError if the owner
    cannot be read.
    """
    try:
        owner = os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        return  # the next use of the store reports this
    except OSError as error:
        raise StoreError.of(error, root) from error
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
