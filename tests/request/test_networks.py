"""Networks in the register: names of entries, which one applies, and what a register without them costs."""

from __future__ import annotations

import errno
import ipaddress
import os
import posix
from pathlib import Path
from typing import Union
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.store import StoreError, is_app
from limiter.request.key import Key
from limiter.request.networks import entry_name, is_network, shown
from limiter.request.register import DEFAULT, entries, is_listed, look_up, put, remove
from tests.places import temporary

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


@pytest.fixture
def register(tmp_path: Path) -> str:
    return str(tmp_path)


def client(address: Address | str) -> str:
    """Return the app_id of a client with this address."""
    app_id = Key("env:REMOTE_ADDR").find({b"REMOTE_ADDR": str(address).encode()}.get)
    assert app_id is not None
    return app_id


def put_network(register: str, text: str, limits: str) -> None:
    name = entry_name(text)
    assert name is not None
    put(register, name, limits)


def limits_of(register: str, app: str) -> str | None:
    entry = look_up(register, app)
    return None if entry is None else entry[1]


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("10.0.0.0/8", "10.0.0.0@8"),
        ("203.0.113.7/32", "203.0.113.7@32"),
        ("0.0.0.0/0", "0.0.0.0@0"),
        ("2001:DB8::/32", "2001_db8__@32"),
        ("::/0", "__@0"),
        ("::ffff:10.0.0.0/104", "10.0.0.0@8"),
        ("64:ff9b::10.0.0.0/104", "10.0.0.0@8"),
        *[
            (text, None)
            for text in ("10.0.0.0", "2001:db8::1", "acme", "a/8", "/8", "", "acme/10.0.0.0/8")
        ],
    ],
)
def test_a_network_has_one_name(text: str, name: str | None) -> None:
    assert entry_name(text) == name


networks = st.builds(
    lambda address, drop: ipaddress.ip_network((int(address) >> drop << drop, 128 - drop)),
    st.ip_addresses(v=6, network="2000::/3"),
    st.integers(0, 125),
) | st.builds(
    lambda address, drop: ipaddress.ip_network(f"{address}/{32 - drop}", strict=False),
    st.ip_addresses(v=4),
    st.integers(0, 32),
)


@given(networks)
def test_a_name_is_a_safe_file_name_and_no_app_id(network: Network) -> None:
    name = entry_name(str(network))
    assert name is not None
    assert not set(name) - set("0123456789abcdef._@")
    assert name[0] not in ".-"
    assert len(name) <= 64
    assert not is_app(name)
    assert is_network(name)
    assert shown(name) == str(network)


@pytest.mark.parametrize(
    "name",
    ["acme", DEFAULT, ".new-1", "10.0.0.0", "10.0.0.1@8", "10.0.0.0@08", "10.0.0.0@33", "@8", "a@8"],
)
def test_another_name_is_no_network(name: str) -> None:
    assert not is_network(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3/8", r"it has bits set beyond the first 8 \(write 10.0.0.0/8\)"),
        ("2001:db8::1/32", r"it has bits set beyond the first 32 \(write 2001:db8::/32\)"),
        ("10.0.0.0/33", "a prefix of 0 to 32 bits"),
        ("10.0.0.0/", "a prefix of 0 to 32 bits"),
        ("10.0.0.0/8/8", "a prefix of 0 to 32 bits"),
        ("2001:db8::/129", "a prefix of 0 to 128 bits"),
    ],
)
def test_a_network_with_a_mistake_is_an_error(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^network '{text}': expected .*{expected}"):
        entry_name(text)


# Which entry applies


def test_the_longest_prefix_applies_then_the_default(register: str) -> None:
    put(register, DEFAULT, "1/second")
    put_network(register, "10.0.0.0/8", "8/second")
    put_network(register, "10.1.0.0/16", "16/second")
    put_network(register, "2001:db8::/32", "32/second")
    put_network(register, "2001:db8:1::/48", "0/second")
    put(register, "10.1.0.7", "7/second")
    for address, limits in [
        ("10.1.0.7", "7/second"),
        ("10.1.0.8", "16/second"),
        ("10.2.0.0", "8/second"),
        ("::ffff:10.2.0.0", "8/second"),
        ("11.0.0.0", "1/second"),
        ("2001:db8:1:2::3", "0/second"),
        ("2001:db8:2::3", "32/second"),
        ("2001:db9::", "1/second"),
    ]:
        assert limits_of(register, client(address)) == limits
    for app in ("acme", "10.1.0.8"):  # an app_id that is not the client's address
        assert look_up(register, app) == (f"{register}/.default", "1/second")
    assert look_up(register, client("10.1.0.8")) == (f"{register}/10.1.0.0@16", "16/second")
    assert look_up(register, DEFAULT) == (f"{register}/.default", "1/second")


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0, 1, 5, 24, 27, 30, 32])), max_size=6),
    st.integers(0, 15),
    st.booleans(),
)
def test_the_choice_is_that_of_the_standard_library(
    chosen: list[tuple[int, int]], address: int, has_default: bool
) -> None:
    base = int(ipaddress.ip_address("203.0.113.0"))
    known = [ipaddress.ip_network((base + at, bits), strict=False) for at, bits in chosen]
    it = ipaddress.ip_address(base + address)
    with temporary("/dev/shm") as path:
        if has_default:
            put(str(path), DEFAULT, "1/day")
        for network in known:
            put_network(str(path), str(network), f"{network.prefixlen}/second")
        fits = [network.prefixlen for network in known if it in network]
        expected = f"{max(fits)}/second" if fits else ("1/day" if has_default else None)
        assert limits_of(str(path), client(it)) == expected
        for network in set(known):
            assert remove(str(path), str(entry_name(str(network))))
        assert limits_of(str(path), client(it)) == ("1/day" if has_default else None)
        assert os.listdir(path) == ([DEFAULT] if has_default else [])
        assert entries(str(path)) == ([(DEFAULT, "1/day")] if has_default else [])


def test_without_a_default_other_addresses_and_app_ids_are_unknown(register: str) -> None:
    put_network(register, "10.0.0.0/8", "unlimited")
    assert limits_of(register, client("10.9.9.9")) == "unlimited"
    assert look_up(register, client("11.0.0.0")) is None
    assert look_up(register, "acme") is None
    assert look_up(register, DEFAULT) is None


def test_the_default_can_be_set_changed_and_removed_beside_networks(register: str) -> None:
    put_network(register, "10.0.0.0/8", "8/second")
    for limits in ("1/second", "2/second"):
        put(register, DEFAULT, limits)
        assert limits_of(register, client("10.0.0.1")) == "8/second"
        assert limits_of(register, "acme") == limits
    assert remove(register, DEFAULT)
    assert not remove(register, DEFAULT)
    assert limits_of(register, "acme") is None
    assert limits_of(register, client("10.0.0.1")) == "8/second"
    assert remove(register, "10.0.0.0@8")
    assert not remove(register, "10.0.0.0@8")
    assert os.listdir(register) == []


def test_entries_show_networks_after_app_ids(register: str) -> None:
    put(register, DEFAULT, "1/second")
    put(register, "acme", "2/second")
    put_network(register, "2001:db8::/32", "0/second")
    put_network(register, "10.0.0.0/8", "unlimited")
    assert entries(register) == [
        ("acme", "2/second"),
        ("10.0.0.0/8", "unlimited"),
        ("2001:db8::/32", "0/second"),
        (DEFAULT, "1/second"),
    ]


def test_networks_that_others_add_meanwhile_count(
    register: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another administrator adds one after this one has listed them."""
    listdir = posix.listdir
    others = ["10.0.0.0@24", "10.0.0.0@16"]

    def list_and_add(path: str) -> list[str]:
        names = listdir(path)
        if others:
            os.symlink("0/second", f"{register}/{others.pop()}")
        return names

    monkeypatch.setattr(posix, "listdir", list_and_add)
    put_network(register, "10.0.0.0/8", "8/second")
    assert not others
    for address in ("10.0.0.9", "10.0.9.9"):
        assert limits_of(register, client(address)) == "0/second"


def test_a_default_that_was_changed_by_hand_is_noticed_and_mended(register: str) -> None:
    put_network(register, "10.0.0.0/8", "0/second")
    assert is_listed(register)
    os.unlink(f"{register}/{DEFAULT}")
    os.symlink("1/second", f"{register}/{DEFAULT}")
    assert not is_listed(register)
    put(register, DEFAULT, "1/second")
    assert is_listed(register)
    assert limits_of(register, client("10.0.0.1")) == "0/second"


@pytest.mark.parametrize("text", ["1/second @", "1/second @x", "@8,", "@-1", "@" + "9" * 99, "@\u0668"])
def test_a_list_with_a_mistake_is_an_error_that_names_it(register: str, text: str) -> None:
    os.symlink(text, f"{register}/{DEFAULT}")
    with pytest.raises(ValueError, match=r"^/.*/\.default: @'.*': expected the prefix of a network"):
        look_up(register, client("10.0.0.1"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EINVAL])
@pytest.mark.parametrize("at", range(4))
def test_a_failure_in_any_look_is_an_error_and_never_another_entry(
    register: str, at: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry of the address, the default, then two networks.  ESTALE may pass, so it is read again."""
    put(register, DEFAULT, "1/second")
    put_network(register, "10.0.0.0/24", "24/second")
    put_network(register, "10.1.0.0/16", "16/second")
    put_network(register, "10.0.0.0/8", "8/second")
    remove(register, "10.0.0.0@24")
    put_network(register, "11.0.0.0/24", "24/second")
    paths = [f"{register}/{it}" for it in ("10.1.0.1", DEFAULT, "10.1.0.0@24", "10.1.0.0@16")]
    readlink = posix.readlink
    seen = []

    def fail(path: str) -> str:
        seen.append(path)
        if path == paths[at]:
            raise OSError(number, os.strerror(number))
        return readlink(path)

    app = client("10.1.0.1")
    monkeypatch.setattr(posix, "readlink", fail)
    with pytest.raises(StoreError) as error:
        look_up(register, app)
    assert (error.value.errno, error.value.path) == (number, paths[at])
    assert list(dict.fromkeys(seen)) == paths[: at + 1]


# Costs


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1"])
def test_a_register_without_networks_is_read_as_before(
    register: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry of the address, then the default, and nothing else: also no module more."""
    put(register, DEFAULT, "1/second")
    app = client(address)
    readlink = Mock(side_effect=posix.readlink)
    for name in ("listdir", "stat", "lstat", "open", "scandir"):
        monkeypatch.setattr(posix, name, Mock(side_effect=AssertionError(name)))
    monkeypatch.setattr(posix, "readlink", readlink)
    assert limits_of(register, app) == "1/second"
    assert [it.args[0] for it in readlink.call_args_list] == [
        f"{register}/{app}",
        f"{register}/.default",
    ]


def test_many_networks_of_one_length_cost_one_call(
    register: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        put_network(register, f"10.0.{number}.0/24", "0/second")
    readlink = Mock(side_effect=posix.readlink)
    monkeypatch.setattr(posix, "readlink", readlink)
    assert limits_of(register, client("10.0.77.1")) == "0/second"
    assert readlink.call_count == 3
