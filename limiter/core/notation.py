"""The notation of limits: turn text such as ``10/second;1000 per hour`` into limits, or a clear error.

It is the notation of the ``limits`` library, with names before and a word for the kind after it::

    limits = limit *( ( ";" | "," | "|" ) limit )
    limit  = [ name "=" ] count ( "/" | "per" ) [ multiple ] unit [ "fixed" | "burst" capacity ]
    unit   = second[s] | sec | s | minute[s] | min | m | hour[s] | h | day[s] | d | month[s] | year[s]

A month has 30 days and a year 360, as in ``limits``.

Spaces and tabs may stand between any two parts.  Upper and lower case mean the same.  A name is 1 to 32
lower case letters, digits and hyphens, and begins with a letter: ``login=5/minute``.
"""

from limiter.core.limit import SECOND, Limit, Sliding

_UNITS = (
    (1, ("second", "seconds", "sec", "s")),
    (60, ("minute", "minutes", "min", "m")),
    (3600, ("hour", "hours", "h")),
    (86400, ("day", "days", "d")),
    (2_592_000, ("month", "months")),
    (31_104_000, ("year", "years")),
)
_DIGITS = "0123456789"
_NAME = "abcdefghijklmnopqrstuvwxyz-" + _DIGITS
_LONGEST_NAME = 32
_MOST_SLOTS = 10_000
_MOST = 10**15 - 1  # the largest integer of an HTTP structured field (RFC 9651, 3.3.1)
_LONGEST = 3660 * 86400


def parse(text: str) -> "tuple[Limit, ...]":
    """The limits that ``text`` names, in its order.

    Raises ValueError, with the text and the place, if it is not in the notation, a sliding limit is above
    10,000, a window or the time to fill a bucket is above 3,660 days, or a limit or a name is given twice.
    """
    limits: list[Limit] = []
    at = 0
    while True:
        limit, end = _named(text, at) if "=" in text else _limit(text, at)
        there = [it.name for it in limits if it.name == limit.name or it.policy == limit.policy != ""]
        if there:
            raise _error(text, at, f"a limit not yet given ({there[0]} is there already)")
        limits.append(limit)
        if end == len(text):
            return tuple(limits)
        if text[end] not in ";,|":
            raise _error(text, end, "';', ',', '|' or the end")
        at = end + 1


def _named(text: str, at: int) -> "tuple[Limit, int]":
    """A limit that may have a name.  Two limits of the same numbers and other names are two budgets."""
    start = _blanks(text, at)
    end = start
    while text[end : end + 1] in _NAME and end < len(text):
        end += 1
    after = _blanks(text, end)
    if text[after : after + 1] != "=":
        return _limit(text, at)
    name = text[start:end]
    if not name[:1].isalpha() or len(name) > _LONGEST_NAME:
        raise _error(
            text, start, "a name of at most 32 letters, digits and '-', beginning with a letter"
        )
    limit, end = _limit(text, after + 1)
    limit.policy = name
    limit.name = f"{name}={limit.name}"
    return limit, end


def _limit(text: str, at: int) -> "tuple[Limit, int]":
    start = _blanks(text, at)
    count, at = _number(text, start, "a number of hits")
    word, _ = _word(text, at)
    if word[:3] == "per":  # the library takes "10perminute", too
        at = _blanks(text, at + 3)
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
    units = [seconds for seconds, words in _UNITS if word in words]
    if not units:
        raise _error(text, at, "a unit (second, minute, hour, day, month or year)")
    window = multiple * units[0]
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
        given = text[start:at].strip()
        advice = f"above that write '{given} fixed' or '{given} burst {count}'"
        raise _error(text, start, f"a sliding limit of at most {_MOST_SLOTS} hits; {advice}")
    return Sliding(count, window * SECOND), at


def _blanks(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip(" \t"))


def _number(text: str, at: int, what: str) -> "tuple[int, int]":
    end = len(text) - len(text[at:].lstrip(_DIGITS))
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
