"""Law D1, by a machine of its own that loses its power: user-mode-linux, whose disk is a file.

What the guest's kernel has written is in that file.  All else is gone when its process is killed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from limiter.core.directories import limit_of
from limiter.core.limiter import Limiter
from tests.disks import make_image, mounted
from tests.places import PYTHON, REPOSITORY

pytestmark = pytest.mark.one_python

LIMIT = "10000/day"
COMMITS = 100
"""Cut the power after at least so many transactions of the journal."""

_INIT = """#!/bin/sh
mount -t proc proc /proc
mount /dev/ubda /mnt
exec {python} -I {program} {repository} {limit}
"""

# After each hit it prints how many transactions of the journal are complete.  Another thread completes
# one after the other, whatever the first is just doing.
_GUEST = """
import glob, os, sys, threading
sys.path.insert(0, sys.argv[1])
from limiter.core.limiter import Limiter

def commit():
    while True:
        os.sync()
        print("commit\\n", end="", flush=True)

(info,) = glob.glob("/proc/fs/jbd2/*/info")
known, strangers = Limiter("/mnt", sys.argv[2]), Limiter("/mnt", "20/day", newcomers="")
threading.Thread(target=commit).start()
number = 0
while known.hit("known") and strangers.hit(f"stranger{number}"):
    number += 1
    print(f"hit {open(info).read().split()[0]}\\n", end="", flush=True)
"""


def test_d1_after_a_power_cut_only_the_hits_of_the_last_commits_are_admitted_again(
    tmp_path: Path,
) -> None:
    """And each directory is whole, so nothing needs repair."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount the guest's disk")
    if not shutil.which("linux.uml"):
        pytest.skip("linux.uml is not installed (package user-mode-linux)")
    image = tmp_path / "image"
    make_image(image, "ext4", inodes=10_000)
    hits = play(image, tmp_path)
    # One transaction may be in the making, and the one before it on its way to the disk.
    durable = len([commits for commits in hits if commits + 2 <= hits[-1]])
    assert durable > 0
    with mounted(image, "-o", "loop") as disk:
        for name in os.listdir(disk):
            found = limit_of(name.partition("@")[2])
            if found is not None:
                limit, segment = found
                assert limit.is_whole(sorted(os.listdir(disk / name)), segment), name
        used = 10_000 - Limiter(disk, LIMIT).peek("known").remaining
        assert durable <= used <= len(hits) + 1  # the last may not have been printed
        strangers = [(disk / f"stranger{number}@20-per-86400s").exists() for number in range(used)]
        assert all(strangers[:durable])


def play(image: Path, place: Path) -> list[int]:
    """Cut the power of a machine that hits.  Returns for each hit the transactions complete by then."""
    program, init = place / "guest.py", place / "init"
    program.write_text(_GUEST)
    init.write_text(_INIT.format(python=PYTHON, program=program, repository=REPOSITORY, limit=LIMIT))
    init.chmod(0o755)
    # All its processes end with the first.
    kernel = [
        *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("linux.uml", "mem=128M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"),
        *(f"ubd0={image}", f"uml_dir={place}/", f"init={init}", "con=null", "con0=null,fd:1"),
    ]
    printed = ""
    with subprocess.Popen(
        kernel, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as guest:
        assert guest.stdout is not None
        commits = 0
        for line in guest.stdout:
            printed += line
            commits += line == "commit\n"
            hits = _hits(printed)
            if commits >= COMMITS and hits and hits[0] + 2 <= hits[-1]:
                break
        guest.kill()
        printed += guest.stdout.read()  # to the end: none of them is left
    assert _hits(printed), printed
    return _hits(printed)


def _hits(printed: str) -> list[int]:
    return [int(number) for number in re.findall(r"^hit (\d+)$", printed, re.MULTILINE)]
