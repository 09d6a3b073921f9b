"""Furnish: make the directory of a limit, full of slots (docs/store-format.md).

Very few hits need this module.
"""

import errno
import posix

from limiter.core.limit import Limit, make
from limiter.core.removal import remove, remove_empty
from limiter.core.store import StoreError, done, is_lost

_EXISTS = (errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import stat_result


def fresh(limit: Limit, segment: int, now: int) -> "list[str]":
    """The slots to furnish a directory with: nothing is taken, for two windows and more.

    They are unlike those that it was furnished with at any other time.
    """
    time = max(0, now - 2 * limit.window - 1)
    return [make(time, False, number) for number in limit.numbers(segment)]


def furnish(root: str, directory: str, names: "list[str]") -> bool:
    """Make a directory with these slots, if it is missing or empty.  Returns whether this call made it.

    Raises StoreError.  Then nothing is left behind, except a ``.new-UNIQUE`` if even its removal fails.
    """
    path = f"{root}/{directory}"
    # A machine may have died while it removed the last slot.  On a replicated file system, a rename onto
    # an empty directory would make two different directories of that name, for good.
    if not remove_empty(path):
        return False
    aside = f"{root}/.new-{posix.urandom(8).hex()}"
    lost: tuple[int, ...] = (errno.EEXIST,)
    try:
        _fill(root, aside, names)
        lost = _EXISTS
        posix.rename(aside, path)
    except OSError as error:
        _discard(aside)
        if error.errno in lost or is_lost(error):
            must_exist(root)
            return False
        raise StoreError.of(error, path) from error
    # On GlusterFS, a copy that has just come back makes a rename succeed that all other copies refuse.  On
    # these, the directory still has its old name.
    if not done(posix.lstat, aside):
        return True
    _discard(aside)
    return False


def must_exist(root: str) -> None:
    """Raise StoreError if the store does not exist.  A listing of it would only look empty."""
    if not done(posix.stat, f"{root}/."):
        why = "The store does not exist (make it, or set LIMITER_ROOT)"
        raise StoreError(errno.ENOENT, why, root)


def create(path: str, mode: int = 0o600) -> None:
    """Make an empty file, by default for its owner alone.  Raises OSError, also if it exists."""
    posix.close(posix.open(path, posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY, mode))


def link(first: str, path: str) -> None:
    """Make one more slot, a hard link of ``first``: it needs no inode.  Raises OSError."""
    try:
        posix.link(first, path)
    except OSError as error:
        if error.errno == errno.EEXIST or is_lost(error):
            raise
        create(path)  # a file system without hard links, or with too few for one file


def _fill(root: str, aside: str, names: "list[str]") -> None:
    """Make a directory with slots.  Raises OSError."""
    home = posix.stat(f"{root}/.")
    mode = home.st_mode & 0o2777
    posix.mkdir(aside, mode)
    first = f"{aside}/{names[0]}"
    create(first, mode & 0o666)
    _share(first, home, mode & 0o666)
    for name in names[1:]:
        link(first, f"{aside}/{name}")
    _share(aside, home, mode)


def _share(path: str, home: "stat_result", mode: int) -> None:
    """Let all use this who may use the store, whoever makes it.  Raises OSError."""
    made = posix.stat(path)
    owner = home.st_uid if posix.geteuid() == 0 else made.st_uid
    try:
        # Mostly it is so already.  On a replicated file system each of these calls costs as much as a hit.
        if made.st_mode & 0o7777 != mode:
            posix.chmod(path, mode)
        if (made.st_uid, made.st_gid) != (owner, home.st_gid):
            posix.chown(path, owner, home.st_gid)
    except PermissionError:
        pass  # a file system without modes; or this user has the store from its owner or from all


def _discard(aside: str) -> None:
    """Remove a directory that did not arrive.  Errors are ignored: the one that led here is reported."""
    try:
        remove(aside)
    except OSError:
        pass
