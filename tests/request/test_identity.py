"""Names made from values: the rules as a table, and addresses compared with the standard library's."""

from __future__ import annotations

import hashlib
import ipaddress
import sys
from typing import Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.store import is_app
from limiter.request.digest import sha256
from limiter.request.identity import forwarded, identify, networks

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def _hash(value: bytes) -> str:
    return "sha256-" + hashlib.sha256(value).hexdigest()[:56]


HASHED = [b"a" * 65, b"a b", b"acme\n", b"../acme", b"\xff\x00", b"Bearer x", b"1:2", b":"]
HASHED += [b"sha256-", b"sha256-x", _hash(b"a b").encode()]
HASHED += [b"fe80::1%eth0", b"[2001:db8::1]", b"2001:db8::1\x00", b"2001:db8::/64"]


@pytest.mark.parametrize(
    ("value", "app_id"),
    [
        (b" \t ", None),
        (b"\t Acme ", "Acme"),
        (b"a" * 64, "a" * 64),
        (b"SHA256-x", "SHA256-x"),
        (b"192.0.2.1", "192.0.2.1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"::FFFF:c000:201", "192.0.2.1"),
        (b"::192.0.2.1", _hash(b"::/64")),
        (b" 2001:DB8::1 ", _hash(b"2001:db8::/64")),
        (b"2001:db8::192.0.2.1", _hash(b"2001:db8::/64")),
        (b"2001:db8:0:1::1", _hash(b"2001:db8:0:1::/64")),
        *[(value, _hash(value)) for value in HASHED],
    ],
)
def test_a_value_is_stored_as_it_is_or_by_its_network_or_hashed(
    value: bytes, app_id: str | None
) -> None:
    assert identify(value) == app_id


@given(st.binary())
def test_every_value_has_a_name_fit_for_the_store(value: bytes) -> None:
    app_id = identify(value)
    bare = value.strip(b" \t")
    if app_id is None:
        assert not bare
    else:
        assert is_app(app_id)
        assert app_id in (bare.decode("latin-1"), _hash(bare)) or b":" in value
        # Nobody gets the name of another by sending it.
        assert (identify(app_id.encode()) == app_id) is not app_id.startswith("sha256-")


def test_an_interpreter_without_a_digest_of_its_own_uses_hashlib(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, name, None)
    assert sha256(b"acme") == hashlib.sha256(b"acme").hexdigest()


@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_ipv6_addresses_share_a_name_if_they_share_64_bits(
    one: ipaddress.IPv6Address, other: ipaddress.IPv6Address
) -> None:
    """This holds in any spelling.  An address that wraps an IPv4 address has the IPv4 address's name."""
    near = ipaddress.IPv6Address(int(one) >> 64 << 64 | int(other) & (1 << 64) - 1)
    for second in (other, near):
        spellings = {identify(text.encode()) for text in (str(one), one.exploded, one.exploded.upper())}
        assert len(spellings) == 1
        assert (identify(str(second).encode()) in spellings) is (_group(one) == _group(second))


def _group(address: Address) -> object:
    plain = _plain(address)
    return plain if plain.version == 4 else ipaddress.ip_network((int(plain) >> 64 << 64, 64))


def _plain(address: Address) -> Address:
    """Return the IPv4 address that it is or wraps; otherwise the address itself."""
    return (address.ipv4_mapped if address.version == 6 else None) or address


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_its_own_name_wrapped_or_not(address: ipaddress.IPv4Address) -> None:
    assert identify(str(address).encode()) == str(address)
    assert identify(f"::ffff:{address}".encode()) == str(address)


addresses = (
    st.ip_addresses()
    | st.ip_addresses(v=4, network="10.0.0.0/14")
    | st.ip_addresses(v=6, network="2001:db8::/126")
    | st.ip_addresses(v=6, network="::ffff:10.0.0.0/110")
)


def _network(address: Address, drop: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the network of the address that leaves ``drop`` bits open, at most all of them."""
    prefix = max(address.max_prefixlen - drop, 0)
    return ipaddress.ip_network(f"{address}/{prefix}", strict=False)


def _is_in(address: Address, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """Ask the standard library; a wrapped IPv4 address or network counts as the IPv4 one."""
    wrapped = getattr(network.network_address, "ipv4_mapped", None)
    if wrapped and network.prefixlen >= 96:
        network = ipaddress.ip_network((str(wrapped), network.prefixlen - 96))
    return _plain(address) in network


@given(st.builds(_network, addresses, st.integers(0, 128)), addresses)
def test_a_proxy_is_trusted_if_a_network_has_it(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, address: Address
) -> None:
    asked = forwarded(str(address).encode(), b"203.0.113.9", networks(str(network)))
    assert (asked == b"203.0.113.9") is (_is_in(address, network) or str(address) == "203.0.113.9")


@pytest.mark.parametrize("text", [" , ,, ", "10.0.0.0/8, ::1", ",10.0.0.0/8,::1 ", "10.0.0.0/8\t\n::1"])
def test_proxies_stand_between_commas_and_blanks(text: str) -> None:
    parts = [networks(part) for part in ("10.0.0.0/8", "::1") if part in text]
    assert list(networks(text)) == [network for (network,) in parts]


BITS = ["10.0.0.1/8", "2001:db8::1/32", "::ffff:0.0.0.0/90", "192.0.2.7/0"]
PREFIXES = ["/33", "/", "/-1", "/8/8", "/255.0.0.0", "/\u0668", "/" + "0" * 9999 + "8"]
NO_ADDRESSES = ["proxy.example", "10.0.0", "10.0.0.0.0/8", "10.0.0.01", "10.0.0.0;", "10.0.0.\udcff"]
NO_ADDRESSES += ["*", "/8", "[::1]", "fe80::1%eth0"]
BAD_PROXIES = [(part, "a network, but it has bits set beyond the first") for part in BITS]
BAD_PROXIES += [("2001:db8::/129", "a prefix of 0 to 128 bits")]
BAD_PROXIES += [(f"10.0.0.0{prefix}", "a prefix of 0 to 32 bits") for prefix in PREFIXES]
BAD_PROXIES += [(part, "an address, or a network such as ") for part in NO_ADDRESSES]


@pytest.mark.parametrize(("part", "expected"), BAD_PROXIES)
def test_a_bad_proxy_is_a_value_error(part: str, expected: str) -> None:
    """The error names only the bad part and what is expected, in one line."""
    with pytest.raises(ValueError, match=r"^trusted proxy '") as error:
        networks(f"192.0.2.7, {part} ::1")
    assert str(error.value).startswith(f"trusted proxy {part!r:.200}: expected {expected}")
    assert "\n" not in str(error.value)


TRUSTED = "10.0.0.0/8 2001:db8::/32"
ENTRIES = ["198.51.100.7", " \t198.51.100.7\t ", "203.0.113.9, 198.51.100.7", "unknown, 198.51.100.7"]
ENTRIES += ["203.0.113.9,198.51.100.7,10.0.0.3,10.0.0.2", "198.51.100.7, ::ffff:10.0.0.2"]
ENTRIES += ["198.51.100.7:4711", "198.51.100.7:4711, 10.0.0.2:80", "198.51.100.7, [2001:db8::1]:80"]
ENTRIES += ["198.51.100.7," + "10.0.0.3," * 62 + "10.0.0.2"]
NO_ENTRIES = ["", "198.51.100.7, unknown", "198.51.100.7,", "198.51.100.7:", "198.51.100.7:http"]
NO_ENTRIES += ["198.51.100.7:\xb2", "[198.51.100.7]", "[2001:db9::1", "[2001:db9::ab", "2001:db9::1]"]
NO_ENTRIES += ["[2001:db9::1]:", "[[2001:db9::1]]", "[2001:db9::1]80", "[]", "[", ":", ":80"]
NO_ENTRIES += ["fe80::1%eth0", '"198.51.100.7"', "for=198.51.100.7", "198.51.100.7\0", "\xff"]


@pytest.mark.parametrize(
    ("address", "entries", "client"),
    [
        ("192.0.2.1", "10.0.0.2", "192.0.2.1"),
        ("10.0.0.1", "10.0.0.3, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.7, _hidden, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.7,, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "[2001:db9::1]:4711", "2001:db9::1"),
        ("10.0.0.1", "[2001:db9::1]", "2001:db9::1"),
        ("10.0.0.1", "2001:db9::1", "2001:db9::1"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7," * 9 + "10.0.0.3," * 63 + "10.0.0.2", "10.0.0.3"),
        ("unix:/run/socket", "198.51.100.7", "unix:/run/socket"),
        ("", "198.51.100.7", ""),
        ("\xff", "198.51.100.7", "\xff"),
        *[("10.0.0.1", entries, "198.51.100.7") for entries in ENTRIES],
        *[("10.0.0.1", entries, "10.0.0.1") for entries in NO_ENTRIES],
    ],
)
def test_forwarded_addresses_are_read_from_the_right_as_far_as_trusted_proxies_wrote_them(
    address: str, entries: str, client: str
) -> None:
    found = forwarded(address.encode("latin-1"), entries.encode("latin-1"), networks(TRUSTED))
    assert found == client.encode("latin-1")


@given(
    st.text("0123456789abcdef:.[], ", max_size=40),
    st.ip_addresses().filter(lambda address: not _is_in(address, ipaddress.ip_network("10.0.0.0/8"))),
)
def test_nothing_that_a_client_wrote_itself_hides_its_address(written: str, client: Address) -> None:
    """The client's proxy adds the address to the right of it."""
    entries = f"{written}, {client}, 10.0.0.2".encode()
    assert forwarded(b"10.0.0.1", entries, networks("10.0.0.0/8")) == str(client).encode()
