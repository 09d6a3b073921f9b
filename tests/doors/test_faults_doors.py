"""Law F1 at every door: if any call fails in any way, the verdict is the configured one."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from functools import partial

import pytest

import limiter.request.response
from tests.doors.staged import CASES, DOORS, NOBODY, Stage, errnos, judge, open_door, status_of
from tests.faults import HARD, SOFT, Ended, fail, play


@pytest.mark.one_python
@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize(("door", "name"), CASES)
def test_f1_every_call_at_every_door(script_root: str, door: str, name: str, on_error: str) -> None:
    stage = Stage(script_root, door, name, on_error)
    case = CASES.index((door, name))
    struck = set()
    for call in range(1000):
        for number in errnos(case + call, on_error):
            ended = stage.play(call, number)
            judge(stage, ended, number)
            if not ended.struck:
                break
        if not ended.struck:
            break
        if ended.target.startswith(f"{stage.place}/"):
            struck.add(ended.struck)
    assert struck == set(stage.scene.calls.split())


# Faults outside the store


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("number", HARD + SOFT, ids=errno.errorcode.__getitem__)
def test_a_form_that_cannot_be_read(root: str, number: int, on_error: str) -> None:
    """The app_id is unknown: 500, regardless of LIMITER_ON_ERROR."""
    stage = Stage(root, "check", "furnished", on_error)
    form = {
        "REQUEST_METHOD": "POST",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": "11",
    }
    variables = {**stage.lay_out(), **form}

    def ask() -> None:
        with open(f"{root}/form", "w+b") as body:
            body.write(b"app_id=acme")
            body.seek(0)
            os.dup2(body.fileno(), 0)
        open_door("check", variables)

    ended = play(ask, 0, fail(number))
    assert (ended.struck, ended.target) == ("read", "0")
    assert status_of("check", ended) == "500"
    assert ended.log.count(b"\n") == 1
    assert b"[Errno %d] " % number in ended.log
    assert stage.counted == {1}
    assert status_of("check", play(ask, 1000, fail(number))) == "200"
    assert stage.counted == {2}


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("door", DOORS)
def test_a_log_that_is_full_changes_no_verdict(script_root: str, door: str, on_error: str) -> None:
    stage = Stage(script_root, door, "furnished", on_error)
    variables = stage.lay_out()

    def ask() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
        open_door(door, variables)

    ended = _play_until_the_store_fails(stage, ask)
    admits = on_error == "admit" and door != "hit"
    assert status_of(door, ended) == ("200" if admits else "500")


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("door", [door for door in DOORS if door != "hit"])
def test_a_journal_has_the_one_line(script_root: str, door: str, on_error: str) -> None:
    """The line is JSON, and goes where LIMITER_LOG says."""
    stage = Stage(script_root, door, "furnished", on_error)
    variables = {**stage.lay_out(), "LIMITER_LOG": "stderr"}
    ended = _play_until_the_store_fails(stage, partial(open_door, door, variables))
    assert status_of(door, ended) == ("200" if on_error == "admit" else "500")
    assert ended.log.count(b"\n") == 1
    assert f"[Errno {errno.EIO}] " in json.loads(ended.log)["reason"]


def _play_until_the_store_fails(stage: Stage, ask: Callable[[], None]) -> Ended:
    """Return the answer when EIO strikes the first call to the store."""
    for call in range(1000):
        ended = play(ask, call, fail(errno.EIO))
        if ended.target.startswith(f"{stage.place}/"):
            return ended
    raise AssertionError("nothing is asked of the store")


@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("door", DOORS)
def test_no_thread_is_to_be_had(script_root: str, door: str, on_error: str) -> None:
    """EAGAIN, from the real kernel: the store cannot be called, which is a failure like any other."""
    stage = Stage(script_root, door, "furnished", on_error)
    variables = stage.lay_out()

    def ask() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        open_door(door, variables)

    ended = play(ask, 1000, fail(errno.EIO))
    status = status_of(door, ended)
    if door == "hit":  # which waits for the store as long as it takes
        assert (status, ended.log) == ("200", b"")
        return
    assert status == ("200" if on_error == "admit" else "500")
    assert ended.log.count(b"\n") == 1
    assert b"thread" in ended.log


# Each check is shown to fail.


def _swallow(_: object) -> bool:
    """Take every error for a lost race."""
    return True


def _call(function: Callable[..., object], *arguments: object) -> object:
    """Call it exactly once, without retries."""
    return function(*arguments)


def _give_up(error: Exception, _: object) -> None:
    """Take every fault for a lasting one."""
    raise error


def _keep(*_: object) -> None:
    """Give nothing back, tidy up nothing, or log nothing."""


def _as_lost(error: OSError, _: str) -> OSError:
    """Take every error for one that says that there is no such entry."""
    return FileNotFoundError(*error.args)


def _as_text(error: Exception) -> str:
    """Leave out which error it was."""
    return type(error).__name__


def _halve(data: bytes) -> None:
    """Write half of an answer."""
    os.write(1, data[: len(data) // 2])


def _write_page(data: bytes) -> None:
    """Write HTML after an answer."""
    os.write(1, data + b"<p>")


def _print_traceback(reason: str) -> None:
    """Also log where it happened."""
    os.write(2, f"{reason}\nTraceback\n".encode())


def _answer_ok(*_: object) -> tuple[str, None]:
    """Admit all requests that could not be decided, and log nothing."""
    return limiter.request.response.OK, None


@pytest.mark.parametrize(
    ("door", "name", "on_error", "sabotaged", "sabotage"),
    [
        ("guard", "furnished", "deny", "limiter.core.store.is_lost", _swallow),
        ("wsgi", "furnished", "deny", "limiter.core.retry.PASSING", ()),
        ("check", "register-fresh", "deny", "limiter.request.register.patiently", _call),
        ("hit", "fresh", "deny", "limiter.core.hit._survive", _give_up),
        ("wsgi", "register-fresh", "admit", "limiter.core.store.StoreError.of", _as_lost),
        ("hit", "two-limits", "deny", "limiter.core.hit._give_back", _keep),
        ("asgi", "fresh", "deny", "limiter.core.furnish._discard", _keep),
        ("rewritemap", "full", "deny", "limiter.report.problems.describe", _as_text),
        ("check", "full", "deny", "limiter.cgi.write", _halve),
        ("action", "full", "deny", "limiter.cgi.write", _write_page),
        ("guard", "stranger", "deny", "limiter.cgi.log", _print_traceback),
        ("rewritemap", "furnished", "admit", "limiter.apache.rewrite_map.log", _keep),
        ("wsgi", "full", "deny", "limiter.request.verdict.fail", _answer_ok),
        ("asgi", "fresh", "admit", "limiter.request.verdict.StoreError", ZeroDivisionError),
        ("hit", "default-store", "deny", "limiter.core.furnish.StoreError", ZeroDivisionError),
    ],
)
def test_f1_at_a_door_is_seen_to_fail(
    script_root: str,
    monkeypatch: pytest.MonkeyPatch,
    door: str,
    name: str,
    on_error: str,
    sabotaged: str,
    sabotage: object,
) -> None:
    monkeypatch.setattr(sabotaged, sabotage)
    with pytest.raises(AssertionError):
        test_f1_every_call_at_every_door(script_root, door, name, on_error)
