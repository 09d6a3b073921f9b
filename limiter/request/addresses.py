"""The client's address: behind proxies, behind a unix socket, and in which networks it is.

docs/who-asks.md has the rules: "Addresses", "Behind a proxy".  Does no input or output.
"""

from limiter.request.identity import cut, identify, of_address, packed, written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.request.identity import Get, Network
    from limiter.request.key import Key

    Networks = tuple[Network, ...]

UNIX: "Network" = (0, 0, 0)
"""In place of a network: whatever is connected by a unix socket."""

_MOST_ENTRIES = 64
_NO_ADDRESSES = ("", "localhost")
_UNIX = "unix:"
_NO_ADDRESS = "the server is behind a unix socket, so REMOTE_ADDR is no address"
_ADVICE = (
    "LIMITER_TRUSTED_PROXIES=unix takes the address from X-Forwarded-For",
    "let the proxy send X-Forwarded-For, ending with an address",
)
"""What to do, unless that peer is trusted, and if it is."""


class AddressId(str):
    """The app_id of a client that is known by its ``address``: 4 or 16 bytes."""

    __slots__ = ("address",)

    address: bytes


def is_of_unix_socket(address: str) -> bool:
    """Whether a server reports this REMOTE_ADDR for a peer on a unix socket, which has no address.

    gunicorn, uvicorn and hypercorn report nothing, waitress ``localhost``, nginx ``unix:``.
    """
    return address in _NO_ADDRESSES or address.startswith(_UNIX)


def read_address(key: "Key", get: "Get") -> "tuple[str | None, str]":
    """The app_id of the client whose address is REMOTE_ADDR, and "", as ``limiter.request.identity.read``."""
    value = get(b"REMOTE_ADDR")
    text = value.decode("latin-1").strip(" \t") if value else ""
    if key.proxies:
        entries = get(b"HTTP_X_FORWARDED_FOR") or b""
        text = forwarded(text, entries.decode("latin-1"), key.proxies)
    address = packed(text)
    if address is None:
        if is_of_unix_socket(text):
            raise ValueError(f"key {key.text!r:.200}: {_NO_ADDRESS} ({_ADVICE[UNIX in key.proxies]})")
        return identify(text.encode("latin-1")), ""
    known = AddressId(of_address(address, key.ipv6_prefix) if ":" in text else text)
    known.address = address
    return known, ""


def networks(text: str) -> "Networks":
    """Addresses and networks between commas or spaces: ``10.0.0.0/8, 2001:db8::/32 192.0.2.7 unix``.

    Raises ValueError if a part is none, with that part and what is expected.
    """
    return tuple([_trusted(part) for part in text.replace(",", " ").split()])


def _trusted(part: str) -> "Network":
    if part == "unix":
        return UNIX
    try:
        return network(part)
    except ValueError as error:
        raise ValueError(f"trusted proxy {part!r:.200}: expected {error}") from None


def network(text: str) -> "Network":
    """A network: the bytes of an address, how many low bits may differ, and the value of the others.

    Raises ValueError with what is expected.
    """
    host, slash, digits = text.partition("/")
    address = packed(host)
    if address is None:
        raise ValueError("an address, or a network such as 10.0.0.0/8 or 2001:db8::/32")
    most = 128 if ":" in host else 32
    if slash and not (
        digits.isdecimal() and digits.isascii() and len(digits) <= 3 and int(digits) <= most
    ):
        raise ValueError(f"a prefix of 0 to {most} bits after the '/'")
    bits = most - int(digits) if slash else 0
    own = 8 * len(address)
    if bits > own:
        raise ValueError("a prefix of 96 to 128 bits, since this network wraps IPv4 addresses")
    found = cut(address, own - bits)
    if found[2] << bits != int.from_bytes(address, "big"):
        raise ValueError(
            f"a network, but it has bits set beyond the first {digits} (write {written(found)})"
        )
    return found


def forwarded(address: str, entries: str, trusted: "Networks") -> str:
    """The client's address, from REMOTE_ADDR, the value of X-Forwarded-For, and the trusted proxies."""
    peer = packed(address)
    is_trusted = UNIX in trusted if is_of_unix_socket(address) else _is_in(peer, trusted)
    for entry in reversed(entries.rsplit(",", _MOST_ENTRIES)[-_MOST_ENTRIES:]):
        if not is_trusted:
            break
        bare = _bare(entry.strip(" \t"))
        if bare == _UNIX and UNIX in trusted:
            continue  # a trusted proxy that is itself behind a unix socket
        peer = packed(bare)
        if peer is None:
            break
        address = bare
        is_trusted = _is_in(peer, trusted)
    return address


def _is_in(address: "bytes | None", trusted: "Networks") -> bool:
    if address is None:
        return False
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
