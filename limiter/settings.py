"""The settings: environment variables, with their defaults.

====================  =====================================================================
``LIMITER_ROOT``      the store: an absolute path that exists.  Default: ``limiter-UID`` in
                      ``$TMPDIR`` or /tmp, which alone is made when missing
``LIMITER_LIMIT``     the limits, ``;`` between several.  Default: ``10/second``
``LIMITER_ON_ERROR``  the verdict when the store fails: ``deny`` (the default) or ``admit``
====================  =====================================================================

A variable that is empty counts as not set.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Whoever sets these relies on what they do: better no service than one that ignores them.
_NOT_YET = (b"LIMITER_APPS", b"LIMITER_KEY", b"LIMITER_TIMEOUT")


def admits_on_error(environ: "Mapping[bytes, bytes]") -> bool:
    """Whether a hit is admitted when the store fails.  Raises ValueError for another word."""
    word = _text(environ, b"LIMITER_ON_ERROR", "deny")
    if word not in ("deny", "admit"):
        raise ValueError(f"LIMITER_ON_ERROR={word!r:.200}: expected 'deny' or 'admit'")
    return word == "admit"


def limits(environ: "Mapping[bytes, bytes]") -> str:
    """The text of the limits.  Raises ValueError for settings that are not known yet."""
    for name in _NOT_YET:
        if environ.get(name):
            raise ValueError(f"{name.decode()} is set, but this version does not know it (unset it)")
    return _text(environ, b"LIMITER_LIMIT", "10/second")


def root(environ: "Mapping[bytes, bytes]") -> str:
    """The store.  Raises ValueError if it is not absolute, StoreError if the default is not to be had."""
    path = _text(environ, b"LIMITER_ROOT", "")
    if not path:
        from limiter.furnish import default_root

        return default_root(_absolute("TMPDIR", _text(environ, b"TMPDIR", "/tmp")))
    return _absolute("LIMITER_ROOT", path)


def _absolute(name: str, path: str) -> str:
    if path[0] != "/":
        raise ValueError(f"{name}={path!r:.200}: expected an absolute path")
    return path


def _text(environ: "Mapping[bytes, bytes]", name: bytes, default: str) -> str:
    value = environ.get(name)
    return value.decode("utf-8", "surrogateescape") if value else default
