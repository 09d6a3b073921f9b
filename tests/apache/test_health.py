"""health.py as a web server runs it: 200 if a hit could be admitted, else 503 with the name of the
reason.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import pytest

from limiter.apache.health import health
from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.core.store import Store
from limiter.core.sweep import sweep_store
from limiter.request.register import put
from tests.disks import small_disk
from tests.faults import HARD, PASSING, SOFT, Ended, fail, kill, play, run, use
from tests.hanging import Mount, hanging_mount
from tests.places import new_root

HEAD = b"Status: %b\nContent-Type: application/json; charset=utf-8\nCache-Control: no-store\n\n"
HEALTHY = HEAD % b"200 OK" + b'{"message": "OK", "newcomers": 1000}'
SICK = HEAD % b"503 Service Unavailable" + b'{"message": "Service Unavailable", "reason": "%b"}'

CALLS = 16
"""The system calls: 15 on the store, and one that writes the answer."""

AMPLE = {"LIMITER_TIMEOUT": "60"}
"""A time-out that no busy machine exceeds."""

TIMEOUT = 0.1
"""The time-out of requests that find the store unresponsive, in seconds."""

SAFETY = 60
"""Seconds after which the file system stops hanging, so that a test fails instead of waiting forever."""

HOUR = 3_600_000_000


@pytest.fixture
def script(installed: Path) -> Path:
    """The installed health.py."""
    return installed / "cgi-bin/health.py"


def ask(script: Path, root: str | Path, **variables: str) -> tuple[bytes, str]:
    """Run it once, to its end; return its answer, and what it logs."""
    environ = {**AMPLE, "LIMITER_ROOT": str(root), **variables}
    ended = subprocess.run([script], input=b"", env=environ, capture_output=True, check=True)
    return ended.stdout, ended.stderr.decode()


def assert_sick(answer: tuple[bytes, str], reason: str, logged: str) -> None:
    """Compare an answer with the contract: every byte of it, and one line in the log."""
    output, log = answer
    assert output == SICK % reason.encode()
    assert log.startswith(f"limiter: health: {logged}")
    assert log.endswith("\n")
    assert log[:-1].isprintable()


# Healthy


def test_a_store_that_can_admit_is_healthy_and_left_as_it_was(script: Path, any_root: str) -> None:
    assert ask(script, any_root) == (HEALTHY, "")
    assert os.listdir(any_root) == []


@pytest.mark.parametrize("limits", ["0/second", "1/hour", "10000/day;5/second burst 20", "3/hour fixed"])
def test_no_limit_is_too_small_and_nobody_is_counted(script: Path, root: str, limits: str) -> None:
    Limiter(root, limits, newcomers="").hit("acme")
    before = sorted(Path(root).rglob("*"))
    for _ in range(3):
        assert ask(script, root, LIMITER_LIMIT=limits, QUERY_STRING="app_id=acme") == (HEALTHY, "")
    assert sorted(Path(root).rglob("*")) == before


def test_any_number_may_ask_at_once_while_a_sweep_goes_on(script: Path, root: str) -> None:
    environ = {"LIMITER_ROOT": root, **AMPLE}
    pipe = subprocess.PIPE
    asking = [subprocess.Popen([script], env=environ, stdout=pipe, stderr=pipe) for _ in range(40)]
    answers = []
    while asking:
        sweep_store(Store(root), 0)
        asked = asking.pop()
        answers.append(asked.communicate())
    assert set(answers) == {(HEALTHY, b"")}
    assert os.listdir(root) == []


def test_the_default_store_is_made_when_missing(script: Path, root: str) -> None:
    """The log says where, as it does for any door."""
    output, log = ask(script, "", TMPDIR=root)
    store = f"{root}/limiter-{os.geteuid()}"
    assert os.listdir(root) == [os.path.basename(store)]
    assert output == HEALTHY
    assert log.startswith(
        f"limiter: The store is {store}, where cleaners of temporary files may remove it"
    )
    assert ask(script, "", TMPDIR=root) == (HEALTHY, "")


# New clients


def newcomers(script: Path, root: str, **variables: str) -> object:
    """Return how many new clients a healthy server says that it takes in."""
    output, log = ask(script, root, **variables)
    assert log == ""
    return json.loads(output.partition(b"\n\n")[2]).get("newcomers")


@pytest.mark.parametrize(
    ("bound", "left"),
    [("9/hour", 6), ("30/hour;5 per 3000 days fixed", 2), ("1/hour burst 20", 17), ("2/hour", 0)],
)
def test_it_says_how_many_new_clients_are_taken_in(
    script: Path, root: str, bound: str, left: int
) -> None:
    limiter = Limiter(root, "1/hour", newcomers=bound)
    for app in ("one", "two", "three"):
        limiter.hit(app)
    assert newcomers(script, root, LIMITER_NEWCOMERS=bound) == left


def test_of_several_stores_the_one_that_takes_in_the_fewest_counts(script: Path, root: str) -> None:
    for name in ("a", "b"):
        os.mkdir(f"{root}/{name}")
    Limiter(f"{root}/b", "1/hour", newcomers="9/hour").hit("acme")
    stores = f"{root}/a:{root}/b"
    assert newcomers(script, stores, LIMITER_NEWCOMERS="9/hour") == 8


def test_without_a_bound_it_says_nothing_of_new_clients(script: Path, root: str) -> None:
    assert newcomers(script, root, LIMITER_NEWCOMERS="unlimited") is None


def test_with_few_inodes_no_new_clients_are_taken_in(script: Path) -> None:
    with small_disk() as disk:
        disk.fill()
        for file in [*disk.path.glob("*.file")][:15]:
            file.unlink()
        assert newcomers(script, str(disk.path)) == 0


# Sick

MISSING = "StoreError: [Errno 2] The store does not exist"
UNHEALTHY = {
    "missing store": ({}, "ENOENT", MISSING),
    "errors admit": ({"LIMITER_ON_ERROR": "admit"}, "ENOENT", MISSING),
    "shadow mode": ({"LIMITER_MODE": "shadow"}, "ENOENT", MISSING),
    "first of two stores": ({"LIMITER_ROOT": "{root}/missing:{root}"}, "ENOENT", MISSING),
    "second of two stores": ({"LIMITER_ROOT": "{root}:{root}/missing"}, "ENOENT", MISSING),
    "missing register": ({"LIMITER_APPS": "/nowhere"}, "ENOENT", "StoreError: [Errno 2] The register"),
    "limit": ({"LIMITER_LIMIT": "many"}, "settings", "ValueError: limit 'many'"),
    "newcomers": (
        *({"LIMITER_NEWCOMERS": "many"}, "settings"),
        "ValueError: LIMITER_NEWCOMERS: limit 'many': expected",
    ),
    "rules": (
        {"LIMITER_RULES": "/nowhere"},
        "settings",
        "ValueError: LIMITER_RULES=/nowhere: No such file",
    ),
    "key": ({"LIMITER_KEY": "header:X Y"}, "settings", "ValueError: key 'header:X Y'"),
    "line break": ({"LIMITER_MODE": "of\n[error]"}, "settings", "ValueError: LIMITER_MODE='of"),
}


@pytest.mark.parametrize(("settings", "reason", "logged"), UNHEALTHY.values(), ids=UNHEALTHY)
def test_a_store_or_settings_that_cannot_admit_are_a_503(
    script: Path, root: str, settings: dict[str, str], reason: str, logged: str
) -> None:
    store = f"{root}/missing"
    answer = ask(script, store, **{name: text.format(root=root) for name, text in settings.items()})
    assert_sick(answer, reason, logged)
    assert (f"'{store}'" in answer[1]) == (logged == MISSING)
    assert os.listdir(root) == []


def test_problems_are_logged_as_the_settings_say(script: Path, root: str) -> None:
    output, log = ask(script, f"{root}/missing", LIMITER_LOG="stderr")
    assert output == SICK % b"ENOENT"
    entry = json.loads(log)
    assert entry["status"] == 503
    assert f"{root}/missing" in entry["reason"]


@pytest.mark.parametrize("number", HARD + PASSING + SOFT, ids=errno.errorcode.__getitem__)
def test_every_errno_at_every_call(root: str, number: int) -> None:
    """The answer has the name of the errno, and the log has one line.

    A sweep finds what could not be removed.
    """
    for call in range(100):
        store = f"{root}/{call}"
        os.mkdir(store)
        ended = play(_health(store), call, fail(number))
        if not ended.struck:
            break
        _check_struck(ended, number)
        assert all(name.startswith(".new-") for name in os.listdir(store))
        sweep_store(Store(store), clock=lambda: clock() + 2 * HOUR)
        assert os.listdir(store) == []
    assert (ended.output, ended.log) == (HEALTHY, b"")
    assert call == CALLS


def _health(root: str) -> Callable[[], object]:
    def action() -> None:
        use({"LIMITER_ROOT": root, **AMPLE})
        health()

    return action


def _check_struck(ended: Ended, number: int) -> None:
    assert b"Traceback" not in ended.output + ended.log
    if ended.struck == "write" and not ended.output:
        assert ended.log.count(b"\n") <= 1  # the call that failed wrote the answer or the line
    elif ended.output == HEALTHY:
        is_refused = ended.struck == "chmod" and number in (errno.EPERM, errno.EACCES)
        assert number in SOFT + PASSING or is_refused, "some file systems have no modes"
        assert not ended.log
    else:
        assert number not in PASSING
        reason = errno.errorcode[number].encode()
        assert ended.output in ([SICK % reason] if number in HARD else [SICK % reason, SICK % b"EIO"])
        assert ended.log.startswith(b"limiter: health: StoreError: [Errno ")
        assert ended.log.count(b"\n") == 1


def test_nothing_is_to_be_repaired_after_sigkill_between_any_two_calls(script: Path, root: str) -> None:
    for call in range(100):
        ended = play(_health(root), call, kill)
        assert all(name.startswith(".new-") for name in os.listdir(root))
        assert ask(script, root) == (HEALTHY, "")
        if not ended.killed:
            break
    assert call == CALLS
    assert os.listdir(root) != []
    swept = sweep_store(Store(root), clock=lambda: clock() + 2 * HOUR)
    assert (swept.directories, os.listdir(root)) == (0, [])


def test_with_the_limiter_off_no_store_is_needed(script: Path, root: str) -> None:
    healthy = HEAD % b"200 OK" + b'{"message": "OK"}'
    assert ask(script, f"{root}/missing", LIMITER_MODE="off") == (healthy, "")


def test_a_mistake_in_the_program_is_no_traceback(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limiter.core.trial.furnish", lambda *_: 1 / 0)
    ended = run(_health(root))
    assert (ended.output, ended.log) == (
        SICK % b"internal",
        b"limiter: health: ZeroDivisionError: division by zero\n",
    )


def test_a_register_must_be_readable(script: Path, root: str, apps: str) -> None:
    """An entry need not exist, and the limits for app_ids without one do not matter."""
    assert ask(script, root, LIMITER_APPS=apps, LIMITER_LIMIT="many") == (HEALTHY, "")
    put(apps, ".default", "0/second")
    assert ask(script, root, LIMITER_APPS=apps) == (HEALTHY, "")


# Disks


def test_a_disk_without_room_for_another_application(script: Path) -> None:
    """Known applications are still admitted, but health is about all applications."""
    with small_disk() as disk:
        store = new_root(str(disk.path))
        disk.fill()
        assert_sick(ask(script, store), "ENOSPC", "StoreError: [Errno 28] ")
        disk.empty()
        assert ask(script, store) == (HEALTHY, "")


def test_a_mount_that_has_died(script: Path) -> None:
    with hanging_mount() as mount:
        assert ask(script, mount.path) == (HEALTHY, "")
        mount._daemon.kill()
        mount._daemon.wait()
        assert_sick(ask(script, mount.path), "ENOTCONN", "StoreError: [Errno 107] ")


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    """A file system that hangs on command."""
    with hanging_mount() as it:
        yield it


@pytest.mark.parametrize(
    ("stores", "apps"),
    [("{hung}", ""), ("{root}:{hung}", ""), ("{root}", "{hung}")],
    ids=["store", "second", "register"],
)
def test_an_unresponsive_file_system_is_answered_in_time(
    script: Path, root: str, mount: Mount, stores: str, apps: str
) -> None:
    """The whole answer comes at the time-out, while the store is still unresponsive."""
    stores, apps = (it.format(root=root, hung=mount.path) for it in (stores, apps))
    assert ask(script, stores, LIMITER_APPS=apps) == (HEALTHY, "")
    environ = {"LIMITER_ROOT": stores, "LIMITER_APPS": apps, "LIMITER_TIMEOUT": str(TIMEOUT)}
    pipe = subprocess.PIPE
    mount.hang()
    too_late = Timer(SAFETY, mount.release)
    too_late.start()
    begin = time.monotonic()
    with subprocess.Popen([script], env=environ, stdout=pipe, stderr=pipe) as asked:
        assert asked.stdout is not None
        assert asked.stderr is not None
        # The answer ends when standard output is closed; the process ends later.
        answer = asked.stdout.read(), asked.stderr.read().decode()
        took = time.monotonic() - begin
        too_late.cancel()
        mount.release()
    assert_sick(answer, "ETIMEDOUT", "StoreError: [Errno 110] The store did not answer")
    assert TIMEOUT <= took < SAFETY
    assert ask(script, stores, LIMITER_APPS=apps) == (HEALTHY, "")
