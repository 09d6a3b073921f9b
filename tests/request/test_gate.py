"""The gate: what it keeps from one request to the next, and what it looks up at each."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limiter import Decision, Limiter, StoreError
from limiter.report.problems import describe, write_line
from limiter.request.gate import Gate, Gates, Undecided
from limiter.request.register import put
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS, UNAUTHORIZED
from limiter.request.settings import NAMES
from tests.places import new_root

TIMEOUT = "60"


@pytest.fixture
def apps() -> Iterator[str]:
    """An empty register."""
    path = new_root("/dev/shm")
    yield str(path)
    for entry in path.iterdir():
        entry.unlink()
    path.rmdir()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all settings, except for a time-out that even a busy machine does not exceed."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIMITER_TIMEOUT", TIMEOUT)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets a line for each call of the breaker."""
    calls: list[str] = []

    class Counting:
        def __init__(self, timeout: float) -> None:
            self.timeout = timeout

        def call(self, function: Callable[..., Any], *arguments: object) -> Any:
            calls.append(f"within {self.timeout:g} s")
            return function(*arguments)

    monkeypatch.setattr("limiter.request.gate.Breaker", Counting)
    return calls


def variables(root: str, **more: str) -> dict[bytes, bytes]:
    settings = {"LIMITER_ROOT": root, "LIMITER_TIMEOUT": TIMEOUT, **more}
    return {name.encode(): it.encode() for name, it in settings.items()}


def nothing(_: bytes) -> None:
    """A request without variables."""


class Door:
    """Calls a gate for an application, and keeps the log."""

    def __init__(self, gate: Gate, app_id: str | None = "acme") -> None:
        self.gate = gate
        self.app_id = app_id
        self.log: list[str] = []

    def ask(self) -> str:
        return self.gate.judge(lambda: self.app_id, self.note)[0]

    def note(self, problem: Exception | str) -> None:
        self.log.append(problem if isinstance(problem, str) else describe(problem))

    def recall(self) -> str:
        return self.gate.recall(lambda: self.app_id, self.note)[0]


def test_the_settings_decide(root: str) -> None:
    door = Door(Gate(variables(root, LIMITER_LIMIT="2/hour")))
    assert [door.ask() for _ in range(4)] == [OK, OK, TOO_MANY_REQUESTS, TOO_MANY_REQUESTS]
    assert os.listdir(f"{root}/acme") == ["2-per-3600s"]
    assert not door.log


def test_nobody_is_unauthorized(root: str) -> None:
    assert Door(Gate(variables(root)), None).ask() == UNAUTHORIZED
    assert not os.listdir(root)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMITER_ROOT", "relative"),
        ("LIMITER_MODE", "on"),
        ("LIMITER_ON_ERROR", "maybe"),
        ("LIMITER_TIMEOUT", "0"),
        ("LIMITER_APPS", "relative"),
        ("LIMITER_KEY", "header:"),
        ("LIMITER_TRUSTED_PROXIES", "nowhere"),
    ],
)
def test_a_mistake_in_the_settings_is_a_value_error(root: str, name: str, value: str) -> None:
    more = {"LIMITER_KEY": "env:REMOTE_ADDR"} if name == "LIMITER_TRUSTED_PROXIES" else {}
    with pytest.raises(ValueError, match=value):
        Gate({**variables(root, **more), name.encode(): value.encode()})


def test_a_mistake_that_only_a_hit_finds_fails_the_request(root: str) -> None:
    door = Door(Gate(variables(root, LIMITER_ON_ERROR="admit", LIMITER_LIMIT="ten/second")))
    assert [door.ask(), door.ask()] == 2 * [INTERNAL_SERVER_ERROR]
    assert len(door.log) == 2
    assert all(line.startswith("ValueError: ") and "ten/second" in line for line in door.log)


def test_a_denial_from_memory_does_not_reach_the_breaker(root: str, asked: list[str]) -> None:
    door = Door(Gate(variables(root, LIMITER_LIMIT="1/3000 days fixed", LIMITER_TIMEOUT="1.5")))
    assert [door.ask() for _ in range(2)] == [OK, TOO_MANY_REQUESTS]
    assert asked == 2 * ["within 1.5 s"]
    assert [door.ask() for _ in range(50)] == 50 * [TOO_MANY_REQUESTS]
    assert len(asked) == 2


def test_with_a_register_every_request_reaches_the_breaker(
    root: str, apps: str, asked: list[str]
) -> None:
    put(apps, "acme", "1/3000 days fixed")
    door = Door(Gate(variables(root, LIMITER_APPS=apps, LIMITER_LIMIT="1/3000 days fixed")))
    assert [door.ask() for _ in range(5)] == [OK, *4 * [TOO_MANY_REQUESTS]]
    assert len(asked) == 5


def test_a_changed_entry_of_the_register_holds_at_the_next_request(root: str, apps: str) -> None:
    door = Door(Gate(variables(root, LIMITER_APPS=apps, LIMITER_LIMIT="1/day")))
    assert door.ask() == UNAUTHORIZED
    put(apps, "acme", "1/day")
    assert [door.ask(), door.ask(), door.ask()] == [OK, TOO_MANY_REQUESTS, TOO_MANY_REQUESTS]
    put(apps, "acme", "2/day")
    assert [door.ask(), door.ask(), door.ask()] == [OK, OK, TOO_MANY_REQUESTS]
    put(apps, "acme", "unlimited")
    assert [door.ask() for _ in range(5)] == 5 * [OK]
    put(apps, "acme", "0/second")
    assert door.ask() == TOO_MANY_REQUESTS
    assert not door.log


def test_a_register_may_change_without_end(
    root: str, apps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter.request.gate._LIMITERS_MOST", 5)
    gate = Gate(variables(root, LIMITER_APPS=apps))
    door = Door(gate)
    for quota in range(1, 30):
        put(apps, "acme", f"{quota}/day")
        assert door.ask() == OK
    assert len(gate._limiters) <= 5


def test_a_limiter_given_decides_alone(root: str) -> None:
    limiter = Limiter(root, "1/day")
    environ = variables("/nowhere", LIMITER_LIMIT="nonsense", LIMITER_APPS="/nowhere/either")
    door = Door(Gate(environ, limiter))
    assert [door.ask(), door.ask()] == [OK, TOO_MANY_REQUESTS]
    assert limiter.peek("acme").remaining == 0


def test_a_key_given_replaces_the_one_of_the_settings(root: str) -> None:
    gate = Gate(variables(root, LIMITER_KEY="header:"), key="env:USER")
    assert gate.key.find({b"USER": b"me"}.get) == "me"


@pytest.mark.parametrize("key", [lambda _: "sk-live-1", "header:X-Api-Key", "api_key"])
def test_who_asks_is_not_told_if_it_may_be_a_key_given(root: str, key: Any) -> None:
    environ = {"LIMITER_ROOT": root, "LIMITER_MODE": "shadow", "LIMITER_LIMIT": "0/second"}
    door = Door(Gates(None, key).choose(environ), "sk-live-1")
    assert door.ask() == OK
    assert door.log == ["shadow: *** would have got 429 Too Many Requests"]


def test_only_what_needs_no_look_at_the_store_is_recalled(root: str, asked: list[str]) -> None:
    door = Door(Gate(variables(root, LIMITER_LIMIT="1/3000 days fixed")))
    for _ in range(2):
        with pytest.raises(Undecided) as undecided:
            door.recall()
        assert undecided.value.app_id == "acme"
        door.ask()
    asked.clear()
    assert door.recall() == TOO_MANY_REQUESTS
    assert Door(door.gate, None).recall() == UNAUTHORIZED
    assert Door(Gate({b"LIMITER_MODE": b"off"})).recall() == OK
    assert not asked


def test_with_a_register_nothing_is_recalled(root: str, apps: str) -> None:
    put(apps, "acme", "0/second")
    door = Door(Gate(variables(root, LIMITER_APPS=apps)))
    for _ in range(3):
        with pytest.raises(Undecided):
            door.recall()
        assert door.ask() == TOO_MANY_REQUESTS


def test_shadow_mode_logs_what_it_recalls_and_admits(root: str) -> None:
    door = Door(Gate(variables(root, LIMITER_LIMIT="0/second", LIMITER_MODE="shadow")))
    assert [door.ask(), door.ask()] == [OK, OK]
    assert door.log == 2 * ["shadow: acme would have got 429 Too Many Requests"]


def test_a_store_that_fails_gives_the_configured_verdict(root: str) -> None:
    for word, verdict in (("deny", INTERNAL_SERVER_ERROR), ("admit", OK)):
        door = Door(Gate(variables(f"{root}/missing", LIMITER_ON_ERROR=word)))
        assert [door.ask(), door.ask()] == [verdict, verdict]
        assert len(door.log) == 2
        assert all(line.startswith(StoreError.__name__) for line in door.log)


def test_a_gate_is_kept_as_long_as_the_settings_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gates = Gates(None, None)
    first = gates.choose({})
    assert gates.choose({"PATH_INFO": "/"}) is first
    monkeypatch.setenv("LIMITER_LIMIT", "3/second")
    assert gates.choose({}) is not first
    assert gates.choose({"LIMITER_LIMIT": "4/second"}) is not gates.choose({})
    monkeypatch.delenv("LIMITER_LIMIT")
    assert gates.choose({}) is first


@pytest.mark.parametrize("name", [*NAMES, "TMPDIR"])
def test_every_setting_chooses_a_gate(name: str) -> None:
    values = {"KEY": "id", "MODE": "off", "NODES": "7", "ON_ERROR": "admit", "TIMEOUT": "7"}
    gates = Gates(None, None)
    assert gates.choose({name: values.get(name[8:], "/7")}) is not gates.choose({})


def test_a_variable_of_the_request_hides_that_of_the_process(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_ROOT", root)
    monkeypatch.setenv("LIMITER_MODE", "off")
    gates = Gates(None, None)
    assert Door(gates.choose({"LIMITER_MODE": ""}), None).ask() == UNAUTHORIZED
    assert Door(gates.choose({}), None).ask() == OK


def test_a_variable_is_bytes_in_disguise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WSGI's environ decodes its bytes as Latin-1; the environment of the process does not."""
    store = tmp_path / "k\u00fchl"
    store.mkdir()
    gates = Gates(None, None)
    given = os.fsencode(store)
    assert Door(gates.choose({"LIMITER_ROOT": given.decode("latin-1")})).ask() == OK
    monkeypatch.setitem(os.environb, b"LIMITER_ROOT", given)
    assert Door(gates.choose({}), "other").ask() == OK
    assert sorted(os.listdir(store)) == ["acme", "other"]


def test_a_mistake_is_found_at_each_request_and_a_corrected_one_holds_at_once(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_ROOT", root)
    monkeypatch.setenv("LIMITER_MODE", "wrong")
    gates = Gates(None, None)
    for _ in range(2):
        with pytest.raises(ValueError, match="LIMITER_MODE"):
            gates.choose({})
    monkeypatch.setenv("LIMITER_MODE", "enforce")
    assert Door(gates.choose({})).ask() == OK


def test_settings_may_change_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limiter.request.gate._GATES_MOST", 5)
    gates = Gates(None, None)
    for number in range(30):
        gates.choose({"LIMITER_LIMIT": f"{number}/second"})
    assert len(gates._gates) <= 5


def test_a_bad_key_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="header:"):
        Gates(None, "header:")


@pytest.mark.parametrize(
    ("said", "app_id"),
    [
        ("acme", "acme"),
        (None, None),
        ("", None),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_a_function_says_who_asks(said: str | None, app_id: str | None) -> None:
    gates = Gates(None, {"user": said}.get)
    assert gates.find(gates.choose({}), "user", nothing, b"app_id=other") == app_id


@pytest.mark.parametrize("said", ["a b", "/", "..", "\u00e4", "\udce4", chr(0xD800), "\0", 1000 * "a"])
def test_what_is_no_app_id_is_hashed(said: str) -> None:
    gates = Gates(None, lambda _: said)
    found = gates.find(gates.choose({}), None, nothing, b"")
    assert found is not None
    assert found.startswith("sha256-")


@pytest.mark.parametrize("reason", ["a\nb", "\r\n\0\x1b[2J", "\udcff\u2028\u20ac", 5000 * "x"])
def test_a_log_line_is_one_line_of_ascii(reason: str) -> None:
    file = io.StringIO()
    write_line(file, reason)
    line = file.getvalue()
    assert line.startswith("limiter: ")
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.isascii()
    assert len(line) < 2100


def test_a_log_that_fails_fails_nothing_else() -> None:
    file = io.StringIO()
    file.close()
    write_line(file, "unheard")


def test_decisions_come_with_the_verdict(root: str) -> None:
    gate = Gate(variables(root, LIMITER_LIMIT="1/day"))
    decisions = [gate.judge(lambda: "acme", print)[1] for _ in range(3)]
    assert all(isinstance(it, Decision) for it in decisions)
    assert [bool(it) for it in decisions] == [True, False, False]
