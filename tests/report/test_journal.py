"""The journal: one JSON object a line, for every destination and every kind of problem."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.report.journal import LENGTH_MOST, compose, write
from tests.report.conftest import entries
from tests.waiting import wait_until

REQUEST = {
    b"REMOTE_ADDR": b"192.0.2.7",
    b"REQUEST_METHOD": b"POST",
    b"SCRIPT_FILENAME": b"/srv/cgi/order.py",
    b"SCRIPT_NAME": b"/cgi-bin/order.py",
    b"PATH_INFO": b"/7",
    b"QUERY_STRING": b"app_id=acme&token=hunter2",
    b"UNIQUE_ID": b"awRcin2E1_BLgEjI2I_OCQAAAIE",
}
STACK = "/srv/x.py:7 f\n/srv/cgi/order.py:3 <module>"


def entry(
    environ: dict[bytes, bytes] = REQUEST,
    status: int | None = 500,
    reason: str = "KeyError: 'x'",
    where: str = "/srv/x.py:7",
    stack: str = STACK,
    sample: int | None = None,
) -> dict[str, Any]:
    """Compose a line, check its form, and return its entry."""
    line = compose(environ, status, reason, where, stack, sample)
    assert re.fullmatch(rb"[ -~]*\n", line)
    assert len(line) <= LENGTH_MOST < 4096
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_has_all_that_is_known_in_this_order() -> None:
    before = datetime.now(timezone.utc)
    it = entry(sample=10)
    written = datetime.strptime(it.pop("time"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    assert before - timedelta(microseconds=1) <= written <= datetime.now(timezone.utc)
    assert list(it.items()) == [
        ("id", "awRcin2E1_BLgEjI2I_OCQAAAIE"),
        ("pid", os.getpid()),
        ("app_id", "acme"),
        ("status", 500),
        ("sample", 10),
        ("reason", "KeyError: 'x'"),
        ("where", "/srv/x.py:7"),
        ("stack", ["/srv/x.py:7 f", "/srv/cgi/order.py:3 <module>"]),
        ("address", "192.0.2.7"),
        ("method", "POST"),
        ("script", "/srv/cgi/order.py"),
        ("path", "/cgi-bin/order.py/7"),
        ("query", "app_id=acme&token=***"),
    ]


def test_an_unknown_value_is_left_out_except_for_the_status() -> None:
    it = entry({}, None, "No mail", "", "")
    assert list(it) == ["time", "pid", "status", "reason"]
    assert it["status"] is None


@pytest.mark.parametrize(
    ("key", "query", "app_id"),
    [
        ("", "app_id=acme", "acme"),
        ("customer", "customer=acme", "acme"),
        ("", "app_id=a&app_id=b", None),
        ("api_key", "api_key=acme", None),
        ("header:X-Api-Key", "app_id=acme", None),
        ("env:REMOTE_ADDR", "app_id=acme", None),
        ("of no kind:", "app_id=acme", None),
    ],
)
def test_an_app_id_that_may_be_a_secret_is_left_out(key: str, query: str, app_id: str | None) -> None:
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


def test_a_secret_is_masked_before_the_text_is_cut() -> None:
    url = f"postgres://me:{300 * 'hunter2'}@db"
    it = entry(
        {
            **REQUEST,
            b"QUERY_STRING": f"x=Bearer+{300 * 'hunter2'}".encode(),
            b"PATH_INFO": f"/{url}".encode(),
        },
        reason=f"no {url}",
        stack=f"/srv/x.rb:7:in connect to {url}\npassword='{300 * 'hunter2'}'",
    )
    assert "hunter2" not in json.dumps(it)
    assert it["reason"] == "no postgres://***@db"


# Files


def write_many(path: str, number: int) -> None:
    for _ in range(number):
        assert write(path, compose(REQUEST, 500, 600 * "x", "", "", None), True) == ""


def test_many_processes_write_whole_lines_to_one_file(place: Path) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as processes:
        for done in [processes.submit(write_many, f"{place}/log", 100) for _ in range(8)]:
            done.result()
    lines = entries(place)
    assert len(lines) == 800
    assert len({line["pid"] for line in lines}) > 1


def test_a_new_file_is_for_its_owner_and_its_group(place: Path) -> None:
    """If root makes it, the owner is that of its directory."""
    owner = (65534, 65533) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(place, *owner)
    before = os.umask(0)
    try:
        write(str(place / "log"), b"x\n", True)
    finally:
        os.umask(before)
    found = (place / "log").stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, *owner)


def test_a_file_may_be_rotated(place: Path) -> None:
    """It may be renamed, or copied and truncated."""
    log = place / "log"
    write(str(log), b"one\n", True)
    log.rename(place / "log.1")
    write(str(log), b"two\n", True)
    os.truncate(log, 0)
    write(str(log), b"three\n", True)
    assert (log.read_text(), (place / "log.1").read_text()) == ("three\n", "one\n")


def test_a_line_does_not_run_into_one_that_was_cut_off(place: Path) -> None:
    log = place / "log"
    log.write_text('{"time": "20')
    write(str(log), b"two\n", True)
    assert log.read_text() == '{"time": "20\ntwo\n'


# Failures: the line is on standard error instead.


def failure(capfdbinary: pytest.CaptureFixture[bytes], path: Path | str) -> str:
    """Return why a line cannot be written there; check that it is on standard error instead."""
    why = write(str(path), b"a line\n", True)
    assert capfdbinary.readouterr().err == b"a line\n"
    assert why.startswith(f"LIMITER_LOG='{path}': ")
    return why


@pytest.mark.parametrize("name", ["link", "fifo", "directory", "nowhere/log"])
def test_only_a_regular_file_is_accepted(
    place: Path, capfdbinary: pytest.CaptureFixture[bytes], name: str
) -> None:
    (place / "link").symlink_to(place / "log")
    os.mkfifo(place / "fifo")
    (place / "directory").mkdir()
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_full_disk_is_a_failure(place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", place], check=True)
    try:
        log = place / "log"
        log.write_bytes(4090 * b"x" + b"\n")
        log.chmod(0o640)
        failure(capfdbinary, log)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_failure_of_standard_error_is_not_raised(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("limiter.report.journal.posix.write", full)
    assert "No space left on device" in write(str(place / "log"), b"a line\n", True)
    assert write("stderr", b"a line\n", True) == ""


# The system's log


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
        wait_until(lambda: write("syslog", line, True) == "")
        messages = place / "messages"
        wait_until(lambda: messages.exists() and "limiter[" in messages.read_text())
        (logged,) = [it for it in messages.read_text().splitlines() if "limiter[" in it]
        assert json.loads(logged.partition("]: ")[2]) == json.loads(line)
    finally:
        server.kill()
        server.wait()


def test_without_a_system_log_standard_error_has_the_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("limiter.report.journal._DEV_LOG", str(place / "nowhere"))
    assert write("syslog", b"a line\n", True).startswith("LIMITER_LOG='syslog': FileNotFoundError")
    assert capfdbinary.readouterr().err == b"a line\n"
