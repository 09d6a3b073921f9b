"""The rules of the map's program: which requests it decides on, and by which gate.

Apache's configuration gives the rules as arguments: after ``RULE=PATH`` come the methods, and the rest.
"""

import re

from limiter.request.paths import is_plain, readings
from limiter.request.rules import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from limiter.request.rules import Rules

_RULE = "RULE="
_NAME = "Use RateLimit"
_OPTIONS = ("key", "mode", "count")


def read_arguments(arguments: "Sequence[str]") -> "tuple[dict[str, str], Rules | None]":
    """The settings and the rules in these arguments.  None: there are no rules.

    Raises RulesError, in which a line is the number of a ``Use RateLimit``.
    """
    settings: dict[str, str] = {}
    lines = []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith(_RULE):
            lines.append(_line(argument[len(_RULE) :], next(rest, ""), next(rest, "")))
        else:
            name, _, value = argument.partition("=")
            settings[name] = value
    return settings, parse("\n".join(lines), _NAME) if lines else None


def _line(path: str, methods: str, rest: str) -> str:
    """A rule in its notation.  Only the limits may have blanks, and stand before the options."""
    words = rest.split()
    options: list[str] = []
    while len(words) > 1 and words[-1].partition("=")[0] in _OPTIONS:
        options.insert(0, words.pop())
    return " ".join([_quoted(path), methods, _quoted(" ".join(words)), *options]).replace("\n", " ")


def _quoted(word: str) -> str:
    escaped = word.replace('"', '\\"')
    return f'"{escaped}"' if " " in word or '"' in word else word


class Guarded:
    """Which paths LIMITER_PATHS guards.  ``pattern`` None: only rules guard.

    ``is_chosen``: Apache has compared each plain path with the pattern.  Raises ValueError for a pattern that
    this Python does not know, if it is needed for plain paths.
    """

    def __init__(self, pattern: "str | None", is_chosen: bool) -> None:
        self._pattern: re.Pattern[str] | None = None
        self._is_chosen = is_chosen
        if pattern is not None:
            try:
                self._pattern = re.compile(pattern)
            except re.error as error:
                if not is_chosen:
                    raise ValueError(f"LIMITER_PATHS={pattern!r:.200}: {error}") from None
                self._pattern = re.compile("")  # every path that is not plain is guarded

    def has(self, path: str) -> bool:
        """Whether some reading of this path, decoded once, is guarded."""
        if self._is_chosen and is_plain(path):
            return True
        if self._pattern is None:
            return False
        return any(map(self._pattern.search, {path, *readings(path)}))
