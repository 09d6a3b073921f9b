"""The gate of a long-running process: it keeps what a set of settings needs between requests."""

import errno
import posix

import limiter.core.newcomers  # noqa: F401
from limiter.core import burst, fixed, privileges, retry  # noqa: F401  (while there are descriptors)
from limiter.core.limiter import Limiter
from limiter.core.store import StoreError
from limiter.request import secret_keys  # noqa: F401  (likewise)
from limiter.request.breaker import Breaker
from limiter.request.default_store import VARIABLES
from limiter.request.gate import Gate
from limiter.request.key import Key
from limiter.request.response import TOO_MANY_REQUESTS
from limiter.request.settings import REQUEST, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from limiter.core.decision import Decision
    from limiter.request.gate import Verdict

    Who = Callable[[Any], "str | None"]

# The most limits to keep.  A register that changes leaves old ones behind.
_LIMITERS_MOST = 1000
# The most sets of settings to keep.  A server that computes them per request leaves old ones behind.
_GATES_MOST = 100

_NAMES = (*REQUEST, *VARIABLES)
_VARIABLES = [name.encode() for name in _NAMES]


class LongRunningGate(Gate):
    """Decides by the settings in ``environ``, bytes to bytes as in ``os.environb``.

    If ``limiter`` is given, it decides alone: the store, the limits and the register of the settings
    are ignored.  ``key`` replaces LIMITER_KEY.  It is text in that notation, or a function that gets the
    request and returns who asks.  Threads may share a gate.  Raises ValueError for a mistake in the
    settings.
    """

    def __init__(
        self,
        environ: "Mapping[bytes, bytes]",
        limiter: "Limiter | None" = None,
        key: "str | Who | None" = None,
    ) -> None:
        super().__init__(Settings(environ), self._call, key if isinstance(key, str) else None)
        self._who = None if isinstance(key, str) else key
        self._given = limiter
        if limiter is not None:
            self.apps = ""
        self._limiters: dict[tuple[str, str, str], Limiter] = {}
        # An unresponsive store must not affect the others.
        self._breakers = {root: Breaker(self.settings.timeout) for root in self.settings.root or [""]}

    def find(
        self, request: object, get: "Callable[[bytes], bytes | None]", query: bytes
    ) -> "str | None":
        """The app_id of a request; None if it has none.

        If ``key`` is a function, it is called with ``request``.  Otherwise ``get`` returns a CGI variable
        by its name, and ``query`` is the query string.
        """
        if self._who is None:
            return self.key.find(get, query)
        value = self._who(request)
        if value is None:
            return None
        from limiter.request.identity import identify

        return identify(value.encode("utf-8", "surrogatepass"))

    def may_report(self) -> bool:
        """As for any gate; what a function returns may be a secret."""
        return self._who is None and super().may_report()

    def decide(self, app_id: str) -> "Verdict":
        """Decide from memory, or call the store within LIMITER_TIMEOUT."""
        return self.recall(app_id) or super().decide(app_id)

    def recall(self, app_id: str) -> "Verdict | None":
        """The denial of a hit if memory is certain of it.  Does not call the store."""
        if self.apps:
            return None  # the limit may have changed, and only the register shows it
        limiter = self._limiter(self.settings.limit, app_id, self.newcomers)
        denial = None if limiter is None else limiter.recall(app_id)
        return None if denial is None else (TOO_MANY_REQUESTS, denial)

    def hit(self, limits: str, app_id: str, newcomers: str) -> "Decision":
        """Count a hit with a Limiter that is kept."""
        try:
            return self._made(limits, app_id, newcomers).hit(app_id)
        except StoreError as error:
            if error.errno != errno.ENOENT or self.settings.root or self._given:
                raise
            # Somebody has removed the default store.  It is made again, perhaps elsewhere.
            self._limiters.clear()
            return self._made(limits, app_id, newcomers).hit(app_id)

    def _call(self, _: float, function: "Callable[[str], Verdict]", app_id: str) -> "Verdict":
        return self._breakers[self._root(app_id)].call(function, app_id)

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

    ``limiter`` and ``key`` are as for a LongRunningGate.  Threads may share them.  Raises ValueError for
    a bad key.
    """

    def __init__(self, limiter: "Limiter | None", key: "str | Who | None") -> None:
        self._limiter = limiter
        self._key = key
        if isinstance(key, str):
            Key(key)
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
            gate = LongRunningGate(variables, self._limiter, self._key)
            if len(self._gates) >= _GATES_MOST:
                self._gates.clear()
            gate = self._gates.setdefault((own, inherited), gate)
        return gate
