"""The register: which app_ids are admitted, and how often.  docs/limits.md says how to use it.

An entry is a symbolic link to nowhere: its name is an app_id, or ``.default``, and its text the limits.
One call reads it, and one call replaces it.  So nobody ever sees half an entry, and a changed limit
applies from the next request.  ``limiter.request.networks`` has the entries for networks.
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
        if text is None:
            continue
        if "@" in text and name == DEFAULT:
            return _by_network(register, app, text)
        return path, text
    _must_exist(register)
    return None


def _by_network(register: str, app: str, text: str) -> "tuple[str, str] | None":
    """The same, for an application without an entry, if there are networks: ``text`` is .default's."""
    from limiter.request.networks import limits_of, may_apply  # few registers have networks

    default = f"{register}/{DEFAULT}"
    address = getattr(app, "address", None)
    if address:
        try:
            names = may_apply(address, text)
        except ValueError as error:
            raise ValueError(f"{default}: {error}") from None
        for name in names:
            path = f"{register}/{name}"
            limits = _read(path)
            if limits is not None:
                return path, limits
    limits = limits_of(text)
    return (default, limits) if limits else None


def entries(register: str) -> "list[tuple[str, str]]":
    """Every name with its text: app_ids, then networks as in ``apps set``, ``.default`` last.

    Raises StoreError, also for one that is not a symbolic link.
    """
    from limiter.request.networks import limits_of, shown

    listed = names(register)
    listed.sort(key=lambda it: (it == DEFAULT, "@" in it, it))
    found = []
    for name in listed:
        text = _read(f"{register}/{name}")
        if text is not None and name == DEFAULT:
            text = limits_of(text) or None
        if text is not None:
            found.append((shown(name), text))
    return found


def names(register: str) -> "list[str]":
    """The names of all entries, in no order.  Raises StoreError."""
    from limiter.request.networks import is_network

    try:
        found = posix.listdir(register)
    except OSError as error:
        raise _failure(error, register) from error
    return [name for name in found if is_app(name) or name == DEFAULT or is_network(name)]


def put(register: str, name: str, text: str) -> None:
    """Add an entry or replace it, in one step.  Raises StoreError."""
    if name == DEFAULT:
        _put_default(register, text)
        return
    _put(register, name, text)
    if "@" in name:
        _list_networks(register)


def remove(register: str, name: str) -> bool:
    """Remove an entry; False if there is none.  Raises StoreError."""
    path = f"{register}/{name}"
    text = _read(path)
    if text is None:
        _must_exist(register)
        return False
    if name == DEFAULT and "@" in text:
        _put_default(register, "")
        return text[0] != "@"
    if not _unlink(path):
        return False
    if "@" in name:
        _list_networks(register)
    return True


def is_listed(register: str) -> bool:
    """Whether the entry .default lists all networks.  It does not if it was changed by hand."""
    from limiter.request.networks import joined, limits_of, prefixes

    text = _read(f"{register}/{DEFAULT}") or ""
    return joined(limits_of(text), prefixes(names(register))) == text


def _list_networks(register: str) -> None:
    """Let the entry .default list all networks, also those that others add meanwhile."""
    from limiter.request.networks import limits_of

    while not is_listed(register):
        _put_default(register, limits_of(_read(f"{register}/{DEFAULT}") or ""))


def _put_default(register: str, limits: str) -> None:
    from limiter.request.networks import joined, prefixes

    text = joined(limits, prefixes(names(register)))
    if text:
        _put(register, DEFAULT, text)
    else:
        _unlink(f"{register}/{DEFAULT}")


def _unlink(path: str) -> bool:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError.of(error, path) from error
    return True


def _put(register: str, name: str, text: str) -> None:
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
