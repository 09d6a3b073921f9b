"""The journal: one JSON object a line, for every destination and every kind of problem."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.report.journal import LENGTH_MOST, compose, write
from tests.places import new_root

REQUEST = {
    b"REQUEST_METHOD": b"POST",
    b"SCRIPT_FILENAME": b"/srv/cgi/order.py",
    b"SCRIPT_NAME": b"/cgi-bin/order.py",
    b"PATH_INFO": b"/7",
    b"QUERY_STRING": b"app_id=acme&token=hunter2",
    b"UNIQUE_ID": b"awRcin2E1_BLgEjI2I_OCQAAAIE",
}
STACK = "/srv/x.py:7 f\n/srv/cgi/order.py:3 <module>"


def entry(
    environ: dict[bytes, bytes] | None = None,
    status: int | None = 500,
    reason: str = "KeyError: 'x'",
    where: str = "/srv/x.py:7",
    stack: str = STACK,
    sample: int | None = None,
) -> dict[str, Any]:
    line = compose(REQUEST if environ is None else environ, status, reason, where, stack, sample)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= LENGTH_MOST < 4096
    assert re.fullmatch(rb"[ -~]*\n", line)
    found: dict[str, Any] = json.loads(line)
    return found


def test_all_that_is_known_in_this_order() -> None:
    before = datetime.now(timezone.utc)
    it = entry(sample=10)
    told = datetime.strptime(it.pop("time"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    assert before - timedelta(microseconds=1) <= told <= datetime.now(timezone.utc)
    assert list(it.items()) == [
        ("id", "awRcin2E1_BLgEjI2I_OCQAAAIE"),
        ("pid", os.getpid()),
        ("app_id", "acme"),
        ("status", 500),
        ("sample", 10),
        ("reason", "KeyError: 'x'"),
        ("where", "/srv/x.py:7"),
        ("stack", ["/srv/x.py:7 f", "/srv/cgi/order.py:3 <module>"]),
        ("method", "POST"),
        ("script", "/srv/cgi/order.py"),
        ("path", "/cgi-bin/order.py/7"),
        ("query", "app_id=acme&token=***"),
    ]


def test_what_is_not_known_is_missing_but_for_the_status() -> None:
    it = entry({}, None, "No mail", "", "")
    assert list(it) == ["time", "pid", "status", "reason"]
    assert it["status"] is None


@pytest.mark.parametrize(
    ("key", "query", "app_id"),
    [
        ("", "app_id=acme", "acme"),
        ("customer", "customer=acme", "acme"),
        ("", "app_id=%2e%2e/x", None),
        ("", "app_id=a&app_id=b", None),
        ("api_key", "api_key=acme", None),
        ("header:X-Api-Key", "app_id=acme", None),
        ("env:REMOTE_ADDR", "app_id=acme", None),
        ("of no kind:", "app_id=acme", None),
    ],
)
def test_an_app_id_is_told_only_if_it_is_no_secret(key: str, query: str, app_id: str | None) -> None:
    environ = {
        b"LIMITER_KEY": key.encode(),
        b"QUERY_STRING": query.encode(),
        b"HTTP_X_API_KEY": b"acme",
        b"REMOTE_ADDR": b"acme",
    }
    assert entry(environ).get("app_id") == app_id


@given(
    st.text(st.characters(), max_size=3000),
    st.text(st.characters(), max_size=3000),
    st.lists(st.text(st.characters(), max_size=300), max_size=60),
    st.binary(max_size=3000),
)
def test_any_text_is_one_bounded_line(reason: str, where: str, frames: list[str], value: bytes) -> None:
    environ = dict.fromkeys((*REQUEST, b"LIMITER_KEY"), value)
    it = entry(environ, 500, reason, where, "\n".join(frames))
    assert it["status"] == 500


def test_a_long_line_loses_its_outermost_calls_first() -> None:
    frames = [f"/srv/{120 * 'x'}/{number}.py:1 f" for number in range(40)]
    it = entry(reason=1000 * "r", stack="\n".join(frames))
    assert it["reason"] == 1000 * "r"
    assert it["stack"][-1] == "..."
    assert it["stack"][:-1] == frames[: len(it["stack"]) - 1]
    assert len(it["stack"]) > 5


def test_a_secret_is_masked_before_it_is_cut_in_two() -> None:
    long = 300 * "hunter2"
    it = entry(
        {
            **REQUEST,
            b"QUERY_STRING": f"x=Bearer+{long}".encode(),
            b"PATH_INFO": f"/postgres://me:{long}@db".encode(),
        },
        reason=f"no postgres://me:{long}@db",
        stack=f"/srv/x.rb:7:in connect to postgres://me:{long}@db\npassword='{long}'",
    )
    assert "hunter2" not in json.dumps(it)
    assert it["reason"] == "no postgres://***@db"


def write_many(path: str, number: int) -> None:
    for _ in range(number):
        assert write(path, compose(REQUEST, 500, 600 * "x", "", "", None), True) == ""


def test_many_processes_write_whole_lines_to_one_file(place: Path) -> None:
    log = place / "log"
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as processes:
        for done in [processes.submit(write_many, str(log), 100) for _ in range(8)]:
            done.result()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 800
    assert len({line["pid"] for line in lines}) > 1


def test_a_new_file_is_for_its_owner_and_its_group(place: Path) -> None:
    before = os.umask(0)
    try:
        write(str(place / "log"), b"x\n", True)
    finally:
        os.umask(before)
    assert (place / "log").stat().st_mode & 0o777 == 0o640


def test_a_new_file_that_root_makes_belongs_to_the_owner_of_its_directory(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can do so")
    os.chown(place, 65534, 65533)
    write(str(place / "log"), b"x\n", True)
    found = (place / "log").stat()
    assert (found.st_uid, found.st_gid) == (65534, 65533)


@pytest.mark.parametrize("how", ["renamed", "truncated"])
def test_a_file_may_be_rotated(place: Path, how: str) -> None:
    log = place / "log"
    write(str(log), b"one\n", True)
    if how == "renamed":
        log.rename(place / "log.1")
    else:
        shutil.copy(log, place / "log.1")
        os.truncate(log, 0)
    write(str(log), b"two\n", True)
    assert (log.read_text(), (place / "log.1").read_text()) == ("two\n", "one\n")


def test_a_line_after_one_that_was_cut_off_is_whole(place: Path) -> None:
    log = place / "log"
    log.write_text('{"time": "20')
    write(str(log), b"two\n", True)
    assert log.read_text() == '{"time": "20\ntwo\n'


def failure(capfdbinary: pytest.CaptureFixture[bytes], path: Path) -> str:
    """Return why a line cannot be written there; check that it is on standard error instead."""
    why = write(str(path), b"a line\n", True)
    assert capfdbinary.readouterr().err == b"a line\n"
    assert str(path) in why
    assert "LIMITER_LOG" in why
    return why


def test_what_is_no_file_is_refused(place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (place / "link").symlink_to(place / "log")
    os.mkfifo(place / "fifo")
    (place / "directory").mkdir()
    for name in ("link", "fifo", "directory", "nowhere/log"):
        failure(capfdbinary, place / name)
    assert not (place / "log").exists()


def test_where_anybody_may_write_only_an_own_file_is_trusted(
    place: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    place.chmod(0o1777)
    write(str(place / "log"), b"one\n", True)
    assert (place / "log").read_text() == "one\n"
    os.link(place / "log", place / "other")
    assert "somebody else" in failure(capfdbinary, place / "other")
    if os.geteuid() == 0:
        planted = place / "planted"
        planted.write_text("")
        os.chown(planted, 65534, 65534)
        assert "somebody else" in failure(capfdbinary, planted)
    assert (place / "log").read_text() == "one\n"


def test_a_full_disk_is_told_on_standard_error(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    disk = new_root("/tmp")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", str(disk)], check=True)
    try:
        log = disk / "log"
        log.write_bytes(4090 * b"x" + b"\n")
        log.chmod(0o640)
        failure(capfdbinary, log)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


def test_where_standard_error_takes_nothing_either_it_is_told_why(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("limiter.report.journal.posix.write", full)
    assert "No space left on device" in write(str(place / "log"), b"a line\n", True)
    assert write("stderr", b"a line\n", True) == ""


@pytest.mark.parametrize(("severe", "priority"), [(True, 27), (False, 28)])
def test_the_system_log_gets_a_datagram(
    place: Path, monkeypatch: pytest.MonkeyPatch, severe: bool, priority: int
) -> None:
    monkeypatch.setattr("limiter.report.journal._DEV_LOG", str(place / "log"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(place / "log"))
        assert write("syslog", b"a line\n", severe) == ""
        assert log.recv(8192) == f"<{priority}>limiter[{os.getpid()}]: a line".encode()


def test_a_real_system_log_shows_the_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rsyslogd runs here with a socket other than /dev/log, which may be in use."""
    program = shutil.which("rsyslogd", path="/usr/sbin:/sbin:/usr/bin")
    if not program:
        pytest.skip("rsyslogd is not installed (rsyslog)")
    (place / "conf").write_text(
        f'module(load="imuxsock" SysSock.Name="{place}/socket")\n'
        f'action(type="omfile" file="{place}/messages")\n'
    )
    monkeypatch.setattr("limiter.report.journal._DEV_LOG", f"{place}/socket")
    line = compose(REQUEST, 500, "x", "", "", None)
    server = subprocess.Popen([program, "-n", "-f", place / "conf", "-i", place / "pid"])
    try:
        wait(lambda: listens(place / "socket"))
        assert write("syslog", line, True) == ""
        messages = place / "messages"
        wait(lambda: messages.exists() and "limiter[" in messages.read_text())
        (told,) = [it for it in messages.read_text().splitlines() if "limiter[" in it]
        assert json.loads(told.partition("]: ")[2]) == json.loads(line)
    finally:
        server.kill()
        server.wait()


def wait(is_so: Callable[[], bool]) -> None:
    """Poll until another process has got this far; use it where there is nothing else to wait for."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listens(path: Path) -> bool:
    """Whether a socket there accepts datagrams."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return not probe.connect_ex(str(path))


def test_without_a_system_log_standard_error_has_the_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("limiter.report.journal._DEV_LOG", str(place / "nowhere"))
    assert write("syslog", b"a line\n", True).startswith("LIMITER_LOG='syslog': FileNotFoundError")
    assert capfdbinary.readouterr().err == b"a line\n"
