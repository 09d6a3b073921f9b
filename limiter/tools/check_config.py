"""The command ``check-config``: check the rules and the settings, and say which rule a request meets."""

import os
from difflib import get_close_matches

from limiter.apache.guard import GUARD
from limiter.core.newcomers import check as check_newcomers
from limiter.core.notation import parse as parse_limits
from limiter.core.store import StoreError
from limiter.report.settings import REPORT
from limiter.request import register
from limiter.request.gate import Gate
from limiter.request.paths import path_of, readings
from limiter.request.rule import AMBIGUOUS, REGISTER
from limiter.request.rules import RulesError, parse
from limiter.request.rules_file import read
from limiter.request.settings import REQUEST, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from limiter.request.rule import Rule
    from limiter.request.rules import Rules

# The registry of HTTP methods (IANA, RFC 9110, 16.1.1).
_METHODS = """
    ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK MERGE MKACTIVITY
    MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PRI PROPFIND PROPPATCH PUT
    QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL
"""


def check_config(file: "str | None", request: "tuple[str, str] | None") -> int:
    """Print what the rules say, and every mistake.  Returns the exit status: 0, or 1 for a mistake.

    ``file``: the rules (default: LIMITER_RULES).  ``request``: its method and its path.
    """
    environ = os.environb
    mistakes = settings_mistakes(environ)
    name = file or os.fsdecode(environ.get(b"LIMITER_RULES", b""))
    rules = None
    if name:
        try:
            rules = parse(read(name, name), name)
            if not rules.all:
                mistakes.append(f"{name}: expected at least one rule")
        except RulesError as error:
            mistakes += [f"{name}:{mistake}" for mistake in error.mistakes]
        except ValueError as error:
            mistakes.append(str(error))
    for mistake in mistakes:
        print(mistake)
    if rules is None:
        if not name:
            print("There are no rules: LIMITER_RULES is not set")
        return 1 if mistakes else 0
    if request is not None:
        print(_meeting(rules, name, *request))
    else:
        for rule in rules.all:
            print(f"{name}:{rule.line}: {rule.text}")
        for line, warning in warnings(rules, environ):
            print(f"{name}:{line}: warning: {warning}")
    return 1 if mistakes else 0


def parse_request(text: str) -> "tuple[str, str]":
    """The method and the decoded path in a text as ``POST /login?a=b``.  Raises ValueError."""
    method, _, url = text.partition(" ")
    if not method or not (url.startswith("/") or "://" in url) or " " in url:
        raise ValueError(f"{text!r}: expected a method and a path, as 'POST /login'")
    return method, path_of({b"REQUEST_URI": os.fsencode(url)})[0]


def settings_mistakes(environ: "Mapping[bytes, bytes]") -> "list[str]":
    """Every mistake in the settings, as text."""
    table = {**REQUEST, **REPORT, **GUARD}
    mistakes = [_why(Settings, environ, {name: row}) for name, row in table.items()]
    if not any(mistakes):
        settings = Settings(environ)
        mistakes.append(_why(Gate, settings, print))
        mistakes.append(_why(check_newcomers, settings.newcomers))
        if settings.apps:
            mistakes += _register_mistakes(settings.apps)
        else:
            mistakes.append(
                _why(lambda: parse_limits(settings.share(settings.limit)), name="LIMITER_LIMIT")
            )
    for name in [os.fsdecode(it) for it in environ if it.startswith(b"LIMITER_")]:
        if name not in table:
            near = get_close_matches(name[8:], [it[8:] for it in table], 1)
            expected = f"LIMITER_{near[0]}" if near else "one of docs/settings.md"
            mistakes.append(f"{name} is no setting: expected {expected}")
    return [it for it in mistakes if it]


def _register_mistakes(apps: str) -> "list[str]":
    try:
        entries = register.entries(apps)
    except StoreError as error:
        return [f"LIMITER_APPS: {error}"]
    limits = [(name, text) for name, text in entries if text != register.UNLIMITED]
    return [_why(parse_limits, text, name=f"{apps}/{name}") for name, text in limits]


def _why(function: "Callable[..., Any]", *arguments: object, name: str = "") -> str:
    """Why the function refuses these arguments; "" if it does not."""
    try:
        function(*arguments)
    except ValueError as error:
        return f"{name}: {error}" if name else str(error)
    return ""


def warnings(rules: "Rules", environ: "Mapping[bytes, bytes]") -> "list[tuple[int, str]]":
    """What is no mistake, but probably not meant: each with its line."""
    found = []
    for at, rule in enumerate(rules.all):
        hiding = [it for it in rules.all[:at] if _covers(it, rule)]
        if hiding:
            found.append((rule.line, f"it never matches, since line {hiding[0].line} does so before"))
        unknown = sorted((rule.methods or frozenset()).difference(_METHODS.split()))
        found += [(rule.line, f"{name} is no registered method of HTTP") for name in unknown]
        if rule.limits == REGISTER and not environ.get(b"LIMITER_APPS"):
            found.append((rule.line, "LIMITER_APPS is not set, so LIMITER_LIMIT applies"))
    return found


def _covers(rule: "Rule", other: "Rule") -> bool:
    """Whether the first rule matches every request that the other one matches, as far as is certain."""
    if rule.methods is not None and (other.methods is None or not other.methods <= rule.methods):
        return False
    if rule.pattern is not None or other.path == rule.path:
        return other.path == rule.path
    beginning = f"{other.head}/" if other.pattern is None else other.head
    return not rule.head or beginning.startswith(f"{rule.head}/")


def _meeting(rules: "Rules", name: str, method: str, path: str) -> str:
    rule = rules.find(path, method)
    if rule is None:
        what = "no rule: the settings apply"
    elif rule is AMBIGUOUS:
        what = "400 Bad Request: applications may read it as " + " or ".join(sorted(readings(path)))
    else:
        what = f"{name}:{rule.line}: {rule.text}"
    return f"{method} {path} meets {what}"
