"""Masking: text that looks like a secret becomes ``***`` before anybody reads it.  Pure.

In a query, two kinds of values are masked.  The first are values of parameters whose name contains one
of ``auth``, ``code``, ``cookie``, ``cred``, ``jwt``, ``key``, ``nonce``, ``otp``, ``pass``, ``pwd``,
``secret``, ``sess``, ``sid``, ``sig`` and ``token``.  The name is decoded first, and case is ignored.
(``monkey`` matches too; the harm is small.)  The second are values that contain a secret from the list
below.  In any text, these are masked:

* the value behind ``=`` or ``:`` if the name before it ends in one of ``apikey``, ``_key``, ``-key``,
  ``auth``, ``authorization``, ``cookie``, ``credential``, ``jwt``, ``otp``, ``pass``, ``passphrase``,
  ``passwd``, ``password``, ``pwd``, ``secret``, ``session``, ``sessionid``, ``sid``, ``sig``,
  ``signature`` and ``token``, or their plurals,
* the text after ``Bearer``, ``Basic``, ``Digest``, ``Negotiate``, ``Token`` and ``ApiKey``,
* the user and password of a URL,
* JSON web tokens (RFC 7519), anywhere.

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


def is_secret(name: str) -> bool:
    """Return whether a parameter of this name, encoded as in the query, looks like a secret."""
    return secret_keys.is_secret(_unquote(name))


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
    plain = _unquote(value.replace("+", " "))
    is_masked = value and (is_secret(name) or mask(plain) != plain)
    return f"{name}{equals}{MASK}" if is_masked else pair


def _unquote(text: str) -> str:
    return _ESCAPE.sub(lambda it: chr(int(it[1], 16)), text)
