"""What the doctor reports on good and bad file systems."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.core.limiter import Limiter
from limiter.doctor import checks
from tests.breaking import OLD, breaking_mount
from tests.doctoring import CONTENTS, FEW, LATENCIES, TEMPORARY, TRIALS, end, levels, start
from tests.places import temporary


@contextmanager
def mounted(point: Path, *options: str | Path) -> Iterator[str]:
    """Mount a file system, or skip the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    point.mkdir()
    command = ["mount", *options, point]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"it cannot be mounted here: {done.stderr.strip()}")
    try:
        yield str(point)
    finally:
        subprocess.run(["umount", point], check=True)


@contextmanager
def formatted(kind: str) -> Iterator[str]:
    """Make a file system of that kind in a file, and mount it."""
    if not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"mkfs.{kind} is not installed")
    with temporary("/var/tmp") as place:
        image = place / "image"
        with image.open("wb") as file:
            file.truncate(400 * 2**20)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stdout=subprocess.DEVNULL)
        with mounted(place / "mount", "-o", "loop", image) as point:
            yield point


@pytest.mark.one_python
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_good_file_system_passes(kind: str) -> None:
    """test_meeting.py has tmpfs."""
    with formatted(kind) as point:
        status, output, log = end(start(point))
        assert (status, log) == (0, ""), output
        assert f"PASS  file system     {kind}\n" in output
        assert [it for it in levels(output) if it[1] != "PASS"] == [TEMPORARY]
        assert [what for what, _ in levels(output)[2:]] == [*CONTENTS, *TRIALS, *LATENCIES]
        assert os.listdir(point) == ["lost+found"][: kind == "ext4"]


def test_each_check_stops_when_its_time_is_up(root: str) -> None:
    """It then does once what it would do often, and that passes, too."""
    output = end(start(root, {"BRIEF": -1}))[1]
    assert [it for it in levels(output) if it[1] != "PASS"] == [TEMPORARY], output
    for once in ("100 files, ", "1 after a rename by", "4 hits admitted, 4 slots", "1 new directories"):
        assert once in output
    assert output.count("(1 calls)") == len(LATENCIES)


FLAWED = {
    "several winners": {"rename": "FAIL"},
    "old listings": {"listing": "FAIL"},
    "names twice": {"listing": "FAIL"},
    "names missing": {"listing": "FAIL"},
    "no directory rename": {"claims": "FAIL", "furnishing": "FAIL"},
    "clocks apart": {"clock": "WARN"},
    "slow": {"list 10": "WARN", "list 64": "WARN"},
    "none": {**dict.fromkeys([*TRIALS, *LATENCIES], "PASS"), "hard links": "WARN"},  # it has none
}
SETTINGS: dict[str, dict[str, float]] = {
    "slow": {"_SLOW": 0.05},
    "names missing": {"_REMOVAL": 0},  # what it does not show cannot be removed
}


@pytest.mark.one_python
@pytest.mark.parametrize("flaw", FLAWED)
def test_a_flaw_of_a_file_system_is_found(flaw: str) -> None:
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


def test_a_rename_that_affects_other_links_is_found(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a rename to another link of the same file, which leaves both (rename(2))."""
    monkeypatch.setattr(os, "rename", lambda *_: None)
    ((level, what, found, _),) = checks._check_links(root)
    assert (level, what, found) == ("FAIL", "hard links", "a rename affects other links of the file")


@pytest.mark.one_python
def test_an_overlay_gets_a_warning_and_passes_all_checks(root: str) -> None:
    """This also holds with applications in the lower layer, whose directories it cannot rename."""
    lower, upper, work = [Path(root, name) for name in ("lower", "upper", "work")]
    for path in (lower, upper, work):
        path.mkdir()
    assert Limiter(str(lower), "2/day").hit("acme")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    with mounted(Path(root, "mount"), "-t", "overlay", "-o", options, "overlay") as point:
        status, output, _ = end(start(point))
        assert status == 0
        assert levels(output)[0] == ("file system", "WARN")
        assert [it for it in levels(output)[1:] if it[1] != "PASS"] == [TEMPORARY]
        assert [bool(Limiter(point, "2/day;5/hour").hit("acme")) for _ in range(2)] == [True, False]
        with pytest.raises(OSError, match="cross-device") as error:
            os.rename(f"{point}/acme@2-per-86400s", f"{point}/other")
        assert error.value.errno == errno.EXDEV
