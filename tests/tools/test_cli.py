"""The command line: what it prints, and its exit status."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import limiter
from limiter.core.limit import clock
from limiter.core.limiter import Limiter
from limiter.request.key import Key
from limiter.tools import cli, clients, installed
from tests.conftest import NOBODY, clean_environ
from tests.faults import run as in_child

SECOND = 1_000_000
LONG_AGO = 1_513_123_456 * SECOND

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(root: str, tmp_path: Path) -> Run:
    """Run the command in another directory with only these settings: in a child process, which starts
    fast.
    """

    def run(*arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        def main() -> None:
            sys.stdin = io.StringIO(stdin)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", 1, closefd=False)
            os.environ.clear()
            os.environ.update(clean_environ(**{"LIMITER_ROOT": root, "TZ": "UTC0", **settings}))
            time.tzset()
            os.chdir(tmp_path)
            sys.argv = ["limiter/__main__.py", *arguments]
            try:
                status = cli.main()
            except SystemExit as ended:  # argparse, at --help and at bad arguments
                status = int(ended.code or 0)
            sys.stdout.flush()
            os._exit(status)

        ended = in_child(main)
        output, log = ended.output.decode(), ended.log.decode()
        return subprocess.CompletedProcess(arguments, ended.code, output, log)

    return run


def expect(ended: subprocess.CompletedProcess[str], status: int, *lines: str) -> None:
    """Compare each line printed with a pattern."""
    assert (ended.returncode, ended.stderr) == (status, "")
    printed = ended.stdout.splitlines()
    assert len(printed) == len(lines), ended.stdout
    for line, pattern in zip(printed, lines):
        assert re.fullmatch(pattern, line), line


def expect_failure(ended: subprocess.CompletedProcess[str], why: str, status: int = 2) -> None:
    """Check that one line gives the reason."""
    assert (ended.returncode, ended.stdout) == (status, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("limiter: ")
    assert why in line


# hit


def test_hits_are_allowed_up_to_the_limit(run: Run, root: str) -> None:
    """The status is 0 while hits are allowed, then 1; the output shows the state of the limit."""
    full = r"  2-per-3600s: 2 of 2 used, next free in 3\d{3}\.\d{3} s"
    first, second, third = [run("hit", "acme", LIMITER_LIMIT="2/hour") for _ in range(3)]
    expect(first, 0, "acme: allowed", r"  2-per-3600s: 1 of 2 used, next free in 3600\.000 s")
    expect(second, 0, "acme: allowed", full)
    expect(third, 1, r"acme: denied, retry after 3\d{3}\.\d{3} s", full)
    assert Limiter(root, "2/hour").peek("acme").remaining == 0


def test_each_limit_has_a_line(run: Run) -> None:
    expect(
        run("hit", "acme", LIMITER_LIMIT="9/day fixed;1/second burst 5"),
        0,
        "acme: allowed",
        r"  9-per-86400s-fixed: 1 of 9 used, next free in \d+\.\d{3} s",
        r"  1-per-1s-burst-5: 1 of 5 used, next free in 1\.000 s",
    )
    never = run("hit", "acme", LIMITER_LIMIT="0/hour")
    expect(never, 1, "acme: denied, retry after inf s", "  0-per-3600s: 0 of 0 used")


@pytest.mark.parametrize("command", ["hit", "show"])
@pytest.mark.parametrize(
    ("app", "settings", "why"),
    [
        ("../acme", {}, "app_id '../acme': expected 1 to 64 letters"),
        ("acme", {"LIMITER_LIMIT": "many"}, "limit 'many': expected a number of hits"),
        ("acme", {"LIMITER_ROOT": "/missing/store"}, "The store does not exist"),
        ("acme", {"LIMITER_KEY": "header:"}, "key 'header:': expected a header's name"),
        ("acme", {"LIMITER_APPS": "/missing"}, "The register does not exist"),
    ],
)
def test_the_status_is_2_if_nothing_can_be_decided(
    run: Run, command: str, app: str, settings: dict[str, str], why: str
) -> None:
    expect_failure(run(command, app, **settings), why)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_hit_by_root_acts_as_the_owner_of_the_store(run: Run, store: str) -> None:
    """Otherwise the owner could not rename what root has made."""
    expect(run("hit", "acme"), 0, "acme: allowed", "  10-per-1s: 1 of 10 used, .*")
    made = list(Path(store).rglob("*"))
    assert len(made) == 11
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(NOBODY, NOBODY)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_hit_by_root_needs_no_module_that_the_owner_cannot_read(store: str, place: Path) -> None:
    """It ended in a traceback with status 1, which means denied."""
    home = place / "home"
    home.mkdir(0o700)
    (home / "lib").symlink_to(f"{sys.base_prefix}/lib")
    (home / "limiter").symlink_to(Path(limiter.__file__).parent)
    os.chown(store, NOBODY, NOBODY)
    os.chmod(store, 0)
    environ = clean_environ(
        LIMITER_ROOT=store, LIMITER_KEY="header:X-Key", PYTHONHOME=str(home), PYTHONPATH=str(home)
    )
    program = os.path.realpath(sys.executable)
    command = [program, "-m", "limiter", "hit", "acme"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    expect_failure(ended, f"[Errno 13] Permission denied ({store} belongs to")


def test_an_error_that_nobody_expected_has_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], root: str
) -> None:
    """Status 1 would say that the hit was denied."""
    monkeypatch.setattr(sys, "argv", ["limiter", "hit", "acme"])
    monkeypatch.setenv("LIMITER_ROOT", root)
    monkeypatch.setattr(clients, "become_owner", lambda _: 1 // 0)
    assert cli.main() == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


# show


@pytest.mark.parametrize(
    ("limits", "hits", "back", "line", "known"),
    [
        ("20/hour", 12, 1000, r"20-per-3600s: 12 of 20 used, next free in 2\d{3}\.\d{3} s", 10),
        ("2/999 days fixed", 2, 3, r"2-per-86313600s-fixed: 2 of 2 used, next free in \d+\.\d{3} s", 1),
        ("1/hour burst 5", 3, 3, r"1-per-3600s-burst-5: 3 of 5 used, next free in 3\d{3}\.\d{3} s", 0),
        ("20/hour", 0, 0, "20-per-3600s: 0 of 20 used", 0),
        ("20/day fixed", 0, 0, "20-per-86400s-fixed: 0 of 20 used", 0),
    ],
)
def test_show_has_the_last_hits_that_a_limit_knows(
    run: Run, root: str, limits: str, hits: int, back: int, line: str, known: int
) -> None:
    """A sliding limit shows ten, oldest first, in local time.  Nothing is written."""
    first = clock() // SECOND - back
    shown = []
    for second in range(first, first + hits):
        assert Limiter(root, limits, clock=lambda: second * SECOND + 123_456).hit("acme")  # noqa: B023
        local = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second + 5 * 3600 + 1800))
        shown.append(re.escape(f"    {local}.123456+05:30"))
    before = sorted(Path(root).rglob("*"))
    ended = run("show", "acme", LIMITER_LIMIT=limits, TZ="XYZ-5:30")
    expect(ended, 0, f"acme in {root}", f"  {line}", *shown[hits - known :])
    assert sorted(Path(root).rglob("*")) == before


def test_a_command_ends_quietly_if_nobody_reads_its_output(installed: Path, root: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "limiter", "show", "acme"],
        env=clean_environ(PYTHONPATH=str(installed), LIMITER_ROOT=root),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert ended.stderr == b""


# Help


@pytest.mark.parametrize("command", ["", "serve", "hit", "show", "apps", "doctor", "sweep", "compile"])
def test_every_command_has_help_on_itself_and_the_settings(run: Run, command: str) -> None:
    ended = run(*command.split(), "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"usage: python3 -m limiter {command}")
    assert "LIMITER_LIMIT" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 100


def test_the_version_is_that_of_the_package(run: Run) -> None:
    expect(run("--version"), 0, re.escape(f"limiter {limiter.__version__}"))


@pytest.mark.parametrize(
    "arguments",
    [
        *("", "hit", "hit acme emca", "flush", "serve --port 65536", "serve --port \u0661"),
        *(
            f"sweep --idle {time}"
            for time in ("-1", "1.5h", "m", "10x", "1h30m", "\u0661h", "123456789")
        ),
    ],
)
def test_bad_arguments_print_the_usage(run: Run, root: str, arguments: str) -> None:
    ended = run(*arguments.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: python3 -m limiter ")
    assert os.listdir(root) == []


# The register


@pytest.fixture
def register(run: Run, place: Path) -> Run:
    """Run a command with a register, the directory ``place``."""
    return lambda *arguments: run(*arguments, LIMITER_APPS=str(place))


def test_entries_can_be_set_changed_listed_and_removed(register: Run, place: Path) -> None:
    """The output can be cut into columns."""
    expect(register("apps", "list"), 0)
    for app, limits in [
        ("acme", "100/second;5000/hour"),
        ("spam", "0/second"),
        (".default", "1/second"),
        ("acme", "unlimited"),
    ]:
        expect(register("apps", "set", app, limits), 0)
        assert os.readlink(place / app) == limits
    expect(register("apps", "list"), 0, "acme\tunlimited", "spam\t0/second", ".default\t1/second")
    expect(register("apps", "remove", "spam"), 0)
    expect(register("apps", "list"), 0, "acme\tunlimited", ".default\t1/second")


def test_removing_an_unknown_app_id_has_status_1(register: Run) -> None:
    expect_failure(register("apps", "remove", "acme"), "acme is not in the register /", 1)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["set", ".hidden", "1/second"], "app_id '.hidden': expected 1 to 64 letters"),
        (["remove", ""], "app_id '': expected 1 to 64 letters"),
        (["set", "acme", "Unlimited"], "limit 'Unlimited': expected a number of hits"),
    ],
)
def test_a_bad_entry_is_refused(register: Run, place: Path, arguments: list[str], why: str) -> None:
    expect_failure(register("apps", *arguments), why)
    assert list(place.iterdir()) == []


def test_without_a_register_the_status_is_2(run: Run) -> None:
    expect_failure(run("apps", "list"), "LIMITER_APPS is not set")


def test_hit_and_show_use_the_register(register: Run) -> None:
    register("apps", "set", "acme", "7/hour")
    register("apps", "set", "boss", "unlimited")
    expect(register("hit", "acme"), 0, "acme: allowed", "  7-per-3600s: 1 of 7 used, .*")
    expect(register("show", "acme"), 0, "acme in .*", "  7-per-3600s: 1 of 7 used, .*", "    .*")
    for command in ("hit", "show"):
        expect(register(command, "boss"), 0, "boss: unlimited")
    expect_failure(register("show", "nobody"), "nobody is not in the register")


@pytest.mark.parametrize("how", ["argument", "standard input"])
def test_a_value_of_the_key_stands_for_its_app_id(run: Run, root: str, place: Path, how: str) -> None:
    """It is given as a client sends it.  A secret need not be an argument, which other users see."""
    token = "Bearer s3cret-token"
    key = "header:Authorization"
    app_id = Key(key).find(lambda _: token.encode())
    app, stdin = (token, "") if how == "argument" else ("-", f"{token}\n")

    def command(*arguments: str) -> str:
        ended = run(*arguments, stdin=stdin, LIMITER_APPS=str(place), LIMITER_KEY=key)
        assert ended.returncode == 0
        return str(ended.stdout)

    command("apps", "set", app, "7/hour")
    assert command("apps", "list") == f"{app_id}\t7/hour\n"
    assert command("hit", app).startswith(f"{app_id}: allowed\n  7-per-3600s: 1 of 7 used")
    assert os.listdir(root) == [f"{app_id}@7-per-3600s"]


@pytest.mark.parametrize("verb", ["set", "remove"])
def test_a_value_that_no_client_may_send_is_an_error_without_that_value(
    run: Run, place: Path, verb: str
) -> None:
    limits = ["1/day"] if verb == "set" else []
    settings = {"LIMITER_APPS": str(place), "LIMITER_KEY": "header:Authorization"}
    ended = run("apps", verb, "-", *limits, stdin="Bearer s3cret token\n", **settings)
    expect_failure(ended, "Authorization is not a token (RFC 6750)")
    assert "s3cret" not in ended.stderr


# Networks


@pytest.fixture
def addresses(run: Run, place: Path) -> Run:
    """The command with a register of addresses."""
    return lambda *words, **more: run(
        *words, LIMITER_APPS=str(place), LIMITER_KEY="env:REMOTE_ADDR", **more
    )


def test_networks_are_entries(addresses: Run, place: Path) -> None:
    for network, limits in {
        ".default": "1/day",
        "10.0.0.0/8": "unlimited",
        "10.9.0.0/16": "0/second",
        "2001:DB8::/32": "5/day",
        "10.9.0.9": "7/day",
    }.items():
        expect(addresses("apps", "set", network, limits), 0)
    listed = "10.9.0.9\t7/day\n10.0.0.0/8\tunlimited\n10.9.0.0/16\t0/second\n2001:db8::/32\t5/day\n"
    assert addresses("apps", "list").stdout == listed + ".default\t1/day\n"
    assert sorted(os.listdir(place)) == [
        *(".default", "10.0.0.0@8", "10.9.0.0@16", "10.9.0.9", "2001_db8__@32")
    ]
    expect(addresses("hit", "10.0.0.1"), 0, "10.0.0.1: unlimited")
    assert addresses("hit", "10.9.0.1").returncode == 1
    assert "1 of 5 used" in addresses("hit", "2001:db8::1").stdout
    expect(addresses("apps", "remove", "10.9.0.0/16"), 0)
    expect(addresses("hit", "10.9.0.1"), 0, "10.9.0.1: unlimited")
    gone = addresses("apps", "remove", "10.9.0.0/16")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "10.9.0.0/16 is not in the register" in gone.stderr


@pytest.mark.parametrize("verb", ["set", "remove"])
@pytest.mark.parametrize(
    ("network", "right"), [("10.1.2.3/8", "10.0.0.0/8"), ("2001:db8::1/32", "2001:db8::/32")]
)
def test_a_network_with_host_bits_is_refused_with_the_right_one(
    addresses: Run, place: Path, verb: str, network: str, right: str
) -> None:
    ended = addresses("apps", verb, network, *(["1/day"] if verb == "set" else []))
    expect_failure(ended, f"network '{network}': expected a network, but it has bits set")
    assert f"(write {right})" in ended.stderr
    assert os.listdir(place) == []


def test_a_list_of_networks_that_was_lost_by_hand_is_reported(addresses: Run, place: Path) -> None:
    expect(addresses("apps", "set", "10.0.0.0/8", "0/second"), 0)
    (place / ".default").unlink()
    (place / ".default").symlink_to("1/day")
    listed = addresses("apps", "list")
    assert (listed.returncode, listed.stdout) == (0, "10.0.0.0/8\t0/second\n.default\t1/day\n")
    assert "networks do not apply, because .default was changed by hand" in listed.stderr
    expect(addresses("apps", "set", ".default", "1/day"), 0)
    assert addresses("apps", "list").stderr == ""
    assert addresses("hit", "10.0.0.1").returncode == 1


def test_a_change_of_a_network_gives_no_address_in_it_more(addresses: Run) -> None:
    """Its IPv4 addresses keep their hits when a network comes, changes and goes, if it is theirs."""
    expect(addresses("apps", "set", ".default", "5/day"), 0)
    assert addresses("hit", "10.0.0.1").returncode == 0
    for words, used in [
        (("set", "10.0.0.0/8", "6/day"), "1 of 6"),
        (("set", "10.0.0.0/24", "7/day"), "1 of 7"),
        (("set", "10.0.0.0/8", "8/day"), "1 of 7"),
        (("set", "11.0.0.0/8", "9/day"), "1 of 7"),
        (("remove", "10.0.0.0/24"), "1 of 8"),
        (("remove", "10.0.0.0/8"), "1 of 5"),
    ]:
        expect(addresses("apps", *words), 0)
        assert f"{used} used" in addresses("show", "10.0.0.1").stdout


# A changed entry


def remaining(register: Run, app: str = "acme") -> int:
    """Return how many more hits are allowed, by hitting."""
    return next(left for left in range(100) if register("hit", app).returncode == 1)


def test_a_change_of_limits_gives_nobody_more(register: Run) -> None:
    """What the old limit still shows counts in the new one."""
    register("apps", "set", "acme", "5/day")
    for _ in range(5):
        register("hit", "acme")
    for limits, left in [("6/day", 1), ("2/day", 0), ("8/day burst 8", 6), ("9/day fixed", 1)]:
        expect(register("apps", "set", "acme", limits), 0)
        assert remaining(register) == left


def test_an_app_id_keeps_its_hits_when_it_joins_or_leaves_the_register(register: Run) -> None:
    register("apps", "set", ".default", "5/day")
    register("hit", "acme")
    register("apps", "set", "acme", "9/day")
    for _ in range(3):
        register("hit", "acme")
    expect(register("apps", "remove", "acme"), 0)
    assert remaining(register) == 1


def test_a_changed_default_carries_the_hits_of_all_that_have_no_entry(register: Run) -> None:
    register("apps", "set", ".default", "3/day")
    register("apps", "set", "named", "3/day")
    for app in ("acme", "emca", "emca", "named"):
        register("hit", app)
    register("apps", "set", ".default", "4/day")
    assert [remaining(register, app) for app in ("acme", "emca", "named")] == [3, 2, 2]


@pytest.mark.parametrize(("before", "after"), [("unlimited", "2/day"), ("10/fortnight", "2/day")])
def test_where_nothing_was_counted_nothing_is_carried(
    register: Run, root: str, place: Path, before: str, after: str
) -> None:
    """A bad entry, too, can be replaced."""
    (place / "acme").symlink_to(before)
    expect(register("apps", "set", "acme", after), 0)
    assert (os.readlink(place / "acme"), os.listdir(root)) == (after, [])


def test_a_store_that_fails_does_not_prevent_a_change(run: Run, place: Path) -> None:
    """It may be a ban.  One line says what is not done."""
    settings = {"LIMITER_APPS": str(place), "LIMITER_ROOT": "/missing/store"}
    run("apps", "set", "acme", "9/day", **settings)
    expect_failure(run("apps", "set", "acme", "3/day", **settings), "/missing/store", 0)
    assert os.readlink(place / "acme") == "3/day"


# The store as a whole


def test_lost_slots_are_named_until_a_hit_makes_them_again(run: Run, root: str) -> None:
    Limiter(root, "8/minute", newcomers="", clock=lambda: LONG_AGO).hit("acme")
    directory = f"{root}/acme@8-per-60s"
    for name in sorted(os.listdir(directory))[-2:]:
        os.unlink(f"{directory}/{name}")
    standing = r"  8-per-60s: {} of 8 used.*"
    named = f"  {directory}: 2 slots are missing; hits make them again"
    shown = run("show", "acme", LIMITER_LIMIT="8/minute")
    expect(shown, 0, f"acme in {root}", standing.format(2), re.escape(named))
    mended = run("hit", "acme", LIMITER_LIMIT="8/minute")
    assert re.fullmatch(f"acme: allowed\n{standing.format(3)}\n", mended.stdout)
    assert mended.stderr.startswith(f"limiter: {directory}: 2 of 8 slots were missing, ")
    assert mended.stderr.count("\n") == 1
    assert run("hit", "acme", LIMITER_LIMIT="8/minute").stderr == ""


@pytest.mark.parametrize(("idle", "removed"), [("", 0), ("20m", 0), ("600", 1), ("600s", 1), ("10m", 1)])
def test_the_idle_time_of_a_sweep_can_be_given(run: Run, root: str, idle: str, removed: int) -> None:
    Limiter(root, "2/minute", newcomers="", clock=lambda: clock() - 900 * SECOND).hit("acme")
    ended = run("sweep", *(["--idle", idle] if idle else []))
    expect(
        ended, 0, f"{root}: {removed} of 1 directories removed, 0 leftovers of dead processes removed"
    )


def test_doctor_tests_the_store_of_the_settings_or_a_named_one(
    run: Run, root: str, tmp_path: Path
) -> None:
    ended = run("doctor")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search("^PASS  directory ", ended.stdout, re.M)
    assert os.listdir(root) == []
    expect_failure(run("doctor", str(tmp_path / "missing")), f"{tmp_path}/missing")


@pytest.mark.parametrize("order", [1, -1])
def test_a_store_that_fails_does_not_stop_the_sweep_of_the_others(
    run: Run, root: str, order: int
) -> None:
    Limiter(root, "2/hour", newcomers="", clock=lambda: LONG_AGO).hit("old")
    Limiter(root, "2/hour", newcomers="").hit("new")
    ended = run("sweep", LIMITER_ROOT=":".join(["/missing/store", root][::order]))
    assert ended.returncode == 2
    assert ended.stdout.startswith(f"{root}: 1 of 2 directories removed, ")
    assert ended.stderr.count("\n") == 1
    assert "The store does not exist" in ended.stderr
    assert "/missing/store" in ended.stderr
    assert os.listdir(root) == ["new@2-per-3600s"]


# show without APP, top, reset, --json, --wait


def test_show_without_an_app_id_has_the_busiest(run: Run, root: str) -> None:
    for app, hits in (("full", 2), ("half", 1)):
        for _ in range(hits):
            assert Limiter(root, "2/hour").hit(app)
    shown = run("show")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"{root}  ")
    assert lines[1] == "1 at a limit, 0 near one"
    assert [line.split()[0] for line in lines[2:]] == ["CLIENT", "full", "half"]
    assert "\033" not in shown.stdout
    assert [it["app_id"] for it in json.loads(run("show", "--json").stdout)["clients"]] == [
        "full",
        "half",
    ]


def test_show_without_an_app_id_has_status_2_if_a_store_failed(run: Run) -> None:
    shown = run("show", LIMITER_ROOT="/missing/store")
    assert shown.returncode == 2
    assert "/missing/store: " in shown.stdout


def test_top_looks_again(run: Run, root: str) -> None:
    shown = run("top", "-n", "3", "--delay", "0")
    assert (shown.returncode, shown.stdout.count(f"{root}  ")) == (0, 3)


def test_reset_forgets_the_hits_of_one_application(run: Run, root: str) -> None:
    for app in ("acme", "other"):
        run("hit", app, LIMITER_LIMIT="1/hour")
    expect(run("reset", "acme", LIMITER_LIMIT="1/hour"), 0, "acme: no hit counts any more")
    assert [run("hit", app, LIMITER_LIMIT="1/hour").returncode for app in ("acme", "other")] == [0, 1]


def test_hit_and_show_print_json(run: Run) -> None:
    told = [json.loads(run("hit", "acme", "--json", LIMITER_LIMIT="a=1/hour").stdout) for _ in range(2)]
    assert [it["allowed"] for it in told] == [True, False]
    assert told[0]["limits"][0] == {"limit": "a", "quota": 1, "remaining": 0, "reset": 3600.0}
    assert 3590 < told[1]["retry_after"] <= 3600
    shown = json.loads(run("show", "acme", "--json", LIMITER_LIMIT="a=1/hour").stdout)
    assert len(shown["limits"][0]["hits"]) == 1
    assert json.loads(run("hit", "acme", "--json", LIMITER_LIMIT="0/hour").stdout)["retry_after"] is None


def test_apps_list_prints_json(register: Run) -> None:
    register("apps", "set", "acme", "5/hour")
    assert json.loads(register("apps", "list", "--json").stdout) == {"acme": "5/hour"}


def test_hit_waits_for_a_free_hit_if_there_is_one_in_time(run: Run) -> None:
    assert run("hit", "acme", LIMITER_LIMIT="1/second").returncode == 0
    assert run("hit", "acme", "--wait", "1m", LIMITER_LIMIT="1/second").returncode == 0
    run("hit", "slow", LIMITER_LIMIT="1/hour")
    assert run("hit", "slow", "--wait", "30s", LIMITER_LIMIT="1/hour").returncode == 1


# the settings of the installation

APACHE = """
# Define LIMITER_LIMIT "9/day"
Define LIMITER_LIMIT "3/hour"
  Define LIMITER_ROOT "{root}"
Define LIMITER_MODE shadow
Define LIMITER_HEADER "X-Key"
Define OTHER "1"
#Use RateLimit "/no" * "5/hour"
Use RateLimit "/login" POST "5/hour key=header:X-Key"
"""


@pytest.fixture
def file(root: str, place: Path) -> Path:
    path = place / "access-limiter.conf"
    path.write_text(APACHE.format(root=root))
    return path


def test_a_file_of_apache_has_settings(file: Path, root: str) -> None:
    given = {"LIMITER_LIMIT": "3/hour", "LIMITER_MODE": "shadow", "LIMITER_KEY": "header:X-Key"}
    rules = '"/login" POST "5/hour key=header:X-Key"'
    assert installed.read(str(file)) == {**given, "LIMITER_ROOT": root, "LIMITER_USED": rules}


def test_the_command_says_whose_settings_it_uses(run: Run, file: Path, root: str) -> None:
    shown = run("--settings", str(file), "hit", "acme", LIMITER_KEY="app_id")
    assert (shown.returncode, shown.stderr) == (0, f"limiter: settings of {file}\n")
    assert "3-per-3600s: 1 of 3 used" in shown.stdout
    assert Limiter(root, "3/hour").peek("acme").remaining == 2
    expect_failure(run("--settings", "/missing", "hit", "acme"), "/missing")


def test_the_installation_s_settings_hold_unless_the_environment_names_a_store(
    file: Path, root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installed, "FILES", ("/missing", str(file)))
    for name in ("LIMITER_ROOT", "LIMITER_LIMIT", "LIMITER_MODE", "LIMITER_KEY"):
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("LIMITER_LIMIT", "7/hour")
    installed.apply("")
    assert (os.environ["LIMITER_ROOT"], os.environ["LIMITER_LIMIT"]) == (root, "7/hour")
    assert capsys.readouterr().err == f"limiter: settings of {file}\n"
    installed.apply("")  # now the environment has a store
    assert capsys.readouterr().err == ""
