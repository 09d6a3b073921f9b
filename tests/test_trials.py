"""What the doctor says of good and bad file systems."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.limiter import Limiter
from tests.breaking import breaking_mount
from tests.doctoring import LATENCIES, TRIALS, end, levels, start
from tests.places import new_root


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
