"""Addresses, networks and proxies, compared with the standard library's."""

from __future__ import annotations

import ipaddress
from typing import Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.request.addresses import forwarded, network, networks
from limiter.request.identity import cut, packed, written

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _plain(address: Address) -> Address:
    """Return the IPv4 address that it is or wraps; otherwise the address itself."""
    if address.version == 6 and address in NAT64:
        return ipaddress.IPv4Address(address.packed[12:])
    return (address.ipv4_mapped if address.version == 6 else None) or address


addresses = (
    st.ip_addresses()
    | st.ip_addresses(v=4, network="10.0.0.0/14")
    | st.ip_addresses(v=6, network="2001:db8::/126")
    | st.ip_addresses(v=6, network="::ffff:10.0.0.0/110")
    | st.ip_addresses(v=6, network="64:ff9b::10.0.0.0/110")
)


def _network(address: Address, drop: int) -> Network:
    """Return the network of the address that leaves ``drop`` bits open, at most all of them."""
    prefix = max(address.max_prefixlen - drop, 0)
    return ipaddress.ip_network(f"{address}/{prefix}", strict=False)


def _is_in(address: Address, network: Network) -> bool:
    """Ask the standard library; a wrapped IPv4 address or network counts as the IPv4 one."""
    wrapped = _plain(network.network_address)
    if network.version != wrapped.version:
        network = ipaddress.ip_network((str(wrapped), network.prefixlen - 96))
    return _plain(address) in network


def _is_sound(network: Network) -> bool:
    """Whether it does not wrap IPv4 addresses beside others."""
    return network.prefixlen >= 96 or _plain(network.network_address).version == network.version


@given(st.builds(_network, addresses, st.integers(0, 128)).filter(_is_sound), addresses)
def test_a_proxy_is_trusted_if_a_network_has_it(network: Network, address: Address) -> None:
    asked = forwarded(str(address), "203.0.113.9", networks(str(network)))
    assert (asked == "203.0.113.9") is (_is_in(address, network) or str(address) == "203.0.113.9")


@pytest.mark.parametrize("text", [" , ,, ", "10.0.0.0/8, ::1", ",10.0.0.0/8,::1 ", "10.0.0.0/8\t\n::1"])
def test_proxies_stand_between_commas_and_blanks(text: str) -> None:
    parts = [networks(part) for part in ("10.0.0.0/8", "::1") if part in text]
    assert list(networks(text)) == [network for (network,) in parts]


BITS = ["10.0.0.1/8", "2001:db8::1/32", "192.0.2.7/0"]
PREFIXES = ["/33", "/", "/-1", "/8/8", "/255.0.0.0", "/\u0668", "/" + "0" * 9999 + "8"]
NO_ADDRESSES = ["proxy.example", "10.0.0", "10.0.0.0.0/8", "10.0.0.01", "10.0.0.0;", "10.0.0.\udcff"]
NO_ADDRESSES += ["*", "/8", "[::1]", "fe80::1%eth0"]
BAD_PROXIES = [(part, "a network, but it has bits set beyond the first") for part in BITS]
BAD_PROXIES += [("::ffff:0:0/90", "a prefix of 96 to 128 bits"), ("64:ff9b::/64", "a prefix of 96")]
BAD_PROXIES += [("Unix", "an address, or"), ("unix:", "an address, or"), ("unix/8", "an address, or")]
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
    assert forwarded(address, entries, networks(TRUSTED)) == client


@given(
    st.text("0123456789abcdef:.[], ", max_size=40),
    st.ip_addresses().filter(lambda address: not _is_in(address, ipaddress.ip_network("10.0.0.0/8"))),
)
def test_nothing_that_a_client_wrote_itself_hides_its_address(written: str, client: Address) -> None:
    """The client's proxy adds the address to the right of it."""
    entries = f"{written}, {client}, 10.0.0.2"
    assert forwarded("10.0.0.1", entries, networks("10.0.0.0/8, unix")) == str(client)


# Unix sockets

SOCKETS = ["", "localhost", "unix:", "unix:/run/socket"]
"""What servers report of a peer on a unix socket."""


@pytest.mark.parametrize("trusted", ["unix", "unix, 10.0.0.0/8", "10.0.0.0/8 unix"])
@pytest.mark.parametrize("address", SOCKETS)
def test_a_peer_on_a_unix_socket_is_trusted_by_name(address: str, trusted: str) -> None:
    for entries, client in [
        ("198.51.100.7", "198.51.100.7"),
        ("203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("203.0.113.9, 198.51.100.7, unix:", "198.51.100.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("", address),
        ("198.51.100.7, unknown", address),
        ("198.51.100.7, localhost", address),
    ]:
        assert forwarded(address, entries, networks(trusted)) == client


def test_a_proxy_behind_a_unix_socket_may_name_another_one() -> None:
    trusted = networks("unix, 10.0.0.0/8")
    assert forwarded("", "198.51.100.7, 10.0.0.3, unix:, 10.0.0.2", trusted) == "198.51.100.7"
    assert forwarded("", "198.51.100.7, 10.0.0.2", networks("unix")) == "10.0.0.2"


@pytest.mark.parametrize("address", [*SOCKETS, "testclient", "0.0.0.0", "::", "local"])
def test_no_other_peer_is_trusted_as_a_unix_socket(address: str) -> None:
    """Nor is one on a unix socket, if only networks are trusted, however large."""
    trusted = "0.0.0.0/32, ::/0" if address in SOCKETS else "unix"
    assert forwarded(address, "198.51.100.7", networks(trusted)) == address


# Networks


@given(st.builds(_network, addresses, st.integers(0, 128)).filter(_is_sound))
def test_a_network_is_written_in_one_spelling(of: Network) -> None:
    """A network of wrapped IPv4 addresses is the network of these."""
    plain = _plain(of.network_address)
    bits = of.prefixlen - (96 if plain.version != of.version else 0)
    expected = str(ipaddress.ip_network((str(plain), bits)))
    assert {written(network(it)) for it in (str(of), of.exploded, of.exploded.upper())} == {expected}


@given(addresses, st.integers(0, 128))
def test_the_network_of_an_address_has_it(address: Address, prefix: int) -> None:
    found = packed(str(address))
    assert found is not None
    bits = min(prefix, 8 * len(found))
    expected = ipaddress.ip_network((str(_plain(address)), bits), strict=False)
    assert written(cut(found, bits)) == str(expected)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("192.0.2.7/0", "0.0.0.0/0"),
    ],
)
def test_a_network_with_host_bits_is_an_error_that_proposes_the_right_one(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=r"it has bits set beyond the first \d+ \(write ") as error:
        network(text)
    assert str(error.value).endswith(f"(write {right})")
