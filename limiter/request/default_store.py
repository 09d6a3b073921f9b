"""The default store: where it lies if LIMITER_ROOT is not set.  It is made if it is missing.

It is the first of these that this user alone can write to: /var/lib/access-limiter, if that exists; the
user's directory for state (XDG base directory specification); and last the directory for temporary files,
where cleaners of old files find it.  Only a process without LIMITER_ROOT needs this module.
"""

import errno
import posix

from limiter.core.store import StoreError, patiently

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import stat_result

VARIABLES = ("XDG_STATE_HOME", "HOME", "TMPDIR")
SYSTEM = "/var/lib/access-limiter"

# Errors that say that there is no directory here that this user can use.
_UNUSABLE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)

# Parts of st_mode.  The module stat has them, but its import would cost more than these lines.
_TYPE = 0o170000
_DIRECTORY = 0o040000
_WRITABLE = 0o022  # by group or others


def default_store(environ: "Mapping[bytes, bytes]") -> "tuple[str, str]":
    """The path of the default store, and a note for the log if it was just made where it may be lost.

    Anyone may write to a directory for temporary files.  So a path there is trusted only if it is a
    directory and not a link, belongs to this user, and nobody else can write to it.  Otherwise raises
    StoreError.  Also raises it if the file system fails: another store would count anew.  Raises
    ValueError if TMPDIR is needed and is no absolute path.
    """
    return patiently(_default_store, environ)


def _default_store(environ: "Mapping[bytes, bytes]") -> "tuple[str, str]":
    state, home, temporary = [
        environ.get(name.encode(), b"").decode("utf-8", "surrogateescape") for name in VARIABLES
    ]
    if _is_ours(SYSTEM):
        return SYSTEM, ""
    # A relative path is to be ignored.
    home = home if home[:1] == "/" else ""
    state = state if state[:1] == "/" else home and f"{home}/.local/state"
    if state:
        path = f"{state}/access-limiter"
        if _is_ours(path) or ((_is_ours(state) or _is_ours(home)) and _make(path)):
            return path, ""
    temporary = temporary or "/tmp"
    if temporary[0] != "/":
        raise ValueError(f"TMPDIR={temporary!r:.200}: expected an absolute path")
    path = f"{temporary}/limiter-{posix.geteuid()}"
    note = f"The store is {path}, where cleaners of temporary files may remove it (set LIMITER_ROOT)"
    try:
        try:
            found = posix.lstat(path)
        except FileNotFoundError:
            try:
                posix.mkdir(path, 0o700)
            except FileExistsError:
                note = ""  # another process of this user made it, or somebody planted it: check below
            found = posix.lstat(path)
        else:
            note = ""
    except OSError as error:
        raise StoreError.of(error, path) from error
    if not _is_trusted(found):
        why = "The default store must be a directory that only this user can write to: it is not trusted"
        raise StoreError(errno.EPERM, f"{why} (set LIMITER_ROOT, or remove it)", path)
    return path, note


def _make(path: str) -> bool:
    """Make a directory and those above it, for this user alone.  Returns whether it is there and ours."""
    at = path.find("/", 1)
    while at != -1:
        _mkdir(path[:at])
        at = path.find("/", at + 1)
    _mkdir(path)
    return _is_ours(path)


def _mkdir(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except OSError:
        pass  # it exists, or the next one cannot be made either


def _is_ours(path: str) -> bool:
    """Whether there is a directory that can be trusted.  Raises StoreError if nobody knows."""
    try:
        return _is_trusted(posix.lstat(path))
    except OSError as error:
        if error.errno in _UNUSABLE:
            return False
        raise StoreError.of(error, path) from error


def _is_trusted(found: "stat_result") -> bool:
    """Whether it is a directory and no link, belongs to this user, and nobody else can write to it."""
    is_directory = found.st_mode & _TYPE == _DIRECTORY
    return is_directory and found.st_uid == posix.geteuid() and not found.st_mode & _WRITABLE
