"""The command line: what it prints, and its exit status."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile

import pytest

import limiter
from limiter.core.limiter import Limiter
from limiter.request.key import Key
from limiter.tools import cli
from tests.conftest import clean_environ

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

SECOND = 1_000_000
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(root: str, tmp_path: Path) -> Run:
    """Run the command in another directory with only these settings: in a child process, which starts
    fast.
    """

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environ = clean_environ(**{"LIMITER_ROOT": root, "TZ": "UTC0", **settings})
        with TemporaryFile("w+") as output, TemporaryFile("w+") as log:

            def main() -> None:
                os.dup2(output.fileno(), 1)
                os.dup2(log.fileno(), 2)
                sys.stdout, sys.stderr = output, log
                os.environ.clear()
                os.environ.update(environ)
                time.tzset()
                os.chdir(tmp_path)
                sys.argv = ["limiter", *arguments]
                sys.exit(cli.main())

            child = get_context("fork").Process(target=main)
            child.start()
            child.join()
            assert child.exitcode is not None
            for file in (output, log):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, child.exitcode, output.read(), log.read())

    return run


def judge(ended: subprocess.CompletedProcess[str], status: int, *lines: str) -> None:
    """Compare each line printed with a pattern."""
    assert (ended.returncode, ended.stderr) == (status, "")
    printed = ended.stdout.splitlines()
    assert len(printed) == len(lines), ended.stdout
    for line, pattern in zip(printed, lines):
        assert re.fullmatch(pattern, line), line


# hit


def test_hit(run: Run, root: str) -> None:
    """The status is 0 while hits are allowed, then 1; the output shows the state of the limit."""
    limits = {"LIMITER_LIMIT": "2/hour"}
    judge(
        run("hit", "acme", **limits),
        0,
        "acme: allowed",
        r"  2-per-3600s: 1 of 2 used, next free in 3600\.000 s",
    )
    judge(
        run("hit", "acme", **limits),
        0,
        "acme: allowed",
        r"  2-per-3600s: 2 of 2 used, next free in 3\d{3}\.\d{3} s",
    )
    denied = run("hit", "acme", **limits)
    judge(
        denied,
        1,
        r"acme: denied, retry after 3\d{3}\.\d{3} s",
        r"  2-per-3600s: 2 of 2 used, next free in 3\d{3}\.\d{3} s",
    )
    assert Limiter(root, "2/hour").peek("acme").remaining == 0


def test_hit_with_several_limits(run: Run) -> None:
    """The output has a line for each."""
    judge(
        run("hit", "acme", LIMITER_LIMIT="2/hour;9/day fixed;1/second burst 5"),
        0,
        "acme: allowed",
        r"  2-per-3600s: 1 of 2 used, next free in 3\d{3}\.\d{3} s",  # the others were read later
        r"  9-per-86400s-fixed: 1 of 9 used, next free in \d+\.\d{3} s",
        r"  1-per-1s-burst-5: 1 of 5 used, next free in 1\.000 s",
    )


def test_hit_that_is_never_allowed(run: Run) -> None:
    """It says that waiting does not help."""
    judge(
        run("hit", "acme", LIMITER_LIMIT="0/hour"),
        1,
        r"acme: denied, retry after inf s",
        r"  0-per-3600s: 0 of 0 used",
    )


@pytest.mark.parametrize("command", ["hit", "show"])
@pytest.mark.parametrize(
    ("app", "settings", "why"),
    [
        ("../acme", {}, "app_id '../acme': expected 1 to 64 letters"),
        ("", {}, "app_id '': expected 1 to 64 letters"),
        ("acme", {"LIMITER_LIMIT": "many"}, "limit 'many': expected a number of hits"),
        ("acme", {"LIMITER_ROOT": "store"}, "LIMITER_ROOT='store': expected an absolute path"),
        ("acme", {"LIMITER_ROOT": "/dev/null"}, "Not a directory"),
        ("acme", {"LIMITER_ROOT": "/missing/store"}, "The store does not exist"),
        ("acme", {"LIMITER_TIMEOUT": "0"}, "LIMITER_TIMEOUT='0': expected seconds"),
        ("acme", {"LIMITER_MODE": "on"}, "LIMITER_MODE='on': expected 'enforce' or 'shadow' or 'off'"),
        ("acme", {"LIMITER_KEY": "header:"}, "key 'header:': expected a header's name"),
        ("acme", {"LIMITER_APPS": "/missing"}, "The register does not exist"),
    ],
)
def test_what_cannot_be_done(
    run: Run, command: str, app: str, settings: dict[str, str], why: str
) -> None:
    """The status is 2, and one line gives the reason."""
    ended = run(command, app, **settings)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("limiter: ")
    assert why in line


def test_hit_by_root_acts_as_the_owner_of_the_store(run: Run, root: str) -> None:
    """Otherwise the owner could not rename what root has made."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    os.chown(root, 65534, 65533)
    judge(run("hit", "acme"), 0, "acme: allowed", "  10-per-1s: 1 of 10 used, .*")
    made = list(Path(root).rglob("*"))
    assert len(made) == 12
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(65534, 65533)}
    judge(
        run("show", "acme", LIMITER_LIMIT="5/hour"), 0, f"acme in {root}", "  5-per-3600s: 0 of 5 used"
    )
    assert len(list(Path(root).rglob("*"))) == 12


def test_the_default_store(run: Run, tmp_path: Path) -> None:
    """It is that of the settings."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    settings = {"LIMITER_ROOT": "", "TMPDIR": str(temporary), "LIMITER_LIMIT": "2/hour"}
    judge(run("hit", "acme", **settings), 0, "acme: allowed", ".* 1 of 2 used.*")
    (store,) = temporary.iterdir()
    judge(run("show", "acme", **settings), 0, f"acme in {store}", ".* 1 of 2 used.*", f"    {TIME}")


# show


def times(root: str, limits: str, count: int, back: int) -> list[str]:
    """Make hits a second apart, the first of them ``back`` seconds ago; return their times as they
    should be shown.
    """
    start = limiter.core.limit.clock() // SECOND * SECOND + 123_456 - back * SECOND
    now = start
    chosen = Limiter(root, limits, clock=lambda: now)
    shown = []
    for number in range(count):
        now = start + number * SECOND
        assert chosen.hit("acme")
        shown.append(utc(now))
    return shown


def utc(microseconds: int) -> str:
    """Return a time as it is shown where the local time is UTC."""
    seconds, fraction = divmod(microseconds, SECOND)
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    return f"    {shown}.{fraction:06}+00:00"


def test_show_of_a_sliding_limit(run: Run, root: str) -> None:
    """It shows hits used, the limit, and the times of the last ten hits, oldest first."""
    shown = times(root, "20/hour", 12, 1000)
    before = sorted(Path(root).rglob("*"))
    judge(
        run("show", "acme", LIMITER_LIMIT="20/hour"),
        0,
        f"acme in {root}",
        r"  20-per-3600s: 12 of 20 used, next free in 2\d{3}\.\d{3} s",
        *map(re.escape, shown[2:]),
    )
    assert sorted(Path(root).rglob("*")) == before


def test_show_of_a_fixed_limit(run: Run, root: str) -> None:
    """A fixed limit knows only its last hit."""
    shown = times(root, "20/3000 days fixed", 3, 3)
    judge(
        run("show", "acme", LIMITER_LIMIT="20/3000 days fixed"),
        0,
        f"acme in {root}",
        r"  20-per-259200000s-fixed: 3 of 20 used, next free in \d+\.\d{3} s",
        re.escape(shown[2]),
    )


def test_show_of_a_burst_limit(run: Run, root: str) -> None:
    """A burst limit knows no hit."""
    times(root, "1/hour burst 5", 3, 3)
    judge(
        run("show", "acme", LIMITER_LIMIT="1/hour burst 5"),
        0,
        f"acme in {root}",
        r"  1-per-3600s-burst-5: 3 of 5 used, next free in 3\d{3}\.\d{3} s",
    )


def test_show_of_nobody(run: Run, root: str) -> None:
    """An unknown application has used nothing of any kind of limit, and nothing is written."""
    judge(
        run("show", "acme", LIMITER_LIMIT="20/hour;20/day fixed;1/hour burst 5"),
        0,
        f"acme in {root}",
        "  20-per-3600s: 0 of 20 used",
        "  20-per-86400s-fixed: 0 of 20 used",
        "  1-per-3600s-burst-5: 0 of 5 used",
    )
    assert os.listdir(root) == []


def test_show_tells_local_time(run: Run, root: str) -> None:
    """It includes the offset."""
    (shown,) = times(root, "2/hour", 1, 10)
    ended = run("show", "acme", LIMITER_LIMIT="2/hour", TZ="XYZ-5:30")
    local = ended.stdout.splitlines()[-1]
    assert local.endswith("+05:30")
    assert local[-12:-6] == shown[-12:-6]
    assert (
        int(local[15:17]) * 60 + int(local[18:20])
        == (int(shown[15:17]) * 60 + int(shown[18:20]) + 330) % 1440
    )


def test_output_that_nobody_reads(installed: Path, root: str) -> None:
    """The command just ends, like other tools: no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "limiter", "show", "acme"],
            env=clean_environ(PYTHONPATH=str(installed), LIMITER_ROOT=root),
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert ended.stderr == b""


# Help


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], ["serve", "hit", "show", "LIMITER_ROOT", "LIMITER_LIMIT", "LIMITER_ON_ERROR"]),
        (["serve", "--help"], ["--port", "default: 8000", "LIMITER_LIMIT"]),
        (["hit", "--help"], ["APP", "exit status", "LIMITER_LIMIT"]),
        (["show", "--help"], ["APP", "counts nothing", "LIMITER_LIMIT"]),
    ],
)
def test_help(run: Run, arguments: list[str], said: list[str]) -> None:
    """There is help for the whole and for each command, with the settings."""
    ended = run(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: python3 -m limiter ")
    for text in said:
        assert text in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 100


def test_version(run: Run) -> None:
    """It is that of the package."""
    judge(run("--version"), 0, re.escape(f"limiter {limiter.__version__}"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["hit"],
        ["show"],
        ["hit", "acme", "emca"],
        ["flush"],
        ["serve", "--port", "x"],
        ["serve", "--port", "65536"],
        ["serve", "--port", "-1"],
        ["serve", "--port", "\u0661"],
    ],
)
def test_bad_arguments(run: Run, root: str, arguments: list[str]) -> None:
    """The status is 2, the usage is printed, and nothing is done."""
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: python3 -m limiter ")
    assert os.listdir(root) == []


# The register.


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    """The directory of a register."""
    directory = tmp_path / "apps"
    directory.mkdir()
    return directory


@pytest.fixture
def register(run: Run, apps: Path) -> Run:
    """Run a command with that register."""
    return functools.partial(run, LIMITER_APPS=str(apps))


def test_apps(register: Run, apps: Path) -> None:
    """Entries can be set, changed, listed and removed; the output can be cut into columns."""
    judge(register("apps", "list"), 0)
    judge(register("apps", "set", "acme", "100/second;5000/hour"), 0)
    judge(register("apps", "set", "spam", "0/second"), 0)
    judge(register("apps", "set", ".default", "1/second"), 0)
    judge(register("apps", "set", "acme", "unlimited"), 0)
    assert os.readlink(apps / "spam") == "0/second"
    judge(register("apps", "list"), 0, "acme\tunlimited", "spam\t0/second", ".default\t1/second")
    judge(register("apps", "remove", "spam"), 0)
    judge(register("apps", "list"), 0, "acme\tunlimited", ".default\t1/second")


def test_removing_whom_nobody_knows(register: Run) -> None:
    ended = register("apps", "remove", "acme")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("limiter: acme is not in the register /")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["set", "../acme", "1/second"], "app_id '../acme': expected 1 to 64 letters"),
        (["set", ".hidden", "1/second"], "app_id '.hidden': expected 1 to 64 letters"),
        (["remove", ""], "app_id '': expected 1 to 64 letters"),
        (["set", "acme", "many"], "limit 'many': expected a number of hits at character 1"),
        (["set", "acme", ""], "limit '': expected a number of hits"),
        (["set", "acme", "Unlimited"], "limit 'Unlimited': expected a number of hits"),
    ],
)
def test_bad_entries_are_refused(register: Run, apps: Path, arguments: list[str], why: str) -> None:
    ended = register("apps", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert why in ended.stderr
    assert list(apps.iterdir()) == []


@pytest.mark.parametrize("arguments", [["list"], ["set", "acme", "1/second"], ["remove", "acme"]])
@pytest.mark.parametrize(
    ("directory", "why"),
    [
        ("", "LIMITER_APPS is not set"),
        ("/missing", "The register does not exist"),
        ("x", "absolute path"),
    ],
)
def test_no_register(run: Run, arguments: list[str], directory: str, why: str) -> None:
    ended = run("apps", *arguments, LIMITER_APPS=directory)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert why in ended.stderr


def test_hit_and_show_go_by_the_register(register: Run) -> None:
    register("apps", "set", "acme", "7/hour")
    register("apps", "set", "boss", "unlimited")
    judge(register("hit", "acme"), 0, "acme: allowed", "  7-per-3600s: 1 of 7 used, .*")
    judge(register("show", "acme"), 0, "acme in .*", "  7-per-3600s: 1 of 7 used, .*", "    .*")
    judge(register("hit", "boss"), 0, "boss: unlimited")
    ended = register("show", "nobody")
    assert ended.returncode == 2
    assert "nobody is not in the register" in ended.stderr


@pytest.mark.parametrize("how", ["argument", "standard input"])
def test_a_value_of_the_key_stands_for_its_app_id(
    apps: Path, root: str, installed: Path, how: str
) -> None:
    """It is given as a client sends it.  A secret need not be an argument, which other users see."""
    token = "Bearer s3cret token"
    environ = clean_environ(
        PYTHONPATH=str(installed),
        LIMITER_ROOT=root,
        LIMITER_APPS=str(apps),
        LIMITER_KEY="header:Authorization",
    )

    def run(*arguments: str) -> str:
        app = token if how == "argument" else "-"
        words = [app if it == "APP" else it for it in arguments]
        ended = subprocess.run(
            [sys.executable, "-m", "limiter", *words],
            env=environ,
            input=f"{token}\n",
            capture_output=True,
            text=True,
            check=True,
        )
        return ended.stdout

    run("apps", "set", "APP", "7/hour")
    app_id = Key("header:Authorization").find(lambda _: token.encode())
    assert run("apps", "list") == f"{app_id}\t7/hour\n"
    assert run("hit", "APP").startswith(f"{app_id}: allowed\n  7-per-3600s: 1 of 7 used")
    assert os.listdir(root) == [app_id]


# The store as a whole.


def test_doctor(run: Run, root: str, tmp_path: Path) -> None:
    """It tries the store of the settings, or the one that is named; a failure has another status."""
    ended = run("doctor")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert all(
        line.startswith(("PASS", "WARN")) for line in ended.stdout.splitlines() if line[:1] != " "
    )
    assert os.listdir(root) == []
    ended = run("doctor", str(tmp_path / "missing"))
    assert ended.returncode == 2
    assert f"{tmp_path}/missing" in ended.stderr


def test_sweep(run: Run, root: str) -> None:
    """It removes what has been idle for a day, and keeps what has been used."""
    Limiter(root, "2/hour", clock=lambda: 1_513_123_456 * SECOND).hit("old")
    Limiter(root, "2/hour").hit("new")
    judge(run("sweep"), 0, rf"{root}: 1 of 2 applications removed, .*")
    assert os.listdir(root) == ["new"]
    ended = run("sweep", LIMITER_ROOT="/missing/store")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "The store does not exist" in ended.stderr


@pytest.mark.parametrize("order", [1, -1])
def test_sweep_passes_over_a_store_that_fails(run: Run, root: str, order: int) -> None:
    """The other stores are swept; but the exit status shows the failure."""
    Limiter(root, "2/hour", clock=lambda: 1_513_123_456 * SECOND).hit("old")
    ended = run("sweep", LIMITER_ROOT=":".join(["/missing/store", root][::order]))
    assert ended.returncode == 2
    assert ended.stdout.startswith(f"{root}: 1 of 1 applications removed, ")
    assert ended.stderr.count("\n") == 1
    assert "/missing/store" in ended.stderr
    assert os.listdir(root) == []
