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
"""

import re

MASK = "***"

_SECRET = re.compile("auth|code|cookie|cred|jwt|key|nonce|otp|pass|pwd|secret|sess|sid|sig|token", re.I)
_SCHEME = re.compile(r"\b(Bearer|Basic|Digest|Negotiate|Token|ApiKey)(\s+)[A-Za-z0-9._~+/=-]{6,}", re.I)
_PAIR = re.compile(
    r"((?:apikey|[_-]key|auth|authorization|cookie|credential|jwt|otp|pass|passphrase|passwd|password|pwd|secret"
    r"|session|sessionid|sid|sig|signature|token)s?[\"']?\s*[=:]\s*)"
    r"(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s&;,\"')}]+)",
    re.I,
)
_USER = re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/@]+@", re.I)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")


def is_secret(name: str) -> bool:
    """Whether a parameter of this name looks like a secret; the name is as it stands in the query."""
    return bool(_SECRET.search(_unquote(name)))


def mask_query(query: str) -> str:
    """A query string without its secrets."""
    # Some split at ";", too: a name behind it may be one.
    return "".join([_mask_pair(part) for part in re.split("([&;])", query)])


def mask(text: str) -> str:
    """Any text without what looks like a secret."""
    text = _JWT.sub(MASK, text)
    text = _SCHEME.sub(rf"\1\2{MASK}", text)
    text = _USER.sub(rf"\1{MASK}@", text)
    return _PAIR.sub(rf"\1{MASK}", text)


def _mask_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return mask(pair)
    plain = _unquote(value)
    return f"{name}={MASK}" if value and (is_secret(name) or mask(plain) != plain) else pair


def _unquote(text: str) -> str:
    return _ESCAPE.sub(lambda it: chr(int(it[1], 16)), text)
