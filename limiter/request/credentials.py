"""Credentials in an Authorization header: each login in one spelling only.  Pure.

docs/who-asks.md has the rules: "Authorization".  An application that decodes leniently reads many spellings
as the same login.  Each would be a client of its own, with a limit of its own.
"""

_ALPHANUMERIC = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TOKEN = (
    _ALPHANUMERIC + b"-._~+/"
)  # b64token and token68 without their "=" (RFC 6750, 2.1; RFC 9110, 11.2)
_BASE64URL = _ALPHANUMERIC + b"-_"
_CONTROLS = bytes(range(32)) + b"\x7f"

_BASIC = "is not the canonical base64 of a name, a colon and a password (RFC 7617)"
_NO_NAME = "has an empty name"
_BEARER = "is not a token (RFC 6750)"
_JWT = "is not the canonical base64url of a JSON web token (RFC 7515)"
_OTHER = "has parameters, which have several spellings"
_NOTHING = "has a scheme without credentials"


def credentials(value: bytes) -> "tuple[bytes, str]":
    """What the credentials count as, and "".  Or nothing, and what is wrong with them.

    The text never contains a part of the value.
    """
    words = value.split(None, 1)
    scheme, rest = words if len(words) == 2 else (b"", b"".join(words))
    name = (scheme or rest).lower()
    if name in (b"basic", b"bearer", b"negotiate", b"digest") and not scheme:
        return b"", _NOTHING
    if name == b"basic":
        return _user(rest)
    token = rest.rstrip(b"=")
    if not token or token.translate(None, _TOKEN):
        if not scheme:
            return rest, "" if rest else _NOTHING  # a key alone: applications compare it as it is
        return b"", _BEARER if name == b"bearer" else _OTHER
    if token[:3] == b"eyJ" and b"." in token:
        if not all([_is_canonical(part) for part in token.split(b".")]):
            return b"", _JWT
    return b"%s %s" % (scheme.capitalize(), token) if scheme else token, ""


def _user(text: bytes) -> "tuple[bytes, str]":
    from binascii import Error, a2b_base64, b2a_base64

    try:
        login = a2b_base64(text)
    except Error:
        return b"", _BASIC
    name, colon, _ = login.partition(b":")
    is_canonical = b2a_base64(login, newline=False) == text
    if not (is_canonical and colon) or len(login.translate(None, _CONTROLS)) < len(login):
        return b"", _BASIC
    name = name.strip(b" ")
    return name, "" if name else _NO_NAME


def _is_canonical(part: bytes) -> bool:
    """Whether this is base64url as an encoder writes it, without ``=`` (RFC 4648, 3.5 and 5)."""
    from binascii import a2b_base64, b2a_base64

    if part.translate(None, _BASE64URL) or len(part) % 4 == 1:
        return False
    text = part.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(part) % 4)
    return b2a_base64(a2b_base64(text), newline=False) == text
