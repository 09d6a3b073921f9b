"""The doctor: what it reports, to which user, and what it leaves behind."""

from __future__ import annotations

import os
import pty
import signal
import time
from pathlib import Path

import pytest

from limiter.core.limiter import Limiter
from limiter.core.store import Store
from tests.doctoring import FEW, TRIALS, end, levels, start
from tests.history import Recorder, judge_l1, judge_s1, only


@pytest.mark.parametrize(("mode", "level"), [(0o755, "PASS"), (0o770, "WARN"), (0o777, "WARN")])
def test_a_store_that_others_can_write_to_gets_a_warning(root: str, mode: int, level: str) -> None:
    os.chmod(root, mode)
    status, output, _ = end(start(root, only=["clock"]))
    assert status == 0
    assert ("directory", level) in levels(output)
    assert f"mode {mode:04o}\n" in output
    assert (f"chmod go-w {root}" in output) == (level == "WARN")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a store to somebody else")
def test_root_tests_as_the_owner(root: str) -> None:
    """A store that its owner cannot write to cannot be tested."""
    os.chown(root, 65534, 65534)
    status, output, _ = end(start(root, FEW))
    assert (status, levels(output)[1]) == (0, ("directory", "PASS"))
    os.chmod(root, 0o500)
    status, _, log = end(start(root, FEW))
    assert status == 2
    assert "Permission denied" in log


def test_live_applications_are_not_disturbed(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S1 and L1 hold for them during the checks, and they are unchanged afterwards."""
    monkeypatch.setattr(Store, "rename", Store.rename)  # the recorder replaces it
    monkeypatch.setattr("limiter.core.limiter.NEWCOMERS", "")  # and would record their renames, too
    recorder = Recorder(root, "10/second")
    assert Limiter(root, "5/day").hit("quiet")
    quiet = os.listdir(f"{root}/quiet@5-per-86400s")
    examination = start(root)
    while examination.poll() is None or not recorder.history.denied:
        recorder.hit("acme")
    assert end(examination)[0] == 0
    judge_s1(only("10/second"), recorder.history)
    judge_l1(only("10/second"), recorder.history)
    assert sorted(os.listdir(root)) == ["acme@10-per-1s", "quiet@5-per-86400s"]
    assert os.listdir(f"{root}/quiet@5-per-86400s") == quiet


@pytest.mark.parametrize(
    ("check", "often"),
    [
        ("rename", {"BATCHES": 10**9}),
        ("listing", {"_LISTINGS": 10**9}),
        ("claims", {"_CLAIMS": 10_000}),  # a limit has no more
        ("latency", {"_SAMPLES": 10**9}),
    ],
)
def test_an_interrupted_check_leaves_nothing(root: str, check: str, often: dict[str, int]) -> None:
    examination = start(root, {**FEW, **often}, only=[check])
    while not list(Path(root).glob(f".new-doctor-*/{check}*")):
        assert examination.poll() is None
        time.sleep(0.01)
    os.killpg(examination.pid, signal.SIGINT)
    status, _, log = end(examination)
    assert (status, log) == (2, "limiter: interrupted\n")
    assert os.listdir(root) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(examination.pid, 0)


def test_progress_is_shown_on_a_terminal_only(root: str) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        examination = start(root, FEW, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while part := terminal.read(1000):
                shown += part
        except OSError:
            pass  # the terminal has been hung up
        status, output, _ = end(examination)
    assert status == 0
    assert "\x1b" not in output
    for what in TRIALS:
        assert f"\rchecking {what} ...".encode() in shown
    assert shown.endswith(b"\r\x1b[K"), "and is removed"
