"""The settings that apply to one request: those of the environment, and what its rule says instead."""

from limiter.request.response import BAD_REQUEST
from limiter.request.rule import AMBIGUOUS, REGISTER
from limiter.request.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from limiter.request.rule import Rule

_NO_STATUS = "count= needs a door that sees the answer's status: WSGI, ASGI, or the guard with LIMITER_SUPERVISE=1"


def under(settings: Settings, rule: "Rule") -> Settings:
    """The settings with what the rule says instead of them."""
    ruled = Settings.__new__(Settings)
    own = ruled.__dict__
    own.update(settings.__dict__, notes=[], rule=rule)
    if rule.key is not None:
        own["key"] = rule.key
    if rule.mode is not None and settings.mode != "off":  # who turns the limiter off means all of it
        own["mode"] = rule.mode
    if rule is AMBIGUOUS:
        own["constant"] = BAD_REQUEST
    elif rule.limits is None:
        own["mode"] = "off"
    elif rule.limits != REGISTER:
        own["limit"] = own["rule_limits"] = rule.limits
    return ruled


def settings_for(settings: Settings, environ: "Mapping[bytes, bytes]") -> Settings:
    """The settings for the request in ``environ``, a CGI request, by the rules of LIMITER_RULES.

    Raises ValueError if the file cannot be used.
    """
    from limiter.request.paths import path_of
    from limiter.request.rules_file import load

    path, script = path_of(environ)
    method = environ.get(b"REQUEST_METHOD", b"").decode("latin-1")
    rule = load(settings.rules).find(path, method, script)
    return settings if rule is None else under(settings, rule)


def refuse_count(rule: "Rule") -> None:
    """Raise ValueError for a rule with ``count=``, at a door that sees no status."""
    if rule.count:
        raise ValueError(f"rule {rule.text[:200]!r}: {_NO_STATUS}")
