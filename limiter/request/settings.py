"""The settings: one table of environment variables, with their parsers, defaults and help.

An empty variable counts as not set.  docs/settings.md says more about each.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_LONGEST = 3600.0
_HOST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

# A parser gets text, and returns the value, or raises ValueError with what it expected.


def _one_of(*words: str) -> "Callable[[str], str]":
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join([repr(word) for word in words]))
        return text

    return parse


def _path(text: str) -> str:
    if text and text[0] != "/":
        raise ValueError("an absolute path")
    return text


def _paths(text: str) -> "tuple[str, ...]":
    paths = text.split(":") if text else ()
    for path in paths:
        _path(path or ".")  # an empty path between two colons is a mistake
    return tuple(paths)


def _whole_number(most: int) -> "Callable[[str], int]":
    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
        if not 0 < number <= most:
            raise ValueError(f"a whole number from 1 to {most}")
        return number

    return parse


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"seconds, above 0 and up to {_LONGEST:.0f}")
    return seconds


def _log(text: str) -> str:
    if text not in ("stderr", "syslog") and (text[0] != "/" or text[-1] == "/" or "\0" in text):
        raise ValueError("'stderr', 'syslog' or a file's absolute path")
    return text


def _addresses(text: str) -> "list[str]":
    addresses = [address.strip() for address in text.split(",")] if text else []
    for address in addresses:
        user, _, host = address.partition("@") if "@" in address else (address, "", "local")
        plain = address.isascii() and address.isprintable() and not set(address) & set(' "(),:;<>[\\]')
        if not plain or not user or user[0] == "-" or not host or host.strip(_HOST):
            raise ValueError("addresses as root@example.org, without names, with commas between them")
    return addresses


def _address(text: str) -> str:
    if "," in text:
        raise ValueError("one address")
    return text and _addresses(text)[0]


def _smtp(text: str) -> str:
    if text[:1] == "/" or text in ("", "sendmail"):
        return text
    host, colon, port = text.partition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
    if not host or host.strip(_HOST) or (colon and not 0 < number < 65536):
        raise ValueError("'host', 'host:port', 'sendmail' or the absolute path of such a program")
    return text


if TYPE_CHECKING:
    Table = dict[str, tuple[Callable[[str], Any], str, str]]
_level = _one_of("error", "warning")
_mode = _one_of("enforce", "shadow", "off")
_verdict = _one_of("deny", "admit")

# Each row: the parser, the default, and one line of help.  docs/settings.py writes the tables of
# docs/settings.md and the lines of deploy/apache/limiter.conf from these.
REQUEST: "Table" = {
    "LIMITER_ROOT": (_paths, "", "absolute path; several with ':' (default: limiter-UID in $TMPDIR)"),
    "LIMITER_LIMIT": (str, "10/second", "the limits, with ';' between them: all must admit a hit"),
    "LIMITER_NODES": (_whole_number(99_999_999), "1", "how many nodes have a store each, and a share"),
    "LIMITER_APPS": (_path, "", "the register, a directory of app_ids and limits (default: none)"),
    "LIMITER_KEY": (str, "app_id", "who asks: a parameter's name, header:NAME or env:NAME"),
    "LIMITER_TRUSTED_PROXIES": (str, "", "whose X-Forwarded-For env:REMOTE_ADDR trusts (default: none)"),
    "LIMITER_MODE": (_mode, "enforce", "enforce; shadow: admit, and log denials; off: do nothing"),
    "LIMITER_ON_ERROR": (_verdict, "deny", "deny (500) or admit, if the store or the register fails"),
    "LIMITER_TIMEOUT": (_seconds, "2", "seconds after which an unresponsive store has failed"),
}
"""The settings that each door reads at a request."""

REPORT: "Table" = {
    "LIMITER_LOG": (_log, "stderr", "stderr, syslog, or the absolute path of a file"),
    "LIMITER_LOG_LEVEL": (_level, "error", "error: log answers with 5xx; warning: log 4xx, too"),
    "LIMITER_LOG_SAMPLE": (_whole_number(1_000_000), "1", "n: log one in n answers with 4xx"),
    "LIMITER_MAIL_TO": (_addresses, "", "who gets a mail for 5xx (default: nobody)"),
    "LIMITER_MAIL_FROM": (_address, "", "the sender of the mail (default: access-limiter at this host)"),
    "LIMITER_SMTP": (_smtp, "", "host[:port], sendmail or a program (default: sendmail or localhost)"),
}
"""The settings that say how problems are reported."""

GUARD: "Table" = {
    "LIMITER_GUARD_ROOT": (_path, "", "no script outside of this absolute path is run (default: none)"),
    "LIMITER_SUPERVISE": (_one_of("0", "1"), "0", "1: watch the script, and answer for it if it fails"),
    "LIMITER_SCRIPT_TIMEOUT": (_seconds, "30", "seconds without output after which it has failed"),
}
"""The settings of the guard alone."""


class Settings:
    """The values of the settings in a table.  ``environ`` maps bytes to bytes, as ``os.environb`` does.

    Each setting is an attribute: LIMITER_MAIL_TO is ``mail_to``.  ``limit``, ``key`` and
    ``trusted_proxies`` are text that other modules parse.  Raises ValueError for a mistake in another
    setting, with its name and what is expected.
    """

    def __init__(self, environ: "Mapping[bytes, bytes]", table: "Table" = REQUEST) -> None:
        for name, (parse, default, _) in table.items():
            text = text_of(environ, name) or default
            try:
                setattr(self, name[8:].lower(), parse(text))
            except ValueError as error:
                raise ValueError(f"{name}={text!r:.200}: expected {error}") from None
        self._temporary = text_of(environ, "TMPDIR") or "/tmp"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> "Any": ...

    def store(self, app: str) -> str:
        """The path of the store of an application.

        Raises StoreError if it is the default store and unusable.
        """
        if not self.root:
            from limiter.core.furnish import default_root

            if self._temporary[0] != "/":
                raise ValueError(f"TMPDIR={self._temporary!r:.200}: expected an absolute path")
            return default_root(self._temporary)
        if len(self.root) == 1:
            return self.root[0]  # type: ignore[no-any-return]
        from limiter.request.rendezvous import choose

        return choose(self.root, app)

    def share(self, limits: str) -> str:
        """This node's share of these limits.

        Raises ValueError if they are bad.  With one node, returns them without a check.
        """
        if self.nodes == 1:
            return limits
        from limiter.request.node_share import share

        return share(limits, self.nodes)


def text_of(environ: "Mapping[bytes, bytes]", name: str) -> str:
    """The value of a variable as text, or "".  Bytes that are not UTF-8 are kept (surrogateescape)."""
    return environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")
