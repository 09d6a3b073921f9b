"""The doctor, as its tests call it: in its own process, with its output read line by line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.conftest import clean_environ
from tests.places import REPOSITORY

TRIALS = ["clock", "rename", "listing", "hard links", "claims", "furnishing", "sweeping"]
CONTENTS = ["permanence", "contents", "format", "owners", "slots", "new clients"]
LATENCIES = ["list 10", "list 64", "rename", "lost rename", "mkdir, rename"]
JOINT = ["clocks", "rename", "listing", "news", "furnishing"]
DEADLINE = 600

TEMPORARY = ("permanence", "WARN")
"""What the doctor finds in all stores of tests: they lie in directories for temporary files."""

_PATIENT = {"BRIEF": 600, "_LATE": 600, "_PATIENCE": 600, "_REMOVAL": 600, "_SLOW": 600}
"""Settings of the doctor: it neither cuts short nor criticizes what a busy machine does late."""

FEW: Mapping[str, float] = {"BATCHES": 1, "_APPS": 2, "_CLAIMS": 70, "_LISTINGS": 3, "_SAMPLES": 2}
"""Settings of the doctor, too: it repeats each check only a few times."""

_SCRIPT = """\
import sys
from limiter.doctor import checks, command, meeting
for module in command, meeting, checks:
    for name in vars(module).keys() & {settings}.keys():
        setattr(module, name, {settings}[name])
for them in command.CHECKS, command.PAIR_CHECKS:
    them[:] = [it for it in them if it[0] in {only} or not {only}]
sys.exit(command.doctor({root!r}, {meet}))
"""


def start(
    root: str | Path,
    settings: Mapping[str, float] = {},
    only: Collection[str] = (),
    meet: bool = False,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start the doctor with these constants, and ``only`` these checks, if any."""
    settings = {**_PATIENT, **settings}
    script = _SCRIPT.format(root=str(root), settings=settings, only=only, meet=meet)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=clean_environ(),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end; return status, standard output and standard error."""
    with process:
        try:
            output, log = process.communicate(timeout=DEADLINE)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output, log


def levels(output: str) -> list[tuple[str, str]]:
    """Return (check, level) for each result line.  All other lines must be indented advice."""
    found = []
    for line in output.splitlines():
        match = re.fullmatch(r"(PASS|WARN|FAIL)  (.{14})  (\S.*)", line)
        if match:
            found.append((match[2].strip(), match[1]))
        else:
            assert line.startswith("      ")
    return found
