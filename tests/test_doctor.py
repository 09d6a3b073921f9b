"""The doctor: what it says of good and bad file systems, of two nodes, and what it leaves behind."""

from __future__ import annotations

import errno
import os
import posix
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.doctor import doctor
from limiter.limiter import Limiter
from limiter.meeting import PLACE
from tests.breaking import breaking_mount
from tests.conftest import clean_environ
from tests.history import History, Recorder, judge_l1, judge_s1, only
from tests.places import REPOSITORY, new_root

TRIALS = ["clock", "rename", "listing", "claims", "furnishing", "sweeping"]
LATENCIES = ["list 10", "list 64", "rename", "lost rename", "mkdir, rename"]
JOINT = ["clocks", "rename", "listing", "news", "furnishing"]
DEADLINE = 120


def command(root: str | Path, call: str = "doctor(root)") -> list[str]:
    script = f"import sys\nfrom limiter import doctor as module\nroot = {str(root)!r}\nsys.exit(module.{call})"
    return [sys.executable, "-c", script]


def start(root: str | Path, call: str = "doctor(root)") -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(root, call),
        cwd=REPOSITORY,
        env=clean_environ(),
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status, standard output and standard error."""
    with process:
        try:
            output, log = process.communicate(timeout=DEADLINE)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output, log


MEET = "doctor(root, meet=True)"
ONLY_MEET = "_TRIALS.clear() or module.doctor(root, meet=True)"


def levels(output: str) -> list[tuple[str, str]]:
    """(what, level) of each line that has one; each other line is indented advice."""
    found = []
    for line in output.splitlines():
        match = re.fullmatch(r"(PASS|WARN|FAIL)  (.{14})  (\S.*)", line)
        if match:
            found.append((match[2].strip(), match[1]))
        else:
            assert line.startswith("      ")
    return found


# File systems


@contextmanager
def formatted(kind: str) -> Iterator[str]:
    """A file system of that kind in a file, mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    if not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"mkfs.{kind} is not installed")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        image, point = Path(place, "image"), Path(place, "mount")
        with image.open("wb") as file:
            file.truncate(400 * 2**20)
        point.mkdir()
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stdout=subprocess.DEVNULL)
        mounted = subprocess.run(
            ["mount", "-o", "loop", image, point], check=False, capture_output=True, text=True
        )
        if mounted.returncode != 0:
            pytest.skip(f"{kind} cannot be mounted here: {mounted.stderr.strip()}")
        try:
            yield str(point)
        finally:
            subprocess.run(["umount", point], check=True)


@contextmanager
def overlay(lower: Path) -> Iterator[str]:
    """An overlay over that directory, mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    place = new_root("/dev/shm")
    try:
        for name in ("upper", "work", "mount"):
            (place / name).mkdir()
        options = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "-o", options, "overlay", place / "mount"],
            check=False,
            capture_output=True,
            text=True,
        )
        if mounted.returncode != 0:
            pytest.skip(f"an overlay cannot be mounted here: {mounted.stderr.strip()}")
        try:
            yield str(place / "mount")
        finally:
            subprocess.run(["umount", place / "mount"], check=True)
    finally:
        shutil.rmtree(place)


def judge_good(root: str, kind: str) -> None:
    status, output, log = end(start(root))
    assert (status, log) == (0, "")
    assert f"PASS  file system     {kind}\n" in output
    assert levels(output) == [
        (what, "PASS") for what in ["file system", "directory", *TRIALS, *LATENCIES]
    ]
    assert not [name for name in os.listdir(root) if name.startswith(".new-")]


def test_tmpfs_passes_in_seconds(root: str) -> None:
    begin = time.monotonic()
    judge_good(root, "tmpfs")
    assert time.monotonic() - begin < 15


@pytest.mark.one_python
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_good_file_system_passes(kind: str) -> None:
    with formatted(kind) as point:
        judge_good(point, kind)


FLAWED = {
    "several winners": {"rename": "FAIL"},
    "old listings": {"listing": "FAIL"},
    "names twice": {"listing": "FAIL"},
    "names missing": {"listing": "FAIL"},
    "no directory rename": {"claims": "FAIL", "furnishing": "FAIL"},
    "clocks apart": {"clock": "WARN"},
    "slow": {"list 10": "WARN", "list 64": "WARN"},
    "none": {"rename": "PASS", "listing": "PASS", "claims": "PASS", "furnishing": "PASS"},
}


@pytest.mark.one_python
@pytest.mark.parametrize("flaw", FLAWED)
def test_a_file_system_that_breaks_a_primitive_is_found_out(flaw: str) -> None:
    with breaking_mount(flaw) as point:
        status, output, _ = end(start(point))
        found = levels(output)
        for expected in FLAWED[flaw].items():
            assert expected in found, output
        assert ("file system", "WARN") in found, "and it is none that is known"
        assert status == ("FAIL" in [level for _, level in found])
        if "FAIL" not in FLAWED[flaw].values():
            assert status == 0
        deadline = time.monotonic() + 5
        while os.listdir(point) and time.monotonic() < deadline:
            pass  # one that shows old listings does so for a moment
        if flaw != "names missing":  # what it does not show cannot be removed
            assert os.listdir(point) == []


@pytest.mark.one_python
def test_an_overlay_keeps_what_hits_need_and_is_warned_of(root: str) -> None:
    """Also with applications that lie below, whose directories it cannot rename."""
    assert Limiter(root, "2/minute").hit("acme")
    with overlay(Path(root)) as point:
        status, output, _ = end(start(point))
        assert status == 0
        assert levels(output)[0] == ("file system", "WARN")
        assert [level for what, level in levels(output)[1:]] == ["PASS"] * 12
        assert [bool(Limiter(point, "2/minute;5/hour").hit("acme")) for _ in range(2)] == [True, False]
        with pytest.raises(OSError, match="cross-device") as error:
            os.rename(f"{point}/acme", f"{point}/other")
        assert error.value.errno == errno.EXDEV


# Other findings


@pytest.mark.parametrize(("mode", "level"), [(0o755, "PASS"), (0o770, "WARN"), (0o777, "WARN")])
def test_a_store_that_others_can_write_is_warned_of(
    root: str, capfd: pytest.CaptureFixture[str], mode: int, level: str
) -> None:
    os.chmod(root, mode)
    assert subprocess.run(command(root), cwd=REPOSITORY, check=False).returncode == 0
    output = capfd.readouterr().out
    assert ("directory", level) in levels(output)
    assert f"mode {mode:04o}\n" in output
    assert (f"chmod go-w {root}" in output) == (level == "WARN")


def test_advice_follows_whatever_does_not_pass(root: str) -> None:
    os.chmod(root, 0o777)
    lines = end(start(root))[1].splitlines()
    for line, following in zip(lines, lines[1:]):
        assert following.startswith("      ") == (line[:4] in ("WARN", "FAIL"))


@pytest.mark.parametrize("there", ["missing", "file"])
def test_what_is_no_store_cannot_be_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    (tmp_path / "file").touch()
    assert doctor(str(tmp_path / there)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"limiter: \[Errno \d+\] .*\n", captured.err)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a store to somebody else")
def test_root_tries_as_the_owner(root: str) -> None:
    """What it makes is the owner's; a store in which that owner may not write cannot be tried."""
    os.chown(root, 65534, 65534)
    status, output, _ = end(start(root))
    assert (status, levels(output)[1]) == (0, ("directory", "PASS"))
    os.chmod(root, 0o500)
    status, _, log = end(start(root))
    assert status == 2
    assert "Permission denied" in log


# Nothing is disturbed, nothing is left


def test_live_applications_are_not_disturbed(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S1 and L1 hold for them all the while, and they are as they were."""
    from limiter.store import Store

    monkeypatch.setattr(Store, "rename", Store.rename)
    recorder = Recorder(root, "10/second")
    assert Limiter(root, "5/day").hit("quiet")
    quiet = os.listdir(f"{root}/quiet/5-per-86400s")
    trial = start(root)
    while trial.poll() is None:
        recorder.hit("acme")
    assert end(trial)[0] == 0
    history: History = recorder.history
    assert history.denied
    judge_s1(only("10/second"), history)
    judge_l1(only("10/second"), history)
    assert sorted(os.listdir(root)) == ["acme", "quiet"]
    assert os.listdir(f"{root}/quiet/5-per-86400s") == quiet


@pytest.mark.parametrize("moment", ["rename-", "listing", "claims", "latency"])
def test_interrupted_it_leaves_nothing(root: str, moment: str) -> None:
    trial = start(root)
    while not list(Path(root).glob(f".new-doctor-*/{moment}*")):
        assert trial.poll() is None
    os.killpg(trial.pid, signal.SIGINT)
    status, _, log = end(trial)
    assert (status, log) == (2, "limiter: interrupted\n")
    assert os.listdir(root) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(trial.pid, 0)


def test_progress_is_shown_on_a_terminal_only(root: str) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        trial = subprocess.Popen(
            command(root), cwd=REPOSITORY, env=clean_environ(), stdout=subprocess.PIPE, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        try:
            while part := terminal.read(1000):
                shown += part
        except OSError:
            pass  # the terminal has been hung up
        output, _ = trial.communicate(timeout=DEADLINE)
    assert trial.returncode == 0
    assert b"\x1b" not in output
    for what in TRIALS:
        assert f"\rtrying {what} ...".encode() in shown
    assert shown.endswith(b"\r\x1b[K"), "and is taken away"
    assert end(start(root))[2] == ""


# Two nodes


def test_two_that_meet_try_each_other(root: str) -> None:
    first = start(root, MEET)
    second = start(root, MEET)
    for status, output, log in (end(first), end(second)):
        assert (status, log) == (0, "")
        assert levels(output) == [
            (what, "PASS") for what in ["file system", "directory", *TRIALS, *LATENCIES, *JOINT]
        ]
        assert f"two nodes: {os.uname().nodename} and {os.uname().nodename}\n" in output
    assert os.listdir(root) == []


def _meet(root: str, monkeypatch: pytest.MonkeyPatch, patience: float) -> int:
    monkeypatch.setattr("limiter.doctor._PATIENCE", patience)
    monkeypatch.setattr("limiter.doctor._TRIALS", [])
    return doctor(root, meet=True)


def test_who_stays_alone_says_so(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _meet(root, monkeypatch, 0.1) == 2
    assert "The other node has been silent for 0.1 s" in capsys.readouterr().err
    assert os.listdir(root) == []


@pytest.mark.one_python
@pytest.mark.parametrize("flaw", ["several winners", "old listings"])
def test_two_nodes_find_a_flaw_together(flaw: str) -> None:
    with breaking_mount(flaw) as point:
        both = [start(point, ONLY_MEET) for _ in range(2)]
        for status, output, _ in map(end, both):
            joint = levels(output.partition("two nodes")[2].partition("\n")[2])
            assert ("rename" if flaw == "several winners" else "news", "FAIL") in joint
            assert status == 1


def test_clocks_apart_are_told(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By as much as they are."""
    from limiter import doctor as module
    from limiter.meeting import Meeting

    class Clock:
        monotonic, perf_counter, time_ns, sleep = (
            time.monotonic,
            time.perf_counter,
            time.time_ns,
            time.sleep,
        )

        @staticmethod
        def time() -> float:
            return time.time() + 2 * (threading.current_thread() is ahead)

    found: list[tuple[str, str, str, str]] = []

    def meet() -> None:
        found.extend(module._clocks(Meeting(root, 10)))

    monkeypatch.setattr(module, "time", Clock)
    ahead, right = threading.Thread(target=meet), threading.Thread(target=meet)
    for thread in (ahead, right):
        thread.start()
    for thread in (ahead, right):
        thread.join()
    for level, what, text, _ in found:
        assert (level, what) == ("WARN", "clocks")
        match = re.fullmatch(
            r"the other node's is ([\d.]+) ms off this node's, within ([\d.]+) ms", text
        )
        assert match is not None
        assert abs(float(match[1]) - 2000) <= float(match[2]) + 0.1
    assert len(found) == 2


def test_a_meeting_is_a_name_that_the_limiter_ignores(root: str) -> None:
    posix.mkdir(f"{root}/{PLACE}")
    assert Limiter(root, "3/second").hit("acme")
    assert sorted(os.listdir(root)) == [PLACE, "acme"]
