"""The settings: environment variables, with their defaults.

===========================  ==============================================================
``LIMITER_ROOT``             the store: an absolute path that exists, or several with ``:``
                             between them (``limiter.segments``).  Default:
                             ``limiter-UID`` in ``$TMPDIR`` or /tmp, made when missing
``LIMITER_LIMIT``            the limits, ``;`` between several.  Default: ``10/second``
``LIMITER_NODES``            how many nodes have a store each, and a share of the limits
                             (``limiter.share``).  Default: 1
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

A variable that is empty counts as not set.  ``limiter.reporter`` has those that say how problems are told.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = (
    "LIMITER_ROOT",
    "LIMITER_LIMIT",
    "LIMITER_NODES",
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

    ``roots`` are the stores, none for the default; ``apps`` is empty without a register.  ``limits``,
    ``key`` and ``proxies`` are texts that others understand.  Raises ValueError for a mistake in the rest,
    naming the variable.
    """

    __slots__ = (
        "_nodes",
        "_temporary",
        "admits_on_error",
        "apps",
        "key",
        "limits",
        "mode",
        "proxies",
        "roots",
        "timeout",
    )

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        self.mode = _word(environ, "LIMITER_MODE", _MODES)
        self.admits_on_error = _word(environ, "LIMITER_ON_ERROR", _VERDICTS) == "admit"
        self.timeout = seconds_of(environ, "LIMITER_TIMEOUT", 2.0)
        self.limits = text_of(environ, "LIMITER_LIMIT", "10/second")
        self.apps = _path(environ, "LIMITER_APPS", "")
        self.key = text_of(environ, "LIMITER_KEY", "app_id")
        self.proxies = text_of(environ, "LIMITER_TRUSTED_PROXIES", "")
        self.roots = _paths(environ, "LIMITER_ROOT")
        self._temporary = "" if self.roots else _path(environ, "TMPDIR", "/tmp")
        self._nodes = _number(environ, "LIMITER_NODES", 1)

    def root(self, app: str) -> str:
        """The store of an application.  Raises StoreError if it is the default one, and that is not to be had."""
        if len(self.roots) == 1:
            return self.roots[0]
        if self.roots:
            from limiter.segments import choose

            return choose(self.roots, app)
        from limiter.furnish import default_root

        return default_root(self._temporary)

    def share(self, limits: str) -> str:
        """What these limits are for this node.  Raises ValueError if they are bad, or just returns them."""
        if self._nodes == 1:
            return limits
        from limiter.share import share

        return share(limits, self._nodes)


def _path(environ: "Mapping[bytes, bytes]", name: str, default: str) -> str:
    path = text_of(environ, name, default)
    if path and path[0] != "/":
        raise ValueError(f"{name}={path!r:.200}: expected an absolute path")
    return path


def _paths(environ: "Mapping[bytes, bytes]", name: str) -> "tuple[str, ...]":
    text = text_of(environ, name, "")
    paths = tuple(text.split(":")) if text else ()
    for path in paths:
        if path[:1] != "/":
            raise ValueError(f"{name}={text!r:.200}: expected an absolute path")
    return paths


def _number(environ: "Mapping[bytes, bytes]", name: str, default: int) -> int:
    text = text_of(environ, name, "")
    if not text:
        return default
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
    if not number:
        raise ValueError(f"{name}={text!r:.200}: expected a whole number of at least 1")
    return number


def seconds_of(environ: "Mapping[bytes, bytes]", name: str, default: float) -> float:
    """What that variable says, in seconds, above 0 and up to an hour.  Raises ValueError, naming it."""
    text = text_of(environ, name, "")
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
    word = text_of(environ, name, words[0])
    if word not in words:
        raise ValueError(f"{name}={word!r:.200}: expected {' or '.join([repr(it) for it in words])}")
    return word


def text_of(environ: "Mapping[bytes, bytes]", name: str, default: str) -> str:
    """What that variable says; bytes that are no UTF-8 are kept (surrogateescape)."""
    value = environ.get(name.encode())
    return value.decode("utf-8", "surrogateescape") if value else default
