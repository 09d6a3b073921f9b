"""The register: which app_ids are admitted, and how often.  docs/limits.md says how to use it.

An entry is a symbolic link to nowhere: its name is an app_id, or ``.default``, and its text the limits.
One call reads it, and one call replaces it.  So nobody ever sees half an entry, and a changed limit
applies from the next request.
"""

import errno
import posix

from limiter.core.store import StoreError, is_app, patiently

DEFAULT = ".default"
"""The entry for every app_id that has none."""

UNLIMITED = "unlimited"
"""The text of an entry without limits."""

_MISSING = "The register does not exist (make it, or correct LIMITER_APPS)"
_NO_LINK = "Not a symbolic link, so not an entry of the register (remove it)"


def look_up(register: str, app: str) -> "tuple[str, str] | None":
    """The path and the text of the entry that applies to an application; None if it is unknown.

    Raises StoreError if the register cannot be read.
    """
    return patiently(_look_up, register, app)


def _look_up(register: str, app: str) -> "tuple[str, str] | None":
    for name in (app, DEFAULT):
        path = f"{register}/{name}"
        text = _read(path)
        if text is not None:
            return path, text
    _must_exist(register)
    return None


def entries(register: str) -> "list[tuple[str, str]]":
    """Every name with its text, ``.default`` last.

    Raises StoreError, also for one that is not a symbolic link.
    """
    try:
        names = [name for name in posix.listdir(register) if is_app(name) or name == DEFAULT]
    except OSError as error:
        raise _failure(error, register) from error
    names.sort(key=lambda it: (it == DEFAULT, it))
    found = [(name, _read(f"{register}/{name}")) for name in names]
    return [(name, text) for name, text in found if text is not None]


def put(register: str, name: str, text: str) -> None:
    """Add an entry or replace it, in one step.  Raises StoreError."""
    aside = f"{register}/.new-{posix.urandom(8).hex()}"
    try:
        posix.symlink(text, aside)
        try:
            posix.rename(aside, f"{register}/{name}")
        except OSError:
            posix.unlink(aside)
            raise
    except OSError as error:
        raise _failure(error, register, f"/{name}") from error


def remove(register: str, name: str) -> bool:
    """Remove an entry; False if there is none.  Raises StoreError."""
    path = f"{register}/{name}"
    if _read(path) is None:
        _must_exist(register)
        return False
    try:
        posix.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError.of(error, path) from error
    return True


def _read(path: str, is_second_look: bool = False) -> "str | None":
    try:
        return posix.readlink(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE and not is_second_look:
            return _read(path, True)  # on a network file system, while the entry was replaced
        if error.errno == errno.EINVAL:
            raise StoreError(error.errno, _NO_LINK, path) from error
        raise StoreError.of(error, path) from error


def _must_exist(register: str) -> None:
    try:
        posix.stat(f"{register}/.")
    except OSError as error:
        raise _failure(error, register) from error


def _failure(error: OSError, register: str, entry: str = "") -> StoreError:
    if isinstance(error, FileNotFoundError):
        return StoreError(error.errno, _MISSING, register)
    return StoreError.of(error, register + entry)
