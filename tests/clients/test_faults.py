"""Clients that are killed, or whose calls fail, at each call to the store: strace does that in the real kernel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from limiter import Limiter
from limiter.core.notation import parse
from tests.clients.kit import COMMANDS, FILES, HERE, needs
from tests.places import REPOSITORY

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

LIMITS = "3/hour;4/day"
SCENES = ("fresh", "furnished")
LASTING = ("EIO", "EACCES", "ENOSPC", "EROFS")
PASSING = ("EBADFD", "ENOTCONN")
NATIVE = sorted(FILES)
_ONLY_READ = ("close", "fstat", "newfstatat", "lseek", "readlink", "stat", "lstat")
"""Calls whose failure PHP does not report as what it is."""


def hit(language: str, root: str, trace: Path, *options: str) -> tuple[int, str]:
    """Let a client hit once under strace.  Returns the exit status and the answer."""
    command = {"do": "hit", "root": root, "limits": LIMITS, "app": "acme", "newcomers": "9/second"}
    tool = ["strace", "-f", "--quiet=all", "-y", "-s", "4096", "-o", str(trace), *options]
    ended = subprocess.run(
        [*tool, *[it.format(drivers=HERE) for it in COMMANDS[language]], str(FILES[language])],
        input=json.dumps(command) + "\n",
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    return ended.returncode, ended.stdout


def calls(root: str, trace: Path) -> list[tuple[str, int]]:
    """The calls to the store: their names, and their numbers among the calls of that name."""
    made: Counter[str] = Counter()
    found = []
    for name, arguments in re.findall(r"(?m)^\d+ +(\w+)\((.*)", trace.read_text()):
        made[name] += 1
        if root in arguments and name != "read":  # which reads the command
            found.append((name, made[name]))
    return found


def lay_out(root: str, scene: str) -> int:
    """Make the store anew.  Returns how many hits have been used."""
    for name in os.listdir(root):
        shutil.rmtree(f"{root}/{name}")
    if scene == "fresh":
        return 0
    assert Limiter(root, LIMITS).hit("acme")
    return 1


def check_what_is_left(root: str, used: int, most: int) -> None:
    """As many hits are admitted as the limits have left, and at most ``most`` were counted."""
    limiter = Limiter(root, LIMITS, newcomers="")
    quotas = limiter.peek("acme").quotas
    counted = [quota.limit.quota - quota.remaining for quota in quotas]
    assert all(used <= it <= most for it in counted)
    left = min(limit.quota - it for limit, it in zip(parse(LIMITS), counted))
    assert sum(bool(limiter.hit("acme")) for _ in range(left + 2)) == left


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("language", NATIVE)
def test_a_client_that_is_killed_at_any_call_leaves_a_valid_store(
    language: str, scene: str, root: str, tmp_path: Path
) -> None:
    needs(language)
    used = lay_out(root, scene)
    assert hit(language, root, tmp_path / "trace") == (0, '{"is":true}\n')
    made = calls(root, tmp_path / "trace")
    assert len(made) > (6 if scene == "furnished" else 25)
    for name, number in made:
        used = lay_out(root, scene)
        inject = f"inject={name}:signal=SIGKILL:when={number}"
        status, answer = hit(language, root, tmp_path / "trace", "-e", inject)
        assert (status, answer) == (-9, ""), (name, number)
        check_what_is_left(root, used, used + 1)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("language", NATIVE)
def test_a_call_that_fails_is_reported_or_survived(
    language: str, scene: str, root: str, tmp_path: Path
) -> None:
    needs(language)
    lay_out(root, scene)
    hit(language, root, tmp_path / "trace")
    for nth, (name, number) in enumerate(calls(root, tmp_path / "trace")):
        for error in (LASTING[nth % len(LASTING)], PASSING[nth % len(PASSING)]):
            used = lay_out(root, scene)
            inject = f"inject={name}:error={error}:when={number}"
            status, text = hit(language, root, tmp_path / "trace", "-e", inject)
            assert (tmp_path / "trace").read_text().count("(INJECTED)") == 1
            assert status == 0
            answer = json.loads(text)
            if "errno" in answer:
                assert answer["errno"] == error or name in _ONLY_READ, (name, number, error, answer)
            else:
                assert answer["is"] is True or error == "ENOSPC", (name, number, error, answer)
            if error in PASSING and name in ("rename", "getdents64"):
                assert answer == {"is": True}
            check_what_is_left(root, used, used + 2)
