"""What the doctor reports on good and bad file systems."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.core.limiter import Limiter
from tests.breaking import OLD, breaking_mount
from tests.doctoring import FEW, LATENCIES, TRIALS, end, levels, start
from tests.places import new_root


@contextmanager
def formatted(kind: str) -> Iterator[str]:
    """Make a file system of that kind in a file, and mount it."""
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
    """Mount an overlay over that directory."""
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
    assert (status, log) == (0, ""), output
    assert f"PASS  file system     {kind}\n" in output
    assert levels(output) == [
        (what, "PASS") for what in ["file system", "directory", *TRIALS, *LATENCIES]
    ]
    assert not [name for name in os.listdir(root) if name.startswith(".new-")]


def test_tmpfs_passes(root: str) -> None:
    judge_good(root, "tmpfs")


def test_no_trial_goes_on_when_its_time_is_up(root: str) -> None:
    """Each trial then does once what it would do often, and that passes, too."""
    output = end(start(root, {"BRIEF": -1}))[1]
    assert {level for _, level in levels(output)} == {"PASS"}, output
    for once in ("100 files, ", "1 after a rename by", "4 hits admitted, 4 slots", "1 new applications"):
        assert once in output
    assert output.count("(1 calls)") == len(LATENCIES)


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
    "none": dict.fromkeys([*TRIALS, *LATENCIES], "PASS"),
}
SETTINGS: dict[str, dict[str, float]] = {
    "slow": {"_SLOW": 0.05},
    "names missing": {"_REMOVAL": 0},  # what it does not show cannot be removed
}


@pytest.mark.one_python
@pytest.mark.parametrize("flaw", FLAWED)
def test_a_file_system_that_breaks_a_primitive_is_found_out(flaw: str) -> None:
    expected = FLAWED[flaw]
    only = {"slow": ["latency"], "none": []}.get(flaw, [*expected])
    with breaking_mount(flaw) as point:
        status, output, log = end(start(point, {**FEW, **SETTINGS.get(flaw, {})}, only))
        found = levels(output)
        # The file system is not a known one.
        assert found[:2] == [("file system", "WARN"), ("directory", "PASS")], log
        assert expected.items() <= dict(found[2:]).items(), output
        assert status == ("FAIL" in expected.values()), output
        left = [os.listdir(point) for _ in range(OLD + 1)][-1]
        assert bool(left) == (flaw == "names missing")


@pytest.mark.one_python
def test_an_overlay_keeps_what_hits_need_and_is_warned_of(root: str) -> None:
    """This also holds with applications in the lower layer, whose directories it cannot rename."""
    assert Limiter(root, "2/day").hit("acme")
    with overlay(Path(root)) as point:
        status, output, _ = end(start(point))
        assert status == 0
        assert levels(output)[0] == ("file system", "WARN")
        assert [level for what, level in levels(output)[1:]] == ["PASS"] * 12
        assert [bool(Limiter(point, "2/day;5/hour").hit("acme")) for _ in range(2)] == [True, False]
        with pytest.raises(OSError, match="cross-device") as error:
            os.rename(f"{point}/acme", f"{point}/other")
        assert error.value.errno == errno.EXDEV
