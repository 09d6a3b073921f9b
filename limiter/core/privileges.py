"""Act as the owner of a store: a program that reads the requests of strangers should not be root."""

import errno
import os
from stat import S_ISLNK

from limiter.core.store import StoreError

_LINKS_MOST = 40  # as in Linux
_FOREIGN = "It is reached by a link of another user than root and its owner (name the directory itself)"


def become_owner(root: str) -> None:
    """If this process is root, become the owner of the store, for good.

    Nothing changes if the store does not exist or belongs to root.  Raises StoreError if the owner
    cannot be read, or if a link on the way to the store belongs to neither root nor the owner: whoever
    has that link could choose as whom this process acts.
    """
    try:
        owner, group, linkers = _look(root)
    except (FileNotFoundError, NotADirectoryError):
        return  # the next use of the store reports this
    except OSError as error:
        raise StoreError.of(error, root) from error
    if os.geteuid() == 0:
        if linkers - {0, owner}:
            raise StoreError(errno.EPERM, _FOREIGN, root)
        if owner != 0:
            os.setgroups([])
            os.setgid(group)
            os.setuid(owner)


def _look(path: str) -> "tuple[int, int, set[int]]":
    """The owner and group of what is at this path, and the owners of all links on the way.

    Opens one part of the path after the other, so that nobody can change the way in between.
    """
    linkers: set[int] = set()
    links = 0
    parts = path.split("/")[::-1]
    place = os.open("/" if path[:1] == "/" else ".", os.O_PATH)
    try:
        while parts:
            part = parts.pop()
            if part in ("", "."):
                continue
            following = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=place)
            status = os.fstat(following)
            if not S_ISLNK(status.st_mode):
                os.close(place)
                place = following
                continue
            links += 1
            target = os.readlink("", dir_fd=following)
            os.close(following)
            linkers.add(status.st_uid)
            if links > _LINKS_MOST:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target[:1] == "/":
                os.close(place)
                place = os.open("/", os.O_PATH)
            parts += target.split("/")[::-1]
        status = os.fstat(place)
    finally:
        os.close(place)
    return status.st_uid, status.st_gid, linkers
