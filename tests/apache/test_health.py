"""health.py as a web server runs it: 200 if a hit could be admitted, else 503 with the name of the
reason.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from benchmarks.in_process import instructions, new_store
from limiter.apache.health import health
from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.core.store import Store
from limiter.core.sweep import sweep_store
from limiter.request.register import put
from tests.faults import HARD, PASSING, SOFT, Ended, fail, kill, play, use
from tests.hanging import Mount, hanging_mount
from tests.places import PYTHON, new_root

HEAD = b"Status: %b\nContent-Type: application/json; charset=utf-8\nCache-Control: no-store\n\n"
HEALTHY = HEAD % b"200 OK" + b'{"message": "OK"}'
SICK = HEAD % b"503 Service Unavailable" + b'{"message": "Service Unavailable", "reason": "%b"}'

CALLS = 11
"""The system calls: ten on the store, and one that writes the answer."""

AMPLE = {"LIMITER_TIMEOUT": "60"}
"""A time-out that no busy machine exceeds."""

TIMEOUT = 0.1
"""The time-out of requests that find the store unresponsive, in seconds."""

SAFETY = 60
"""Seconds after which the file system stops hanging, so that a test fails instead of waiting forever."""

NEVER = 10**6
HOUR = 3_600_000_000

INSTRUCTIONS_MOST = 1.05
"""The limit for the instructions, relative to an admitted check.py.  Measured: 1.027."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a disk of that kind")
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")


@pytest.fixture
def script(installed: Path) -> Path:
    """The installed health.py."""
    return installed / "cgi-bin/health.py"


@pytest.fixture
def register() -> Iterator[str]:
    """A register without entries."""
    path = new_root("/dev/shm")
    yield str(path)
    shutil.rmtree(path)


def run(script: Path, environ: dict[str, str], body: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run it once, to its end."""
    return subprocess.run(
        [script], input=body, env={**AMPLE, **environ}, capture_output=True, check=True
    )


def ask(script: Path, root: str, **variables: str) -> tuple[bytes, str]:
    """Return its answer, and what it logs."""
    ended = run(script, {"LIMITER_ROOT": root, **variables})
    return ended.stdout, ended.stderr.decode()


def judge_sick(answer: tuple[bytes, str], reason: str, logged: str) -> None:
    """Compare an answer with the contract: every byte of it, and one line in the log."""
    output, log = answer
    assert output == SICK % reason.encode()
    assert json.loads(output.partition(b"\n\n")[2])["reason"] == reason
    assert log.startswith(f"limiter: health: {logged}")
    assert log.endswith("\n")
    assert log[:-1].isprintable()


# Healthy


def test_a_store_that_can_admit_is_healthy_and_left_as_it_was(script: Path, any_root: str) -> None:
    assert ask(script, any_root) == (HEALTHY, "")
    assert os.listdir(any_root) == []


def test_head_is_get_without_a_body(script: Path, root: str) -> None:
    assert ask(script, root, REQUEST_METHOD="HEAD") == (HEAD % b"200 OK", "")
    output, _ = ask(script, f"{root}/missing", REQUEST_METHOD="HEAD")
    assert output == HEAD % b"503 Service Unavailable"


@pytest.mark.parametrize(
    "query",
    [
        "app_id=acme",
        "app_id=..%2F..",
        "app_id=.health",
        "a=%00",
        "LIMITER_ROOT=/nowhere",
        "-h",
        "x" * 8000,
    ],
)
def test_what_is_asked_touches_nothing(script: Path, root: str, query: str) -> None:
    """The query, a form and a header are all ignored."""
    environ = {
        "LIMITER_ROOT": root,
        "QUERY_STRING": query,
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": str(len(query)),
        "HTTP_LIMITER_ROOT": "/nowhere",
        "PATH_INFO": "/../../etc",
    }
    ended = run(script, environ, query.encode())
    assert (ended.stdout, ended.stderr) == (HEALTHY, b"")
    assert os.listdir(root) == []


@pytest.mark.parametrize("limits", ["0/second", "1/day", "10000/day;5/second burst 20", "3/hour fixed"])
def test_no_limit_is_too_small_for_it(script: Path, root: str, limits: str) -> None:
    for _ in range(3):
        assert ask(script, root, LIMITER_LIMIT=limits) == (HEALTHY, "")


def test_it_counts_against_nobody(script: Path, root: str) -> None:
    limiter = Limiter(root, "1/hour")
    assert limiter.hit("acme")
    before = Store(root).names("acme/1-per-3600s")
    assert ask(script, root, LIMITER_LIMIT="1/hour", QUERY_STRING="app_id=acme") == (HEALTHY, "")
    assert Store(root).names("acme/1-per-3600s") == before
    assert os.listdir(root) == ["acme"]


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
    assert ask(script, "", TMPDIR=root) == (HEALTHY, "")
    assert os.listdir(root) == [f"limiter-{os.geteuid()}"]


# Sick


def test_where_problems_are_told_is_set_for_it_too(script: Path, root: str) -> None:
    output, log = ask(script, f"{root}/missing", LIMITER_LOG="stderr")
    assert output == SICK % b"ENOENT"
    entry = json.loads(log)
    assert entry["status"] == 503
    assert f"{root}/missing" in entry["reason"]


def test_a_store_that_is_missing(script: Path, root: str) -> None:
    answer = ask(script, f"{root}/missing")
    judge_sick(answer, "ENOENT", "StoreError: [Errno 2] The store does not exist")
    assert f"{root}/missing" in answer[1]
    assert os.listdir(root) == []


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
        _judge_struck(ended, number)
        assert all(name.startswith(".new-") for name in os.listdir(store))
        sweep_store(Store(store), clock=lambda: clock() + 2 * HOUR)
        assert os.listdir(store) == []
    assert (ended.output, ended.log) == (HEALTHY, b"")
    assert call == CALLS


def _health(root: str) -> Callable[[], object]:
    def run() -> None:
        use({"LIMITER_ROOT": root, **AMPLE})
        health()

    return run


def _judge_struck(ended: Ended, number: int) -> None:
    assert b"Traceback" not in ended.output + ended.log
    if ended.struck == "write" and not ended.output:
        assert ended.log.count(b"\n") <= 1  # the call that failed wrote the answer or the line
    elif ended.output == HEALTHY:
        assert number in SOFT + PASSING
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
    assert (swept.applications, os.listdir(root)) == (0, [])


MISTAKES = [
    ({"LIMITER_LIMIT": "many"}, "limit 'many'"),
    ({"LIMITER_NODES": "0"}, "LIMITER_NODES='0'"),
    ({"LIMITER_KEY": "header:X Y"}, "key 'header:X Y'"),
    ({"LIMITER_KEY": "env:REMOTE_ADDR", "LIMITER_TRUSTED_PROXIES": "here"}, "trusted proxy 'here'"),
    ({"LIMITER_ROOT": "store"}, "LIMITER_ROOT='store'"),
    ({"LIMITER_ROOT": "/a::/b"}, "LIMITER_ROOT='/a::/b'"),
    ({"LIMITER_APPS": "apps\n[error] forged"}, "LIMITER_APPS='apps"),
    ({"LIMITER_TIMEOUT": "soon"}, "LIMITER_TIMEOUT='soon'"),
    ({"LIMITER_MODE": "of"}, "LIMITER_MODE='of'"),
    ({"LIMITER_ON_ERROR": "shrug"}, "LIMITER_ON_ERROR='shrug'"),
]


@pytest.mark.parametrize(("settings", "why"), MISTAKES)
def test_a_mistake_in_the_settings(script: Path, root: str, settings: dict[str, str], why: str) -> None:
    ended = run(script, {"LIMITER_ROOT": root, **settings})
    answer = ended.stdout, ended.stderr.decode()
    judge_sick(answer, "settings", "ValueError: ")
    assert why in answer[1]
    assert os.listdir(root) == []


@pytest.mark.parametrize("settings", [{"LIMITER_ON_ERROR": "admit"}, {"LIMITER_MODE": "shadow"}])
def test_that_all_would_be_admitted_makes_no_difference(
    script: Path, root: str, settings: dict[str, str]
) -> None:
    judge_sick(ask(script, f"{root}/missing", **settings), "ENOENT", "StoreError: ")


def test_who_switches_the_limiter_off_needs_no_store(script: Path, root: str) -> None:
    assert ask(script, f"{root}/missing", LIMITER_MODE="off") == (HEALTHY, "")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_each_of_several_stores_must_be_had(script: Path, root: str, missing: int) -> None:
    stores = [f"{root}/{number}" for number in range(3)]
    for store in stores:
        os.mkdir(store)
    assert ask(script, ":".join(stores)) == (HEALTHY, "")
    os.rmdir(stores[missing])
    answer = ask(script, ":".join(stores))
    judge_sick(answer, "ENOENT", "StoreError: ")
    assert f"'{stores[missing]}'" in answer[1]


def test_a_mistake_in_the_program_is_no_traceback(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limiter.apache.health.furnish", lambda *_: 1 / 0)
    ended = play(_health(root), NEVER, kill)
    assert (ended.output, ended.log) == (
        SICK % b"internal",
        b"limiter: health: ZeroDivisionError: division by zero\n",
    )


# The register


def test_a_register_must_be_readable(script: Path, root: str, register: str) -> None:
    """An entry need not exist, and the limits for app_ids without one do not matter."""
    assert ask(script, root, LIMITER_APPS=register, LIMITER_LIMIT="many") == (HEALTHY, "")
    put(register, ".default", "0/second")
    assert ask(script, root, LIMITER_APPS=register) == (HEALTHY, "")
    answer = ask(script, root, LIMITER_APPS=f"{register}/missing")
    judge_sick(answer, "ENOENT", "StoreError: [Errno 2] The register does not exist")


# Disks


@contextmanager
def disk(options: str) -> Iterator[Path]:
    """Mount a file system of its own."""
    place = new_root("/tmp")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        (place / "store").mkdir()
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


@needs_root
def test_a_disk_without_room_for_another_application(script: Path) -> None:
    """Known applications are still admitted, but health is about all applications."""
    with disk("nr_inodes=40") as place:
        store = str(place / "store")
        assert Limiter(store, "10/hour").hit("acme")
        assert ask(script, store) == (HEALTHY, "")
        for number in range(os.statvfs(place).f_ffree):
            (place / str(number)).touch()
        assert Limiter(store, "10/hour").hit("acme")
        judge_sick(ask(script, store), "ENOSPC", "StoreError: [Errno 28] ")
        (place / "0").unlink()
        (place / "1").unlink()
        assert ask(script, store) == (HEALTHY, "")


@needs_root
def test_a_disk_that_may_only_be_read(script: Path) -> None:
    with disk("size=1M") as place:
        store = str(place / "store")
        assert ask(script, store) == (HEALTHY, "")
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        judge_sick(ask(script, store), "EROFS", "StoreError: [Errno 30] ")
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        assert ask(script, store) == (HEALTHY, "")


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    """A file system that hangs on command."""
    with hanging_mount() as it:
        yield it


@pytest.mark.parametrize(
    ("stores", "apps"),
    [("{silent}", ""), ("{root}:{silent}", ""), ("{root}", "{silent}")],
    ids=["store", "second", "register"],
)
def test_silence_is_answered_in_time(
    script: Path, root: str, mount: Mount, stores: str, apps: str
) -> None:
    """The whole answer comes at the time-out, while the store is still unresponsive."""
    stores, apps = (it.format(root=root, silent=mount.path) for it in (stores, apps))
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
        # The answer is everything until standard output is closed; waiting for the end would take
        # longer.
        answer = asked.stdout.read(), asked.stderr.read().decode()
        took = time.monotonic() - begin
        is_silent = too_late.is_alive()
        too_late.cancel()
        mount.release()
    judge_sick(answer, "ETIMEDOUT", "StoreError: [Errno 110] The store did not answer")
    assert is_silent
    assert took >= TIMEOUT
    assert ask(script, stores, LIMITER_APPS=apps) == (HEALTHY, "")


# What it costs


@needs_valgrind
@pytest.mark.one_python
def test_it_costs_what_check_costs(installed: Path, root: str) -> None:
    environ = {**new_store(root, "10/hour"), **AMPLE}
    health, check = (
        instructions([PYTHON, "-IS", str(installed / "cgi-bin" / name)], environ)
        for name in ("health.py", "check.py")
    )
    print(f"{health / check:.4f}")
    assert health / check <= INSTRUCTIONS_MOST


def test_it_loads_nothing_but_its_bundle(script: Path, root: str) -> None:
    tell = (
        "import posix, sys; log = posix.dup(2)\n"
        "end = posix._exit\n"
        "told = lambda: [it for it in ('os', 're', 'json', 'typing', 'limiter.core.sweep') if it in sys.modules]\n"
        "posix._exit = lambda code: [posix.write(log, repr(told()).encode()), end(code)]\n"
        f"__file__ = {str(script)!r}\n"
        "exec(open(__file__, 'rb').read())"
    )
    ended = subprocess.run(
        [PYTHON, "-IS", "-c", tell], env={"LIMITER_ROOT": root, **AMPLE}, capture_output=True, check=True
    )
    assert (ended.stdout, ended.stderr) == (HEALTHY, b"[]")
