"""The supervising guard: the real cgi-bin/guard.py, called as mod_actions calls it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.apache.test_guard import FAILED, FIELDS, OWN, STUCK, Guard, ignored_signals, told
from tests.apache_server import contents
from tests.hanging import hanging_mount
from tests.places import PYTHON
from tests.scripts.failures import SUPERVISED
from tests.waiting import wait_until

PERL = "/usr/bin/perl"
TOOLS = {".pl": PERL, ".rb": "/usr/bin/ruby", ".php": "/usr/bin/php-cgi"}
TEXT = "Content-Type: text/plain\n\n"
LATE = FAILED.replace("500 Internal Server Error", "504 Gateway Timeout").replace(
    "Internal Server Error", "Gateway Timeout"
)
DEADLINE = 60
NO_BODY = subprocess.DEVNULL
PATIENCE = 600
"""The seconds for which a script may write nothing."""

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(not Path(PERL).exists(), reason="perl is not installed"),
]


@dataclass
class Supervised(Guard):
    """The guard, with a log."""

    shared: int = 2
    """An open file that the guard gets as it is."""

    def environ(self, file: Path, extra: str = "", **more: str) -> dict[str, str]:
        late = {"LIMITER_TIMEOUT": "600", "LIMITER_SCRIPT_TIMEOUT": str(PATIENCE)}
        own = {"LIMITER_SUPERVISE": "1", "LIMITER_LOG": str(self.scripts / "log")}
        return super().environ(file, extra, **{**late, **own, **more})

    def perl(self, text: str) -> Path:
        return self.script("script.pl", f"#!{PERL}\nuse strict; $| = 1;\n{text}")

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(it) for it in contents(self.scripts / "log").splitlines()]

    @property
    def entry(self) -> dict[str, Any]:
        (entry,) = self.entries
        return entry

    @contextmanager
    def start(self, file: Path, stdin: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
        """Run the guard beside the test, until both have ended."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            self.program,
            env=self.environ(file),
            stdin=stdin,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            pass_fds=[self.shared],
        ) as process:
            try:
                yield process
            finally:
                process.kill()


# A guard whose clock stands still, except for the seconds that come by its socket.  Whenever it waits
# for something, it sends the time of its clock, and how many milliseconds it would wait.
CLOCKED = """\
import posix, select, sys
sys.path.insert(0, sys.argv.pop(1))
clock = int(sys.argv.pop(1))
posix.set_inheritable(clock, False)
from limiter.apache import guard
from limiter.scripts import supervise
now, real_poll = 0, select.poll

class Poll:
    def __init__(self):
        self.real = real_poll()
        self.register = self.real.register

    def poll(self, timeout):
        global now
        events = self.real.poll(0)
        if events or timeout == 0:
            return events
        posix.write(clock, b"%d %a" % (now, timeout))
        self.register(clock, select.POLLIN)
        events = [it for it in self.real.poll() if it[0] != clock]
        if not events:
            now += int(posix.read(clock, 9))
        return events

select.poll, supervise.monotonic = Poll, lambda: now
guard.run()
"""


class Clocked(Supervised):
    """The guard, with a clock that stands still until it is moved."""

    clock: socket.socket
    now = 0

    def move(self, seconds: int) -> None:
        """Let so many seconds pass, as soon as everything before has been handled."""
        self.now += seconds
        self.clock.send(b"%d" % seconds)

    def wait(self, milliseconds: int | None) -> None:
        """Return as soon as it would wait for so many milliseconds, or forever."""
        while self.next() != f"{self.now} {milliseconds}":
            pass

    def next(self) -> str:
        """Return the time of its clock and how long it would wait, the next time that it waits."""
        return self.clock.recv(99).decode()


@pytest.fixture
def clocked(root: str, place: Path, installed: Path) -> Iterator[Clocked]:
    ours, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
    ours.settimeout(DEADLINE)
    with ours, its:
        program = [PYTHON, "-ISc", CLOCKED, str(installed), str(its.fileno())]
        clocked = Clocked(program, Path(root), place, its.fileno())
        clocked.clock = ours
        yield clocked


@pytest.fixture
def guard(root: str, place: Path, installed: Path) -> Supervised:
    return Supervised([str(installed / "cgi-bin/guard.py")], Path(root), place)


def read(process: subprocess.Popen[bytes], size: int) -> str:
    """Return so many bytes of its output, which must come."""
    assert process.stdout
    data = b""
    while len(data) < size:
        assert select.select([process.stdout], [], [], DEADLINE)[0], data
        part = os.read(process.stdout.fileno(), size - len(data))
        assert part, data
        data += part
    return data.decode()


def has_ended(process: int) -> bool:
    """Return whether a process that is no child of ours has ended."""
    state = contents(Path(f"/proc/{process}/stat")).rpartition(b")")[2][:2]
    return state in (b"", b" Z")


# A script that works


@pytest.mark.parametrize("ignored", ["", "TERM CHLD"])
def test_script_ignores_the_signals_that_it_would_have_ignored(guard: Supervised, ignored: str) -> None:
    behind, bare = ignored_signals(guard, ignored)
    assert behind == bare


RESPONSES = {
    "header alone": "Status: 204 No Content\n\n",
    "long failure of its own": "Status: 503 Oh\n\n" + "x" * 200000,
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_response_goes_through_unchanged(guard: Supervised, response: str) -> None:
    (guard.scripts / "response").write_text(response, newline="")
    with guard.start(guard.script("cat", "#!/bin/sh\nexec cat response\n")) as process:
        output, errors = process.communicate(b"", DEADLINE)
    assert (output.decode(), errors, process.returncode) == (FIELDS + response, b"", 0)
    assert guard.entries == []


def test_output_comes_as_it_is_written(guard: Supervised) -> None:
    """Each part has arrived before the script gets the signal to go on."""
    script = guard.perl(f'print "{TEXT}one"; <STDIN>; print "two"; <STDIN>; print "three";')
    with guard.start(script) as process:
        assert process.stdin
        assert read(process, len(FIELDS + TEXT + "one")) == f"{FIELDS}{TEXT}one"
        process.stdin.write(b"\n")
        assert read(process, 3) == "two"
        process.stdin.write(b"\n")
        assert process.communicate(timeout=DEADLINE) == (b"three", b"")


def test_large_output_takes_no_more_memory_than_a_small_one(guard: Supervised) -> None:
    used = []
    for number in (1, 64):
        text = f'print "{TEXT}"; my $x = "x" x 65536; print $x for 1 .. {number}; <STDIN>;'
        with guard.start(guard.perl(text)) as process:
            assert read(process, len(FIELDS + TEXT) + number * 65536).endswith(65536 * "x")
            memory = re.search(r"VmHWM: *\t* *(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            assert memory
            used.append(int(memory[1]))
    assert used[1] - used[0] < 1024


def test_nothing_is_done_while_nothing_happens(clocked: Clocked) -> None:
    """It waits exactly until the script's time-out."""
    with clocked.start(clocked.perl(f'print "{TEXT}x"; <STDIN>;')) as process:
        read(process, len(FIELDS + TEXT) + 1)
        clocked.move(200)
        clocked.wait(400_001)
        clocked.move(200)
        assert clocked.next() == "400 200001"
        assert process.communicate(b"", DEADLINE) == (b"", b"")


@contextmanager
def upload(clocked: Clocked, text: str, kind: str) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """Run a script whose body comes through a pipe, as with mod_cgi, or a socket, as with mod_cgid."""
    ends = os.pipe() if kind == "pipe" else [it.detach() for it in socket.socketpair()]
    with (
        open(ends[0], "rb") as its,
        open(ends[1], "wb", buffering=0) as body,
        clocked.start(clocked.perl(text), its.fileno()) as process,
    ):
        yield process, body


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_upload_that_does_not_come_is_no_time_out(clocked: Clocked, kind: str) -> None:
    text = f'while (<STDIN>) {{ open my $seen, ">", "seen$."; }} print "{TEXT}$.";'
    with upload(clocked, text, kind) as (process, body):
        for number in range(1, 5):
            body.write(b"part\n")
            wait_until((clocked.scripts / f"seen{number}").exists)
            clocked.move(2 * PATIENCE)
            clocked.wait(PATIENCE * 1000 + 1)
        body.close()
        assert process.communicate(timeout=DEADLINE)[0].decode() == f"{FIELDS}{TEXT}4"
    assert clocked.entries == []


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("comes", [True, False])
def test_upload_that_is_not_read_is_a_time_out_unless_more_comes(
    clocked: Clocked, comes: bool, kind: str
) -> None:
    wait = "select undef, undef, undef, .01 until -e 'seen';"
    with upload(clocked, f'{wait} print "{TEXT}", <STDIN>;', kind) as (process, body):
        for _ in range(4):
            body.write(b"part\n")
            clocked.wait(PATIENCE * 1000 + 1)
            clocked.move(PATIENCE - 1)
            clocked.wait(1001)
        if comes:
            (clocked.scripts / "seen").touch()
            body.close()
        else:
            clocked.move(1)
        assert process.communicate(timeout=DEADLINE)[0].decode() == FIELDS + (
            TEXT + 4 * "part\n" if comes else LATE
        )
    assert len(clocked.entries) == (not comes)


def test_client_that_is_slow_is_no_time_out(clocked: Clocked) -> None:
    with clocked.start(clocked.perl(f'print "{TEXT}", "x" x 300000;'), NO_BODY) as process:
        clocked.wait(None)
        clocked.move(2 * PATIENCE)
        clocked.wait(None)
        assert read(process, len(FIELDS + TEXT) + 300000).endswith(300000 * "x")
        assert process.wait(DEADLINE) == 0
    assert clocked.entries == []


# A script that fails


@pytest.mark.parametrize("name", SUPERVISED)
def test_failure_is_one_answer_and_one_line(guard: Supervised, clocked: Clocked, name: str) -> None:
    tool = TOOLS.get(Path(name).suffix, PYTHON)
    if not Path(tool).exists():
        pytest.skip(f"{tool} is not installed")
    failure = SUPERVISED[name]
    file = guard.script(name, failure.script)
    if failure.status == 504:
        with clocked.start(file, NO_BODY) as process:
            wait_until((clocked.scripts / "begun").exists)
            clocked.move(PATIENCE)
            output, errors = (it.decode() for it in process.communicate(timeout=DEADLINE))
    else:
        ended = guard.run(guard.environ(file))
        output, errors = ended.stdout, ended.stderr
    assert output == FIELDS + (LATE if failure.status == 504 else FAILED)
    entry = guard.entry
    assert entry["reason"].startswith(failure.reason)
    assert (entry["status"], entry["script"], entry["app_id"]) == (failure.status, str(file), "acme")
    assert failure.words in "\n".join(entry.get("stack", []))
    assert entry.get("where", "") == (f"{file}:{failure.line}" if failure.line else "")
    assert not failure.words or failure.words not in errors


SILENT = f"wrote nothing for {PATIENCE} seconds"
CUT = {
    "signal": (
        "kill 'KILL', $$; sleep 9;",
        500,
        "killed by SIGKILL (out of memory?  The kernel's log tells)",
    ),
    "exit status": ("die 'It dies.';", 500, "exit status 255"),
    "silence": ("sleep 99;", 504, SILENT),
    "output in the background": ("exec 'sleep 99' unless fork; exit;", 504, SILENT),
    "failure before the background": ("exec 'sleep 99' unless fork; exit 2;", 500, "exit status 2"),
}


@pytest.mark.parametrize(("text", "status", "reason"), CUT.values(), ids=CUT)
def test_response_that_has_begun_is_cut_off_and_nothing_added(
    clocked: Clocked, text: str, status: int, reason: str
) -> None:
    with clocked.start(clocked.perl(f'print "{TEXT}half"; {text}'), NO_BODY) as process:
        assert read(process, len(FIELDS + TEXT) + 4) == f"{FIELDS}{TEXT}half"
        if status == 504:
            clocked.move(PATIENCE)
        assert process.communicate(timeout=DEADLINE)[0] == b""
    assert reason in clocked.entry["reason"]
    assert clocked.entry["reason"].endswith("(its response had begun, and is cut off)")
    assert clocked.entry["status"] == status


@pytest.mark.parametrize("extra", ["", "/extra"])
def test_path_in_the_log_is_the_script_s_own(guard: Supervised, extra: str) -> None:
    script = guard.script("script", mode=0o644)
    for settings in ({}, {"LIMITER_SUPERVISE": "0"}, {"LIMITER_ROOT": "/missing"}):
        assert guard.ask(script, extra, **settings).endswith(FAILED)
        entry = guard.entries[-1]
        assert (entry["script"], entry["path"]) == (str(script), f"/app/script{extra}")


def test_head_has_no_body(guard: Supervised) -> None:
    answer = guard.ask(guard.perl("exit 1;"), REQUEST_METHOD="HEAD")
    assert answer == FIELDS + FAILED.partition("{")[0]


def test_script_that_ends_its_output_but_not_itself_is_ended(clocked: Clocked) -> None:
    """Apache does the same: the response is complete, and nothing has failed."""
    script = clocked.perl(f'print "{TEXT}whole"; close STDOUT; open STDOUT, ">", "/dev/null"; sleep 99;')
    with clocked.start(script) as process:
        clocked.wait(1001)
        clocked.move(1)
        assert process.communicate(timeout=DEADLINE)[0].decode() == f"{FIELDS}{TEXT}whole"
    assert clocked.entries == []


# Standard error


@pytest.mark.parametrize("size", [0, 1, 8192, 8193, 1048576])
def test_standard_error_of_a_script_that_is_well_goes_on_unchanged(guard: Supervised, size: int) -> None:
    lines = ("x" * 99 + "\n") * (size // 100) + "y" * (size % 100)
    (guard.scripts / "errors").write_text(lines)
    script = guard.script(
        "say", f"#!/bin/sh\ncat errors >&2\nprintf '{TEXT.encode('unicode_escape').decode()}x'\n"
    )
    ended = guard.run(guard.environ(script))
    assert ended.stdout == f"{FIELDS}{TEXT}x"
    assert ended.stderr == lines


def test_end_of_standard_error_is_logged_with_the_failure_and_the_rest_goes_on(
    guard: Supervised,
) -> None:
    lines = [f"line {number} {'x' * 90}" for number in range(10000)]
    (guard.scripts / "errors").write_text("".join([f"{line}\n" for line in lines]))
    script = guard.script("say", "#!/bin/sh\ncat errors >&2\nexit 1\n")
    ended = guard.run(guard.environ(script))
    assert ended.stdout == FIELDS + FAILED
    stack = guard.entry["stack"]
    assert len(stack) > 10
    assert ended.stderr.splitlines() + stack == lines


def test_standard_error_that_nobody_reads_does_not_keep_the_script_waiting(guard: Supervised) -> None:
    text = f'print STDERR "x" x 99, "\\n" for 1 .. 20000; print "{TEXT}x"; <STDIN>;'
    with guard.start(guard.perl(text)) as process:
        assert read(process, len(FIELDS + TEXT) + 1) == f"{FIELDS}{TEXT}x"
        _, errors = process.communicate(b"", DEADLINE)
    assert errors.endswith(b"x" * 99 + b"\n")
    assert 1000000 < len(errors) < 1300000


# Which process ends which


STAYS = f'print "{TEXT}$$ "; my $child = fork; if (!$child) {{ sleep 99; exit; }} print "$child\\n"; '
"""A script with a child that goes on running.  It prints both process numbers."""


def numbers(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the process numbers of the script and its child."""
    read(process, len(FIELDS + TEXT))
    assert process.stdout
    return [int(it) for it in process.stdout.readline().split()]


def leave(process: subprocess.Popen[bytes]) -> None:
    """Leave as a client does."""
    assert process.stdout
    process.stdout.close()


ENDS = {
    "client leaves": ("sleep 99;", leave, 0),
    "client leaves while it writes": ("while (1) { print 'x' x 65536; }", leave, 0),
    "SIGTERM": ("sleep 99;", subprocess.Popen.terminate, 0),
    "guard is killed": ("sleep 99;", subprocess.Popen.kill, -signal.SIGKILL),
}
"""What the script does, what ends it, and the exit status of the guard."""


@pytest.mark.parametrize(("own", "end", "code"), ENDS.values(), ids=ENDS)
def test_script_and_its_children_are_ended(
    guard: Supervised, own: str, end: Callable[[subprocess.Popen[bytes]], None], code: int
) -> None:
    with guard.start(guard.perl(STAYS + own)) as process:
        running = numbers(process)
        end(process)
        assert process.wait(DEADLINE) == code
        wait_until(lambda: all(map(has_ended, running)))
    assert guard.entries == []


def test_script_may_tidy_up_on_sigterm_and_is_killed_a_second_later(clocked: Clocked) -> None:
    """Apache waits for three."""
    tidy = "$SIG{TERM} = sub { open my $file, '>', 'tidied'; };"
    with clocked.start(
        clocked.perl(f"{tidy} {STAYS.replace('exit;', 'sleep 99;')} sleep 99 while 1;")
    ) as process:
        running = numbers(process)
        process.terminate()
        clocked.wait(1001)
        wait_until((clocked.scripts / "tidied").exists)
        clocked.move(1)
        assert process.wait(DEADLINE) == 0
        wait_until(lambda: all(map(has_ended, running)))
    assert clocked.entries == []


def test_background_of_a_script_that_is_well_goes_on(guard: Supervised) -> None:
    """As under Apache, if the background process has closed standard output."""
    away = "open STDOUT, '>', '/dev/null'; open STDERR, '>', '/dev/null';"
    script_text = STAYS.replace("sleep", f"{away} sleep") + "exit;"
    with guard.start(guard.perl(script_text)) as process:
        script, background = numbers(process)
        assert process.wait(DEADLINE) == 0
        assert has_ended(script)
        try:
            assert os.getpgid(background) == script
        finally:
            os.kill(background, signal.SIGKILL)
        wait_until(lambda: has_ended(background))


def test_script_that_no_signal_ends_is_answered_for(clocked: Clocked) -> None:
    """The script hangs in a dead file system."""
    with hanging_mount() as mount:
        (mount.path / "file").touch()
        script = clocked.perl(f'open my $file, "<", "{mount.path}/file"; print "{TEXT}x";')
        mount.hang()
        with clocked.start(script, NO_BODY) as process:
            mount.wait_until_stuck()
            clocked.move(PATIENCE)
            clocked.wait(1001)
            clocked.move(1)
            assert read(process, len(FIELDS + LATE)) == FIELDS + LATE
            mount.release()
            assert process.communicate(timeout=DEADLINE)[0] == b""
    assert SILENT in clocked.entry["reason"]


def test_guard_with_a_thread_that_is_stuck_supervises_as_well(
    guard: Supervised, installed: Path
) -> None:
    here = Supervised([sys.executable, "-ISBc", STUCK, str(installed)], guard.store, guard.scripts)
    assert here.ask(here.perl("exit 1;")) == FIELDS + FAILED
    assert "exit status 1" in here.entry["reason"]


# Settings


@pytest.mark.parametrize("name", ["LIMITER_SUPERVISE", "REDIRECT_LIMITER_SCRIPT_TIMEOUT"])
def test_mistake_is_a_500_that_names_it_and_no_hit(guard: Supervised, name: str) -> None:
    assert guard.ask(guard.script("tell"), **{name: "soon"}) == FAILED
    setting = name.replace("REDIRECT_", "")
    assert guard.entry["reason"].startswith(f"ValueError: {setting}='soon': expected ")
    assert os.listdir(guard.store) == []


@pytest.mark.parametrize(("guards", "scripts"), [("0", "1"), ("1", "0")])
def test_directory_of_the_script_decides(guard: Supervised, guards: str, scripts: str) -> None:
    setting = {"LIMITER_SUPERVISE": guards, "REDIRECT_LIMITER_SUPERVISE": scripts}
    environ = told(guard.ask(guard.script("tell"), **setting))["environ"]
    assert isinstance(environ, dict)
    assert ("PYTHONFAULTHANDLER" in environ) == (scripts == "1")


def test_nothing_else_is_loaded_while_nothing_fails(guard: Supervised) -> None:
    text = (
        "import posix, sys\n"
        "def told(*_):\n print(*sys.modules, file=sys.stderr)\n posix._exit(0)\n"
        "posix.closerange = told\n"
        "__file__ = sys.argv[1]\n"
        "exec(open(__file__, 'rb').read())"
    )
    file = guard.script("tell")
    guard.ask(file)  # the first hit makes more calls
    here = Supervised([PYTHON, "-ISc", text, *guard.program], guard.store, guard.scripts)
    refused, supervised = (
        set(here.run(here.environ(file, LIMITER_SUPERVISE=it, QUERY_STRING=query)).stderr.split())
        for it, query in (("0", "x=1"), ("1", OWN["QUERY_STRING"]))
    )
    names = ("supervise", "child", "cgi_header", "standard_error")
    own = {"limiter.scripts"} | {f"limiter.scripts.{name}" for name in names}
    assert not refused & own
    assert own <= supervised
    assert supervised - refused <= own | {"_signal", "_stat", "select", "errno"}
