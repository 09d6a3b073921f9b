"""Names made from values: the rules as a table, and addresses compared with the standard library's."""

from __future__ import annotations

import hashlib
import ipaddress
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.store import is_app
from limiter.request.digest import sha256
from limiter.request.identity import identify


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
        (b"64:ff9b::192.0.2.1", "192.0.2.1"),
        (b"64:ff9b:0:0:1::192.0.2.1", _hash(b"64:ff9b::/64")),
        (b"64:ff9b:1::192.0.2.1", _hash(b"64:ff9b:1::/64")),
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


sixes = st.ip_addresses(v=6) | st.ip_addresses(v=6, network="::ffff:0:0/96")
sixes |= st.ip_addresses(v=6, network="64:ff9b::/96")


@given(sixes, st.ip_addresses(v=6), st.integers(1, 128))
def test_ipv6_addresses_share_a_name_if_they_share_a_network(
    one: ipaddress.IPv6Address, other: ipaddress.IPv6Address, prefix: int
) -> None:
    """This holds in any spelling.  An address that wraps an IPv4 address has the IPv4 address's name."""
    host = (1 << 128 - prefix) - 1
    near = ipaddress.IPv6Address(int(one) & ~host | int(other) & host)
    for second in (other, near):
        texts = (str(one), one.exploded, one.exploded.upper())
        spellings = {identify(text.encode(), prefix) for text in texts}
        assert len(spellings) == 1
        is_same = identify(str(second).encode(), prefix) in spellings
        assert is_same is (_group(one, prefix) == _group(second, prefix))


def _group(address: ipaddress.IPv6Address, prefix: int) -> object:
    wrapped = address.ipv4_mapped
    if address in ipaddress.ip_network("64:ff9b::/96"):
        wrapped = ipaddress.IPv4Address(address.packed[12:])
    return wrapped or ipaddress.ip_network((str(address), prefix), strict=False)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_its_own_name_wrapped_or_not(address: ipaddress.IPv4Address) -> None:
    """Wrapped for a socket of both families (RFC 4291), or by NAT64 (RFC 6052)."""
    for text in (f"{address}", f"::ffff:{address}", f"64:ff9b::{address}", f"64:FF9B:0::{address}"):
        assert identify(text.encode()) == str(address)
