"""The gate of a long-running process: what it keeps between requests, and what it looks up at each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limiter import Limiter
from limiter.report.problems import describe
from limiter.request.default_store import VARIABLES
from limiter.request.gates import Gates
from limiter.request.identity import identify
from limiter.request.long_running import EXEMPT, LongRunningGate
from limiter.request.register import put
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS, UNAUTHORIZED
from limiter.request.rules import parse
from limiter.request.settings import REQUEST

LONG = "1/3000 days fixed"
"""A limit whose denial memory is certain of at any time."""


pytestmark = pytest.mark.usefixtures("only_a_timeout")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets a line for each call of the breaker."""
    calls: list[str] = []

    class Counting:
        def __init__(self, timeout: float) -> None:
            self.timeout = timeout

        def call(self, function: Callable[..., Any], *arguments: object) -> Any:
            calls.append(f"within {self.timeout:g} s")
            return function(*arguments)

    monkeypatch.setattr("limiter.request.store_access.Breaker", Counting)
    monkeypatch.setattr("limiter.request.store_access.LOCAL", ())
    return calls


def gate_of(root: str, limiter: Limiter | None = None, key: Any = None, **more: str) -> LongRunningGate:
    settings = {"ROOT": root, "TIMEOUT": "60", **more}
    environ = {f"LIMITER_{name}".encode(): it.encode() for name, it in settings.items()}
    return LongRunningGate(environ, limiter, key)


def statuses(gate: LongRunningGate, number: int, app_id: str | None = "acme") -> list[str]:
    """Return the statuses of so many requests.  None may log anything."""
    log: list[object] = []
    got = [gate.verdict(lambda: app_id, log.append)[0] for _ in range(number)]
    assert not log
    return got


def test_a_denial_from_memory_does_not_reach_the_breaker(root: str, called: list[str]) -> None:
    gate = gate_of(root, LIMIT=LONG, TIMEOUT="1.5")
    assert gate.recall("acme") is None
    assert statuses(gate, 2) == [OK, TOO_MANY_REQUESTS]
    assert called == 2 * ["within 1.5 s"]
    assert statuses(gate, 50) == 50 * [TOO_MANY_REQUESTS]
    recalled = gate.recall("acme")
    assert recalled is not None
    assert recalled[0] == TOO_MANY_REQUESTS
    assert len(called) == 2


def test_with_a_register_every_request_reaches_the_breaker(
    root: str, apps: str, called: list[str]
) -> None:
    """Only the register shows a changed limit."""
    put(apps, "acme", LONG)
    gate = gate_of(root, APPS=apps, LIMIT=LONG)
    assert statuses(gate, 5) == [OK, *4 * [TOO_MANY_REQUESTS]]
    assert gate.recall("acme") is None
    assert len(called) == 5


def test_a_changed_entry_of_the_register_holds_at_the_next_request(root: str, apps: str) -> None:
    gate = gate_of(root, APPS=apps, LIMIT="1/day")
    assert statuses(gate, 1) == [UNAUTHORIZED]
    for limits, expected in [
        ("1/day", [OK, TOO_MANY_REQUESTS, TOO_MANY_REQUESTS]),
        ("2/day", [OK, OK, TOO_MANY_REQUESTS]),
        ("unlimited", 5 * [OK]),
        ("0/second", [TOO_MANY_REQUESTS]),
    ]:
        put(apps, "acme", limits)
        assert statuses(gate, len(expected)) == expected


def test_a_register_may_change_without_end(
    root: str, apps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter.request.long_running._LIMITERS_MOST", 5)
    gate = gate_of(root, APPS=apps)
    for quota in range(1, 30):
        put(apps, "acme", f"{quota}/day")
        assert statuses(gate, 1) == [OK]
    assert len(gate._limiters) <= 5


def test_a_given_limiter_decides_alone(root: str) -> None:
    limiter = Limiter(root, "1/day")
    gate = gate_of("/nowhere", limiter, LIMIT="nonsense", APPS="/nowhere/either")
    assert statuses(gate, 2) == [OK, TOO_MANY_REQUESTS]
    assert limiter.peek("acme").remaining == 0


@pytest.mark.parametrize("key", [lambda _: "sk-live-1", "header:X-Api-Key", "api_key"])
def test_an_app_id_that_a_given_key_finds_is_masked_if_it_may_be_a_secret(root: str, key: Any) -> None:
    log: list[object] = []
    gate = gate_of(root, key=key, MODE="shadow", LIMIT="0/second")
    assert gate.verdict(lambda: "sk-live-1", log.append) == (OK, None)
    assert log == ["shadow: *** would have got 429 Too Many Requests"]


@pytest.mark.parametrize(("on_error", "status"), [("deny", INTERNAL_SERVER_ERROR), ("admit", OK)])
def test_every_failed_request_is_logged(root: str, on_error: str, status: str) -> None:
    log: list[Exception | str] = []
    gate = gate_of(f"{root}/missing", ON_ERROR=on_error)
    assert [gate.verdict(lambda: "acme", log.append) for _ in range(2)] == 2 * [(status, None)]
    assert [describe(it).split(":")[0] for it in log if isinstance(it, Exception)] == 2 * ["StoreError"]


# The default store


def test_a_default_store_that_was_removed_is_made_again_elsewhere_if_need_be(place: Path) -> None:
    """The log gets a note when it is made in a directory for temporary files."""
    log: list[object] = []
    state, temporary = place / "state", place / "tmp"
    temporary.mkdir()
    environ: dict[str, str | Path] = {
        "XDG_STATE_HOME": state,
        "HOME": place,
        "TMPDIR": temporary,
        "LIMITER_LIMIT": "1/day",
    }
    gate = LongRunningGate({name.encode(): os.fsencode(it) for name, it in environ.items()})

    def answer(app_id: str) -> str:
        return gate.verdict(lambda: app_id, log.append)[0]

    assert answer("acme") == OK
    shutil.rmtree(state)
    assert [answer("acme"), answer("acme")] == [OK, TOO_MANY_REQUESTS]
    assert (os.listdir(state), log) == (["access-limiter"], [])
    shutil.rmtree(state)
    state.symlink_to("nowhere")
    assert [answer("emca"), answer("emca")] == [OK, TOO_MANY_REQUESTS]
    (store,) = temporary.iterdir()
    assert log == [
        f"The store is {store}, where cleaners of temporary files may remove it (set LIMITER_ROOT)"
    ]


def test_a_default_store_that_cannot_be_made_again_is_an_error(place: Path) -> None:
    log: list[object] = []
    gate = LongRunningGate({b"TMPDIR": os.fsencode(place)})
    assert gate.verdict(lambda: "acme", log.append)[0] == OK
    (store,) = place.iterdir()
    shutil.rmtree(store)
    store.symlink_to("nowhere")
    assert gate.verdict(lambda: "acme", log.append)[0] == INTERNAL_SERVER_ERROR
    assert "it is not trusted" in str(log[-1])


def test_a_store_of_the_settings_is_never_made(root: str) -> None:
    gate = gate_of(root)
    assert statuses(gate, 1) == [OK]
    shutil.rmtree(root)
    try:
        log: list[object] = []
        assert gate.verdict(lambda: "acme", log.append)[0] == INTERNAL_SERVER_ERROR
        assert "The store does not exist" in str(log)
    finally:
        os.mkdir(root)


# A gate for each set of settings


def test_a_gate_is_kept_as_long_as_the_settings_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gates = Gates(None, None)
    first = gates.choose({})
    assert gates.choose({"PATH_INFO": "/"}) is first
    monkeypatch.setenv("LIMITER_LIMIT", "3/second")
    assert gates.choose({}) is not first
    assert gates.choose({"LIMITER_LIMIT": "4/second"}) is not gates.choose({})
    monkeypatch.delenv("LIMITER_LIMIT")
    assert gates.choose({}) is first


@pytest.mark.parametrize("name", [*REQUEST, *VARIABLES])
def test_every_setting_chooses_a_gate(name: str, place: Path) -> None:
    (place / "rules").write_text("/ * exempt")
    values = {"KEY": "id", "MODE": "off", "NODES": "7", "ON_ERROR": "admit", "TIMEOUT": "7"}
    values |= {"RULES": f"{place}/rules", "IPV6_PREFIX": "7"}
    values |= {"HEADERS": "none", "PROBLEM": "1", "JITTER": "7"}
    gates = Gates(None, None)
    assert gates.choose({name: values.get(name[8:], "/7")}) is not gates.choose({})


def test_a_variable_of_the_request_hides_that_of_the_process(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_ROOT", root)
    monkeypatch.setenv("LIMITER_MODE", "off")
    gates = Gates(None, None)
    assert statuses(gates.choose({"LIMITER_MODE": ""}), 1, None) == [UNAUTHORIZED]
    assert statuses(gates.choose({}), 1, None) == [OK]


def test_the_variables_of_wsgi_are_bytes_as_latin_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of the process is not."""
    store = tmp_path / "k\u00fchl"
    store.mkdir()
    gates = Gates(None, None)
    given = os.fsencode(store)
    assert statuses(gates.choose({"LIMITER_ROOT": given.decode("latin-1")}), 1) == [OK]
    monkeypatch.setitem(os.environb, b"LIMITER_ROOT", given)
    assert statuses(gates.choose({}), 1, "other") == [OK]
    assert {"acme@10-per-1s", "other@10-per-1s"} < {*os.listdir(store)}


def test_settings_may_change_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limiter.request.gates._GATES_MOST", 5)
    gates = Gates(None, None)
    for number in range(30):
        gates.choose({"LIMITER_LIMIT": f"{number}/second"})
    assert len(gates._gates) <= 5


@pytest.mark.parametrize("name", ["MODE", "KEY", "TRUSTED_PROXIES"])
def test_a_mistake_raises_at_each_request_until_it_is_corrected(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LIMITER_KEY", "env:REMOTE_ADDR")
    gates = Gates(None, None)
    for _ in range(2):
        with pytest.raises(ValueError, match="expected"):
            gates.choose({f"LIMITER_{name}": "a mistake/"})
    gates.choose({})


# A function that returns who asks


@pytest.mark.parametrize(
    ("returned", "app_id"), [("acme", "acme"), (None, None), ("", None), ("192.0.2.1", "192.0.2.1")]
)
def test_a_function_can_return_the_app_id(root: str, returned: str | None, app_id: str | None) -> None:
    gate = gate_of(root, key={"user": returned}.get)
    assert gate.find("user", lambda _: None, b"app_id=other") == app_id


@pytest.mark.parametrize("text", ["a b", "/", "..", "\u00e4", "\udce4", chr(0xD800), "\0", 1000 * "a"])
def test_text_that_is_no_app_id_is_hashed(root: str, text: str) -> None:
    found = gate_of(root, key=lambda _: text).find(None, lambda _: None, b"")
    assert found is not None
    assert found.startswith("sha256-")


def test_an_address_that_a_function_returns_counts_with_its_network(root: str) -> None:
    for prefix, network in (("64", b"2001:db8:0:1::/64"), ("48", b"2001:db8::/48")):
        gate = gate_of(root, key=lambda _: "2001:db8:0:1::1", IPV6_PREFIX=prefix)
        assert gate.find(None, lambda _: None, b"") == identify(network)


def test_the_reason_of_a_401_is_that_of_the_key(root: str) -> None:
    asked = (lambda _: None, b"x=1")
    assert gate_of(root).why(*asked) == "app_id is missing"
    assert gate_of(root, key="header:X-Id").why(*asked) == "X-Id is missing or empty"
    assert gate_of(root, key=lambda _: None).why(*asked).startswith("the key function returned nothing")


# Rules


def rules_gate(root: str, text: str, kind: type[LongRunningGate] = LongRunningGate) -> LongRunningGate:
    environ = {b"LIMITER_ROOT": root.encode(), b"LIMITER_TIMEOUT": b"60"}
    return kind(environ, rules=parse(text))


def test_a_rule_has_a_gate_that_is_kept_and_shares_its_limiters(root: str) -> None:
    gate = rules_gate(root, "/a * 1/day\n/b * 1/day\n/c * c=1/day")
    log: list[object] = []
    first = gate.meet("/a", "GET", log.append)
    assert first is gate.meet("/a/x", "PUT", log.append)
    assert gate.meet("/x", "GET", log.append) is gate
    assert statuses(first, 2) == [OK, TOO_MANY_REQUESTS]
    assert statuses(gate.meet("/b", "GET", log.append), 1) == [TOO_MANY_REQUESTS]
    assert statuses(gate.meet("/c", "GET", log.append), 1) == [OK]
    assert len(gate._limiters) == 2
    assert log == []


def test_a_rule_that_a_door_cannot_follow_is_an_error_for_its_requests_alone(root: str) -> None:
    class Blind(LongRunningGate):
        sees_status = False

    gate = rules_gate(root, "/a * 1/day count=401\n/b * 1/day", Blind)
    log: list[object] = []
    failed = gate.meet("/a", "GET", log.append)
    assert failed.verdict(lambda: "acme", log.append) == (INTERNAL_SERVER_ERROR, None)
    assert ["count= needs a door that sees" in str(it) for it in log] == [True]
    other = gate.meet("/b", "GET", log.append)
    assert isinstance(other, Blind)
    assert statuses(other, 1) == [OK]


def test_a_given_limiter_lends_its_store_to_the_rules(root: str) -> None:
    """The register of the settings stays ignored."""
    environ = {b"LIMITER_ROOT": b"/nowhere", b"LIMITER_APPS": b"/nowhere", b"LIMITER_TIMEOUT": b"60"}
    rules = parse("/a * 1/day\n/b * register\n/c * exempt")
    gate = LongRunningGate(environ, Limiter(root, "2/day"), None, rules)
    assert statuses(gate.meet("/a", "GET", print), 2) == [OK, TOO_MANY_REQUESTS]
    assert statuses(gate.meet("/b", "GET", print), 3) == [OK, OK, TOO_MANY_REQUESTS]
    assert statuses(gate.meet("/c", "GET", print), 3, None) == [OK, OK, OK]


def test_a_given_limiter_ignores_the_file_of_rules(root: str) -> None:
    gate = LongRunningGate({b"LIMITER_RULES": b"/nowhere"}, Limiter(root, "2/day"))
    assert not gate.has_rules


def test_a_key_of_a_rule_replaces_a_function(root: str) -> None:
    environ = {b"LIMITER_ROOT": root.encode()}
    gate = LongRunningGate(environ, None, lambda _: "ann", parse("/a * 1/day key=id"))
    asked = (None, lambda _: None, b"id=bob")
    assert gate.find(*asked) == "ann"
    assert gate.meet("/a", "GET", print).find(*asked) == "bob"


def test_whom_a_function_exempts_is_not_counted(root: str) -> None:
    gate = gate_of(root, key=lambda _: EXEMPT, LIMIT="0/day")
    found = gate.find(None, lambda _: None, b"")
    assert found is EXEMPT
    assert gate.recall(found) == (OK, None)
    assert statuses(gate, 3, found) == [OK, OK, OK]
    assert os.listdir(root) == []


def test_a_client_who_is_named_so_is_not_exempt(root: str) -> None:
    gate = gate_of(root, key=lambda _: "EXEMPT", LIMIT="0/day")
    assert statuses(gate, 1, gate.find(None, lambda _: None, b"")) == [TOO_MANY_REQUESTS]


def test_bad_rules_raise_at_once() -> None:
    with pytest.raises(ValueError, match=r"^rules:2:5: limit 'x': expected"):
        Gates(None, None, ["/ * exempt", "/ * x"])
