"""The notation of limits: turn text such as ``10/second;1000 per hour`` into limits, or a clear error.

It is the notation of the ``limits`` library, followed by a word for the kind::

    limits = limit *( ";" limit )
    limit  = count ( "/" | "per" ) [ multiple ] unit [ "fixed" | "burst" capacity ]
    unit   = second[s] | sec | s | minute[s] | min | m | hour[s] | h | day[s] | d

Spaces and tabs may stand between any two parts.  Upper and lower case mean the same.
"""

from limiter.core.limit import SECOND, Limit, Sliding

_UNITS = {
    "second": 1,
    "seconds": 1,
    "sec": 1,
    "s": 1,
    "minute": 60,
    "minutes": 60,
    "min": 60,
    "m": 60,
    "hour": 3600,
    "hours": 3600,
    "h": 3600,
    "day": 86400,
    "days": 86400,
    "d": 86400,
}
_DIGITS = "0123456789"
_MOST_SLOTS = 10_000
_MOST = 10**15 - 1  # the largest integer of an HTTP structured field (RFC 9651, 3.3.1)
_LONGEST = 3660 * 86400


def parse(text: str) -> "tuple[Limit, ...]":
    """The limits that ``text`` names, in its order.

    Raises ValueError, with the text and the place, if the text is not in the notation, a sliding limit
    is above 10,000, a window (or the time in which a bucket fills) is above 3,660 days, or a limit is
    given twice.
    """
    limits: list[Limit] = []
    at = 0
    while True:
        limit, end = _limit(text, at)
        if any(limit.name == other.name for other in limits):
            raise _error(text, at, f"a limit not yet given ({limit.name} is there already)")
        limits.append(limit)
        if end == len(text):
            return tuple(limits)
        if text[end] != ";":
            raise _error(text, end, "';' or the end")
        at = end + 1


def _limit(text: str, at: int) -> "tuple[Limit, int]":
    start = _blanks(text, at)
    count, at = _number(text, start, "a number of hits")
    word, end = _word(text, at)
    if word == "per":
        at = end
    elif text[at : at + 1] == "/":
        at = _blanks(text, at + 1)
    else:
        raise _error(text, at, "'/' or 'per'")
    multiple, multiple_at = 1, at
    if text[at : at + 1] in _DIGITS and at < len(text):
        multiple, at = _number(text, at, "a multiple")
        if not multiple:
            raise _error(text, multiple_at, "a window of at least 1 second")
    word, end = _word(text, at)
    if word not in _UNITS:
        raise _error(text, at, "a unit (second, minute, hour or day)")
    window = multiple * _UNITS[word]
    if window > _LONGEST:
        raise _error(text, multiple_at, f"a window of at most {_LONGEST // 86400} days")
    at = end
    kind, end = _word(text, at)
    if kind == "fixed":
        from limiter.core.fixed import Fixed  # here and below: most requests need neither

        return (Fixed if count else Sliding)(count, window * SECOND), end
    if kind == "burst":
        from limiter.core.burst import Burst

        burst, after = _number(text, end, "the bucket's capacity")
        if not burst:
            raise _error(text, end, "a capacity of at least 1")
        if not count:
            return Sliding(0, window * SECOND), after
        if window * burst > _LONGEST * count:
            raise _error(text, end, f"a bucket that fills within {_LONGEST // 86400} days")
        return Burst(count, window * SECOND, burst), after
    if count > _MOST_SLOTS:
        raise _error(
            text,
            start,
            f"a sliding limit of at most {_MOST_SLOTS} hits; above that say"
            f" '{text[start:at].strip()} fixed' or '{text[start:at].strip()} burst {count}'",
        )
    return Sliding(count, window * SECOND), at


def _blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return at


def _number(text: str, at: int, what: str) -> "tuple[int, int]":
    end = at
    while end < len(text) and text[end] in _DIGITS:
        end += 1
    if end == at:
        raise _error(text, at, what)
    # Check the length first: int() of very many digits is slow, and then refuses them.
    if end - at > 15 or int(text[at:end]) > _MOST:
        raise _error(text, at, f"a number of at most {_MOST}")
    return int(text[at:end]), _blanks(text, end)


def _word(text: str, at: int) -> "tuple[str, int]":
    end = at
    while end < len(text) and text[end].isalpha():
        end += 1
    return text[at:end].lower(), _blanks(text, end)


def _error(text: str, at: int, expected: str) -> ValueError:
    found = repr(text[at : at + 20]) if at < len(text) else "the end"
    return ValueError(f"limit {text[:200]!r}: expected {expected} at character {at + 1}, found {found}")
