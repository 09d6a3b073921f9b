"""The gates of one middleware: one for each set of settings that its requests come with."""

import posix

from limiter.request.counters import METRICS
from limiter.request.default_store import VARIABLES
from limiter.request.key import Key
from limiter.request.long_running import LongRunningGate
from limiter.request.rules import parse
from limiter.request.settings import REQUEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limiter.core.limiter import Limiter
    from limiter.request.long_running import Who

# The most sets of settings to keep.  A server that computes them per request leaves old ones behind.
_GATES_MOST = 100

_NAMES = (*REQUEST, *METRICS, *VARIABLES)
_VARIABLES = [name.encode() for name in _NAMES]


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
