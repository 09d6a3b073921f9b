"""The settings that each door reads: a table of environment variables, with parsers, defaults and help.

An empty variable counts as not set.  docs/settings.md says more about each.  ``report.settings``
and ``apache.guard`` have further tables, which most requests do not need.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from limiter.request.rule import Rule

_LONGEST = 3600.0

# A parser gets text, and returns the value, or raises ValueError with what it expected.


def parse_one_of(*words: str) -> "Callable[[str], str]":
    """A parser of one of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join([repr(word) for word in words]))
        return text

    return parse


def _newcomers(text: str) -> str:
    return "" if text == "unlimited" else text


def parse_path(text: str) -> str:
    """An absolute path, or nothing."""
    if text and text[0] != "/":
        raise ValueError("an absolute path")
    return text


def _paths(text: str) -> "tuple[str, ...]":
    paths = text.split(":") if text else ()
    for path in paths:
        parse_path(path or ".")  # an empty path between two colons is a mistake
    return tuple(paths)


def parse_number(most: int) -> "Callable[[str], int]":
    """A parser of a whole number from 1 to ``most``."""

    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
        if not 0 < number <= most:
            raise ValueError(f"a whole number from 1 to {most}")
        return number

    return parse


def parse_seconds(text: str) -> float:
    """A number of seconds, up to an hour."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"seconds, above 0 and up to {_LONGEST:.0f}")
    return seconds


def _jitter(text: str) -> int:
    return 0 if text == "0" else parse_number(3600)(text)


if TYPE_CHECKING:
    Table = dict[str, tuple[Callable[[str], Any], str, str]]
_mode = parse_one_of("enforce", "shadow", "off")
_verdict = parse_one_of("deny", "admit")

# Each row: the parser, the default, and one line of help.  docs/settings.py writes the tables of
# docs/settings.md and the lines of deploy/apache/limiter.conf from these.
REQUEST: "Table" = {
    "LIMITER_ROOT": (_paths, "", "absolute path; several with ':' (default: see docs/settings.md)"),
    "LIMITER_LIMIT": (str, "10/second", "the limits, with ';' between them: all must admit a hit"),
    "LIMITER_NEWCOMERS": (
        *(_newcomers, "20/second burst 1000"),
        "how many new clients a store takes in, as in LIMITER_LIMIT, or unlimited",
    ),
    "LIMITER_NODES": (parse_number(99_999_999), "1", "how many nodes have a store each, and a share"),
    "LIMITER_APPS": (parse_path, "", "the register, a directory of app_ids and limits (default: none)"),
    "LIMITER_RULES": (parse_path, "", "a file of rules for single paths and methods (default: none)"),
    "LIMITER_KEY": (str, "app_id", "who asks: a parameter's name, header:NAME or env:NAME"),
    "LIMITER_TRUSTED_PROXIES": (
        *(str, ""),
        "whose X-Forwarded-For env:REMOTE_ADDR trusts: networks, and unix for a socket (default: none)",
    ),
    "LIMITER_IPV6_PREFIX": (parse_number(128), "64", "with how many bits an IPv6 address counts"),
    "LIMITER_MODE": (_mode, "enforce", "enforce; shadow: admit, and log denials; off: do nothing"),
    "LIMITER_ON_ERROR": (_verdict, "deny", "deny (500) or admit, if the store or the register fails"),
    "LIMITER_TIMEOUT": (parse_seconds, "2", "seconds after which an unresponsive store has failed"),
    "LIMITER_HEADERS": (
        *(parse_one_of("draft", "x-ratelimit", "both", "none"), "draft"),
        "which fields say where a limit stands: draft (RateLimit), x-ratelimit, both or none",
    ),
    "LIMITER_PROBLEM": (
        *(parse_one_of("0", "1"), "0"),
        "1: what is denied gets problem details (RFC 9457) instead of a message",
    ),
    "LIMITER_JITTER": (
        *(_jitter, "0"),
        "up to so many whole seconds more in Retry-After of fixed windows, at random",
    ),
}
"""The settings that each door reads at a request."""


class Settings:
    """The values of the settings in a table.  ``environ`` maps bytes to bytes, as ``os.environb`` does.

    Bytes that are not UTF-8 are kept as surrogates.

    Each setting is an attribute: LIMITER_MAIL_TO is ``mail_to``.  ``limit``, ``newcomers`` ("" if there
    is no bound), ``key`` and ``trusted_proxies`` are text that other modules parse.  Raises ValueError for
    a mistake in another setting, with its name and what is expected.

    ``rule``, if these settings are those under a rule; ``rule_limits``: its limits, "" if the register
    applies; ``constant``: the status for every request, "" if each is decided.
    """

    rule: "Rule | None" = None
    rule_limits = ""
    constant = ""

    def __init__(self, environ: "Mapping[bytes, bytes]", table: "Table" = REQUEST) -> None:
        for name, (parse, default, _) in table.items():
            value = environ.get(name.encode())
            text = value.decode("utf-8", "surrogateescape") if value else default
            try:
                setattr(self, name[8:].lower(), parse(text))
            except ValueError as error:
                raise ValueError(f"{name}={text!r:.200}: expected {error}") from None
        self._environ = environ
        self.notes: list[str] = []

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> "Any": ...

    def store(self, app: str) -> str:
        """The path of the store of an application.

        Raises StoreError if it is the default store and unusable.  ``notes`` then say what the log should.
        """
        if not self.root:
            from limiter.request.default_store import default_store

            root, note = default_store(self._environ)
            self.notes += [note] if note else []
            return root
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
