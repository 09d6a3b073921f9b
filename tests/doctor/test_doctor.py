"""The doctor: what it reports, to which user, and what it leaves behind."""

from __future__ import annotations

import os
import posix
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from limiter.core.limiter import Limiter
from limiter.doctor.command import doctor
from limiter.doctor.meeting import PLACE
from tests.conftest import clean_environ
from tests.doctoring import DEADLINE, FEW, TRIALS, command, end, levels, start
from tests.history import History, Recorder, judge_l1, judge_s1, only
from tests.places import REPOSITORY


@pytest.mark.parametrize(("mode", "level"), [(0o755, "PASS"), (0o770, "WARN"), (0o777, "WARN")])
def test_a_store_that_others_can_write_is_warned_of(
    root: str, capfd: pytest.CaptureFixture[str], mode: int, level: str
) -> None:
    os.chmod(root, mode)
    trial = command(root, only=("clock",))
    assert subprocess.run(trial, cwd=REPOSITORY, check=False).returncode == 0
    output = capfd.readouterr().out
    assert ("directory", level) in levels(output)
    assert f"mode {mode:04o}\n" in output
    assert (f"chmod go-w {root}" in output) == (level == "WARN")


def test_advice_follows_whatever_does_not_pass(root: str) -> None:
    os.chmod(root, 0o777)
    lines = end(start(root, {**FEW, "_SLOW": 0}))[1].splitlines()
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
    """What it makes belongs to the owner.  A store that its owner cannot write to cannot be tried."""
    os.chown(root, 65534, 65534)
    status, output, _ = end(start(root, FEW))
    assert (status, levels(output)[1]) == (0, ("directory", "PASS"))
    os.chmod(root, 0o500)
    status, _, log = end(start(root, FEW))
    assert status == 2
    assert "Permission denied" in log


def test_live_applications_are_not_disturbed(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S1 and L1 hold for them during the trials, and they are unchanged afterwards."""
    from limiter.core.store import Store

    monkeypatch.setattr(Store, "rename", Store.rename)
    recorder = Recorder(root, "10/second")
    assert Limiter(root, "5/day").hit("quiet")
    quiet = os.listdir(f"{root}/quiet/5-per-86400s")
    trial = start(root)
    history: History = recorder.history
    while trial.poll() is None or not history.denied:
        recorder.hit("acme")
    assert end(trial)[0] == 0
    judge_s1(only("10/second"), history)
    judge_l1(only("10/second"), history)
    assert sorted(os.listdir(root)) == ["acme", "quiet"]
    assert os.listdir(f"{root}/quiet/5-per-86400s") == quiet


@pytest.mark.parametrize(
    ("trying", "often"),
    [
        ("rename", {"BATCHES": 10**9}),
        ("listing", {"_LISTINGS": 10**9}),
        ("claims", {"_CLAIMS": 10_000}),  # a limit has no more
        ("latency", {"_SAMPLES": 10**9}),
    ],
    ids=["rename", "listing", "claims", "latency"],
)
def test_interrupted_it_leaves_nothing(root: str, trying: str, often: dict[str, int]) -> None:
    """It is interrupted during a trial that would take very long."""
    trial = start(root, {**FEW, **often}, only=(trying,))
    while not list(Path(root).glob(f".new-doctor-*/{trying}*")):
        assert trial.poll() is None
        time.sleep(0.01)
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
            command(root, FEW),
            cwd=REPOSITORY,
            env=clean_environ(),
            stdout=subprocess.PIPE,
            stderr=theirs,
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
    assert end(start(root, FEW))[2] == ""


def test_a_meeting_is_a_name_that_the_limiter_ignores(root: str) -> None:
    posix.mkdir(f"{root}/{PLACE}")
    assert Limiter(root, "3/second").hit("acme")
    assert sorted(os.listdir(root)) == [PLACE, "acme"]
