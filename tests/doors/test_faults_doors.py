"""Law F1 at every door: if any call fails in any way, the verdict is the configured one."""

from __future__ import annotations

import errno
import os
import resource
from functools import partial

import pytest

import limiter.request.body
import limiter.request.response
from limiter.request.gate import Gate
from tests.conftest import NOBODY
from tests.doors.doors import DOORS, DOORS_AND_HIT, Door, Request
from tests.doors.law_f1 import CASES, FULL, Stage, errnos, judge, status_of
from tests.faults import HARD, SOFT, fail, play, run

LASTING = ("register-fresh", "segment", "default-store")
"""The scenes that are also played with a store that fails from one call on."""

both_verdicts = pytest.mark.parametrize("on_error", ["deny", "admit"])


@pytest.mark.one_python
@both_verdicts
@pytest.mark.parametrize(
    ("door", "name", "is_lasting"),
    [(*case, False) for case in CASES] + [(*case, True) for case in CASES if case[1] in LASTING],
)
def test_f1_every_call_at_every_door(
    root: str, door: str, name: str, is_lasting: bool, on_error: str
) -> None:
    """After a lasting fault, nothing can be given back or tidied up, and no error is a lost race."""
    stage = Stage(root, door, name, on_error)
    case = CASES.index((door, name))
    struck = set()
    for call in range(1000):
        for number in errnos(case + call, on_error):
            ended = stage.play(call, number, is_lasting)
            if stage.is_in_store(ended):
                struck.add(ended.struck)
            elif is_lasting:
                continue
            judge(stage, ended, number, is_lasting)
            if not ended.struck:
                break
        if not ended.struck:
            break
    assert struck - {"chown"} == stage.calls, "chown is root's"


def _play_a_full_store(root: str, door: str, name: str, on_error: str, is_lasting: bool) -> None:
    stage = Stage(root, door, name, on_error)
    for call in range(1000):
        number = FULL[call % 2]
        ended = stage.play(call, number, is_lasting)
        if stage.is_in_store(ended):
            judge(stage, ended, number, is_lasting)
        if not ended.struck:
            break


@pytest.mark.one_python
@both_verdicts
@pytest.mark.parametrize("is_lasting", [False, True])
@pytest.mark.parametrize(
    ("door", "name"), [*((door, "fresh") for door in DOORS), ("check", "segment"), ("hit", "segment")]
)
def test_a_full_store_refuses_whoever_needs_room_whichever_call_shows_it(
    root: str, door: str, name: str, on_error: str, is_lasting: bool
) -> None:
    """LIMITER_ON_ERROR does not matter: with admit, each invented app_id would be unlimited."""
    _play_a_full_store(root, door, name, on_error, is_lasting)


@both_verdicts
@pytest.mark.parametrize("is_lasting", [False, True])
def test_a_full_store_is_a_failure_for_a_client_that_the_register_names(
    root: str, on_error: str, is_lasting: bool
) -> None:
    _play_a_full_store(root, "check", "register-fresh", on_error, is_lasting)


@both_verdicts
@pytest.mark.parametrize("number", HARD + SOFT, ids=errno.errorcode.__getitem__)
def test_a_form_that_cannot_be_read_is_500(root: str, number: int, on_error: str) -> None:
    """The app_id is unknown, so LIMITER_ON_ERROR does not matter."""
    stage = Stage(root, "check", "furnished", on_error)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    request = Request(stage.lay_out(), "", form, "POST", b"app_id=acme")
    ended = play(partial(stage.door.open, request), 0, fail(number))
    assert (ended.struck, ended.target) == ("read", "0")
    assert status_of(stage.door, ended) == "500"
    assert ended.log.count(b"\n") == 1
    assert b"[Errno %d] " % number in ended.log
    assert stage.counted == {1}
    assert status_of(stage.door, run(partial(stage.door.open, request))) == "200"
    assert stage.counted == {2}


def _with_a_full_log(door: Door, request: Request) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    door.open(request)


@both_verdicts
@pytest.mark.parametrize("door", DOORS_AND_HIT)
def test_a_full_log_changes_no_verdict(root: str, door: str, on_error: str) -> None:
    stage = Stage(root, door, "furnished", on_error)
    act = partial(_with_a_full_log, stage.door, Request(stage.lay_out()))
    played = (play(act, call, fail(errno.EIO)) for call in range(1000))
    ended = next(ended for ended in played if stage.is_in_store(ended))
    assert status_of(stage.door, ended) == ("200" if stage.admits else "500")


def _without_threads(door: Door, request: Request) -> None:
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    door.open(request)


@both_verdicts
@pytest.mark.parametrize("door", DOORS_AND_HIT)
def test_without_a_thread_the_store_has_failed(root: str, door: str, on_error: str) -> None:
    """EAGAIN, from the real kernel: the store cannot be called."""
    stage = Stage(root, door, "furnished", on_error)
    ended = run(partial(_without_threads, stage.door, Request(stage.lay_out())))
    status = status_of(stage.door, ended)
    if door == "hit":  # which waits for the store as long as it takes
        assert (status, ended.log) == ("200", b"")
        return
    assert status == ("200" if stage.admits else "500")
    assert ended.log.count(b"\n") == 1
    assert b"thread" in ended.log


# Each check is shown to fail.


def _give_up(error: Exception, _: object) -> None:
    raise error


SABOTAGES: list[tuple[str, str, object]] = [
    # Every error is taken for a lost race, or none for one that passes.
    ("guard furnished deny", "core.store.is_lost", lambda _: True),
    ("wsgi furnished deny", "core.retry.PASSING", ()),
    (
        "check register-fresh deny",
        "request.register.patiently",
        lambda function, *arguments: function(*arguments),
    ),
    ("hit fresh deny", "core.hit._survive", _give_up),
    ("wsgi register-fresh admit", "core.store.StoreError.of", lambda error, _: FileNotFoundError(error)),
    # A claim or a new directory is left behind.
    ("hit two-limits deny", "core.hit.Attempt._give_back", lambda *_: None),
    ("asgi fresh deny", "core.furnish._discard", lambda *_: None),
    # The log does not say which error it was, says too much, or nothing.
    ("rewritemap full deny", "report.problems.describe", lambda error: type(error).__name__),
    ("guard stranger deny", "cgi.log", lambda reason: os.write(2, f"{reason}\nTraceback\n".encode())),
    ("rewritemap furnished admit", "apache.rewrite_map.log", lambda *_: None),
    # Half an answer, and HTML after it.
    ("check full deny", "cgi.write", lambda data: os.write(1, data[: len(data) // 2])),
    ("action full deny", "cgi.write", lambda data: os.write(1, data + b"<p>")),
    # All is admitted that could not be decided.
    ("wsgi full deny", "request.gate.Gate.failed", lambda *_: (limiter.request.response.OK, None)),
    # A failure of the store is not known as one.
    ("asgi fresh admit", "request.gate.StoreError", ZeroDivisionError),
    ("hit default-store deny", "core.furnish.StoreError", ZeroDivisionError),
]


@pytest.mark.parametrize(("case", "sabotaged", "instead"), SABOTAGES)
def test_f1_at_a_door_is_seen_to_fail(
    root: str, monkeypatch: pytest.MonkeyPatch, case: str, sabotaged: str, instead: object
) -> None:
    door, name, on_error = case.split()
    monkeypatch.setattr(f"limiter.{sabotaged}", instead)
    with pytest.raises(AssertionError):
        test_f1_every_call_at_every_door(root, door, name, False, on_error)


def _count_as_known(gate: Gate, app_id: str) -> object:
    decision = gate.hit(gate.settings.limit, app_id, "")
    return (
        limiter.request.response.OK if decision else limiter.request.response.TOO_MANY_REQUESTS,
        decision,
    )


@pytest.mark.parametrize(
    ("sabotaged", "instead"),
    [
        # The store has failed, a newcomer counts as known, or the log does not say that it was refused.
        ("core.newcomers._FULL", ()),
        ("core.newcomers._FULL", (errno.ENOSPC,)),
        ("request.gate.Gate.count", _count_as_known),
        ("core.newcomers._report", lambda *_: ()),
    ],
)
@both_verdicts
def test_a_full_store_that_does_not_refuse_newcomers_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch, on_error: str, sabotaged: str, instead: object
) -> None:
    monkeypatch.setattr(f"limiter.{sabotaged}", instead)
    with pytest.raises(AssertionError):
        _play_a_full_store(root, "check", "fresh", on_error, False)
