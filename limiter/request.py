"""Who asks: the app_id in a query string or a form body.  Pure.

Both are ``application/x-www-form-urlencoded`` (WHATWG URL Standard, 5.1): pairs between ``&``, with
``+`` for a blank and ``%XX`` for any byte.  An app_id given twice, in whatever spelling, is none: an
application behind the limiter might believe the other one.
"""

from limiter.store import is_app

_NAME = b"app_id"
_HEXADECIMAL = b"0123456789abcdefABCDEF"


def find_app_id(*texts: bytes) -> "str | None":
    """The one valid app_id in all these texts together; None if it is missing, bad or given twice."""
    values = [
        value
        for text in texts
        for pair in text.split(b"&")
        for name, _, value in [pair.partition(b"=")]
        if name == _NAME or (b"%" in name and _unquote(name) == _NAME)
    ]
    if len(values) != 1:
        return None
    value = _unquote(values[0]).decode("latin-1")
    return value if is_app(value) else None


def _unquote(text: bytes) -> bytes:
    """Decode ``%XX``; what is not hexadecimal stays as it is.

    ``+`` stays too: neither the parameter's name nor a valid app_id has a blank in it.
    """
    if b"%" not in text:
        return text
    first, *rest = text.split(b"%")
    for part in rest:
        digits = part[:2]
        if len(digits) == 2 and not digits.strip(_HEXADECIMAL):
            first += bytes([int(digits, 16)]) + part[2:]
        else:
            first += b"%" + part
    return first
