"""The gate of a long-running process: it keeps what a set of settings needs between requests."""

import posix

from limiter.core.limiter import Limiter
from limiter.request import secret_keys  # noqa: F401  (load it while there are descriptors)
from limiter.request.breaker import Breaker
from limiter.request.key import Key
from limiter.request.response import TOO_MANY_REQUESTS
from limiter.request.settings import NAMES, Settings
from limiter.request.verdict import fail, judge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from limiter.core.hit import Decision
    from limiter.request.verdict import Verdict

    Ask = Callable[[Any], "str | None"]

# The most limits to keep.  A register that changes leaves old ones behind.
_LIMITERS_MOST = 1000
# The most sets of settings to keep.  A server that computes them per request leaves old ones behind.
_GATES_MOST = 100

_NAMES = (*NAMES, "TMPDIR")
_VARIABLES = [name.encode() for name in _NAMES]


class Undecided(BaseException):
    """Memory cannot decide about ``app_id``: call the store.  No Exception, since it is no error."""

    def __init__(self, app_id: str) -> None:
        self.app_id = app_id


class Gate:
    """Decides on requests by the settings in ``environ``, bytes to bytes as in ``os.environb``.

    If ``limiter`` is given, it decides alone: the store, the limits and the register of the settings
    are ignored.  If ``key`` is given, in the notation of LIMITER_KEY, it replaces that setting.  Threads
    may share a gate.  Raises ValueError for a mistake in the settings.
    """

    def __init__(
        self,
        environ: "Mapping[bytes, bytes]",
        limiter: "Limiter | None" = None,
        key: "str | None" = None,
    ) -> None:
        self._settings = Settings(environ)
        self._given = limiter
        if limiter is not None:
            self._settings.apps = ""
        if key is not None:
            self._settings.key = key
        self._limiters: dict[tuple[str, str], Limiter] = {}
        self.key = Key(self._settings.key, self._settings.proxies)
        # An unresponsive store must not affect the others.
        self._breakers = {root: Breaker(self._settings.timeout) for root in self._settings.roots or [""]}

    def withhold(self) -> None:
        """Never report the app_id.  A function supplies it, not the key, so it may be a secret."""
        self._settings.key = "header:"

    def judge(
        self, find: "Callable[[], str | None]", log: "Callable[[Exception | str], None]"
    ) -> "Verdict":
        """The status to answer, and the decision if there is one.  See ``verdict.judge``."""
        return judge(self._settings, find, self.hit, self._call, log)

    def recall(
        self, find: "Callable[[], str | None]", log: "Callable[[Exception | str], None]"
    ) -> "Verdict":
        """As ``judge``, but does not call the store.  Raises Undecided if only the store can decide."""
        return judge(self._settings, find, self.hit, self._from_memory, log)

    def fail(self, error: Exception, log: "Callable[[Exception | str], None]") -> "Verdict":
        """The verdict on a request for which this error prevented a decision."""
        return fail(self._settings, error, log)

    def _call(
        self,
        decide: "Callable[..., Verdict]",
        settings: Settings,
        app_id: str,
        hit: "Callable[[str, str], Decision]",
    ) -> "Verdict":
        return self._denied(app_id) or self._breakers[self._root(app_id)].call(
            decide, settings, app_id, hit
        )

    def _from_memory(
        self,
        decide: "Callable[..., Verdict]",
        settings: Settings,
        app_id: str,
        hit: "Callable[[str, str], Decision]",
    ) -> "Verdict":
        denied = self._denied(app_id)
        if denied is None:
            raise Undecided(app_id)
        return denied

    def _denied(self, app_id: str) -> "Verdict | None":
        if self._settings.apps:
            return None  # the limit may have changed, and only the register shows it
        limiter = self._limiter(self._settings.limits, app_id)
        denial = None if limiter is None else limiter.recall(app_id)
        return None if denial is None else (TOO_MANY_REQUESTS, denial)

    def hit(self, limits: str, app_id: str) -> "Decision":
        """Count a hit against these limits.  Raises ValueError for bad limits, and StoreError."""
        limiter = self._limiter(limits, app_id)
        if limiter is None:
            limiter = Limiter(self._settings.root(app_id), self._settings.share(limits))
            if len(self._limiters) >= _LIMITERS_MOST:
                self._limiters.clear()
            self._limiters[self._root(app_id), limits] = limiter
        return limiter.hit(app_id)

    def _limiter(self, limits: str, app_id: str) -> "Limiter | None":
        return self._given or self._limiters.get((self._root(app_id), limits))

    def _root(self, app_id: str) -> str:
        """The store of an application, or "" if LIMITER_ROOT is not set."""
        return self._settings.root(app_id) if self._settings.roots else ""


class Gates:
    """The gates of one middleware: one for each set of settings that requests come with.

    ``limiter`` is as for a Gate.  ``key`` is as for a Gate, or a function that says who asks.  Threads
    may share them.  Raises ValueError for a bad key.
    """

    def __init__(self, limiter: "Limiter | None", key: "str | Ask | None") -> None:
        self._limiter = limiter
        self._key = key if isinstance(key, str) else None
        self._ask = None if isinstance(key, str) else key
        if self._key is not None:
            Key(self._key)
        self._gates: dict[tuple[object, object], Gate] = {}

    def choose(self, environ: "Mapping[str, str]") -> Gate:
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
            gate = Gate(variables, self._limiter, self._key)
            if self._ask is not None:
                gate.withhold()
            if len(self._gates) >= _GATES_MOST:
                self._gates.clear()
            gate = self._gates.setdefault((own, inherited), gate)
        return gate

    def find(
        self, gate: Gate, request: object, get: "Callable[[bytes], bytes | None]", query: bytes
    ) -> "str | None":
        """The app_id of who asks; None if there is none.

        If ``key`` is a function, it is called with ``request``.  Otherwise the gate's key decides.
        """
        if self._ask is None:
            return gate.key.find(get, query)
        value = self._ask(request)
        if value is None:
            return None
        from limiter.request.identity import identify

        return identify(value.encode("utf-8", "surrogatepass"))
