"""Turn any value of a header or a variable into an app_id, and find the client's address behind proxies.

docs/who-asks.md has the rules: "Headers and variables", "Behind a proxy".  Does no input or output.

A CGI request may need this module.  ``_socket`` and ``_sha2`` are parts of most interpreters, and cost
0.1 ms to load.  ``ipaddress`` would cost 3 ms, and ``hashlib``, which loads OpenSSL, 2 ms.
"""

from limiter.core.store import is_app

TYPE_CHECKING = False
if TYPE_CHECKING:
    Networks = tuple[tuple[int, int, int], ...]

_HASHED = "sha256-"
_DIGITS = 56
_MAPPED = bytes(10) + b"\xff\xff"
_MOST_ENTRIES = 64


def identify(value: bytes) -> "str | None":
    """The app_id for this value; None if it is empty."""
    value = value.strip(b" \t")
    if not value:
        return None
    text = value.decode("latin-1")
    if is_app(text) and not text.startswith(_HASHED):
        return text
    address = _packed(text) if ":" in text else None
    if address is not None:
        if len(address) == 4:
            return ".".join([str(byte) for byte in address])
        value = _network_of(address)
    from limiter.request.digest import sha256  # most values are stored as they are

    return f"{_HASHED}{sha256(value)[:_DIGITS]}"


def credentials(value: bytes) -> bytes:
    """The value of an Authorization header in one spelling: ``bearer  token`` is ``Bearer token``.

    Applications read all spellings alike (RFC 9110, 11.4), so one token would have many app_ids.
    """
    words = value.split(None, 1)
    return b" ".join([words[0].capitalize(), words[1]]) if len(words) == 2 else value


def networks(text: str) -> "Networks":
    """Addresses and networks, separated by commas or spaces: ``10.0.0.0/8, 2001:db8::/32 192.0.2.7``.

    Raises ValueError if a part is neither, with that part and what is expected.
    """
    return tuple([_network(part) for part in text.replace(",", " ").split()])


def forwarded(address: bytes, entries: bytes, trusted: "Networks") -> bytes:
    """The client's address, from REMOTE_ADDR, the value of X-Forwarded-For, and the trusted proxies."""
    text = address.decode("latin-1")
    packed = _packed(text)
    for entry in reversed(entries.decode("latin-1").rsplit(",", _MOST_ENTRIES)[-_MOST_ENTRIES:]):
        if packed is None or not _is_in(packed, trusted):
            break
        bare = _bare(entry.strip(" \t"))
        packed = _packed(bare)
        if packed is None:
            break
        text = bare
    return text.encode("latin-1")


def _network(part: str) -> "tuple[int, int, int]":
    """A network: the bytes of an address, how many low bits may differ, and the value of the others."""
    host, slash, digits = part.partition("/")
    address = _packed(host)
    if address is None:
        raise _error(part, "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32")
    most = 128 if ":" in host else 32
    if slash and not (
        digits.isdecimal() and digits.isascii() and len(digits) <= 3 and int(digits) <= most
    ):
        raise _error(part, f"a prefix of 0 to {most} bits after the '/'")
    bits = most - int(digits) if slash else 0
    value = int.from_bytes(address, "big")
    if bits > 8 * len(address) or value >> bits << bits != value:
        raise _error(part, f"a network, but it has bits set beyond the first {digits}")
    return len(address), bits, value >> bits


def _is_in(address: bytes, trusted: "Networks") -> bool:
    value = int.from_bytes(address, "big")
    return any([value >> bits == head for length, bits, head in trusted if length == len(address)])


def _bare(entry: str) -> str:
    """An entry without the brackets and the port that an address may have.

    An entry that is not an address does not become one.
    """
    host, _, port = entry.rpartition(":")
    if not port.isdecimal() or (":" in host and host[0] != "["):
        host = entry
    return host[1:-1] if host[:1] == "[" and host[-1] == "]" and ":" in host else host


def _packed(text: str) -> "bytes | None":
    """An address as 4 or 16 bytes; None if it is not one.  A wrapped IPv4 address has 4."""
    from _socket import AF_INET, AF_INET6, inet_pton

    try:
        address = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        return None
    return address[12:] if address.startswith(_MAPPED) else address


def _network_of(address: bytes) -> bytes:
    from _socket import AF_INET6, inet_ntop

    return inet_ntop(AF_INET6, address[:8] + bytes(8)).encode() + b"/64"


def _error(part: str, expected: str) -> ValueError:
    return ValueError(f"trusted proxy {part!r:.200}: expected {expected}")
