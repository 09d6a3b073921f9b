"""The settings: environment variables, with their defaults.

===========================  ==============================================================
``LIMITER_ROOT``             the store: an absolute path that exists, or several, separated
                             by ``:`` (``limiter.request.rendezvous``).  Default:
                             ``limiter-UID`` in ``$TMPDIR`` or /tmp, made if missing
``LIMITER_LIMIT``            the limits, separated by ``;``.  Default: ``10/second``
``LIMITER_NODES``            how many nodes have their own store and a share of the limits
                             (``limiter.request.node_share``).  Default: 1
``LIMITER_APPS``             the register: an absolute path (``limiter.request.register``).
                             Default: none, every app_id has ``LIMITER_LIMIT``
``LIMITER_KEY``              where the app_id comes from (``limiter.request.key``).  Default:
                             the parameter ``app_id``
``LIMITER_TRUSTED_PROXIES``  whose X-Forwarded-For is believed (``limiter.request.key``)
``LIMITER_MODE``             ``enforce`` (the default), ``shadow``: admit, and log what
                             would have been denied, or ``off``: do nothing
``LIMITER_ON_ERROR``         the verdict when the store fails: ``deny`` (the default) or
                             ``admit``
``LIMITER_TIMEOUT``          seconds after which a store that does not answer has failed.
                             Default: ``2``
===========================  ==============================================================

An empty variable counts as not set.  ``limiter.report.reporter`` has the variables that say how problems
are reported.
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
    """The values of the variables.  ``environ`` maps bytes to bytes, as ``os.environb`` does.

    ``roots`` are the stores, none for the default.  ``apps`` is empty without a register.  ``limits``,
    ``key`` and ``proxies`` are texts that other modules parse.  Raises ValueError for a mistake in the
    other variables, with the name of the variable.
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
        """The store of an application.  Raises StoreError if it is the default store and unusable."""
        if len(self.roots) == 1:
            return self.roots[0]
        if self.roots:
            from limiter.request.rendezvous import choose

            return choose(self.roots, app)
        from limiter.core.furnish import default_root

        return default_root(self._temporary)

    def share(self, limits: str) -> str:
        """This node's share of these limits.

        Raises ValueError if they are bad.  With one node, returns them without a check.
        """
        if self._nodes == 1:
            return limits
        from limiter.request.node_share import share

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
    """The value of a variable in seconds, above 0 and up to an hour.

    Raises ValueError with the name of the variable.
    """
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
    """The value of a variable as text.  Bytes that are not UTF-8 are kept (surrogateescape)."""
    value = environ.get(name.encode())
    return value.decode("utf-8", "surrogateescape") if value else default
