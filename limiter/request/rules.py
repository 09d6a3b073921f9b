"""Rules: limits for single paths and methods.  docs/rules.md describes the notation.

::

    rules = parse('/login POST login=5/minute key=env:REMOTE_ADDR\\n/static/ * exempt')
    rules.find("/login", "POST").limits     # login=5/minute
    rules.find("/", "GET")                  # None: as without rules

The first rule that matches decides.  No spelling of a path gets around a limit: ``limiter.request.paths``
says which readings of a path an application may make.
"""

from limiter.request.paths import is_plain, readings
from limiter.request.rule import AMBIGUOUS, Rule
from limiter.request.rule_notation import Mistake, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class RulesError(ValueError):
    """Rules with mistakes.  ``mistakes`` has all of them, in their order."""

    def __init__(self, mistakes: "Sequence[Mistake]", name: str) -> None:
        self.mistakes = mistakes
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        super().__init__(f"{name}:{mistakes[0]}{more}")


def parse(text: str, name: str = "rules") -> "Rules":
    """The rules in a text, one in each line.  Raises RulesError, whose text begins with ``name``."""
    rules: list[Rule] = []
    mistakes: list[Mistake] = []
    for number, line in enumerate(text.split("\n"), 1):
        rule = read(line[:-1] if line[-1:] == "\r" else line, number, mistakes)
        if rule is not None:
            rules.append(rule)
    if mistakes:
        raise RulesError(mistakes, name)
    return Rules(rules)


class Rules:
    """Rules in their order.  ``all`` has each of them."""

    def __init__(self, rules: "Sequence[Rule]") -> None:
        self.all = rules
        # By the text with which a path must begin: 1,000 rules cost hardly more than one.
        heads: dict[str, list[Rule]] = {}
        for order, rule in enumerate(rules):
            rule.order = order
            heads.setdefault(rule.head, []).append(rule)
        self._heads = heads
        self._sizes = sorted({len(head) for head in heads})

    def find(self, path: str, method: str, script: str = "") -> "Rule | None":
        """The rule for a request.  None: as without rules.  AMBIGUOUS: 400.

        ``path`` is decoded once.  ``script`` is the path of the script that the server chose for it, if
        that may differ: limits for that hold, too, but not exemptions.
        """
        rule = self._rule(path, method)
        if script and script != path:
            other = self._rule(script, method)
            if other is not None and not other.is_lenient and (rule is None or other.order < rule.order):
                return other
        return rule

    def _rule(self, path: str, method: str) -> "Rule | None":
        if path[:1] != "/":
            path = f"/{path}"
        if is_plain(path) and method.isupper():
            return self._first(path, method)
        methods = {method, method.upper()}  # some applications take "post" for POST
        found = [self._first(it, name) for it in readings(path) for name in methods]
        strict = {rule for rule in found if rule is None or not rule.is_lenient}
        if len(strict) == 1:
            return strict.pop()
        if strict:
            return AMBIGUOUS
        return min([rule for rule in found if rule], key=lambda it: (it.limits is None, it.order))

    def _first(self, path: str, method: str) -> "Rule | None":
        """The first rule that matches this spelling."""
        first = None
        beginning = path if path[-1:] == "/" else f"{path}/"
        for size in self._sizes:
            if size > len(beginning):
                break
            for rule in self._heads.get(beginning[:size], ()):
                if first is not None and rule.order > first.order:
                    break
                if rule.matches(path, method):
                    first = rule
                    break
        return first


__all__ = ["AMBIGUOUS", "Mistake", "Rule", "Rules", "RulesError", "parse"]
