"""The doctor, as its tests call it: in a process of its own, and what it says line by line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import clean_environ
from tests.places import REPOSITORY

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
