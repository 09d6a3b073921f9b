"""Masking: what looks like a secret becomes ``***`` before anybody reads it.  Pure.

In a query: the value of every parameter whose name, decoded and in any case, contains one of ``auth``, ``code``,
``cookie``, ``cred``, ``jwt``, ``key``, ``nonce``, ``otp``, ``pass``, ``pwd``, ``secret``, ``sess``, ``sid``, ``sig``
and ``token`` (``monkey``, too, which costs little); and any value that holds what follows.  In any text:

* the value behind ``=`` or ``:`` and a name that ends in one of ``apikey``, ``_key``, ``-key``, ``auth``,
  ``authorization``, ``cookie``, ``credential``, ``jwt``, ``otp``, ``pass``, ``passphrase``, ``passwd``, ``password``,
  ``pwd``, ``secret``, ``session``, ``sessionid``, ``sid``, ``sig``, ``signature`` and ``token``, or their plurals,
* what follows ``Bearer``, ``Basic``, ``Digest``, ``Negotiate``, ``Token`` and ``ApiKey``,
* the user and password of a URL,
* JSON web tokens (RFC 7519), wherever they stand.

The work grows with the length of the text and no faster, whatever is in it: anybody may send a query.  What is to
be cut is masked before, for half a secret does not look like one.
"""

import re

from limiter import secrecy
from limiter.secrecy import MASK

_SCHEME = re.compile(r"\b(Bearer|Basic|Digest|Negotiate|Token|ApiKey)(\s+)[A-Za-z0-9._~+/=-]{6,}", re.I)
_PAIR = re.compile(
    r"((?:apikey|[_-]key|auth|authorization|cookie|credential|jwt|otp|pass|passphrase|passwd|password|pwd|secret"
    r"|session|sessionid|sid|sig|signature|token)s?[\"']?\s*[=:]\s*)"
    # A quote that nobody closes holds all the rest.
    r"(\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|[^\s&;,\"')}]+)",
    re.I | re.S,
)
_USER = re.compile(r"(://)[^\s/]+@")
# What only begins as one is matched as well, so that nobody looks for another one within it.
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)?")
_PART = re.compile("[^&;]+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")


def is_secret(name: str) -> bool:
    """Whether a parameter of this name looks like a secret; the name is as it stands in the query."""
    return secrecy.is_secret(_unquote(name))


def mask_query(query: str) -> str:
    """A query string without its secrets."""
    # Some split at ";", too: a name behind it may be one.
    return _PART.sub(lambda it: _mask_pair(it[0]), query)


def mask(text: str) -> str:
    """Any text without what looks like a secret."""
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
