"""Names for those who are known by a header or a variable: any value to an app_id.  Pure.

A parameter is an app_id or nothing, but a header may hold a bearer token and REMOTE_ADDR an address.  Blanks
and tabs around a value do not count; everything else in it does, the case of letters too.  Then it is

1. an app_id already: stored as it is.  IPv4 addresses are.
2. an IPv6 address: stored for its network of 64 bits, within which a single customer may have any address
   (RFC 6177), in whatever spelling.  One that only wraps an IPv4 address (``::ffff:192.0.2.1``, RFC 4291,
   2.5.5.2) is that.  ``2001:db8::1`` counts as ``2001:db8::/64``, which is no app_id, so rule 3 applies to it.
   An address with a zone (``fe80::1%eth0``) is none here: all of a link would be one network.
3. anything else: stored under a hash, never as it is.  (A token that could be an app_id falls under rule 1,
   and can be read in the store.)  The hash is ``sha256-`` and 56 hexadecimal digits, the first 224 bits
   of its SHA-256 (FIPS 180-4)::

       printf 2001:db8::/64 | sha256sum | cut -c-56

   A value that begins with ``sha256-`` itself is hashed as well, so nobody asks in the name of another by
   sending the hash of a token.

Empty is nobody.

Behind a proxy REMOTE_ADDR is the proxy's, and who asked it stands last in X-Forwarded-For: every proxy adds
who asked it to what it was sent, and what a client wrote there itself stands before that.  So it is read from
the right, and only as far as it is known who wrote it: while the address so far is a trusted proxy's, the next
entry is believed; the first address that is not is who asks.  If all are proxies, it is the leftmost.  An entry
that is no address (``unknown``, ``_hidden``, nothing) ends it: the address before counts, at worst the proxy's
own.  An entry may have a port: ``192.0.2.1:4711``, ``[2001:db8::1]:4711``.  Only the last 64 are looked at.

It may be on the path of a CGI request: ``_socket`` and ``_sha2`` are parts of most interpreters, and cost 0.1 ms
to load.  ``ipaddress`` would cost 3 ms and ``hashlib``, which loads OpenSSL, 2 ms: a fifth of the request.
"""

from limiter.store import is_app

TYPE_CHECKING = False
if TYPE_CHECKING:
    Networks = tuple[tuple[int, int, int], ...]

_HASHED = "sha256-"
_DIGITS = 56
_MAPPED = bytes(10) + b"\xff\xff"
_MOST_ENTRIES = 64


def identify(value: bytes) -> "str | None":
    """The app_id of who is known by this value, as the rules above say; None if it is empty."""
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
    from limiter.digest import sha256  # most values are stored as they are

    return f"{_HASHED}{sha256(value)[:_DIGITS]}"


def credentials(value: bytes) -> bytes:
    """An Authorization header's value in one spelling: ``bearer  token`` is ``Bearer token``.

    Its scheme is of either case, with any blanks after it (RFC 9110, 11.4).  Whoever has a token could
    otherwise ask under many names.
    """
    words = value.split(None, 1)
    return b" ".join([words[0].capitalize(), words[1]]) if len(words) == 2 else value


def networks(text: str) -> "Networks":
    """Addresses and networks (``10.0.0.0/8, 2001:db8::/32 192.0.2.7``), between commas or blanks.

    Raises ValueError, naming the part that is neither and what is expected.
    """
    return tuple([_network(part) for part in text.replace(",", " ").split()])


def forwarded(address: bytes, entries: bytes, trusted: "Networks") -> bytes:
    """The address of who asks, given REMOTE_ADDR, the value of X-Forwarded-For, and whom to believe."""
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
    """The length of its addresses in bytes, the bits in which they differ, and the others' value."""
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
    """Without the brackets and the port that an address may have; anything else is no address then either."""
    host, _, port = entry.rpartition(":")
    if not port.isdecimal() or (":" in host and host[0] != "["):
        host = entry
    return host[1:-1] if host[:1] == "[" and host[-1] == "]" and ":" in host else host


def _packed(text: str) -> "bytes | None":
    """4 or 16 bytes, a wrapped IPv4 address being 4; None if it is no address."""
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
