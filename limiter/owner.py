"""Acting as the owner of a store.

What root made in a store, its owner could not rename.  And what reads the requests of strangers had better
not be root.
"""

import os

from limiter.store import failure


def become_owner(root: str) -> None:
    """Give up root's rights, if this process has them, for those of the store's owner; for good.

    Nothing changes if there is no such store, or if it is root's own.  Raises StoreError if that cannot be told.
    """
    try:
        owner = os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        return  # whoever uses it is told
    except OSError as error:
        raise failure(error, root) from error
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
