"""The verdict: what each door answers, in every mode, whether or not something fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from limiter.core.hit import Decision
from limiter.core.limiter import Limiter
from limiter.core.store import StoreError
from limiter.report.problems import describe
from limiter.request.register import put
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS, UNAUTHORIZED
from limiter.request.settings import Settings
from limiter.request.verdict import judge

if TYPE_CHECKING:
    from limiter.request.verdict import Verdict


class Door:
    """What a door provides, and a record of its log and its hits."""

    def __init__(self, root: str, **variables: str) -> None:
        self.settings = Settings(
            {f"LIMITER_{name}".encode(): text.encode() for name, text in variables.items()}
        )
        self.root = root
        self.said: list[str] = []
        self.hits: list[tuple[str, str]] = []
        self.trouble: Exception | None = None

    def hit(self, limits: str, app_id: str) -> Decision:
        self.hits.append((limits, app_id))
        if self.trouble:
            raise self.trouble
        return Limiter(self.root, limits).hit(app_id)

    def call(self, function: Callable[..., Verdict], *arguments: object) -> Verdict:
        return function(*arguments)

    def judge(self, app_id: str | None = "acme") -> Verdict:
        return judge(self.settings, lambda: app_id, self.hit, self.call, self.log)

    def log(self, problem: Exception | str) -> None:
        self.said.append(problem if isinstance(problem, str) else describe(problem))


def test_admitted_then_denied(root: str) -> None:
    door = Door(root, LIMIT="1/hour")
    status, decision = door.judge()
    assert status is OK
    assert decision is not None
    assert decision.remaining == 0
    status, decision = door.judge()
    assert status is TOO_MANY_REQUESTS
    assert decision is not None
    assert decision.retry_after > 3000
    assert door.said == []


def test_no_app_id(root: str) -> None:
    door = Door(root)
    assert door.judge(None) == (UNAUTHORIZED, None)
    assert (door.hits, door.said) == ([], [])


STORE_ERROR = StoreError(errno.EIO, "Input/output error", "/store/acme")


@pytest.mark.parametrize(
    ("variables", "trouble", "status"),
    [
        ({}, STORE_ERROR, INTERNAL_SERVER_ERROR),
        ({"ON_ERROR": "deny"}, STORE_ERROR, INTERNAL_SERVER_ERROR),
        ({"ON_ERROR": "admit"}, STORE_ERROR, OK),
        ({"ON_ERROR": "admit"}, ValueError("limit 'x'"), INTERNAL_SERVER_ERROR),
        ({"ON_ERROR": "admit"}, RuntimeError(), INTERNAL_SERVER_ERROR),
        ({"MODE": "shadow"}, STORE_ERROR, OK),
        ({"MODE": "shadow"}, ValueError("limit 'x'"), OK),
    ],
)
def test_errors(root: str, variables: dict[str, str], trouble: Exception, status: str) -> None:
    """LIMITER_ON_ERROR matters only if the store fails; in any case one line gives the reason."""
    door = Door(root, **variables)
    door.trouble = trouble
    assert door.judge() == (status, None)
    assert door.said == [f"{type(trouble).__name__}: {trouble}"]


SECRET_KEYS = ["header:X-Api-Key", "env:REMOTE_USER", "api_key"]


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_who_asks_by_what_may_be_a_key_is_not_told(root: str, key: str) -> None:
    door = Door(root, KEY=key)
    door.trouble = StoreError(errno.EIO, "Input/output error", "/store/sk-live-1/10-per-1s")
    door.trouble.__cause__ = OSError(errno.EIO, "sk-live-1", "/sk-live-1")
    assert door.judge("sk-live-1")[0] is INTERNAL_SERVER_ERROR
    assert door.said == ["StoreError: [Errno 5] Input/output error: '/store/***/10-per-1s'"]
    assert str(door.trouble.__cause__) == "[Errno 5] ***: '/***'"
    door.trouble = ValueError("/apps/sk-live-1: limit '1/fortnight', not sk-live-10", 1)
    door.judge("sk-live-1")
    assert door.trouble.args == ("/apps/***: limit '1/fortnight', not sk-live-10", 1)
    door.trouble = StoreError(errno.EIO, "Input/output error")
    door.judge("sk-live-1")
    assert door.said[-1] == "StoreError: [Errno 5] Input/output error"


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_shadow_does_not_tell_who_asks_by_what_may_be_a_key(root: str, key: str) -> None:
    door = Door(root, KEY=key, MODE="shadow", LIMIT="0/second")
    assert door.judge("sk-live-1") == (OK, None)
    assert door.said == ["shadow: *** would have got 429 Too Many Requests"]


def test_an_error_in_finding_the_app_id_is_one_like_others(root: str) -> None:
    door = Door(root, ON_ERROR="admit")

    def find() -> str:
        raise OSError(errno.EIO, "Input/output error")

    assert judge(door.settings, find, door.hit, door.call, door.log)[0] is INTERNAL_SERVER_ERROR
    assert door.said == ["OSError: [Errno 5] Input/output error"]


def test_off_does_nothing(root: str) -> None:
    door = Door(root, MODE="off", LIMIT="0/second")
    assert door.judge(None) == (OK, None)
    assert door.judge() == (OK, None)
    assert (door.hits, door.said) == ([], [])


def test_shadow_admits_and_says_what_it_would_have_denied(root: str, tmp_path: Path) -> None:
    put(str(tmp_path), "acme", "1/hour")
    door = Door(root, MODE="shadow", APPS=str(tmp_path))
    assert door.judge() == (OK, None)
    assert door.said == []
    assert [door.judge(app) for app in ("acme", "unknown", None)] == [(OK, None)] * 3
    assert door.said == [
        "shadow: acme would have got 429 Too Many Requests",
        "shadow: unknown would have got 401 Unauthorized",
        "shadow: a request without a valid app_id would have got 401 Unauthorized",
    ]
    assert len(Limiter(root, "1/hour").hits("acme")[0]) == 1  # as many as enforce would have counted


def test_the_register(root: str, tmp_path: Path) -> None:
    for name, text in {"small": "1/hour", "banned": "0/second", "free": "unlimited"}.items():
        put(str(tmp_path), name, text)
    door = Door(root, LIMIT="7/second", APPS=str(tmp_path))
    statuses = [[door.judge(app)[0] for _ in range(2)] for app in ("small", "banned", "free")]
    assert statuses == [[OK, TOO_MANY_REQUESTS], [TOO_MANY_REQUESTS] * 2, [OK] * 2]
    assert door.judge("free") == (OK, None)
    assert {app for _, app in door.hits} == {"small", "banned"}
    assert [path.name for path in Path(root).iterdir()] == ["small"]


def test_who_is_unknown_leaves_no_trace(root: str, tmp_path: Path) -> None:
    door = Door(root, APPS=str(tmp_path))
    assert door.judge() == (UNAUTHORIZED, None)
    assert (door.hits, door.said, list(Path(root).iterdir())) == ([], [], [])
    put(str(tmp_path), ".default", "1/hour")
    assert door.judge()[0] is OK


def test_a_changed_limit_holds_at_the_next_request(root: str, tmp_path: Path) -> None:
    door = Door(root, APPS=str(tmp_path))
    put(str(tmp_path), "acme", "1/hour")
    assert [door.judge()[0] for _ in range(2)] == [OK, TOO_MANY_REQUESTS]
    put(str(tmp_path), "acme", "2/hour")
    assert [door.judge()[0] for _ in range(3)] == [OK, OK, TOO_MANY_REQUESTS]
    put(str(tmp_path), "acme", "0/hour")
    assert door.judge()[0] is TOO_MANY_REQUESTS


def test_a_bad_entry_is_named(root: str, tmp_path: Path) -> None:
    put(str(tmp_path), ".default", "10/fortnight")
    door = Door(root, APPS=str(tmp_path), ON_ERROR="admit")
    assert door.judge() == (INTERNAL_SERVER_ERROR, None)
    assert len(door.said) == 1
    assert door.said[0].startswith(
        f"ValueError: {tmp_path}/.default: limit '10/fortnight': expected a unit"
    )


@pytest.mark.parametrize(("word", "status"), [("deny", INTERNAL_SERVER_ERROR), ("admit", OK)])
def test_a_register_that_fails_gives_the_configured_verdict(
    root: str, tmp_path: Path, word: str, status: str
) -> None:
    door = Door(root, APPS=f"{tmp_path}/missing", ON_ERROR=word)
    assert door.judge() == (status, None)
    assert door.said == [
        "StoreError: [Errno 2] The register does not exist (make it, or correct LIMITER_APPS):"
        f" '{tmp_path}/missing'"
    ]
