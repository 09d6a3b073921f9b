"""Names made from values: the rules as a table, and addresses compared with the standard library's."""

from __future__ import annotations

import hashlib
import ipaddress
import subprocess
import sys
from typing import Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.store import is_app
from limiter.request.identity import credentials, forwarded, identify, networks

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def _hash(value: bytes) -> str:
    return "sha256-" + hashlib.sha256(value).hexdigest()[:56]


@pytest.mark.parametrize(
    ("value", "app_id"),
    [
        (b"", None),
        (b" \t ", None),
        (b"acme", "acme"),
        (b"\t acme ", "acme"),
        (b"Acme", "Acme"),
        (b"a" * 64, "a" * 64),
        (b"a" * 65, _hash(b"a" * 65)),
        (b"a b", _hash(b"a b")),
        (b"a,b", _hash(b"a,b")),
        (b"acme\n", _hash(b"acme\n")),
        (b"../acme", _hash(b"../acme")),
        (b".acme", _hash(b".acme")),
        (b"\xff\x00", _hash(b"\xff\x00")),
        (b"Bearer x", _hash(b"Bearer x")),
        (b"sha256-", _hash(b"sha256-")),
        (b"sha256-x", _hash(b"sha256-x")),
        (_hash(b"a b").encode(), _hash(_hash(b"a b").encode())),
        (b"SHA256-x", "SHA256-x"),
        (b"sha256", "sha256"),
        (b"192.0.2.1", "192.0.2.1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"::FFFF:c000:201", "192.0.2.1"),
        (b"0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1"),
        (b"::192.0.2.1", _hash(b"::/64")),
        (b"::1", _hash(b"::/64")),
        (b" 2001:DB8::1 ", _hash(b"2001:db8::/64")),
        (b"2001:0db8:0000:0000:ffff:ffff:ffff:ffff", _hash(b"2001:db8::/64")),
        (b"2001:db8::192.0.2.1", _hash(b"2001:db8::/64")),
        (b"2001:db8:0:1::1", _hash(b"2001:db8:0:1::/64")),
        (b"fe80::1%eth0", _hash(b"fe80::1%eth0")),
        (b"[2001:db8::1]", _hash(b"[2001:db8::1]")),
        (b"2001:db8::1\x00", _hash(b"2001:db8::1\x00")),
        (b"2001:db8::/64", _hash(b"2001:db8::/64")),
        (b"1:2", _hash(b"1:2")),
        (b":", _hash(b":")),
    ],
)
def test_identify(value: bytes, app_id: str | None) -> None:
    """A value is used as it is, by its network, or hashed."""
    assert identify(value) == app_id


@given(st.binary())
def test_every_value_has_a_name_fit_for_the_store(value: bytes) -> None:
    app_id = identify(value)
    if app_id is None:
        assert not value.strip(b" \t")
    else:
        assert is_app(app_id)
        assert (
            app_id == value.strip(b" \t").decode("latin-1")
            or b":" in value
            or app_id == _hash(value.strip(b" \t"))
        )


@given(st.binary(min_size=1))
def test_nobody_gets_the_name_of_another_by_sending_it(value: bytes) -> None:
    app_id = identify(value)
    if app_id is not None and app_id.startswith("sha256-"):
        assert identify(app_id.encode()) != app_id


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


def test_an_interpreter_that_leaves_all_hashes_to_openssl_makes_the_same_name() -> None:
    script = (
        "import sys; sys.modules['_sha2'] = sys.modules['_sha256'] = None\n"
        "from limiter.request.identity import identify\n"
        "print(identify(b'a b'))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{_hash(b'a b')}\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Bearer x", b"Bearer x"),
        (b"bEARER x", b"Bearer x"),
        (b"  bearer \t  x y", b"Bearer x y"),
        (b"Bearer X", b"Bearer X"),
        (b"x", b"x"),
        (b" ", b" "),
    ],
)
def test_credentials(value: bytes, expected: bytes) -> None:
    """The scheme, and the space after it, have only one spelling."""
    assert credentials(value) == expected


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


@pytest.mark.parametrize("text", ["", " , ,, ", "\t\n"])
def test_no_proxies(text: str) -> None:
    assert networks(text) == ()


def test_proxies_stand_between_commas_and_blanks() -> None:
    parts = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "::1", "0.0.0.0/0", "::/0"]
    assert networks(", ".join(parts)) == networks(" ".join(parts)) == networks(f",{','.join(parts)} ")
    assert len(networks(" ".join(parts))) == len(parts)
    assert networks("10.0.0.0/8") == networks("::ffff:10.0.0.0/104")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("10.0.0.1/8", "a network, but it has bits set beyond the first 8"),
        ("2001:db8::1/32", "a network, but it has bits set beyond the first 32"),
        ("::ffff:0.0.0.0/90", "a network, but it has bits set beyond the first 90"),
        ("192.0.2.7/0", "a network, but it has bits set beyond the first 0"),
        ("10.0.0.0/33", "a prefix of 0 to 32 bits after the '/'"),
        ("10.0.0.0/", "a prefix of 0 to 32 bits after the '/'"),
        ("10.0.0.0/-1", "a prefix of 0 to 32 bits after the '/'"),
        ("10.0.0.0/8/8", "a prefix of 0 to 32 bits after the '/'"),
        ("10.0.0.0/255.0.0.0", "a prefix of 0 to 32 bits after the '/'"),
        ("10.0.0.0/\u0668", "a prefix of 0 to 32 bits after the '/'"),
        ("10.0.0.0/" + "0" * 9999 + "8", "a prefix of 0 to 32 bits after the '/'"),
        ("2001:db8::/129", "a prefix of 0 to 128 bits after the '/'"),
        ("proxy.example", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("10.0.0", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("10.0.0.0.0/8", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("10.0.0.01", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("*", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("/8", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("[::1]", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("fe80::1%eth0", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("10.0.0.0;", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
        ("10.0.0.\udcff", "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32"),
    ],
)
def test_a_bad_proxy_is_a_value_error(part: str, expected: str) -> None:
    """The error names only the bad part and what is expected, in one line."""
    with pytest.raises(ValueError, match=r"^trusted proxy '") as error:
        networks(f"192.0.2.7, {part} ::1")
    assert str(error.value) == f"trusted proxy {part!r:.200}: expected {expected}"


TRUSTED = "10.0.0.0/8 2001:db8::/32"


@pytest.mark.parametrize(
    ("address", "entries", "asks"),
    [
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("192.0.2.1", "10.0.0.2", "192.0.2.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", " \t198.51.100.7\t ", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9,198.51.100.7,10.0.0.3,10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.7, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7, _hidden, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.7,, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.7,", "10.0.0.1"),
        ("10.0.0.1", "unknown, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7:4711, 10.0.0.2:80", "198.51.100.7"),
        ("10.0.0.1", "[2001:db9::1]:4711", "2001:db9::1"),
        ("10.0.0.1", "[2001:db9::1]", "2001:db9::1"),
        ("10.0.0.1", "2001:db9::1", "2001:db9::1"),
        ("10.0.0.1", "198.51.100.7, [2001:db8::1]:80", "198.51.100.7"),
        ("2001:db8::5", "198.51.100.7", "198.51.100.7"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, ::ffff:10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7:", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7:http", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7:\xb2", "10.0.0.1"),
        ("10.0.0.1", "[198.51.100.7]", "10.0.0.1"),
        ("10.0.0.1", "[2001:db9::1", "10.0.0.1"),
        ("10.0.0.1", "[2001:db9::ab", "10.0.0.1"),
        ("10.0.0.1", "2001:db9::1]", "10.0.0.1"),
        ("10.0.0.1", "[2001:db9::1]:", "10.0.0.1"),
        ("10.0.0.1", "[[2001:db9::1]]", "10.0.0.1"),
        ("10.0.0.1", "[2001:db9::1]80", "10.0.0.1"),
        ("10.0.0.1", "[]", "10.0.0.1"),
        ("10.0.0.1", "[", "10.0.0.1"),
        ("10.0.0.1", ":", "10.0.0.1"),
        ("10.0.0.1", ":80", "10.0.0.1"),
        ("10.0.0.1", "fe80::1%eth0", "10.0.0.1"),
        ("10.0.0.1", '"198.51.100.7"', "10.0.0.1"),
        ("10.0.0.1", "for=198.51.100.7", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7\0", "10.0.0.1"),
        ("10.0.0.1", "\xff", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7," + "10.0.0.3," * 62 + "10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7," + "10.0.0.3," * 63 + "10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.7," * 9 + "10.0.0.3," * 63 + "10.0.0.2", "10.0.0.3"),
        ("unix:/run/socket", "198.51.100.7", "unix:/run/socket"),
        ("", "198.51.100.7", ""),
        ("\xff", "198.51.100.7", "\xff"),
    ],
)
def test_forwarded(address: str, entries: str, asks: str) -> None:
    """Entries are read from the right, only as far as trusted proxies wrote them."""
    found = forwarded(address.encode("latin-1"), entries.encode("latin-1"), networks(TRUSTED))
    assert found == asks.encode("latin-1")


@given(
    st.text("0123456789abcdef:.[], ", max_size=40),
    st.ip_addresses().filter(lambda address: not _is_in(address, ipaddress.ip_network("10.0.0.0/8"))),
)
def test_nothing_that_a_client_wrote_itself_hides_its_address(written: str, client: Address) -> None:
    """The client's proxy adds the address to the right of it."""
    entries = f"{written}, {client}, 10.0.0.2".encode()
    assert forwarded(b"10.0.0.1", entries, networks("10.0.0.0/8")) == str(client).encode()
