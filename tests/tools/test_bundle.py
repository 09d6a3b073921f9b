"""Compiled bundles: each has what its script needs, works like the sources, and may be missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.tools.bundle import BUNDLES
from tests.places import PYTHON

COMPILE = [PYTHON, "-m", "limiter", "compile"]
REPORT = """
import sys
sys.path.insert(0, sys.argv[1])
import limiter
if sys.argv[3] == "preload":
    limiter.preload(sys.argv[2])
loaded = [name for name in sys.modules if name.startswith("limiter.")]
import limiter.{last}
print(*[name[8:] for name in loaded])
print(*[name[8:] for name in sys.modules if name.startswith("limiter.")])
print(*[name for name in ("os", "re", "json", "typing") if name in sys.modules])
"""


def report(copy: Path, bundle: str, how: str = "preload") -> list[list[str]]:
    """Return the modules preloaded, then all that the script loaded, then those it should not load."""
    ended = subprocess.run(
        [PYTHON, "-ISB", "-c", REPORT.format(last=BUNDLES[bundle][-1]), str(copy), bundle, how],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
    return [line.split() for line in ended.stdout.split("\n")[:3]]


def check(copy: Path, root: str, query: str = "app_id=acme") -> bytes:
    """Return the answer of check.py, which must succeed."""
    environ = {"QUERY_STRING": query, "LIMITER_ROOT": root, "LIMITER_LIMIT": "5/hour"}
    ended = subprocess.run([copy / "cgi-bin/check.py"], env=environ, capture_output=True, check=True)
    assert ended.stderr == b""
    return ended.stdout


def file(copy: Path, bundle: str = "check") -> Path:
    """Return the file of that bundle."""
    (path,) = (copy / "limiter/__pycache__").glob(f"{bundle}.*.bundle")
    return path


def with_rooms(bundle: str) -> list[str]:
    """Return the modules of that bundle, and the packages that contain them, sorted."""
    rooms = {name.partition(".")[0] for name in BUNDLES[bundle]}
    return sorted({*BUNDLES[bundle], *rooms})


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_bundle_has_all_that_its_script_needs(copy: Path, bundle: str) -> None:
    """They are in the right order, and none of them is slow to load."""
    modules = list(BUNDLES[bundle])
    assert report(copy, bundle) == [modules, modules, []]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_without_a_bundle_the_same_modules_are_loaded(copy: Path, bundle: str) -> None:
    """So the bundle has no module too many, and none too few."""
    preloaded, loaded, _ = report(copy, bundle, "import")
    assert preloaded == []
    assert sorted(loaded) == with_rooms(bundle)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda bundle: b"\0\0\r\n" + bundle[4:],
        lambda bundle: bundle[:4] + b"\3\0\0\0" + bundle[8:],
        lambda bundle: bundle[:7],
        None,
    ],
    ids=["of another version", "compared with its source", "cut off", "missing"],
)
def test_a_bundle_that_is_not_good_is_left_to_the_import_system(
    copy: Path, root: str, spoil: Callable[[bytes], bytes] | None
) -> None:
    path = file(copy)
    if spoil:
        path.write_bytes(spoil(path.read_bytes()))
    else:
        path.unlink()
    preloaded, loaded, _ = report(copy, "check")
    assert (preloaded, sorted(loaded)) == ([], with_rooms("check"))
    assert check(copy, root).startswith(b"Status: 200 OK\n")


@pytest.mark.parametrize("query", ["app_id=acme", "app_id=", ""])
def test_the_answers_of_a_bundle_are_those_of_the_sources(copy: Path, root: str, query: str) -> None:
    def answers() -> list[bytes]:
        """Six of them, but for the seconds that are left: they show how busy the machine is."""
        return [
            re.sub(rb"(t=|Retry-After: )3[56]\d\d\b", rb"\1SECONDS", check(copy, root, query))
            for _ in range(6)
        ]

    with_bundle = answers()
    shutil.rmtree(copy / "limiter/__pycache__")
    for directory in os.listdir(root):
        shutil.rmtree(f"{root}/{directory}")
    assert answers() == with_bundle


def test_a_changed_source_must_be_compiled_again(copy: Path, root: str) -> None:
    """This takes the one command in docs/operations.md."""
    source = copy / "limiter/request/response.py"
    source.write_text(source.read_text().replace("200 OK", "299 Changed"))
    assert check(copy, root).startswith(b"Status: 200 OK\n")
    ended = subprocess.run(COMPILE, cwd=copy, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith(f"Compiled {copy}/limiter for CPython 3.")
    assert check(copy, root).startswith(b"Status: 299 Changed\n")


def test_a_source_with_a_mistake_is_an_error(copy: Path) -> None:
    (copy / "limiter/request/response.py").write_text("def")
    ended = subprocess.run(COMPILE, cwd=copy, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "response.py" in ended.stderr + ended.stdout


def test_no_bundle_is_too_long_to_be_loaded(copy: Path) -> None:
    assert max(file(copy, bundle).stat().st_size for bundle in BUNDLES) < 1_000_000
