"""The counters of processes that stay: exact, over threads, forks, restarts and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import pytest

from limiter.core.limiter import Limiter
from limiter.request import counters as module
from limiter.request.counters import PLACES, Counters, Sums, read_counters
from limiter.request.gates import Gates
from limiter.request.long_running import LongRunningGate
from tests.places import REPOSITORY


@pytest.fixture
def gate(root: str, tmp_path: Path) -> Iterator[LongRunningGate]:
    module._kept.clear()
    variables = {"LIMITER_ROOT": root, "LIMITER_LIMIT": "10/hour", "LIMITER_METRICS": str(tmp_path)}
    yield Gates(None, None).choose(variables)
    module._kept.clear()


def ask(gate: LongRunningGate, app_id: str | None) -> None:
    gate.verdict(lambda: app_id, lambda _: None)


def named(sums: Sums) -> dict[str, int]:
    return {name: sums[name] for name in module.NAMES if name != "nanoseconds" and sums[name]}


def test_each_verdict_is_counted(gate: LongRunningGate, tmp_path: Path) -> None:
    for app_id in ["acme"] * 13 + [None, None]:
        ask(gate, app_id)
    sums = read_counters(str(tmp_path))
    assert named(sums) == {"admitted": 10, "denied": 3, "unauthorized": 2, "near": 1}
    assert sums["nanoseconds"] > 0
    assert (sums.errors, sums.processes) == ({}, 1)


def test_shadow_denials_and_errors_are_counted(root: str, tmp_path: Path) -> None:
    module._kept.clear()
    given = {"LIMITER_ROOT": root, "LIMITER_LIMIT": "1/hour", "LIMITER_METRICS": str(tmp_path)}
    shadow = Gates(None, None).choose({**given, "LIMITER_MODE": "shadow"})
    broken = Gates(None, None).choose({**given, "LIMITER_ROOT": f"{root}/missing"})
    for _ in range(3):
        ask(shadow, "acme")
        ask(broken, "acme")
    sums = read_counters(str(tmp_path))
    assert named(sums) == {"admitted": 1, "near": 1, "shadow": 2, "failed": 3}
    assert sums.errors == {"ENOENT": 3}


def test_a_request_that_no_limit_concerns_is_not_counted(root: str, tmp_path: Path) -> None:
    module._kept.clear()
    given = {"LIMITER_ROOT": root, "LIMITER_METRICS": str(tmp_path), "LIMITER_MODE": "off"}
    ask(Gates(None, None).choose(given), "acme")
    assert named(read_counters(str(tmp_path))) == {}


def count_denials(counters: Counters) -> None:
    for _ in range(50_000):
        counters.add(PLACES["denied"])


def test_threads_lose_no_count(tmp_path: Path) -> None:
    counters = Counters(str(tmp_path))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=count_denials, args=(counters,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert read_counters(str(tmp_path))["denied"] == 200_000


def count_and_end(counters: Counters, number: int) -> None:
    for _ in range(number):
        counters.add(PLACES["admitted"])
    os.kill(os.getpid(), signal.SIGKILL)


def test_forked_processes_have_files_of_their_own_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    counters = Counters(str(tmp_path))
    counters.add(PLACES["admitted"])
    children = [
        get_context("fork").Process(target=count_and_end, args=(counters, 1000)) for _ in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    for _ in range(2):  # the second time they were put away
        sums = read_counters(str(tmp_path))
        assert (sums["admitted"], sums.processes) == (3001, 1)
    assert sorted(it.suffix for it in tmp_path.iterdir()) == ["", ".counters"]
    counters.add(PLACES["admitted"])
    assert read_counters(str(tmp_path))["admitted"] == 3002


@pytest.mark.parametrize("moment", ["os.replace", "os.unlink"])
def test_a_reader_that_is_killed_doubles_nothing(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        path = tmp_path / f"99999999-{number}.counters"
        cells = [module._MAGIC, 5] + [0] * (module._CELLS - 2)
        path.write_bytes(b"".join(it.to_bytes(8, sys.byteorder) for it in cells))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(moment, killed)
        with pytest.raises(KeyboardInterrupt):
            read_counters(str(tmp_path))
    for _ in range(3):
        assert read_counters(str(tmp_path))["admitted"] == 15
    assert json.loads((tmp_path / "ended").read_text())["cells"][1] == 15
    assert not [it for it in tmp_path.iterdir() if it.suffix == ".counters"]


def test_foreign_files_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "1-a.counters").write_bytes(b"short")
    (tmp_path / "1-b.counters").write_bytes(bytes(8 * module._CELLS))
    (tmp_path / "notes").write_text("mine")
    assert named(read_counters(str(tmp_path))) == {}
    assert (tmp_path / "notes").exists()


def test_a_directory_that_cannot_be_used_does_not_fail_a_request(root: str, tmp_path: Path) -> None:
    module._kept.clear()
    given = {"LIMITER_ROOT": root, "LIMITER_METRICS": f"{tmp_path}/missing", "LIMITER_LIMIT": "1/hour"}
    said: list[object] = []
    gate = Gates(None, None).choose(given)
    statuses = [gate.verdict(lambda: "acme", said.append)[0][:3] for _ in range(2)]
    assert statuses == ["200", "429"]
    assert len([it for it in said if "LIMITER_METRICS" in str(it)]) == 1


DENIED = """
import os, sys
from limiter.request.gates import Gates
gate = Gates(None, None).choose({
    "LIMITER_ROOT": sys.argv[1], "LIMITER_LIMIT": "1/hour", "LIMITER_METRICS": sys.argv[2]})
for _ in range(3):
    gate.verdict(lambda: "acme", print)
os.write(2, b"BEGIN")
for _ in range(100):
    gate.verdict(lambda: "acme", print)
os.write(2, b"END")
"""


@pytest.mark.one_python
def test_a_denied_hit_makes_no_system_call(root: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "metrics").mkdir()
    tool = ["strace", "-f", "-o", str(trace), sys.executable, "-c", DENIED, root, f"{tmp_path}/metrics"]
    subprocess.run(tool, cwd=REPOSITORY, check=True, capture_output=True)
    between = trace.read_text().partition("BEGIN")[2].partition("END")[0].splitlines()[1:-1]
    assert between == []
    assert read_counters(f"{tmp_path}/metrics")["denied"] == 102


def test_a_limiter_says_whether_a_hit_was_near_its_limit(root: str) -> None:
    limiter = Limiter(root, "20/hour;3/hour fixed")
    assert [limiter.hit("a").is_near(10) for _ in range(3)] == [False, False, True]
