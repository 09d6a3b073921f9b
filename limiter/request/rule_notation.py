"""The notation of a rule: turn a line into a Rule, or say what is wrong, where, and what was expected.

::

    rule   = PATH METHODS LIMITS *( name "=" value )
    PATH   = "/prefix" | "^expression"
    METHODS = "*" | METHOD *( "," METHOD )
    LIMITS = limits | "exempt" | "register"
    name   = "key" | "mode" | "count"

Blanks stand between the words.  A word or a value with blanks stands in double quotes, in which ``\\"`` is
a quote.  docs/rules.md says what the words mean.
"""

from limiter.core.notation import parse as parse_limits
from limiter.request.key import Key
from limiter.request.rule import REGISTER, Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    Mistakes = list["Mistake"]

_BLANKS = " \t"
_METHOD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_DIGITS = "0123456789"
_OPTIONS = ("key", "mode", "count")
_EXPECTED = ("a path (/prefix or ^expression)", "methods (* or names as GET,POST)", "limits")
_NO_WORD = "expected key=, mode= or count= (limits with blanks stand in double quotes, a comment has its own line)"


class Mistake:
    """What is wrong in a rule: its line and column, both from 1, and a message."""

    def __init__(self, line: int, column: int, message: str) -> None:
        self.line = line
        self.column = column
        self.message = message

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


class _Word:
    """A word of a line: its text without quotes, the places of the text and of the value after ``=``."""

    __slots__ = ("at", "text", "value_at")

    def __init__(self, text: str, at: int, value_at: int) -> None:
        self.text = text
        self.at = at
        self.value_at = value_at


def read(line: str, number: int, mistakes: "Mistakes") -> "Rule | None":
    """The rule in a line.  None for a blank line, a comment, and a line with mistakes, which are added."""
    return _Line(line, number, mistakes).rule()


class _Line:
    """Reads one line.  Places are counted from 0, and reported from 1."""

    def __init__(self, line: str, number: int, mistakes: "Mistakes") -> None:
        self._line = line
        self._number = number
        self._mistakes = mistakes

    def rule(self) -> "Rule | None":
        """The rule, or None."""
        if not self._line.strip(_BLANKS) or self._line.lstrip(_BLANKS)[0] == "#":
            return None
        before = len(self._mistakes)
        words = self._words()
        if len(self._mistakes) > before:
            return None
        if len(words) < 3:
            self._wrong(len(self._line), f"found the end: expected {_EXPECTED[len(words)]}")
            return None
        path, methods, limits = words[:3]
        self._check_path(path)
        names = self._methods(methods)
        options: dict[str, str] = {}
        if limits.text.partition("=")[0] in _OPTIONS and not limits.text.partition("=")[2][:1].isdigit():
            expected = "limits, exempt or register before options"
            self._wrong(limits.at, f"found {limits.text[:200]!r}: expected {expected}")
        else:
            self._check_limits(limits)
            options = self._options(words[3:])
        self._check_together(limits, words[3:], options)
        if len(self._mistakes) > before:
            return None
        statuses = options.get("count", "")
        return Rule(
            path.text,
            names,
            None if limits.text == "exempt" else limits.text,
            options.get("key"),
            options.get("mode"),
            frozenset(statuses.lower().split(",")) if statuses else frozenset(),
            self._line.strip(_BLANKS),
            self._number,
        )

    def _wrong(self, at: int, message: str) -> None:
        self._mistakes.append(Mistake(self._number, at + 1, message))

    def _words(self) -> "list[_Word]":
        """The words, as far as they are well-formed."""
        line = self._line
        words: list[_Word] = []
        for at, letter in enumerate(line):
            if (letter < " " and letter != "\t") or letter == "\x7f" or "\ud800" <= letter <= "\udfff":
                self._wrong(at, f"found {letter!r}: expected text in UTF-8 without control characters")
                return words
        at = 0
        while at < len(line):
            start = at
            while at < len(line) and line[at] not in f'{_BLANKS}"':
                at += 1
            text = line[start:at]
            if line[at : at + 1] != '"':
                if text:
                    words.append(_Word(text, start, start + text.find("=") + 1))
                at += 1
                continue
            if text and text[-1] != "=":
                self._wrong(at, "a quote within a word: expected a blank or '=' before it")
                return words
            end = line.find('"', at + 1)
            while end > 0 and line[end - 1] == "\\":
                end = line.find('"', end + 1)
            if end == -1:
                self._wrong(at, "a quote without its end: expected a second one")
                return words
            inner = line[at + 1 : end].replace('\\"', '"')
            place = at + 1 if text else at + 1 + inner.find("=") + 1
            words.append(_Word(text + inner, start if text else at + 1, place))
            at = end + 1
            if line[at : at + 1] not in ("", " ", "\t"):
                self._wrong(at, f"found {line[at]!r} after a quote: expected a blank")
                return words
        return words

    def _check_path(self, word: _Word) -> None:
        path = word.text
        if path[:1] == "^":
            self._check_expression(word)
        elif path[:1] != "/":
            self._wrong(
                word.at,
                f"path {path[:200]!r}: expected one that begins with '/', or an expression that begins"
                " with '^' ('/' is for every path)",
            )
        else:
            for mark, expected in (
                ("?", "a path without a query, which no rule can see"),
                ("*", "a prefix (what is below it matches, too), or an expression that begins with '^'"),
                ("\\", "a prefix, or an expression that begins with '^'"),
                ("%", "a decoded path, as '/a b' in double quotes for /a%20b"),
                (";", "a path without parameters, which are dropped before the rules are looked up"),
                ("//", "single slashes, since repeated ones count once"),
            ):
                if mark in path:
                    self._wrong(word.at + path.index(mark), f"{mark!r} in a path: expected {expected}")
                    return
            dots = [it for it in path.split("/") if it in (".", "..")]
            if dots:
                at = word.at + f"{path}/".index(f"/{dots[0]}/") + 1
                self._wrong(at, f"{dots[0]!r} in a path: expected a path without dot segments")

    def _check_expression(self, word: _Word) -> None:
        import re  # few rules need it, and it takes longer to load than a whole request

        flags = re.search(r"\(\?[aiLmsux]+\)", word.text)
        if flags:
            self._wrong(
                word.at + flags.start(),
                f"flags {flags[0]!r} for a whole expression: expected them for a group, as '(?i:/login)'",
            )
            return
        try:
            re.compile(word.text, re.DOTALL)
        except (re.error, OverflowError, RecursionError) as error:
            at = getattr(error, "pos", None) or 0
            what = getattr(error, "msg", None) or str(error)
            self._wrong(word.at + at, f"{what}: expected a regular expression of Python's module re")

    def _methods(self, word: _Word) -> "frozenset[str] | None":
        if word.text == "*":
            return None
        found: list[str] = []
        at = word.at
        for name in word.text.split(","):
            if name == "*":
                self._wrong(at, "'*' beside other methods: expected '*' alone, or names")
            elif not name or not _METHOD.issuperset(name):
                expected = "* or names in upper case with commas and no blanks between, as GET,POST"
                self._wrong(at, f"method {name[:200]!r}: expected {expected}")
            elif name in found:
                self._wrong(at, f"method {name} twice: expected each once")
            found.append(name)
            at += len(name) + 1
        return frozenset([*found, "HEAD"] if "GET" in found else found)

    def _check_limits(self, word: _Word) -> None:
        if word.text in ("exempt", REGISTER):
            return
        try:
            parse_limits(word.text)
        except ValueError as error:
            text = str(error)
            digits = text.partition(" at character ")[2].partition(",")[0]
            at = int(digits) - 1 if digits.isdecimal() else 0
            self._wrong(word.at + at, f"{text} (or exempt, or register)")

    def _options(self, words: "list[_Word]") -> "dict[str, str]":
        options: dict[str, str] = {}
        for word in words:
            name, equals, value = word.text.partition("=")
            if not equals or name not in _OPTIONS:
                self._wrong(word.at, f"found {word.text[:200]!r}: {_NO_WORD}")
                break  # more words would be of the same kind
            if name in options:
                self._wrong(word.at, f"{name}= twice: expected it once")
            else:
                options[name] = value
                self._check_option(name, value, word.value_at)
        return options

    def _check_option(self, name: str, value: str, at: int) -> None:
        if name == "key":
            try:
                Key(value)
            except ValueError as error:
                self._wrong(at, str(error))
        elif name == "mode":
            if value not in ("enforce", "shadow", "off"):
                self._wrong(at, f"mode {value[:200]!r}: expected enforce, shadow or off")
        else:
            for status in value.split(","):
                if not _is_status(status):
                    expected = (
                        "statuses from 200 to 599 with commas and no blanks between, as 401,403,5xx"
                    )
                    self._wrong(at, f"status {status[:200]!r}: expected {expected}")
                at += len(status) + 1

    def _check_together(self, limits: _Word, words: "list[_Word]", options: "dict[str, str]") -> None:
        if limits.text == "exempt" and options:
            self._wrong(
                words[0].at, "an option of an exempt request: expected none, since nothing applies"
            )
        elif options.get("mode") == "off" and len(options) > 1:
            self._wrong(words[0].at, "options beside mode=off: expected none, since nothing applies")


def _is_status(text: str) -> bool:
    """Whether this is a status, or a class of them as 4xx."""
    if len(text) != 3 or text[0] not in "2345":
        return False
    return not text[1:].strip(_DIGITS) or text[1:].lower() == "xx"
