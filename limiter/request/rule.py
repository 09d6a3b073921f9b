"""A rule: for which requests it is, and what then applies instead of the settings.  docs/rules.md."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import Pattern

REGISTER = "register"
"""The limits of a rule under which the register's entry applies, as without rules."""


class Rule:
    """One rule, as docs/rules.md describes its words.

    ``limits``: text in the notation, REGISTER, or None for ``exempt``.  ``key`` and ``mode``: text as in
    LIMITER_KEY and LIMITER_MODE, or None, if the settings' own applies.  ``count``: the statuses that
    count, as ``401`` or ``5xx``; none: all requests count.  ``methods``: None for all.  ``text`` is the
    rule as it was written, in ``line`` (from 1).

    ``head`` is how each path begins that the rule can match, without a slash at its end for a prefix.
    ``pattern`` is the compiled expression, None for a prefix.  ``order``: its place among the rules.
    """

    __slots__ = (
        *("count", "head", "is_lenient", "key", "limits", "line", "methods", "mode", "order", "path"),
        *("pattern", "text"),
    )

    def __init__(
        self,
        path: str,
        methods: "frozenset[str] | None",
        limits: "str | None",
        key: "str | None" = None,
        mode: "str | None" = None,
        count: "frozenset[str]" = frozenset(),
        text: str = "",
        line: int = 0,
    ) -> None:
        self.path = path
        self.methods = methods
        self.limits = limits
        self.key = key
        self.mode = mode
        self.count = count
        self.text = text
        self.line = line
        self.order = line
        self.pattern: Pattern[str] | None = None
        self.head = path.rstrip("/")
        self.is_lenient = limits is None or mode in ("off", "shadow")
        """Whether the rule does not deny.  Then it must match every reading of a path."""
        if path[:1] == "^":
            import re  # few rules need it, and it takes longer to load than a whole request

            self.pattern = re.compile(path, re.DOTALL)
            self.head = _head(path)

    def __repr__(self) -> str:
        return f"Rule({self.text!r})"

    def matches(self, path: str, method: str) -> bool:
        """Whether the rule is for this path, in this spelling alone, and this method."""
        if self.methods is not None and method not in self.methods:
            return False
        if self.pattern is None:
            size = len(self.head)
            return path[:size] == self.head and path[size : size + 1] in ("", "/")
        other = path[:-1] if path[-1:] == "/" else path + "/"  # most applications take both for one
        return bool(self.pattern.search(path) or self.pattern.search(other or "/"))

    def counts(self, status: str) -> bool:
        """Whether a request with this status (``401`` or ``401 Unauthorized``) counts."""
        return not self.count or status[:3] in self.count or f"{status[:1]}xx" in self.count


AMBIGUOUS = Rule("/", None, "0/second", text="(the path is ambiguous)", line=-1)
"""What ``Rules.find`` returns for a path that one application may take for another than the next one
does, and for which different rules deny: 400 Bad Request."""

_SPECIAL = frozenset(".^$*+?{}[]\\|()")


def _head(expression: str) -> str:
    """The literal text with which each match of an expression begins; "" if there is none for certain."""
    if "|" in _outermost(expression):
        return ""
    head = ""
    at = 1
    while at < len(expression):
        letter = expression[at]
        if letter == "\\":
            at += 1
            letter = expression[at]
            if letter.isalnum():
                break
        elif letter in _SPECIAL:
            break
        head += letter
        at += 1
    # The last letter may be repeated, or not be there at all.
    return head[:-1] if expression[at : at + 1] in ("*", "?", "{") else head


def _outermost(expression: str) -> str:
    """The expression without its groups, its sets, and the letters that follow a backslash."""
    import re

    text = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "", expression, flags=re.DOTALL)
    number = 1
    while number:
        text, number = re.subn(r"\([^()]*\)", "", text)
    return text
