"""The app_id in a header or a variable of a request.  Does no input or output.

docs/who-asks.md has the rules: "Headers and variables".

A CGI request may need this module.  ``_socket`` and ``_sha2`` are parts of most interpreters, and cost
0.1 ms to load.  ``ipaddress`` would cost 3 ms, and ``hashlib``, which loads OpenSSL, 2 ms.
"""

from limiter.core.store import is_app

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from limiter.request.key import Key

    Get = Callable[[bytes], "bytes | None"]
    Network = tuple[int, int, int]
    """The bytes of an address, how many low bits may differ, and the value of the others."""

_HASHED = "sha256-"
_DIGITS = 56
_WRAPPING = (
    bytes(10) + b"\xff\xff",  # ::ffff:0:0/96 (RFC 4291, 2.5.5.2)
    b"\x00\x64\xff\x9b" + bytes(8),  # 64:ff9b::/96, NAT64 (RFC 6052, 2.1)
)
"""How IPv6 addresses begin that wrap an IPv4 address."""

# Variables that a server sets only for requests that have what they report.  It sets all others always.
_OF_REQUEST = frozenset(
    b"AUTH_TYPE CONTENT_LENGTH CONTENT_TYPE PATH_INFO PATH_TRANSLATED QUERY_STRING REMOTE_HOST"
    b" REMOTE_IDENT REMOTE_USER".split()
)
_OF_REQUEST_PREFIXES = (b"HTTP_", b"SSL_CLIENT_")
_RENAMED = b"REDIRECT_"


def identify(value: bytes, ipv6_prefix: int = 64) -> "str | None":
    """The app_id for this value; None if it is empty."""
    value = value.strip(b" \t")
    if not value:
        return None
    text = value.decode("latin-1")
    if is_app(text) and not text.startswith(_HASHED):
        return text
    address = packed(text) if ":" in text else None
    return _hashed(value) if address is None else of_address(address, ipv6_prefix)


def of_address(address: bytes, ipv6_prefix: int) -> str:
    """The app_id of an address: an IPv4 address as text, an IPv6 address by its network of so many bits."""
    if len(address) == 4:
        return ".".join([str(byte) for byte in address])
    return _hashed(written(cut(address, ipv6_prefix)).encode())


def packed(text: str) -> "bytes | None":
    """An address as 4 or 16 bytes; None if it is not one.  A wrapped IPv4 address has 4."""
    import _socket

    try:
        address = _socket.inet_pton(_socket.AF_INET6 if ":" in text else _socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    return address[12:] if address[:12] in _WRAPPING else address


def cut(address: bytes, prefix: int) -> "Network":
    """The network of so many bits that has this address."""
    bits = 8 * len(address) - prefix
    return len(address), bits, int.from_bytes(address, "big") >> bits


def written(network: "Network") -> str:
    """A network as text, in one spelling: ``10.0.0.0/8``."""
    import _socket

    length, bits, head = network
    family = _socket.AF_INET if length == 4 else _socket.AF_INET6
    return f"{_socket.inet_ntop(family, (head << bits).to_bytes(length, 'big'))}/{8 * length - bits}"


def _hashed(value: bytes) -> str:
    from limiter.request.digest import sha256  # most values are stored as they are

    return f"{_HASHED}{sha256(value)[:_DIGITS]}"


def read(key: "Key", get: "Get") -> "tuple[str | None, str]":
    """The app_id in the variable of this key, and "".  Or None, and the reason.  REMOTE_ADDR is not read here.

    ``get`` returns a CGI variable by its name, or None.  Raises ValueError if no request has an app_id with
    these settings.
    """
    variable = key.variable or b""
    value = get(variable)
    if value is None and not _is_of_request(variable):
        raise ValueError(
            f"key {key.text!r:.200}: the server does not set this variable (correct its name; if only"
            " some requests have it, set it empty for the others)"
        )
    value = (value or b"").strip(b" \t")
    if not value:
        return None, "is missing or empty"
    if key.is_header and b"," in value:  # a server joins the values of a header that was sent twice
        return None, "is given twice, or has a comma"
    if variable == b"HTTP_AUTHORIZATION":
        from limiter.request.credentials import credentials

        value, reason = credentials(value)
        if reason:
            return None, reason
    return identify(value, key.ipv6_prefix), ""


def _is_of_request(variable: bytes) -> bool:
    """Whether a server may set this variable for some requests only."""
    variable = variable.replace(_RENAMED, b"")  # Apache renames variables when it redirects internally
    return variable in _OF_REQUEST or variable.startswith(_OF_REQUEST_PREFIXES)
