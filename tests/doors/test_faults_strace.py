"""Law F1 in the real scripts, by the real kernel: strace lets their calls fail."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.doors.doors import ACTION, Request, action_variables
from tests.doors.law_f1 import Stage, errnos, judge
from tests.faults import Ended


def _strace(program: Path, settings: dict[str, str], trace: Path, *options: str) -> Ended:
    variables = action_variables(Request(settings))
    process = subprocess.run(
        ["strace", "-f", "--quiet=all", "-o", trace, *options, program, *ACTION[1:]],
        env={name: value for name, value in variables.items() if value},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return Ended("", "", process.returncode < 0, process.returncode, process.stdout, process.stderr)


def _kernel_calls(stage: Stage, program: Path, trace: Path) -> list[tuple[str, str, int, bool]]:
    """Return each call to the store or the register that can be identified, when nothing fails.

    That is its name, its path in the stage's place, and its ordinal among the calls of this name in its
    thread; or, if the last part is true, among those with this path.

    strace counts calls per thread.  guard.py has a thread for the store beside the one that has loaded
    Python.  If both have made a call that often, only its path identifies it, if the path is predictable.
    """
    judge(stage, _strace(program, stage.lay_out(), trace, "-y", "-s", "4096"), 0)
    made: Counter[tuple[str, str]] = Counter()
    own: list[tuple[str, str, str, int]] = []
    for thread, name, arguments in re.findall(r"(?m)^(\d+) +(\w+)\((.*)", trace.read_text()):
        made[name, thread] += 1
        found = re.search(rf'[<"]{stage.place}/([^>"]*)[>"]', arguments)
        if found:
            own.append((thread, name, found[1], made[name, thread]))
    calls = []
    by_path: Counter[tuple[str, str]] = Counter()
    for thread, name, path, ordinal in own:
        by_path[name, path] += 1
        others = [times for (it, other), times in made.items() if it == name and other != thread]
        if max(others, default=0) < ordinal:
            calls.append((name, path, ordinal, False))
        elif not path.startswith("store/.new-"):
            calls.append((name, path, by_path[name, path], True))
    return calls


@pytest.mark.one_python
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("on_error", ["deny", "admit"])
@pytest.mark.parametrize("name", ["register-fresh", "furnished", "full", "stranger"])
@pytest.mark.parametrize(("door", "script"), [("check", "check.py"), ("action", "guard.py")])
def test_f1_by_the_real_kernel(
    installed: Path, root: str, tmp_path: Path, door: str, script: str, name: str, on_error: str
) -> None:
    stage = Stage(root, door, name, on_error)
    program, trace = installed / "cgi-bin" / script, tmp_path / "trace"
    calls = _kernel_calls(stage, program, trace)
    assert len(calls) >= len(stage.scene.calls.split())
    for at, (call, relative, ordinal, is_among_its_paths) in enumerate(calls):
        for number in errnos(at, on_error):
            settings = stage.lay_out()
            path = f"{stage.place}/{relative}"
            options = ["-P", path] if is_among_its_paths else []
            options += ["-e", f"inject={call}:error={errno.errorcode[number]}:when={ordinal}"]
            ended = _strace(program, settings, trace, *options)
            assert trace.read_text().count("(INJECTED)") == 1
            # If closing a directory fails, it has been read all the same, so the call did no harm.
            if call != "close" or not os.path.isdir(path):
                ended.struck, ended.target = call, path
            judge(stage, ended, number)
