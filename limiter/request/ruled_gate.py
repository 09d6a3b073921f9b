"""The gate of a process that handles one request, if a rule or an outer door concerns that request."""

from limiter.request.gate import Gate
from limiter.request.rule_settings import refuse_count, settings_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limiter.core.decision import Decision
    from limiter.request.gate import Log, Verdict
    from limiter.request.settings import Settings


def gate_for(
    settings: "Settings",
    environ: "Mapping[bytes, bytes]",
    bounded: "Callable[..., Verdict]",
    counters: "list[Counter] | None" = None,
) -> Gate:
    """The gate for the CGI request in ``environ``.

    ``counters``: gets what counts the request after its answer, if its rule has ``count=``.  None if the
    door sees no status: such a rule is then a mistake.  Raises ValueError for a mistake in the rules.
    """
    if settings.rules and settings.mode != "off":
        settings = settings_for(settings, environ)
    counted = environ.get(b"LIMITER_COUNTED")
    if counted:
        from limiter.request.one_hit import once

        bounded = once(bounded, settings, counted)
    if settings.rule is None or not settings.rule.count:
        return Gate(settings, bounded)
    if counters is None:
        refuse_count(settings.rule)
        return Gate(settings, bounded)
    gate = _LookingGate(settings, bounded)
    counters.append(Counter(gate))
    return gate


class _LookingGate(Gate):
    """Looks instead of counting.  ``app_id``: who asked; "" while nobody did."""

    app_id = ""

    def hit(self, limits: str, app_id: str, newcomers: str) -> "Decision":
        """Return the decision that a hit would get."""
        from limiter.core.limiter import Limiter
        from limiter.request.look import look

        self.app_id = app_id
        limiter = Limiter(self.settings.store(app_id), self.settings.share(limits), newcomers=newcomers)
        return look(limiter, app_id, newcomers)


class Counter:
    """Counts the request that a gate has looked at, when the status of its answer is known."""

    def __init__(self, gate: _LookingGate) -> None:
        self._gate = gate

    def count(self, status: str, log: "Log", bounded: "Callable[..., Verdict]") -> None:
        """Count the request if the rule counts this status."""
        gate = self._gate
        rule = gate.settings.rule
        if gate.app_id and rule is not None and rule.counts(status):
            Gate(gate.settings, bounded).verdict(lambda: gate.app_id, log)
