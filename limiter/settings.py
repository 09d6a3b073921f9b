"""The settings: environment variables, with their defaults.

===========================  ==============================================================
``LIMITER_ROOT``             the store: an absolute path that exists.  Default:
                             ``limiter-UID`` in ``$TMPDIR`` or /tmp, made when missing
``LIMITER_LIMIT``            the limits, ``;`` between several.  Default: ``10/second``
``LIMITER_APPS``             the register: an absolute path (``limiter.register``).
                             Default: none, every app_id has ``LIMITER_LIMIT``
``LIMITER_KEY``              where the app_id comes from (``limiter.request``).  Default:
                             the parameter ``app_id``
``LIMITER_TRUSTED_PROXIES``  whose X-Forwarded-For is believed (``limiter.request``)
``LIMITER_MODE``             ``enforce`` (the default), ``shadow``: admit, and log what
                             would have been denied, or ``off``: do nothing
``LIMITER_ON_ERROR``         the verdict when the store fails: ``deny`` (the default) or
                             ``admit``
``LIMITER_TIMEOUT``          seconds after which a silent store has failed.  Default: ``2``
===========================  ==============================================================

A variable that is empty counts as not set.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = (
    "LIMITER_ROOT",
    "LIMITER_LIMIT",
    "LIMITER_APPS",
    "LIMITER_KEY",
    "LIMITER_TRUSTED_PROXIES",
    "LIMITER_MODE",
    "LIMITER_ON_ERROR",
    "LIMITER_TIMEOUT",
)
"""All variables."""

_MODES = ("enforce", "shadow", "off")
_VERDICTS = ("deny", "admit")
_LONGEST = 3600.0


class Settings:
    """What the variables say; ``environ`` has bytes for both, as ``os.environb`` has.

    ``apps`` is empty without a register.  ``limits``, ``key`` and ``proxies`` are texts that others
    understand.  Raises ValueError for a mistake in the rest, naming the variable.
    """

    __slots__ = (
        "_root",
        "_temporary",
        "admits_on_error",
        "apps",
        "key",
        "limits",
        "mode",
        "proxies",
        "timeout",
    )

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        self.mode = _word(environ, "LIMITER_MODE", _MODES)
        self.admits_on_error = _word(environ, "LIMITER_ON_ERROR", _VERDICTS) == "admit"
        self.timeout = _seconds(environ, "LIMITER_TIMEOUT", 2.0)
        self.limits = _text(environ, "LIMITER_LIMIT", "10/second")
        self.apps = _path(environ, "LIMITER_APPS", "")
        self.key = _text(environ, "LIMITER_KEY", "app_id")
        self.proxies = _text(environ, "LIMITER_TRUSTED_PROXIES", "")
        self._root = _path(environ, "LIMITER_ROOT", "")
        self._temporary = "" if self._root else _path(environ, "TMPDIR", "/tmp")

    def root(self) -> str:
        """The store.  Raises StoreError if it is the default one, and that is not to be had."""
        if self._root:
            return self._root
        from limiter.furnish import default_root

        return default_root(self._temporary)


def _path(environ: "Mapping[bytes, bytes]", name: str, default: str) -> str:
    path = _text(environ, name, default)
    if path and path[0] != "/":
        raise ValueError(f"{name}={path!r:.200}: expected an absolute path")
    return path


def _seconds(environ: "Mapping[bytes, bytes]", name: str, default: float) -> float:
    text = _text(environ, name, "")
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"{name}={text!r:.200}: expected seconds, above 0 and up to {_LONGEST:.0f}")
    return seconds


def _word(environ: "Mapping[bytes, bytes]", name: str, words: "tuple[str, ...]") -> str:
    word = _text(environ, name, words[0])
    if word not in words:
        raise ValueError(f"{name}={word!r:.200}: expected {' or '.join([repr(it) for it in words])}")
    return word


def _text(environ: "Mapping[bytes, bytes]", name: str, default: str) -> str:
    value = environ.get(name.encode())
    return value.decode("utf-8", "surrogateescape") if value else default
