"""Key functions of the middlewares, and copies of the middlewares."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from limiter.core.limiter import Limiter
from tests.doors.middlewares import Asgi, doors

__all__ = ["doors"]


def number(_: object) -> int:
    """Return what is no name."""
    return 7


async def ann(_: object) -> str:
    """Return a name, after a while."""
    return "ann"


def test_a_key_function_that_returns_no_text_is_an_error_that_names_it(
    doors: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    app = doors.door(doors.application, key=number)
    assert doors.ask(app)[0] == 500
    log = "\n".join(doors.log) + capfd.readouterr().err
    assert "TypeError: key function number: expected text, None or EXEMPT, got int" in log
    assert doors.calls == 0


@pytest.mark.filterwarnings("ignore:coroutine 'ann' was never awaited")
def test_an_asynchronous_key_function_is_awaited_where_that_is_possible(
    doors: Any, root: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_ROOT", root)
    app = doors.door(doors.application, key=ann)
    got = [doors.ask(app)[0] for _ in range(4)]
    if isinstance(doors, Asgi):
        assert got == [200, 200, 200, 429]
        assert Limiter(root, "3/hour").peek("ann").remaining == 0
    else:
        assert got == [500] * 4
        log = "\n".join(doors.log) + capfd.readouterr().err
        assert "TypeError: key function ann: expected text, None or EXEMPT, got coroutine" in log


def by_pickle(app: Any) -> Any:
    return pickle.loads(pickle.dumps(app))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, by_pickle])
@pytest.mark.parametrize("has_limiter", [False, True])
def test_a_copy_limits_as_the_original_does(
    doors: Any,
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    copied: Callable[[Any], Any],
    has_limiter: bool,
) -> None:
    """Frameworks and test clients copy applications.  Both count in the same store."""
    monkeypatch.setenv("LIMITER_ROOT", root)
    limiter = Limiter(root, "3/hour") if has_limiter else None
    app = doors.door(doors.application, limiter=limiter, key="app_id")
    assert doors.ask(app)[0] == 200
    other = copied(app)
    assert [doors.ask(it)[0] for it in (other, app, other, app)] == [200, 200, 429, 429]
