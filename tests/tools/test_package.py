"""The wheel and the sdist hold everything: installed into an empty environment they serve, and leave nothing."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from limiter import __version__
from tests.conftest import clean_environ
from tests.places import REPOSITORY, temporary
from tests.waiting import SAFETY

pytestmark = pytest.mark.one_python

SHARED = "share/access-limiter"
NEEDED = (
    *("cgi-bin/check.py", "cgi-bin/status.py", "clients/php/limiter.php", "clients/perl/Limiter.pm"),
    *(
        "clients/ruby/limiter.rb",
        "deploy/apache/install",
        "deploy/apache/limiter.conf",
        "deploy/machine.bash",
    ),
    *(
        "deploy/systemd/access-limiter-check.service",
        "deploy/prometheus/alerts.yml",
        "limiter/core/hit.py",
    ),
)


@pytest.fixture(scope="module")
def wheel() -> Iterator[Path]:
    """The wheel, built from a copy that has no other files than git knows."""
    with temporary("/tmp") as place:
        source = place / "source"
        source.mkdir()
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True
        )
        listed = [it for it in files.stdout.decode().split("\0") if it and (REPOSITORY / it).exists()]
        subprocess.run(["cp", "--parents", *listed, source], cwd=REPOSITORY, check=True)
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            f"--wheel-dir={place}",
            source,
        ]
        subprocess.run(command, check=True)
        (found,) = place.glob("*.whl")
        yield found


def files_in(home: Path) -> set[Path]:
    """All files, without those that Python has compiled."""
    return {it for it in home.rglob("*") if it.is_file() and "__pycache__" not in it.parts}


def test_the_wheel_has_all_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as it:
        names = set(it.namelist())
        data = f"access_limiter-{__version__}.data/data/{SHARED}"
        assert {f"{data}/{name}" for name in NEEDED} <= names
        assert "limiter/core/hit.py" in names
        assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
        for name in ("cgi-bin/check.py", "deploy/apache/install"):
            assert it.getinfo(f"{data}/{name}").external_attr >> 16 & 0o111, name


def test_an_empty_environment_installs_serves_and_removes_it(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    venv.create(home, with_pip=True)
    before = files_in(home)
    subprocess.run([home / "bin/pip", "install", "--quiet", "--no-index", wheel], check=True)
    place = tmp_path / "elsewhere"
    (place / "store").mkdir(parents=True)
    environ = clean_environ(LIMITER_ROOT=f"{place}/store", LIMITER_LIMIT="1/hour", LIMITER_TIMEOUT="60")
    command: list[str | Path] = [home / "bin/access-limiter", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=place, env=environ, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = "".join(iter(server.stdout.readline, "\n")) + "".join(iter(server.stdout.readline, "\n"))
        url = said.partition("curl -i '")[2].partition("'")[0]
        with urlopen(url, timeout=SAFETY) as answer:
            assert (answer.status, answer.headers["RateLimit-Policy"]) == (
                200,
                '"1-per-3600s";q=1;w=3600',
            )
        server.terminate()
    command = [home / "bin/access-limiter", "apache-install", "--nonsense"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("install: unknown option --nonsense")
    assert f"{home}/{SHARED}/deploy/apache/install --help" in refused.stderr
    subprocess.run([home / "bin/pip", "uninstall", "--quiet", "--yes", "access-limiter"], check=True)
    assert files_in(home) == before  # pip leaves empty directories


def test_the_sdist_has_all_files(tmp_path: Path) -> None:
    build = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    subprocess.run([environment / "bin/pip", "install", "--quiet", "setuptools>=77"], check=True)
    source = tmp_path / "source"
    source.mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True)
    listed = [it for it in files.stdout.decode().split("\0") if it and (REPOSITORY / it).exists()]
    subprocess.run(["cp", "--parents", *listed, source], cwd=REPOSITORY, check=True)
    command: list[str | Path] = [environment / "bin/python", "-c", build, tmp_path]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (found,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(found) as it:
        names = {name.partition("/")[2] for name in it.getnames()}
    assert set(NEEDED) <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "docs/metrics.md"} <= names
