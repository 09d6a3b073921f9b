"""The doctor, as its tests call it: in a process of its own, and what it says line by line."""

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

TRIALS = ["clock", "rename", "listing", "claims", "furnishing", "sweeping"]
LATENCIES = ["list 10", "list 64", "rename", "lost rename", "mkdir, rename"]
JOINT = ["clocks", "rename", "listing", "news", "furnishing"]
DEADLINE = 600

_PATIENT = {"BRIEF": 600, "_LATE": 600, "_PATIENCE": 600, "_REMOVAL": 600, "_SLOW": 600}
"""Of the doctor: what a busy machine is late for is neither cut short nor found fault with."""

FEW: Mapping[str, float] = {"BATCHES": 1, "_APPS": 2, "_CLAIMS": 70, "_LISTINGS": 3, "_SAMPLES": 2}
"""Of the doctor, too: how often it does the same."""

_SCRIPT = """\
import sys
from limiter import doctor, jointtrials, trials
for module in doctor, jointtrials, trials:
    for name in vars(module).keys() & {settings}.keys():
        setattr(module, name, {settings}[name])
for them in doctor.TRIALS, doctor.JOINT_TRIALS:
    them[:] = [it for it in them if it[0] in {only} or not {only}]
sys.exit(doctor.doctor({root!r}, {meet}))
"""


def command(
    root: str | Path, settings: Mapping[str, float] = {}, only: Collection[str] = (), meet: bool = False
) -> list[str]:
    """The doctor with these values of its own; what it tries, if not everything."""
    settings = {**_PATIENT, **settings}
    return [
        sys.executable,
        "-c",
        _SCRIPT.format(root=str(root), settings=settings, only=only, meet=meet),
    ]


def start(
    root: str | Path, settings: Mapping[str, float] = {}, only: Collection[str] = (), meet: bool = False
) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(root, settings, only, meet),
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
