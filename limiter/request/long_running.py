"""The gate of a long-running process: it keeps what a set of settings needs between requests."""

import errno
import posix
from copy import copy
from functools import partial

import limiter.core.newcomers  # noqa: F401
from limiter.core import burst, fixed, privileges, retry  # noqa: F401  (while there are descriptors)
from limiter.core.limiter import Limiter
from limiter.core.store import StoreError
from limiter.request import jitter, one_hit, problem_details, secret_keys, x_ratelimit  # noqa: F401
from limiter.request.default_store import VARIABLES
from limiter.request.gate import Gate
from limiter.request.key import Key
from limiter.request.look import look
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS
from limiter.request.rule import AMBIGUOUS, Rule
from limiter.request.rule_settings import refuse_count, under
from limiter.request.rules import Rules, parse
from limiter.request.rules_file import RulesFile
from limiter.request.settings import REQUEST, Settings
from limiter.request.store_access import StoreAccess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from limiter.core.decision import Decision
    from limiter.request.gate import Log, Verdict

    RuleGates = tuple[Rules, dict[Rule, "LongRunningGate"]]

    Who = Callable[[Any], object]
    """A key function.  That of ASGI may return an Awaitable."""

# The most limits to keep.  A register that changes leaves old ones behind.
_LIMITERS_MOST = 1000
# The most sets of settings to keep.  A server that computes them per request leaves old ones behind.
_GATES_MOST = 100

_NAMES = (*REQUEST, *VARIABLES)
_VARIABLES = [name.encode() for name in _NAMES]


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
        return None if denial is None else (TOO_MANY_REQUESTS, denial)

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
        return self._made(limits, app_id, newcomers).hit(app_id)

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


class Gates:
    """The gates of one middleware: one for each set of settings that requests come with.

    ``limiter`` and ``key`` are as for a LongRunningGate.  ``rules`` are texts, a rule each.  Threads may
    share them.  Raises ValueError for a bad key or rule.
    """

    def __init__(
        self,
        limiter: "Limiter | None",
        key: "str | Who | None",
        rules: "Sequence[str] | None" = None,
    ) -> None:
        self._limiter = limiter
        self._key = key
        if isinstance(key, str):
            Key(key)
        self._rules = None if rules is None else parse("\n".join(rules))
        self._gates: dict[tuple[object, object], LongRunningGate] = {}

    def choose(self, environ: "Mapping[str, str]") -> LongRunningGate:
        """The gate for the present variables: those in ``environ``, then those of the process.

        The values in ``environ`` are bytes decoded as Latin-1, as in WSGI.  Raises ValueError for a
        mistake in the settings.
        """
        own = (*map(environ.get, _NAMES),)
        # os.environ writes through to posix.environ, which is ten times as fast.
        inherited = (*map(posix.environ.get, _VARIABLES),)
        gate = self._gates.get((own, inherited))
        if gate is None:
            variables = {name: it for name, it in zip(_VARIABLES, inherited) if it is not None}
            variables.update(
                {name: it.encode("latin-1") for name, it in zip(_VARIABLES, own) if it is not None}
            )
            gate = LongRunningGate(variables, self._limiter, self._key, self._rules)
            if len(self._gates) >= _GATES_MOST:
                self._gates.clear()
            gate = self._gates.setdefault((own, inherited), gate)
        return gate
