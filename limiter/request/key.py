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

    from limiter.request.addresses import Networks

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
    networks, or ``unix``, for ``env:REMOTE_ADDR`` alone.  An IPv6 address counts with its network of
    ``ipv6_prefix`` bits.  Raises ValueError for anything else.

    ``variable`` is the CGI variable (RFC 3875, 4.1) that has the id, None for a parameter.
    """

    __slots__ = (
        *("_folded", "_like", "ipv6_prefix", "is_header", "name", "proxies", "text", "variable"),
    )

    variable: "bytes | None"

    def __init__(self, text: str = "app_id", proxies: str = "", ipv6_prefix: int = 64) -> None:
        kind = text[: text.find(":") + 1]
        marks, expected = _KINDS.get(kind, _KINDS[""])
        name = text[len(kind) :].encode("utf-8", "surrogateescape")
        if kind not in _KINDS or not name.strip(marks) or name.strip(_ALPHANUMERIC + marks):
            raise ValueError(f"key {text!r:.200}: expected {expected}")
        self.text = text
        self.name = name
        if not kind:
            self.variable = None
            self._folded = name.lower().replace(b".", b"_")
            self._like = self._folded.lstrip(b"_")
            return
        self.ipv6_prefix = ipv6_prefix
        self.is_header = kind == "header:"
        self.proxies: Networks = ()
        if self.is_header:
            variable = name.upper().replace(b"-", b"_")
            self.variable = variable if variable in _NO_PREFIX else b"HTTP_" + variable
        else:
            self.variable = name
            if name == b"REMOTE_ADDR" and proxies:
                # Most use a parameter, which needs nothing of this module.
                from limiter.request.addresses import networks

                self.proxies = networks(proxies)

    def find(self, get: "Callable[[bytes], bytes | None]", *texts: bytes) -> "str | None":
        """The app_id of who asks; None if it is missing, bad, or given twice: 401.

        ``get`` returns a CGI variable by its name, or None.  ``texts`` are the query string and the
        form, not decoded; all parameters in them count together.  Raises ValueError if no request can
        have an app_id with this key.  ``limiter.request.reasons`` says why there is none.
        """
        if self.variable is not None:
            return self.read(get)[0]
        found = self.given(texts)
        if len(found) != 1:
            return None
        name, value = found[0]
        if unquote(name) != self.name:
            return None
        app_id = unquote(value).decode("latin-1")
        return app_id if is_app(app_id) else None

    def read(self, get: "Callable[[bytes], bytes | None]") -> "tuple[str | None, str]":
        """The app_id in the variable, and "".  Or None, and the reason.  Raises ValueError as ``find``."""
        if self.variable == b"REMOTE_ADDR":
            from limiter.request.addresses import read_address as read
        else:
            from limiter.request.identity import read
        return read(self, get)

    def given(self, texts: "tuple[bytes, ...]") -> "list[tuple[bytes, bytes]]":
        """The parameters whose name some application may treat as this key's, not decoded."""
        folded, least = self._folded, len(self._like)
        return [
            (name, value)
            for text in texts
            # Some applications split at ";" and find names after it.  For others it is part of a value.
            for pair in text.replace(b";", b";&;").split(b"&")
            for name, _, value in [pair.partition(b"=")]
            if len(name) >= least
            and (name.lower() == folded or (name.translate(None, _PLAIN) and self._resembles(name)))
        ]

    def _resembles(self, name: bytes) -> bool:
        """Whether some application may treat this name as the parameter's name.

        The name has odd bytes: those not in ``_PLAIN``.  It is compared without the odd bytes before it,
        with ``_`` for any odd byte, and without regard to case.  The match must end at the end of the
        name or before another odd byte.
        """
        name = unquote(name.replace(b"%u00", b"%")).lower()
        odd = name.translate(None, _PLAIN)
        name = name.lstrip(odd + b"_")
        like = name.translate(bytes.maketrans(odd, b"_" * len(odd)))
        # At the end of the name this is b"", which is in any bytes.
        return like.startswith(self._like) and name[len(self._like) :][:1] in odd


def unquote(text: bytes) -> bytes:
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
