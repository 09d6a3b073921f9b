"""Furnish a store: make directories full of slots (docs/store-format.md), and the default store itself.

Very few hits need this module.
"""

import errno
import posix

from limiter.core.store import Store, StoreError, done, is_lost, patiently

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_EXISTS = (errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK)

# Parts of st_mode.  The module stat has them, but its import would cost more than these lines.
_TYPE = 0o170000
_DIRECTORY = 0o040000
_WRITABLE = 0o022  # by group or others


def create(path: str) -> None:
    """Make an empty file for its owner alone.  Raises OSError, also if it exists."""
    posix.close(posix.open(path, posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY, 0o600))


def furnish(store: Store, app: str, furniture: "dict[str, list[str]]") -> None:
    """Make each directory ``app/NAME`` with its files, if it is missing or empty.

    ``furniture`` has the file names by NAME.  Raises StoreError.  Then nothing is left behind, except
    a ``.new-UNIQUE`` if even its removal fails.
    """
    there = store.names(app)
    if not there and _arrive(store.root, app, furniture):
        return
    from limiter.core.removal import remove_empty  # very few hits need it

    for name, files in furniture.items():
        directory = f"{app}/{name}"
        # A machine may have died while it removed the last file in it.  On a replicated file system, a
        # rename onto an empty directory would make two different directories of that name, for good.
        if name in there and (store.names(directory) or not remove_empty(f"{store.root}/{directory}")):
            continue
        _arrive(store.root, directory, {"": files})


def must_exist(store: Store) -> None:
    """Raise StoreError if the store does not exist.  A listing of it would only look empty."""
    if not done(posix.stat, f"{store.root}/."):
        why = "The store does not exist (make it, or set LIMITER_ROOT)"
        raise StoreError(errno.ENOENT, why, store.root)


def _arrive(root: str, directory: str, furniture: "dict[str, list[str]]") -> bool:
    """Fill a directory under another name, then rename it into place.  False: another was first."""
    aside = f"{root}/.new-{posix.urandom(8).hex()}"
    try:
        posix.mkdir(aside)
    except OSError as error:
        _try(posix.rmdir, aside)  # it may exist in spite of the error
        must_exist(Store(root))
        raise StoreError.of(error, aside) from error
    try:
        for name, files in furniture.items():
            inner = f"{aside}/{name}" if name else aside
            if name:
                posix.mkdir(inner)
            for file in files:
                create(f"{inner}/{file}")
    except OSError as error:
        _discard(aside, furniture)
        raise StoreError.of(error, aside) from error
    try:
        posix.rename(aside, f"{root}/{directory}")
    except OSError as error:
        _discard(aside, furniture)
        if error.errno in _EXISTS or is_lost(error):
            return False
        raise StoreError.of(error, f"{root}/{directory}") from error
    # On GlusterFS, a copy that has just come back makes a rename succeed that all other copies refuse.  On
    # these, the directory still has its old name.
    if not done(posix.lstat, aside):
        return True
    _discard(aside, furniture)
    return False


def default_root(temporary: str) -> str:
    """The default store: ``limiter-UID`` in this directory.  It is made if it is missing.

    Anyone may write to a temporary directory.  So an existing path is trusted only if it is a directory
    and not a link, belongs to this user, and nobody else can write to it.  Otherwise raises StoreError.
    """
    return patiently(_default_root, temporary)


def _default_root(temporary: str) -> str:
    user = posix.geteuid()
    path = f"{temporary}/limiter-{user}"
    try:
        try:
            found = posix.lstat(path)
        except FileNotFoundError:
            try:
                posix.mkdir(path, 0o700)
            except FileExistsError:
                pass  # another process of this user made it, or somebody planted it: check below
            found = posix.lstat(path)
    except OSError as error:
        raise StoreError.of(error, path) from error
    if found.st_mode & _TYPE != _DIRECTORY or found.st_uid != user or found.st_mode & _WRITABLE:
        why = "The default store must be a directory that only this user can write to: it is not trusted"
        why += " (set LIMITER_ROOT, or remove it)"
        raise StoreError(errno.EPERM, why, path)
    return path


def _discard(aside: str, furniture: dict[str, list[str]]) -> None:
    """Remove what exists of a directory that did not arrive.

    Errors are ignored here: the one that led here is reported.
    """
    for name, files in furniture.items():
        inner = f"{aside}/{name}" if name else aside
        for file in files:
            _try(posix.unlink, f"{inner}/{file}")
        if name:
            _try(posix.rmdir, inner)
    _try(posix.rmdir, aside)


def _try(remove: "Callable[[str], None]", path: str) -> None:
    try:
        remove(path)
    except OSError:
        pass
