"""What all tests share: stores on real file systems, an installed copy, and no silent skips."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from limiter.request.settings import REQUEST
from tests.limiting import Calls, Clock
from tests.places import install, temporary

# A background job of a shell ignores interrupts, and the tests' child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The time that an example takes depends on the machine, not on the limiter.
settings.register_profile("limiter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("limiter")

# The default store is in TMPDIR, not in the home of whoever runs the tests.
os.environ["XDG_STATE_HOME"] = os.devnull

NOBODY = 65534
_LONGEST = (
    *("test_faults_doors.py", "test_laws.py", "test_sweep_orders.py", "test_apache_install.py"),
    *("test_faults_strace.py", "test_supervise_apache.py", "test_apache_doors.py", "test_scripts.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first: in a parallel run, all others would have to wait for them."""
    order = {name: at for at, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --no-skips."""
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failure")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --no-skips, fail a run that skipped a test."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def root() -> Iterator[str]:
    """An empty store, on tmpfs for speed."""
    with temporary("/dev/shm") as path:
        yield str(path)


@pytest.fixture(params=["/dev/shm", "/var/tmp"], ids=["tmpfs", "disk"])
def any_root(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty store, on each kind of file system for which the laws are proven."""
    with temporary(request.param) as path:
        yield str(path)


@pytest.fixture
def store(root: str) -> str:
    """An empty store that is not root's: as root, the map's program touches no store of root's."""
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
    return root


@pytest.fixture
def only_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this process but a time-out that even a busy machine does not exceed."""
    for name in REQUEST:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIMITER_TIMEOUT", "60")


@pytest.fixture
def root_only(root: str, only_a_timeout: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an empty store."""
    monkeypatch.setenv("LIMITER_ROOT", root)


@pytest.fixture
def apps() -> Iterator[str]:
    """An empty register."""
    with temporary("/dev/shm") as path:
        yield str(path)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that any user may enter; pytest's own may not be entered."""
    with temporary("/tmp") as path:
        yield path


@pytest.fixture(scope="session")
def installed() -> Iterator[Path]:
    """A copy of the package and cgi-bin, laid out and precompiled as the installer does it."""
    with temporary("/tmp") as path:
        install(path)
        yield path


@pytest.fixture
def copy(installed: Path) -> Iterator[Path]:
    """A copy of the installation that a test may damage."""
    with temporary("/tmp") as path:
        shutil.copytree(installed, path, dirs_exist_ok=True)
        yield path


def clean_environ(**variables: str) -> dict[str, str]:
    """Return the environment without its LIMITER_ settings, and with these variables."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}
    return {**environ, **variables}


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A counter of system calls."""
    return Calls(monkeypatch)
