"""Who asks, at all doors: addresses and unix sockets, networks in the register, logins, and why it is 401."""

from __future__ import annotations

import base64
import json
import os

import pytest

from limiter.request.networks import entry_name
from limiter.request.register import put
from tests.doors.doors import DOORS, Door, clients
from tests.doors.test_contract import check, check_one_line, settings_of

ADDRESS = "env:REMOTE_ADDR"
LOGIN = "header:Authorization"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhY21lIn0.c2lnbmF0dXJlIG9mIDMyIGJ5dGVzIGluIGFsbCE"


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


def statuses(door: Door, settings: dict[str, str], *addresses: str | None, **fields: str) -> list[str]:
    """Return the statuses of requests from these addresses; none may log anything."""
    sent = {name.replace("_", "-"): value for name, value in fields.items()}
    answers = [door.send(settings, "", sent, address=address) for address in addresses]
    assert [answer.log for answer in answers] == [[] for _ in addresses]
    return [answer.status for answer in answers]


# Addresses

SOCKETS = [None, "", "localhost", "unix:"]
"""What gunicorn, uvicorn and hypercorn, waitress, and nginx report of a peer on a unix socket."""


@pytest.mark.parametrize("address", SOCKETS)
@pytest.mark.parametrize("proxies", ["", "0.0.0.0/0, ::/0"])
def test_behind_a_unix_socket_the_address_is_an_error_with_a_reason(
    door: Door, store: str, address: str | None, proxies: str
) -> None:
    """Else all clients would get 401, or be one client."""
    settings = settings_of(store, KEY=ADDRESS, TRUSTED_PROXIES=proxies, ON_ERROR="admit")
    answer = door.send(settings, "", {"X-Forwarded-For": "198.51.100.7"}, address=address)
    check(door, answer, "500", {})
    check_one_line(answer, "ValueError: key 'env:REMOTE_ADDR': ", "LIMITER_TRUSTED_PROXIES=unix")
    assert os.listdir(store) == []


@pytest.mark.parametrize("address", SOCKETS)
@pytest.mark.parametrize("proxies", ["unix", "10.0.0.0/8, unix"])
def test_a_trusted_unix_socket_reports_the_address(
    door: Door, store: str, address: str | None, proxies: str
) -> None:
    settings = settings_of(store, LIMIT="1/hour", KEY=ADDRESS, TRUSTED_PROXIES=proxies)
    sent = [
        *statuses(door, settings, address, X_Forwarded_For="203.0.113.9, 198.51.100.7"),
        *statuses(door, settings, address, X_Forwarded_For="203.0.113.8, 198.51.100.7"),
        *statuses(door, settings, address, X_Forwarded_For="203.0.113.9"),
    ]
    assert sent == ["200", "429", "200"]
    assert clients(store) == ["198.51.100.7", "203.0.113.9"]
    answer = door.send(settings, "", address=address)
    check(door, answer, "500", {})
    check_one_line(answer, "ValueError: key 'env:REMOTE_ADDR': ", "let the proxy send X-Forwarded-For")


def test_no_network_peer_is_trusted_as_a_unix_socket(door: Door, store: str) -> None:
    settings = settings_of(store, LIMIT="1/hour", KEY=ADDRESS, TRUSTED_PROXIES="unix")
    assert statuses(door, settings, "192.0.2.1", X_Forwarded_For="198.51.100.7") == ["200"]
    assert clients(store) == ["192.0.2.1"]


def test_a_wrapped_ipv4_address_counts_as_it(door: Door, store: str) -> None:
    settings = settings_of(store, LIMIT="1/hour", KEY=ADDRESS)
    addresses = ["64:ff9b::192.0.2.1", "::ffff:192.0.2.1", "64:FF9B::c000:201", "64:ff9b::192.0.2.2"]
    assert statuses(door, settings, *addresses) == ["200", "429", "429", "200"]
    assert clients(store) == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("48", ["200", "429", "429"]), ("64", ["200", "200", "429"]), ("128", ["200", "200", "200"])],
)
def test_the_prefix_of_ipv6_is_a_setting(
    door: Door, store: str, prefix: str, expected: list[str]
) -> None:
    settings = settings_of(store, LIMIT="1/hour", KEY=ADDRESS, IPV6_PREFIX=prefix)
    addresses = ["2001:db8::1", "2001:db8:0:1::1", "2001:db8::2"]
    assert statuses(door, settings, *addresses) == expected


@pytest.mark.parametrize("text", ["0", "129", "/64", "-1", "x"])
def test_a_bad_prefix_is_a_mistake(door: Door, store: str, text: str) -> None:
    answer = door.send(settings_of(store, IPV6_PREFIX=text))
    check(door, answer, "500", {})
    check_one_line(
        answer, f"ValueError: LIMITER_IPV6_PREFIX={text!r}: expected a whole number from 1 to 128"
    )


# Variables


@pytest.mark.parametrize("name", ["REMOTE_ADRR", "TENANT", "NO_SERVER_SETS_THIS"])
def test_a_variable_that_no_request_has_is_an_error_with_a_reason(
    door: Door, store: str, name: str
) -> None:
    """The map's program knows this before any request; it says so at each."""
    answer = door.send(settings_of(store, KEY=f"env:{name}", ON_ERROR="admit"))
    check(door, answer, "500", {})
    check_one_line(answer, "ValueError: ", f"env:{name}'")


def test_a_header_that_this_request_lacks_gets_401(door: Door, store: str) -> None:
    """Also by the name of its variable, which the map does not get."""
    keys = ["header:X-Api-Key", *(["env:HTTP_X_API_KEY"] if door.name != "rewritemap" else [])]
    for key in keys:
        answer = door.send(settings_of(store, KEY=key))
        check(door, answer, "401", {})
        assert answer.log == []


# Networks in the register


def test_networks_have_limits_of_their_own(door: Door, store: str, apps: str) -> None:
    """The longest prefix applies; an entry for the address itself comes before, the default after."""
    settings = settings_of(store, KEY=ADDRESS, APPS=apps)
    for name, limits in {
        ".default": "1/day",
        "10.0.0.0/8": "unlimited",
        "10.9.0.0/16": "0/second",
        "2001:db8::/32": "2/day",
        "10.9.0.9": "1/hour",
    }.items():
        put(apps, entry_name(name) or name, limits)
    for address, expected in {
        "10.0.0.1": ["200", "200"],
        "10.9.0.1": ["429"],
        "10.9.0.9": ["200", "429"],
        "192.0.2.1": ["200", "429"],
        "2001:db8::1": ["200", "200", "429"],
    }.items():
        assert statuses(door, settings, *len(expected) * [address]) == expected
    put(apps, "10.0.0.0@8", "0/second")
    assert statuses(door, settings, "10.0.0.1") == ["429"]


def test_networks_do_not_concern_an_id_that_the_client_chooses(
    door: Door, store: str, apps: str
) -> None:
    put(apps, ".default", "0/second")
    put(apps, "10.0.0.0@8", "unlimited")
    for key in ("app_id", "header:X-Api-Key"):
        settings = settings_of(store, KEY=key, APPS=apps)
        answer = door.send(settings, "app_id=10.0.0.1", {"X-Api-Key": "10.0.0.1"}, address="10.0.0.1")
        assert (answer.status, answer.log) == ("429", [])


# Logins


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.mark.parametrize(
    ("value", "spellings"),
    [
        (basic("acme:x"), [basic("acme:y"), "bASIC  YWNtZTp4"]),
        ("Bearer t/+~", ["bearer t/+~", "Bearer   t/+~", "Bearer t/+~="]),
        (f"Bearer {JWT}", [f"Bearer {JWT}=", f"BEARER {JWT}=="]),
        ("Token abc", ["token abc"]),
    ],
)
def test_spellings_of_a_login_are_one_client(
    door: Door, store: str, value: str, spellings: list[str]
) -> None:
    settings = settings_of(store, LIMIT="1/hour", KEY=LOGIN)
    sent = [statuses(door, settings, "192.0.2.1", Authorization=it)[0] for it in (value, *spellings)]
    assert sent == ["200", *len(spellings) * ["429"]]
    assert len(clients(store)) == 1


@pytest.mark.parametrize(
    "value",
    [
        *("Basic YWNtZTp4YQ", "Basic YWNtZTp4YR==", "Basic YWNtZTp4!", "Basic YWNtZQ==", "Basic"),
        *(
            "Bearer a b",
            "Bearer a!",
            "Bearer ==",
            f"Bearer {JWT[:-1]}F",
            f"Bearer {JWT[:-2]}~{JWT[-2:]}",
        ),
        'Token token="abc"',
    ],
)
def test_a_login_in_a_spelling_that_no_client_needs_gets_401(door: Door, store: str, value: str) -> None:
    answer = door.send(settings_of(store, KEY=LOGIN), "", {"Authorization": value})
    check(door, answer, "401", {})
    assert (answer.log, os.listdir(store)) == ([], [])


# Why it is 401

SECRET = "s3cr3t-0123456789"
UNKNOWN = "is not in the register, which has no .default"


@pytest.mark.parametrize(
    ("key", "query", "fields", "reason"),
    [
        ("app_id", "", {}, "app_id is missing"),
        ("app_id", f"app_id={SECRET}%00", {}, "app_id is malformed"),
        (
            *("app_id", f"app_id={SECRET}&app_id={SECRET}", {}),
            "app_id is given twice, or under another name that some applications take for it",
        ),
        ("token", f"token={SECRET}", {}, f"token {UNKNOWN}"),
        ("header:X-Api-Key", "", {}, "X-Api-Key is missing or empty"),
        (
            *("header:X-Api-Key", "", {"X-Api-Key": f"{SECRET}, {SECRET}"}),
            "X-Api-Key is given twice, or has a comma",
        ),
        ("header:X-Api-Key", "", {"X-Api-Key": SECRET}, f"X-Api-Key {UNKNOWN}"),
        (LOGIN, "", {"Authorization": f"Bearer {SECRET}!"}, "Authorization is not a token (RFC 6750)"),
        (ADDRESS, "", {}, f"REMOTE_ADDR {UNKNOWN}"),
    ],
)
def test_the_log_has_one_reason_for_a_401_if_the_level_is_warning(
    door: Door, store: str, apps: str, key: str, query: str, fields: dict[str, str], reason: str
) -> None:
    """It never has the key itself."""
    settings = settings_of(store, KEY=key, APPS=apps)
    for level in ("error", "warning"):
        answer = door.send({**settings, "LIMITER_LOG_LEVEL": level}, query, fields)
        check(door, answer, "401", {})
        if level == "error":
            assert answer.log == []
    (line,) = answer.log
    entry = json.loads(line)
    assert (entry["status"], entry["reason"]) == (401, f"Unauthorized: {reason}")
    if key != "app_id":  # an app_id in a query is no secret
        assert SECRET not in line
