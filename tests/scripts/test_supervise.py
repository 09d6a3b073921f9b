"""The supervising guard: the real cgi-bin/guard.py, called as mod_actions calls it."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.apache.test_guard import FAILED, FIELDS, OWN, STUCK, Guard, ignored_signals, told
from tests.failing import FAILING, TIMEOUT
from tests.hanging import hanging_mount
from tests.places import PYTHON, new_root

PERL = "/usr/bin/perl"
TOOLS = {".pl": PERL, ".rb": "/usr/bin/ruby", ".php": "/usr/bin/php-cgi"}
TEXT = "Content-Type: text/plain\n\n"
LATE = FAILED.replace("500 Internal Server Error", "504 Gateway Timeout").replace(
    "Internal Server Error", "Gateway Timeout"
)
DEADLINE = 60
PATIENCE = 600
"""The seconds for which a script may write nothing."""

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(not Path(PERL).exists(), reason="perl is not installed"),
]


class Supervised(Guard):
    """The guard, with a log."""

    shared: tuple[int, ...] = ()
    """Open files that the guard gets as they are."""

    @property
    def log(self) -> Path:
        return self.scripts.parent / "log"

    def environ(self, file: Path, extra: str = "", **more: str) -> dict[str, str]:
        late = {"LIMITER_TIMEOUT": "600", "LIMITER_SCRIPT_TIMEOUT": str(PATIENCE)}
        own = {"LIMITER_SUPERVISE": "1", "LIMITER_LOG": str(self.log)}
        return super().environ(file, extra, **{**late, **own, **more})

    def perl(self, text: str) -> Path:
        return self.script("script.pl", f"#!{PERL}\nuse strict; $| = 1;\n{text}")

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of the log."""
        return [json.loads(it) for it in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def entry(self) -> dict[str, Any]:
        """Return the only entry of the log."""
        (entry,) = self.entries
        return entry

    @contextmanager
    def start(self, file: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the guard beside the test, until both have ended."""
        process = subprocess.Popen(
            self.program,
            env=self.environ(file, **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=self.shared,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


# A guard whose clock stands still, except for the seconds that come by the file "moves".  Whenever it
# waits for something, it writes to the file "rests" the time of its clock, and how many milliseconds it
# would wait.
CLOCKED = """\
import posix, select, sys
sys.path.insert(0, sys.argv.pop(1))
moves, rests = int(sys.argv.pop(1)), int(sys.argv.pop(1))
for file in moves, rests:
    posix.set_inheritable(file, False)
from limiter.apache import guard
from limiter.scripts import supervise
now = 0

class Poll:
    def __init__(self):
        self.real = select.poll()
        self.register = self.real.register

    def poll(self, timeout):
        global now
        events = self.real.poll(0)
        if events or timeout == 0:
            return events
        posix.write(rests, b"%d %a\\n" % (now, timeout))
        self.register(moves, select.POLLIN)
        events = [it for it in self.real.poll() if it[0] != moves]
        if not events:
            now += int(posix.read(moves, 9))
        return events

class Select:
    poll = Poll

    def __getattr__(self, name):
        return getattr(select, name)

supervise.select, supervise.monotonic = Select(), lambda: now
guard.run()
"""


@dataclass
class Clocked(Supervised):
    """The guard, with a clock that stands still until it is moved."""

    moves: int
    rests: BinaryIO
    now: int = 0

    def move(self, seconds: int) -> None:
        """Let so many seconds pass, as soon as everything before has been handled."""
        self.now += seconds
        os.write(self.moves, b"%d\n" % seconds)

    def wait(self, milliseconds: int | None) -> None:
        """Return as soon as it would wait for so many milliseconds, or forever."""
        while self.next() != f"{self.now} {milliseconds}":
            pass

    def next(self) -> str:
        """Return the time of its clock and how long it would wait, the next time that it waits."""
        assert select.select([self.rests], [], [], DEADLINE)[0]
        return self.rests.readline().decode().strip()


@pytest.fixture
def clocked(guard: Supervised, installed: Path) -> Iterator[Clocked]:
    its_moves, moves = os.pipe()
    rests, its_rests = os.pipe()
    program = [PYTHON, "-ISc", CLOCKED, str(installed), str(its_moves), str(its_rests)]
    with os.fdopen(rests, "rb", buffering=0) as file:
        it = Clocked(program, guard.store, guard.scripts, moves, file)
        it.shared = its_moves, its_rests
        yield it
    for end in (its_moves, moves, its_rests):
        os.close(end)


@pytest.fixture
def guard(installed: Path, root: str) -> Iterator[Supervised]:
    place = new_root("/tmp")
    scripts = place / "app"
    scripts.mkdir()
    yield Supervised([str(installed / "cgi-bin/guard.py")], Path(root), scripts)
    shutil.rmtree(place)


def read(process: subprocess.Popen[bytes], size: int) -> bytes:
    """Return so many bytes of its output, which must come."""
    assert process.stdout
    data = b""
    while len(data) < size:
        assert select.select([process.stdout], [], [], DEADLINE)[0], data
        part = os.read(process.stdout.fileno(), size - len(data))
        assert part, data
        data += part
    return data


def wait_until_gone(process: int) -> None:
    """Return when a process that is no child of ours has ended."""
    wait_until(lambda: not _runs(process))


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for another process, where polling is the only way."""
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end_body(process: subprocess.Popen[bytes]) -> None:
    """End the body of the request."""
    assert process.stdin
    process.stdin.close()
    process.stdin = None


def unread(process: subprocess.Popen[bytes]) -> int:
    """Return how many bytes of the body have not been read yet."""
    assert process.stdin
    (number,) = struct.unpack("i", fcntl.ioctl(process.stdin, termios.FIONREAD, b"1234"))
    return int(number)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# A script that works


def test_script_is_given_the_same_and_where_python_is_to_dump_a_crash(guard: Supervised) -> None:
    file = guard.script("tell")
    environ = guard.environ(file, "/extra", REQUEST_METHOD="POST")
    given = told(guard.run(environ, "a", "b", body="the body").stdout)
    assert given["environ"] == {
        **OWN,
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/app/tell",
        "SCRIPT_FILENAME": str(file),
        "PATH_INFO": "/extra",
        "PATH_TRANSLATED": "/srv/www/extra",
        "PYTHONFAULTHANDLER": "1",
    }
    assert given["arguments"] == [PYTHON, "-IS", str(file), "a", "b", ""]
    assert (given["directory"], given["body"]) == (str(guard.scripts), "the body")
    assert guard.entries == []


@pytest.mark.parametrize("ignored", ["", "PIPE", "XFSZ", "TERM CHLD"])
def test_script_ignores_the_signals_that_it_would_have_ignored(guard: Supervised, ignored: str) -> None:
    behind, bare = ignored_signals(guard, ignored)
    assert behind == bare


RESPONSES = {
    "header alone": "Status: 204 No Content\n\n",
    "ends of line": "Content-Type: text/plain\r\n\r\nbody\r\n",
    "redirect": "Location: /elsewhere\n\n",
    "no field": "\nbody",
    "failure of its own": "Status: 503 Service Unavailable\n\nbody",
    "long failure of its own": "Status: 500 Oh\n\n" + "x" * 200000,
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_response_goes_through_unchanged(guard: Supervised, response: str) -> None:
    (guard.scripts / "response").write_text(response, newline="")
    file = guard.script("cat", "#!/bin/sh\nexec cat response\n")
    with guard.start(file) as process:
        output, errors = process.communicate(b"", DEADLINE)
    assert (output.decode(), errors, process.returncode) == (FIELDS + response, b"", 0)
    assert guard.entries == []


def test_output_comes_as_it_is_written(guard: Supervised) -> None:
    """Each part has arrived before the script gets the signal to go on."""
    script = guard.perl(f'print "{TEXT}one"; <STDIN>; print "two"; <STDIN>; print "three";')
    with guard.start(script) as process:
        assert process.stdin
        assert read(process, len(FIELDS + TEXT + "one")).decode() == f"{FIELDS}{TEXT}one"
        process.stdin.write(b"\n")
        assert read(process, 3) == b"two"
        process.stdin.write(b"\n")
        assert process.communicate(timeout=DEADLINE) == (b"three", b"")


MEASURE = """\
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
size = 0
while True:
    part = process.stdout.read(65536)
    if not part: break
    size += len(part)
_, status, used = os.wait4(process.pid, 0)
print(size, status, used.ru_maxrss)
"""


def measure(guard: Supervised, file: Path) -> list[int]:
    """Return bytes of output, exit status, and KiB of memory of the largest process."""
    ended = subprocess.run(
        [PYTHON, "-c", MEASURE, *guard.program],
        env=guard.environ(file),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [int(it) for it in ended.stdout.split()]


def test_large_output_takes_no_more_memory_than_a_small_one(guard: Supervised) -> None:
    parts = 4096
    used = []
    for number in (1, parts):
        text = f'print "{TEXT}"; my $x = "x" x 65536; print $x for 1 .. {number};'
        size, status, memory = measure(guard, guard.perl(text))
        assert (size, status) == (len(FIELDS + TEXT) + number * 65536, 0)
        used.append(memory)
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


def test_upload_that_does_not_come_is_not_the_script_s_silence(clocked: Clocked) -> None:
    script = clocked.perl(f'my $all = join "", <STDIN>; print "{TEXT}$all";')
    with clocked.start(script) as process:
        for _ in range(4):
            assert process.stdin
            process.stdin.write(b"part\n")
            wait_until(lambda: unread(process) == 0)
            clocked.move(2 * PATIENCE)
            clocked.wait(PATIENCE * 1000 + 1)
        output, _ = process.communicate(timeout=DEADLINE)
    assert output.decode().endswith(TEXT + 4 * "part\n")
    assert clocked.entries == []


@pytest.mark.parametrize("comes", [True, False])
def test_upload_that_is_not_read_is_the_script_s_silence_unless_more_comes(
    clocked: Clocked, comes: bool
) -> None:
    wait = "select undef, undef, undef, .01 until -e 'seen';"
    script = clocked.perl(f'{wait} my $all = join "", <STDIN>; print "{TEXT}$all";')
    with clocked.start(script) as process:
        for _ in range(4):
            assert process.stdin
            process.stdin.write(b"part\n")
            clocked.wait(PATIENCE * 1000 + 1)
            clocked.move(PATIENCE - 1)
            clocked.wait(1001)
        output = b""
        if comes:
            (clocked.scripts / "seen").touch()
        else:
            clocked.move(1)
            output = read(process, len(FIELDS + LATE))
        output += process.communicate(timeout=DEADLINE)[0]
    assert output.decode() == FIELDS + (TEXT + 4 * "part\n" if comes else LATE)
    assert len(clocked.entries) == (not comes)


def test_client_that_is_slow_is_not_the_script_s_silence(clocked: Clocked) -> None:
    script = clocked.perl(f'print "{TEXT}", "x" x 1000000;')
    with clocked.start(script) as process:
        end_body(process)
        clocked.wait(None)
        clocked.move(2 * PATIENCE)
        clocked.wait(None)
        output = read(process, len(FIELDS + TEXT) + 1000000)
        assert process.wait(DEADLINE) == 0
    assert output.endswith(b"x" * 1000000)
    assert clocked.entries == []


def test_body_that_the_script_does_not_read_does_not_lose_the_failure(guard: Supervised) -> None:
    """mod_cgid has one socket for both directions."""
    environ = guard.environ(guard.perl("exit 1;"), REQUEST_METHOD="POST", CONTENT_LENGTH="100000")
    ours, its = socket.socketpair()
    with (
        ours,
        subprocess.Popen(guard.program, env=environ, stdin=its.fileno(), stdout=its.fileno()) as process,
    ):
        its.close()
        ours.sendall(b"x" * 100000)
        answer = b"".join(iter(lambda: ours.recv(65536), b""))
    assert process.returncode == 0
    assert answer.decode() == FIELDS + FAILED


# A script that fails


@pytest.mark.parametrize("name", FAILING)
def test_failure_is_answered_and_told_once(guard: Supervised, clocked: Clocked, name: str) -> None:
    tool = TOOLS.get(Path(name).suffix, PYTHON)
    if not Path(tool).exists():
        pytest.skip(f"{tool} is not installed")
    script = FAILING[name]
    file = guard.scripts / name
    script.add(file)
    if script.status == 504:
        with clocked.start(file, LIMITER_SCRIPT_TIMEOUT=TIMEOUT) as process:
            end_body(process)
            clocked.move(int(TIMEOUT))
            output, errors = (it.decode() for it in process.communicate(timeout=DEADLINE))
    else:
        ended = guard.run(guard.environ(file))
        output, errors = ended.stdout, ended.stderr
    assert output == FIELDS + (LATE if script.status == 504 else FAILED)
    entry = guard.entry
    assert script.reason in entry["reason"]
    assert (entry["status"], entry["script"], entry["app_id"]) == (script.status, str(file), "acme")
    assert script.words in "\n".join(entry.get("stack", []))
    if script.status != 504:  # a script that loops may be ended while its interpreter still starts
        assert entry.get("where", "") == (f"{file}:{script.line}" if script.line else "")
    assert not script.words or script.words not in errors


def test_python_tells_where_it_was_silent(clocked: Clocked) -> None:
    file = clocked.script("loop.py", f"#!{PYTHON}\nwhile True: open('begun', 'w').close()\n")
    with clocked.start(file) as process:
        end_body(process)
        wait_until((clocked.scripts / "begun").exists)
        clocked.move(PATIENCE)
        output, errors = process.communicate(timeout=DEADLINE)
    assert (output.decode(), errors) == (FIELDS + LATE, b"")
    assert clocked.entry["where"] == f"{file}:2"
    assert clocked.entry["stack"][0] == "Fatal Python error: Aborted"


SILENT = f"wrote nothing for {PATIENCE} seconds"
CUT = {
    "signal": ("kill 'KILL', $$; sleep 9;", 500, "killed by SIGKILL"),
    "exit status": ("die 'It dies.';", 500, "exit status 255"),
    "silence": ("sleep 99;", 504, SILENT),
    "output in the background": ("exec 'sleep 99' unless fork; exit;", 504, SILENT),
    "failure before the background": ("exec 'sleep 99' unless fork; exit 2;", 500, "exit status 2"),
}


@pytest.mark.parametrize(("text", "status", "reason"), CUT.values(), ids=CUT)
def test_response_that_has_begun_is_cut_off_and_nothing_added(
    clocked: Clocked, text: str, status: int, reason: str
) -> None:
    with clocked.start(clocked.perl(f'print "{TEXT}half"; {text}')) as process:
        end_body(process)
        assert read(process, len(FIELDS + TEXT) + 4).decode() == f"{FIELDS}{TEXT}half"
        if status == 504:
            clocked.move(PATIENCE)
        assert process.communicate(timeout=DEADLINE)[0] == b""
    assert reason in clocked.entry["reason"]
    assert clocked.entry["reason"].endswith("(its response had begun, and is cut off)")
    assert clocked.entry["status"] == status


def test_script_that_has_failed_ends_with_what_it_has_in_the_background(guard: Supervised) -> None:
    script = guard.perl(f'print "{TEXT}"; exec "yes" unless fork; <STDIN>; exit 2;')
    with guard.start(script) as process:
        assert read(process, len(FIELDS + TEXT) + 2).decode() == f"{FIELDS}{TEXT}y\n"
        process.communicate(b"", DEADLINE)
    assert "exit status 2" in guard.entry["reason"]


def test_failure_that_the_script_tells_itself_is_not_left_half(guard: Supervised) -> None:
    """As PHP reports it: a status of 5xx, the page so far, and an exit status."""
    script = guard.perl('print "Status: 500\\n\\nhalf a page"; exit 255;')
    assert guard.ask(script) == FIELDS + FAILED
    assert "exit status 255" in guard.entry["reason"]


@pytest.mark.parametrize("extra", ["", "/extra"])
@pytest.mark.parametrize("cause", ["script", "store", "start"])
def test_path_that_is_told_is_the_script_s_own(guard: Supervised, cause: str, extra: str) -> None:
    script = guard.perl("exit 1;")
    if cause == "store":
        guard.store.rename(guard.store.with_name("away"))
    elif cause == "start":
        script.chmod(0o644)
    environ = guard.environ(script, extra, LIMITER_SUPERVISE="0" if cause == "start" else "1")
    try:
        assert FAILED in guard.run(environ).stdout
    finally:
        if cause == "store":
            guard.store.with_name("away").rename(guard.store)
    assert (guard.entry["script"], guard.entry["path"]) == (str(script), f"/app/script.pl{extra}")


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


def test_end_of_standard_error_is_told_with_the_failure_and_the_rest_goes_on(guard: Supervised) -> None:
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
        assert read(process, len(FIELDS + TEXT) + 1).decode() == f"{FIELDS}{TEXT}x"
        _, errors = process.communicate(b"", DEADLINE)
    assert errors.endswith(b"x" * 99 + b"\n")
    assert 1000000 < len(errors) < 1300000


# Which process ends which


STAYS = 'print "{text}$$ "; my $child = fork; if (!$child) {{ {child} sleep 99; exit; }} print "$child\\n"; {own}'


def stays(guard: Supervised, own: str = "sleep 99;", child: str = "") -> Path:
    """A script with a child that both go on running; it reports their process numbers."""
    return guard.perl(STAYS.format(text=TEXT, own=own, child=child))


def numbers(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the process numbers of the script and its child."""
    read(process, len(FIELDS + TEXT))
    line = b""
    while not line.endswith(b"\n"):
        line += read(process, 1)
    return [int(it) for it in line.split()]


def test_client_that_goes_away_ends_the_script_and_its_children(guard: Supervised) -> None:
    """Both while it writes nothing, and while it writes."""
    for own in ("sleep 99;", "while (1) { print 'x' x 65536; }"):
        with guard.start(stays(guard, own)) as process:
            running = numbers(process)
            assert process.stdout
            process.stdout.close()
            assert process.wait(DEADLINE) == 0
            for number in running:
                wait_until_gone(number)
    assert guard.entries == []


STUBBORN = "$SIG{TERM} = 'IGNORE';"


@pytest.mark.parametrize("stubborn", ["", STUBBORN])
def test_sigterm_ends_the_script_and_its_children(clocked: Clocked, stubborn: str) -> None:
    """It takes at most a second; Apache waits for three."""
    script = clocked.perl(stubborn + STAYS.format(text=TEXT, own="sleep 99;", child=""))
    with clocked.start(script) as process:
        running = numbers(process)
        process.terminate()
        if stubborn:
            clocked.wait(1001)
            clocked.move(1)
        assert process.wait(DEADLINE) == 0
        for number in running:
            wait_until_gone(number)
    assert clocked.entries == []


def test_script_may_tidy_up_on_sigterm(guard: Supervised) -> None:
    tidy = "$SIG{TERM} = sub { open my $file, '>', 'tidied'; exit; };"
    script = guard.perl(f'{tidy} print "{TEXT}x"; sleep 99;')
    with guard.start(script) as process:
        read(process, len(FIELDS + TEXT) + 1)
        process.terminate()
        assert process.wait(DEADLINE) == 0
    assert (guard.scripts / "tidied").exists()


def test_script_and_its_children_do_not_outlive_a_guard_that_is_killed(guard: Supervised) -> None:
    with guard.start(stays(guard)) as process:
        running = numbers(process)
        process.kill()
        process.wait(DEADLINE)
        for number in running:
            wait_until_gone(number)


def test_background_of_a_script_that_is_well_goes_on(guard: Supervised) -> None:
    """As under Apache, if the background process has closed standard output."""
    child = "open STDOUT, '>', '/dev/null'; open STDERR, '>', '/dev/null';"
    with guard.start(stays(guard, "exit;", child)) as process:
        script, background = numbers(process)
        assert process.wait(DEADLINE) == 0
        assert not _runs(script)
        try:
            assert os.getpgid(background) == script
        finally:
            os.kill(background, signal.SIGKILL)
        wait_until_gone(background)


def test_script_that_no_signal_ends_is_answered_for(clocked: Clocked) -> None:
    """The script hangs in a dead file system."""
    with hanging_mount() as mount:
        (mount.path / "file").touch()
        script = clocked.perl(f'open my $file, "<", "{mount.path}/file"; print "{TEXT}x";')
        mount.hang()
        with clocked.start(script) as process:
            end_body(process)
            mount.wait_until_stuck()
            clocked.move(PATIENCE)
            clocked.wait(1001)
            clocked.move(1)
            assert read(process, len(FIELDS + LATE)).decode() == FIELDS + LATE
            mount.release()
            assert process.communicate(timeout=DEADLINE)[0] == b""
    assert SILENT in clocked.entry["reason"]


@pytest.mark.parametrize("name", ["tell", "die.pl"])
def test_guard_with_a_thread_that_is_stuck_supervises_as_well(
    guard: Supervised, installed: Path, name: str
) -> None:
    FAILING["die.pl"].add(guard.scripts / "die.pl")
    here = Supervised([sys.executable, "-ISBc", STUCK, str(installed)], guard.store, guard.scripts)
    output = here.run(here.environ(guard.script("tell").with_name(name)), body="the body").stdout
    if name == "tell":
        assert told(output)["body"] == "the body"
    else:
        assert output == FIELDS + FAILED
        assert "exit status 255" in here.entry["reason"]


# Settings


MISTAKES = {
    "LIMITER_SUPERVISE": ("yes", "expected 1 or 0"),
    "LIMITER_SCRIPT_TIMEOUT": ("0", "expected seconds, above 0 and up to 3600"),
    "REDIRECT_LIMITER_SCRIPT_TIMEOUT": ("soon", "expected seconds, above 0 and up to 3600"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_a_500_that_names_it_and_no_hit(guard: Supervised, name: str) -> None:
    value, reason = MISTAKES[name]
    ended = guard.run(guard.environ(guard.script("tell"), **{name: value}))
    assert ended.stdout == FAILED
    said = ended.stderr + "".join([entry["reason"] for entry in guard.entries])
    assert name.replace("REDIRECT_", "") in said
    assert reason in said
    assert os.listdir(guard.store) == []


def test_mistake_in_how_to_tell_does_not_hide_what_is_to_be_told(guard: Supervised) -> None:
    ended = guard.run(guard.environ(guard.perl("exit 3;"), LIMITER_LOG="relative"))
    assert ended.stdout == FIELDS + FAILED
    mistake, reason = (json.loads(line)["reason"] for line in ended.stderr.splitlines())
    assert "LIMITER_LOG='relative'" in mistake
    assert reason == "the script ended with exit status 3"


@pytest.mark.parametrize(("guards", "scripts"), [("0", "1"), ("1", "0")])
def test_directory_of_the_script_decides(guard: Supervised, guards: str, scripts: str) -> None:
    setting = {"LIMITER_SUPERVISE": guards, "REDIRECT_LIMITER_SUPERVISE": scripts}
    environ = told(guard.ask(guard.script("tell"), **setting))["environ"]
    assert isinstance(environ, dict)
    assert ("PYTHONFAULTHANDLER" in environ) == (scripts == "1")


def test_nothing_else_is_loaded_while_nothing_fails(guard: Supervised, installed: Path) -> None:
    tell = "import sys; print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    text = (
        "import posix, sys\n"
        "before = set(sys.modules)\n"
        f"def told(*arguments):\n {tell}\n posix._exit(0)\n"
        "posix.closerange = told\n"
        "__file__ = sys.argv[1]\n"
        "exec(open(__file__, 'rb').read())"
    )
    guard.ask(guard.script("tell"))  # the first hit makes more calls
    loaded = {}
    for setting in ("0", "1"):
        program = [PYTHON, "-ISc", text, str(installed / "cgi-bin/guard.py")]
        here = Supervised(program, guard.store, guard.scripts)
        query = "x=1" if setting == "0" else OWN["QUERY_STRING"]
        environ = here.environ(guard.script("tell"), LIMITER_SUPERVISE=setting, QUERY_STRING=query)
        loaded[setting] = set(here.run(environ).stderr.split())
    own = {"limiter.scripts"} | {f"limiter.scripts.{it}" for it in ("supervise", "child", "cgi_header")}
    assert not loaded["0"] & own
    assert own <= loaded["1"]
    assert loaded["1"] - loaded["0"] <= own | {"_signal", "select", "errno"}
