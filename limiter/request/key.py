"""Who asks: the id in a parameter, a header or a variable of a request.  Does no input or output.

A parameter stands in a query string or a form body, both ``application/x-www-form-urlencoded`` (WHATWG
URL Standard, 5.1).  A parameter that is given twice counts as missing: an application behind the limiter
might use the other one.  A name counts as given if any application may read it as the parameter's name:
docs/who-asks.md, "Names that count as the same", lists them.  The id is read only under the exact name.
"""

from limiter.core.store import is_app

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ALPHANUMERIC = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_PLAIN = _ALPHANUMERIC + b"_-"
"""Bytes that no application changes in a name."""
_HEXADECIMAL = b"0123456789abcdefABCDEF"

_KINDS = {
    "": (b"._-", "a parameter's name (letters, digits and any of ._-), header:NAME or env:NAME"),
    "header:": (
        b"-",
        "a header's name of letters, digits and '-' (others are dropped or confused on the way)",
    ),
    "env:": (b"_", "a variable's name of letters, digits and '_'"),
}
_NO_PREFIX = (b"CONTENT_TYPE", b"CONTENT_LENGTH")


class Key:
    """Where the id of a request comes from, as LIMITER_KEY says.

    ``text`` is a parameter's name, ``header:NAME`` or ``env:NAME``.  ``proxies`` are addresses and
    networks, for ``env:REMOTE_ADDR`` alone.  Raises ValueError for anything else.

    ``variable`` is the CGI variable (RFC 3875, 4.1) that has the id, None for a parameter.
    """

    __slots__ = ("_folded", "_is_header", "_like", "_name", "_proxies", "variable")

    variable: "bytes | None"

    def __init__(self, text: str = "app_id", proxies: str = "") -> None:
        kind = text[: text.find(":") + 1]
        marks, expected = _KINDS.get(kind, _KINDS[""])
        name = text[len(kind) :].encode("utf-8", "surrogateescape")
        if kind not in _KINDS or not name.strip(marks) or name.strip(_ALPHANUMERIC + marks):
            raise ValueError(f"key {text!r:.200}: expected {expected}")
        self._is_header = kind == "header:"
        self._proxies: tuple[tuple[int, int, int], ...] = ()
        if not kind:
            self.variable = None
            self._name = name
            self._folded = name.lower().replace(b".", b"_")
            self._like = self._folded.lstrip(b"_")
        elif self._is_header:
            variable = name.upper().replace(b"-", b"_")
            self.variable = variable if variable in _NO_PREFIX else b"HTTP_" + variable
        else:
            self.variable = name
            if name == b"REMOTE_ADDR" and proxies:
                # Most use a parameter, which needs nothing of this module.
                from limiter.request.identity import networks

                self._proxies = networks(proxies)

    def find(self, get: "Callable[[bytes], bytes | None]", *texts: bytes) -> "str | None":
        """The app_id of who asks; None if it is missing, bad, or given twice: 401.

        ``get`` returns a CGI variable by its name, or None.  ``texts`` are the query string and the
        form, not decoded; all parameters in them count together.
        """
        if self.variable is None:
            return self._parameter(texts)
        value = get(self.variable)
        # A server joins the values of a header that was sent twice with a comma.
        if not value or (self._is_header and b"," in value):
            return None
        from limiter.request.identity import credentials, forwarded, identify

        if self._proxies:
            value = forwarded(value, get(b"HTTP_X_FORWARDED_FOR") or b"", self._proxies)
        elif self.variable == b"HTTP_AUTHORIZATION":
            value = credentials(value)
        return identify(value)

    def _parameter(self, texts: "tuple[bytes, ...]") -> "str | None":
        folded, least = self._folded, len(self._like)
        found = [
            (name, value)
            for text in texts
            # Some applications split at ";" and find names after it.  For others it is part of a value.
            for pair in text.replace(b";", b";&;").split(b"&")
            for name, _, value in [pair.partition(b"=")]
            if len(name) >= least
            and (name.lower() == folded or (name.translate(None, _PLAIN) and self._resembles(name)))
        ]
        if len(found) != 1:
            return None
        name, value = found[0]
        if _unquote(name) != self._name:
            return None
        app_id = _unquote(value).decode("latin-1")
        return app_id if is_app(app_id) else None

    def _resembles(self, name: bytes) -> bool:
        """Whether some application may treat this name as the parameter's name.

        The name has odd bytes: those not in ``_PLAIN``.  It is compared without the odd bytes before it,
        with ``_`` for any odd byte, and without regard to case.  The match must end at the end of the
        name or before another odd byte.
        """
        name = _unquote(name.replace(b"%u00", b"%")).lower()
        odd = name.translate(None, _PLAIN)
        name = name.lstrip(odd + b"_")
        like = name.translate(bytes.maketrans(odd, b"_" * len(odd)))
        # At the end of the name this is b"", which is in any bytes.
        return like.startswith(self._like) and name[len(self._like) :][:1] in odd


def _unquote(text: bytes) -> bytes:
    """Decode ``%XX``.  What is not hexadecimal stays as it is.

    ``+`` stays too: neither the parameter's name nor a valid app_id contains a space.
    """
    if b"%" not in text:
        return text
    first, *rest = text.split(b"%")
    parts = [first]
    for part in rest:
        digits = part[:2]
        if len(digits) == 2 and not digits.strip(_HEXADECIMAL):
            parts += bytes([int(digits, 16)]), part[2:]
        else:
            parts += b"%", part
    return b"".join(parts)
