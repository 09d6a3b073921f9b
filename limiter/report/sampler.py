"""Which errors a long-running process logs: the first of each kind, and then one in a hundred."""

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EVERY = 100
# A kind begins anew after so many seconds without an error of it.
_QUIET = 60.0
_KINDS_MOST = 100


class Sampler:
    """Counts errors by their kind: their type and number, and where they were raised."""

    def __init__(self, clock: "Callable[[], float]" = monotonic) -> None:
        self._clock = clock
        self._kinds: dict[object, tuple[int, float]] = {}

    def number(self, error: Exception) -> int:
        """The number of this error among those of its kind, if it should be logged; else 0."""
        now = self._clock()
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = None if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        kind = type(error), getattr(error, "errno", None), place
        number, last = self._kinds.pop(kind, (0, now))
        number = 1 if now - last > _QUIET else number + 1
        if len(self._kinds) >= _KINDS_MOST:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[kind] = number, now
        return number if number == 1 or number % EVERY == 0 else 0
