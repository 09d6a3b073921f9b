"""Masking: text that looks like a secret becomes ``***`` before anybody reads it.  Pure.

In a query, a value is masked if the name of its parameter looks like a secret (``secret_keys``, after
decoding), or if the value contains a secret.  In any text, the patterns below say what a secret is: a
value behind a telling name, credentials, the user and password of a URL, and JSON web tokens (RFC 7519).

Anybody may send a query, so the time is at most proportional to the length of the text.  Mask a text
before you cut it, because half a secret is not recognized.
"""

import re

from limiter.request import secret_keys
from limiter.request.secret_keys import MASK

_SCHEME = re.compile(r"\b(Bearer|Basic|Digest|Negotiate|Token|ApiKey)(\s+)[A-Za-z0-9._~+/=-]{6,}", re.I)
_PAIR = re.compile(
    r"((?:apikey|[_-]key|auth|authorization|cookie|credential|jwt|otp|pass|passphrase|passwd|password|pwd|secret"
    r"|session|sessionid|sid|sig|signature|token)s?[\"']?\s*[=:]\s*)"
    # A quotation without an end contains all the rest.
    r"(\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|[^\s&;,\"')}]+)",
    re.I | re.S,
)
_USER = re.compile(r"(://)[^\s/]+@")
# The beginning of a token is matched too, so that no second search starts inside it.
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)?")
_PART = re.compile("[^&;]+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")


def mask_query(query: str) -> str:
    """Return the query string with secrets masked."""
    # Some programs split at ";" too, so a name may follow it.
    return _PART.sub(lambda it: _mask_pair(it[0]), query)


def mask(text: str) -> str:
    """Return the text with everything that looks like a secret masked."""
    text = _JWT.sub(lambda it: MASK if it[1] else it[0], text)
    text = _SCHEME.sub(rf"\1\2{MASK}", text)
    text = _USER.sub(rf"\1{MASK}@", text)
    return _PAIR.sub(rf"\1{MASK}", text)


def _mask_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        name, value = "", pair
    plain = _decode(value.replace("+", " "))
    is_masked = value and (secret_keys.is_secret(_decode(name)) or mask(plain) != plain)
    return f"{name}{equals}{MASK}" if is_masked else pair


def _decode(text: str) -> str:
    return _ESCAPE.sub(lambda it: chr(int(it[1], 16)), text)
