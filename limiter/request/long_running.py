"""The gate of a long-running process: it keeps what a set of settings needs between requests."""

import errno
from copy import copy
from functools import partial
from os import fsdecode
from time import perf_counter_ns

import limiter.core.newcomers  # noqa: F401
from limiter.core import burst, fixed, privileges, retry  # noqa: F401  (while there are descriptors)
from limiter.core.limiter import Limiter
from limiter.core.store import StoreError
from limiter.request import jitter, one_hit, problem_details, secret_keys, x_ratelimit  # noqa: F401
from limiter.request.counters import PLACES, counters_of
from limiter.request.gate import Gate
from limiter.request.look import look
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS, UNAUTHORIZED
from limiter.request.rule import AMBIGUOUS, Rule
from limiter.request.rule_settings import refuse_count, under
from limiter.request.rules import Rules
from limiter.request.rules_file import RulesFile
from limiter.request.settings import Settings
from limiter.request.store_access import StoreAccess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from limiter.core.decision import Decision
    from limiter.request.gate import Log, Verdict

    RuleGates = tuple[Rules, dict[Rule, "LongRunningGate"]]

    Who = Callable[[Any], object]
    """A key function.  That of ASGI may return an Awaitable."""

# The most limits to keep.  A register that changes leaves old ones behind.
_LIMITERS_MOST = 1000

_ADMITTED, _DENIED, _UNAUTHORIZED, _SHADOW, _NEAR_LIMIT, _NANOSECONDS = [
    PLACES[it] for it in ("admitted", "denied", "unauthorized", "shadow", "near", "nanoseconds")
]
_NEAR = 10  # less than a tenth is left


class _Exempt(str):
    """A type of its own: no text of an application is mistaken for it."""


EXEMPT: str = _Exempt("EXEMPT")
"""What a function that returns who asks may return for a request that no limit concerns."""


class LongRunningGate(Gate):
    """Decides by the settings in ``environ``, bytes to bytes as in ``os.environb``.

    If ``limiter`` is given, it decides alone: the store, the limits, the register and the rules of the
    settings are ignored.  ``key`` replaces LIMITER_KEY.  It is text in that notation, or a function that
    gets the request and returns who asks.  ``rules`` replace LIMITER_RULES.  Threads may share a gate.
    Raises ValueError for a mistake in the settings or rules.

    ``counter`` is the gate that counts a request after its answer, if the rule has ``count=``.
    """

    sees_status = True
    """Whether this door sees the status of an answer, so that rules may have ``count=``."""

    def __init__(
        self,
        environ: "Mapping[bytes, bytes]",
        limiter: "Limiter | None" = None,
        key: "str | Who | None" = None,
        rules: "Rules | None" = None,
    ) -> None:
        super().__init__(Settings(environ), self._call, key if isinstance(key, str) else None)
        metrics = environ.get(b"LIMITER_METRICS")
        self._counters = counters_of(fsdecode(metrics)) if metrics else None
        self._denied = _DENIED if self.settings.mode == "enforce" else _SHADOW
        self.who = None if isinstance(key, str) else key
        self._given = limiter
        if limiter is not None:
            self.apps = ""
        self._limiters: dict[tuple[str, str, str], Limiter] = {}
        # An unresponsive store must not affect the others.
        self._access = {
            root: StoreAccess(self.settings.timeout, partial(self._places, root))
            for root in self.settings.root or [""]
        }
        self._kind = ""
        self._mistake: ValueError | None = None
        self.counter: LongRunningGate | None = None
        self._file: RulesFile | None = None
        self._rules: RuleGates | None = None
        if self.constant:
            pass  # nothing applies
        elif rules is not None:
            self._rules = self._prepare(rules)
        elif self.settings.rules and limiter is None:
            self._file = RulesFile(self.settings.rules, self._prepare)
        self.has_rules = self._file is not None or self._rules is not None

    def meet(self, path: str, method: str, log: "Log", script: str = "") -> "LongRunningGate":
        """The gate for such a request: that of the rule that it meets, or this one.

        The path is decoded once, and ``script`` as for ``Rules.find``.  If this door cannot follow the rule,
        the answer is 500, and the log gets the reason.
        """
        if self._file is not None:
            rules, gates = self._file.current(log)
        elif self._rules is not None:
            rules, gates = self._rules
        else:
            return self
        rule = rules.find(path, method, script)
        gate = self if rule is None else gates[rule]
        if gate._mistake is not None:
            log(gate._mistake)
        return gate

    def for_rule(self, rule: Rule) -> "LongRunningGate":
        """The gate for requests that meet this rule.  It shares what this one keeps.

        Raises ValueError for a rule that this door cannot follow.
        """
        if not self.sees_status:
            refuse_count(rule)
        gate = self._under(rule)
        if rule.count:
            gate.counter = self._under(rule)
        return gate

    def counts(self, status: str) -> bool:
        """Whether its rule counts a request that is answered with this status."""
        rule = self.settings.rule
        return rule is None or rule.counts(status)

    def _prepare(self, rules: Rules) -> "RuleGates":
        return rules, {rule: self._gate_for(rule) for rule in (*rules.all, AMBIGUOUS)}

    def _gate_for(self, rule: Rule) -> "LongRunningGate":
        try:
            return self.for_rule(rule)
        except ValueError as error:
            gate = copy(self)
            gate.constant, gate._mistake = INTERNAL_SERVER_ERROR, error
            return gate

    def _under(self, rule: Rule) -> "LongRunningGate":
        gate = copy(self)
        settings = under(self.settings, rule)
        if self._given is not None and settings.rule_limits:
            settings.__dict__["root"] = (self._given.root,)
            gate._given = None
            gate._access = dict.fromkeys(settings.root, next(iter(self._access.values())))
        Gate.__init__(gate, settings, gate._call, rule.key or self._key_text)
        gate._denied = _DENIED if settings.mode == "enforce" else _SHADOW
        gate.apps = self.apps
        if rule.key is not None:
            gate.who = None
        gate._kind, gate._file, gate._rules = "", None, None
        gate.has_rules = False
        return gate

    def find(
        self, request: object, get: "Callable[[bytes], bytes | None]", query: bytes
    ) -> "str | None":
        """The app_id of a request; None if it has none.

        If ``key`` is a function, it is called with ``request``.  Otherwise ``get`` returns a CGI variable
        by its name, and ``query`` is the query string.
        """
        if self.who is None:
            return self.key.find(get, query)
        return self.named(self.who(request))

    def named(self, value: object) -> "str | None":
        """The app_id for what the key function returned.  Raises TypeError if that is no text."""
        if value is None or value is EXEMPT:
            return value
        if not isinstance(value, str):
            name = getattr(self.who, "__qualname__", type(self.who).__name__)
            raise TypeError(
                f"key function {name}: expected text, None or EXEMPT, got {type(value).__name__}"
            )
        from limiter.request.identity import identify

        return identify(value.encode("utf-8", "surrogatepass"), self.settings.ipv6_prefix)

    def why(self, get: "Callable[[bytes], bytes | None]", query: bytes) -> str:
        """Why a request got 401, for the log.  The arguments are as for ``find``."""
        if self.who is not None:
            return "the key function returned nothing, or what is not in the register"
        from limiter.request.reasons import reason

        return reason(self.key, get, (query,))

    def may_report(self) -> bool:
        """As for any gate; what a function returns may be a secret."""
        return self.who is None and super().may_report()

    def enforced(self, app_id: "str | None", verdict: "Verdict", log: "Log") -> "Verdict":
        """As for any gate, and count who is nobody.  Hits are counted where they are decided."""
        counters = self._counters
        if counters is not None:
            if verdict[0] is UNAUTHORIZED:
                counters.add(_UNAUTHORIZED if self.settings.mode == "enforce" else _SHADOW)
            if counters.problem:
                log(counters.problem)
                counters.problem = ""
        return Gate.enforced(self, app_id, verdict, log)

    def failed(self, app_id: "str | None", error: Exception, log: "Log") -> "Verdict":
        """As for any gate, and count it."""
        if self._counters is not None:
            self._counters.add(PLACES["failed"])
            if isinstance(error, StoreError):
                self._counters.fail(error.errno or 0)
        return super().failed(app_id, error, log)

    def decide(self, app_id: str) -> "Verdict":
        """Decide from memory, or call the store within LIMITER_TIMEOUT."""
        if app_id is not EXEMPT and self.is_direct(app_id):
            return self.count(app_id)  # it begins with a look into memory
        return self.recall(app_id) or super().decide(app_id)

    def kind(self) -> str:
        """What this gate counts, whoever asks (``limiter.request.one_hit``).  Raises ValueError."""
        if not self._kind:
            self._kind = one_hit.kind(self.settings, self._given)
        return self._kind

    def policy(self, app_id: str) -> str:
        """The name of what it counts for this app_id, as in LIMITER_COUNTED.  Raises ValueError."""
        return one_hit.policy(self.kind(), app_id)

    def recall(self, app_id: str) -> "Verdict | None":
        """The verdict if it is certain without a call to the store: exempt, or denied from memory."""
        if app_id is EXEMPT:
            return OK, None
        if self.apps:
            return None  # the limit may have changed, and only the register shows it
        limiter = self._limiter(self.settings.limit, app_id, self.newcomers)
        denial = None if limiter is None else limiter.recall(app_id)
        if denial is None:
            return None
        self._count_denial()
        return TOO_MANY_REQUESTS, denial

    def hit(self, limits: str, app_id: str, newcomers: str) -> "Decision":
        """Count a hit with a Limiter that is kept.  If ``counter`` does that later, only look."""
        act = self._look if self.counter is not None else self._hit
        try:
            return act(limits, app_id, newcomers)
        except StoreError as error:
            if error.errno != errno.ENOENT or self.settings.root or self._given:
                raise
            # Somebody has removed the default store.  It is made again, perhaps elsewhere.
            self._limiters.clear()
            return act(limits, app_id, newcomers)

    def _hit(self, limits: str, app_id: str, newcomers: str) -> "Decision":
        limiter = self._made(limits, app_id, newcomers)
        if self._counters is None:
            return limiter.hit(app_id)
        begin = perf_counter_ns()
        decision = limiter.hit(app_id)
        if not decision.allowed:
            self._count_denial()
            return decision
        is_near = decision.is_near(_NEAR)
        elapsed = perf_counter_ns() - begin
        cells = self._counters.cells or self._counters.open()
        with self._counters.lock:
            cells[_ADMITTED] += 1
            cells[_NANOSECONDS] += elapsed
            if is_near:
                cells[_NEAR_LIMIT] += 1
        return decision

    def _count_denial(self) -> None:
        counters = self._counters
        if counters is not None:
            cells = counters.cells or counters.open()
            with counters.lock:
                cells[self._denied] += 1

    def _look(self, limits: str, app_id: str, newcomers: str) -> "Decision":
        return look(self._made(limits, app_id, newcomers), app_id, newcomers)

    def _call(self, _: float, function: "Callable[[str], Verdict]", app_id: str) -> "Verdict":
        return self._access[self._root(app_id)].call(function, app_id)

    def is_direct(self, app_id: str) -> bool:
        """Whether ``count`` is certain to return soon, since what it calls is on local file systems."""
        return self._access[self._root(app_id)].is_direct()

    def is_all_direct(self) -> bool:
        """Whether that is certain for every app_id."""
        return all([access.is_direct() for access in self._access.values()])

    def _places(self, root: str) -> "list[str]":
        """The paths that a call uses.  Raises ValueError while the default store is not known."""
        if self._given is not None:
            root = self._given.root
        elif not root:
            if not self._limiters:
                raise ValueError("nobody has used the default store yet")
            root = next(iter(self._limiters.values())).root
        return [root, self.apps] if self.apps else [root]

    def _made(self, limits: str, app_id: str, newcomers: str) -> Limiter:
        limiter = self._limiter(limits, app_id, newcomers)
        if limiter is None:
            root, share = self.settings.store(app_id), self.settings.share(limits)
            limiter = Limiter(root, share, newcomers=newcomers)
            if len(self._limiters) >= _LIMITERS_MOST:
                self._limiters.clear()
            self._limiters[self._root(app_id), limits, newcomers] = limiter
        return limiter

    def _limiter(self, limits: str, app_id: str, newcomers: str) -> "Limiter | None":
        return self._given or self._limiters.get((self._root(app_id), limits, newcomers))

    def _root(self, app_id: str) -> str:
        """The store of an application, or "" if LIMITER_ROOT is not set."""
        return self.settings.store(app_id) if self.settings.root else ""
