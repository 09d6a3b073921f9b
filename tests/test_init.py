"""The package: its names, and how a CGI request loads it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

import limiter
import limiter.hit
import limiter.limiter
import limiter.store
from tests.places import PYTHON

CGI = ["limit", "store", "notation", "hit", "request", "response", "settings", "cgi"]

REPORT = """
import sys
sys.path.insert(0, sys.argv[1])
import limiter
if sys.argv[2] == "preload":
    limiter.preload()
loaded = {name: module for name, module in sys.modules.items() if name.startswith("limiter.")}
from limiter.cgi import check
print(*[name[8:] for name in loaded])
print(*[name[8:] for name in sys.modules if name.startswith("limiter.")])
print(*[name for name in ("os", "re", "json", "typing", "errno") if name in sys.modules])
"""


def test_the_names_of_the_package() -> None:
    """Those that a program needs, from one place."""
    from limiter import Decision, Limiter, Quota, StoreError

    assert Limiter is limiter.limiter.Limiter
    assert StoreError is limiter.store.StoreError
    assert (Decision, Quota) == (limiter.hit.Decision, limiter.hit.Quota)
    assert sorted(limiter.__all__) == ["Decision", "Limiter", "Quota", "StoreError"]


def test_all_of_them() -> None:
    """Also with a star."""
    names: dict[str, object] = {}
    exec("from limiter import *", names)
    assert set(limiter.__all__) <= set(names)


@pytest.mark.parametrize("name", ["Limit", "limiters", "Store", "__path", "clock", "preload_"])
def test_an_unknown_name(name: str) -> None:
    """An AttributeError, as of any module; from-import makes it an ImportError."""
    with pytest.raises(AttributeError, match=f"^module 'limiter' has no attribute '{name}'$"):
        getattr(limiter, name)
    with pytest.raises(ImportError):
        exec(f"from limiter import {name}")


def test_the_version() -> None:
    """Numbers, with dots between."""
    assert all(part.isdecimal() for part in limiter.__version__.split("."))


@pytest.mark.parametrize(
    "name", [*CGI, "bridge", "burst", "cli", "fixed", "furnish", "limiter", "serve"]
)
def test_every_module_says_what_it_is(name: str) -> None:
    """In its first line."""
    module = importlib.import_module(f"limiter.{name}")
    assert module.__doc__
    assert module.__doc__.splitlines()[0].endswith((".", ":"))


# Preloading


def report(copy: Path, how: str = "preload") -> list[list[str]]:
    """Modules that were preloaded, then all that a request has loaded, then those that it should not."""
    ended = subprocess.run(
        [PYTHON, "-ISB", "-c", REPORT, str(copy), how],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
    return [line.split() for line in ended.stdout.split("\n")[:3]]


def check(copy: Path, root: str) -> bytes:
    """The first line of what check.py answers, if it is well."""
    environ = {"QUERY_STRING": "app_id=acme", "LIMITER_ROOT": root, "LIMITER_LIMIT": "5/hour"}
    ended = subprocess.run([copy / "cgi-bin/check.py"], env=environ, capture_output=True, check=True)
    assert ended.stderr == b""
    return ended.stdout.partition(b"\n")[0]


def test_preload_takes_all_that_a_request_needs(copy: Path, root: str) -> None:
    """In one go and in the right order, and nothing that is slow to load."""
    assert report(copy) == [CGI, CGI, []]
    assert check(copy, root) == b"Status: 200 OK"


def test_without_preload_the_same_is_loaded(copy: Path) -> None:
    """So that none is preloaded that is not needed, and none forgotten."""
    preloaded, loaded, _ = report(copy, "import")
    assert preloaded == []
    assert sorted(loaded) == sorted(CGI)


def compiled(copy: Path, name: str) -> Path:
    """The compiled file of a module."""
    (path,) = (copy / "limiter/__pycache__").glob(f"{name}.*.pyc")
    return path


def _missing(path: Path) -> None:
    path.unlink()


def _another_version(path: Path) -> None:
    path.write_bytes(b"\0\0\r\n" + path.read_bytes()[4:])


def _checked(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4] + b"\3\0\0\0" + path.read_bytes()[8:])


def _by_time(path: Path) -> None:
    source = path.parents[1] / f"{path.name.partition('.')[0]}.py"
    status = source.stat()
    times = int(status.st_mtime).to_bytes(4, "little") + status.st_size.to_bytes(4, "little")
    path.write_bytes(path.read_bytes()[:4] + b"\0\0\0\0" + times + path.read_bytes()[16:])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:7])


@pytest.mark.parametrize("spoil", [_missing, _another_version, _checked, _by_time, _empty, _short])
@pytest.mark.parametrize("name", [CGI[0], CGI[3], CGI[-1]])
def test_preload_leaves_the_rest_to_the_import_system(
    copy: Path, root: str, spoil: Callable[[Path], None], name: str
) -> None:
    """From the first file on that is not this interpreter's own and unchecked; the answer is the same."""
    spoil(compiled(copy, name))
    preloaded, loaded, _ = report(copy)
    assert preloaded == CGI[: CGI.index(name)]
    assert sorted(loaded) == sorted(CGI)
    assert check(copy, root) == b"Status: 200 OK"


def test_without_any_compiled_file(copy: Path, root: str) -> None:
    """As in a fresh checkout."""
    shutil.rmtree(copy / "limiter/__pycache__")
    assert report(copy)[0] == []
    assert check(copy, root) == b"Status: 200 OK"


def test_an_unchecked_file_is_believed(copy: Path, root: str) -> None:
    """That is what it says: a source that changes must be compiled anew."""
    source = copy / "limiter/response.py"
    source.write_text(source.read_text().replace("200 OK", "299 Changed"))
    assert check(copy, root) == b"Status: 200 OK"
    compiled(copy, "response").unlink()
    assert check(copy, root) == b"Status: 299 Changed"


def test_the_header_of_a_compiled_file(copy: Path) -> None:
    """What the installer makes is what preload trusts (PEP 552)."""
    for name in CGI:
        header = compiled(copy, name).read_bytes()[:8]
        assert header[2:] == b"\r\n\1\0\0\0"
        assert MAGIC_NUMBER[2:] == b"\r\n"


def test_no_module_is_too_long_to_be_preloaded(copy: Path) -> None:
    """They are read in one call."""
    assert max(compiled(copy, name).stat().st_size for name in CGI) < 65536
