"""The supervising guard: the real cgi-bin/guard.py, called as mod_actions calls it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.failing import FAILING, TIMEOUT
from tests.hanging import hanging_mount
from tests.places import PYTHON, new_root
from tests.test_action import FAILED, FIELDS, OWN, OWN_SIGNALS, SIGNALS, STUCK, Guard, told

PERL = "/usr/bin/perl"
TOOLS = {".pl": PERL, ".rb": "/usr/bin/ruby", ".php": "/usr/bin/php-cgi"}
TEXT = "Content-Type: text/plain\n\n"
LATE = FAILED.replace("500 Internal Server Error", "504 Gateway Timeout").replace(
    "Internal Server Error", "Gateway Timeout"
)
DEADLINE = 60

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(not Path(PERL).exists(), reason="perl is not installed"),
]


class Supervised(Guard):
    """The guard, with a log."""

    @property
    def log(self) -> Path:
        return self.scripts.parent / "log"

    def environ(self, file: Path, extra: str = "", **more: str) -> dict[str, str]:
        own = {"LIMITER_SUPERVISE": "1", "LIMITER_LOG": str(self.log)}
        return super().environ(file, extra, **{**own, **more})

    def perl(self, text: str) -> Path:
        return self.script("script.pl", f"#!{PERL}\nuse strict; $| = 1;\n{text}")

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What the log says."""
        return [json.loads(it) for it in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def entry(self) -> dict[str, Any]:
        """The one thing that the log says."""
        (entry,) = self.entries
        return entry

    @contextmanager
    def start(self, file: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run it beside the test, to the end of both."""
        process = subprocess.Popen(
            self.program,
            env=self.environ(file, **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def guard(installed: Path, root: str) -> Iterator[Supervised]:
    place = new_root("/tmp")
    scripts = place / "app"
    scripts.mkdir()
    yield Supervised([str(installed / "cgi-bin/guard.py")], Path(root), scripts)
    shutil.rmtree(place)


def read(process: subprocess.Popen[bytes], size: int) -> bytes:
    """So many bytes of its output, which must come."""
    assert process.stdout
    data = b""
    while len(data) < size:
        assert select.select([process.stdout], [], [], DEADLINE)[0], data
        part = os.read(process.stdout.fileno(), size - len(data))
        assert part, data
        data += part
    return data


def wait_until_gone(process: int) -> None:
    """Return when a process, no child of ours, has ended."""
    deadline = time.monotonic() + DEADLINE
    while _runs(process):
        assert time.monotonic() < deadline, f"{process} still runs"
        time.sleep(0.01)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# A script that is well


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
    file = guard.script("signals", SIGNALS)
    trap = f"trap '' {ignored};" if ignored else ""
    shell = ["/bin/sh", "-c", f'{trap} "$0"; exit']
    bare = subprocess.run([*shell, str(file)], capture_output=True, text=True, check=True).stdout
    guarded = subprocess.run(
        [*shell, *guard.program], env=guard.environ(file), capture_output=True, text=True, check=True
    )
    masks = [int(text.rpartition("SigIgn:")[2], 16) & ~OWN_SIGNALS for text in (guarded.stdout, bare)]
    assert masks[0] == masks[1]


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
    """Each part is there before the script is told to go on."""
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
print(size, status, used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


def measure(guard: Supervised, file: Path, **more: str) -> list[float]:
    """Bytes of output, exit status, KiB of memory of the largest process, seconds of CPU of all."""
    ended = subprocess.run(
        [PYTHON, "-c", MEASURE, *guard.program],
        env=guard.environ(file, **more),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [float(it) for it in ended.stdout.split()]


def test_large_output_takes_no_more_memory_than_a_small_one(guard: Supervised) -> None:
    parts = 4096
    used = []
    for number in (1, parts):
        text = f'print "{TEXT}"; my $x = "x" x 65536; print $x for 1 .. {number};'
        size, status, memory, _ = measure(guard, guard.perl(text))
        assert (size, status) == (len(FIELDS + TEXT) + number * 65536, 0)
        used.append(memory)
    assert used[1] - used[0] < 1024


def test_waiting_takes_no_time_of_the_processor(guard: Supervised) -> None:
    text = f'print "{TEXT}x"; sleep 3;'
    _, _, _, seconds = measure(guard, guard.perl(text))
    assert seconds < 1


def test_upload_that_is_slow_is_not_the_script_s_silence(guard: Supervised) -> None:
    """Neither when nothing comes, nor when little does."""
    script = guard.perl(f'my $all = join "", <STDIN>; print "{TEXT}$all";')
    for pause in (1.0, 0.2):
        with guard.start(script, LIMITER_SCRIPT_TIMEOUT="0.5") as process:
            assert process.stdin
            for _ in range(4):
                process.stdin.write(b"part\n")
                time.sleep(pause)
            output, _ = process.communicate(timeout=DEADLINE)
        assert output.decode().endswith(TEXT + 4 * "part\n")
    assert guard.entries == []


def test_client_that_is_slow_is_not_the_script_s_silence(guard: Supervised) -> None:
    script = guard.perl(f'print "{TEXT}", "x" x 1000000;')
    with guard.start(script, LIMITER_SCRIPT_TIMEOUT="0.5") as process:
        assert process.stdin
        process.stdin.close()
        read(process, 1)
        time.sleep(1.5)
        output = read(process, len(FIELDS + TEXT) + 1000000 - 1)
        assert process.wait(DEADLINE) == 0
    assert output.endswith(b"x" * 1000000)
    assert guard.entries == []


def test_body_that_the_script_does_not_read_does_not_lose_the_failure(guard: Supervised) -> None:
    """mod_cgid's one socket for both ways."""
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
def test_failure_is_answered_and_told_once(guard: Supervised, name: str) -> None:
    tool = TOOLS.get(Path(name).suffix, PYTHON)
    if not Path(tool).exists():
        pytest.skip(f"{tool} is not installed")
    script = FAILING[name]
    file = guard.scripts / name
    script.add(file)
    ended = guard.run(guard.environ(file, LIMITER_SCRIPT_TIMEOUT=TIMEOUT))
    assert ended.stdout == FIELDS + (LATE if script.status == 504 else FAILED)
    entry = guard.entry
    assert script.reason in entry["reason"]
    assert (entry["status"], entry["script"], entry["app_id"]) == (script.status, str(file), "acme")
    assert script.words in "\n".join(entry.get("stack", []))
    assert entry.get("where", "") == (f"{file}:{script.line}" if script.line else "")
    assert not script.words or script.words not in ended.stderr


CUT = {
    "signal": ("kill 'KILL', $$; sleep 9;", 500, "killed by SIGKILL"),
    "exit status": ("die 'It dies.';", 500, "exit status 255"),
    "silence": ("sleep 99;", 504, "silent for 0.5 seconds"),
    "output in the background": ("exec 'sleep 99' unless fork; exit;", 504, "silent for 0.5 seconds"),
    "failure before the background": ("exec 'sleep 99' unless fork; exit 2;", 500, "exit status 2"),
}


@pytest.mark.parametrize(("text", "status", "reason"), CUT.values(), ids=CUT)
def test_response_that_has_begun_is_cut_off_and_nothing_added(
    guard: Supervised, text: str, status: int, reason: str
) -> None:
    script = guard.perl(f'print "{TEXT}half"; {text}')
    ended = guard.run(guard.environ(script, LIMITER_SCRIPT_TIMEOUT="0.5"))
    assert ended.stdout == f"{FIELDS}{TEXT}half"
    assert reason in guard.entry["reason"]
    assert guard.entry["reason"].endswith("(its response had begun, and is cut off)")
    assert guard.entry["status"] == status


def test_script_that_has_failed_ends_with_what_it_has_in_the_background(guard: Supervised) -> None:
    script = guard.perl(f'print "{TEXT}"; exec "yes" unless fork; sleep 1; exit 2;')
    assert guard.ask(script).startswith(f"{FIELDS}{TEXT}y\n")
    assert "exit status 2" in guard.entry["reason"]


def test_failure_that_the_script_tells_itself_is_not_left_half(guard: Supervised) -> None:
    """As PHP does it: a status of 5xx, what there was of the page, and an exit status."""
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


def test_script_that_ends_its_output_but_not_itself_is_ended(guard: Supervised) -> None:
    """As by Apache: its response is whole, and nothing has failed."""
    script = guard.perl(f'print "{TEXT}whole"; close STDOUT; open STDOUT, ">", "/dev/null"; sleep 99;')
    assert guard.ask(script) == f"{FIELDS}{TEXT}whole"
    assert guard.entries == []


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


# Who ends whom


STAYS = 'print "{text}$$ "; my $child = fork; if (!$child) {{ {child} sleep 99; exit; }} print "$child\\n"; {own}'


def stays(guard: Supervised, own: str = "sleep 99;", child: str = "") -> Path:
    """A script with a child, both of which stay; it tells their numbers."""
    return guard.perl(STAYS.format(text=TEXT, own=own, child=child))


def numbers(process: subprocess.Popen[bytes]) -> list[int]:
    """Of the script and its child."""
    read(process, len(FIELDS + TEXT))
    line = b""
    while not line.endswith(b"\n"):
        line += read(process, 1)
    return [int(it) for it in line.split()]


def test_client_that_goes_away_ends_the_script_and_its_children(guard: Supervised) -> None:
    """While it is silent, and while it writes."""
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
def test_sigterm_ends_the_script_and_its_children(guard: Supervised, stubborn: str) -> None:
    """Within the three seconds that Apache waits."""
    script = guard.perl(stubborn + STAYS.format(text=TEXT, own="sleep 99;", child=""))
    with guard.start(script) as process:
        running = numbers(process)
        process.terminate()
        assert process.wait(3) == 0
        for number in running:
            wait_until_gone(number)
    assert guard.entries == []


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
    """As under Apache, if it has left standard output."""
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


def test_script_that_no_signal_ends_is_answered_for(guard: Supervised) -> None:
    """One that is stuck in a dead file system."""
    with hanging_mount() as mount:
        (mount.path / "file").touch()
        script = guard.perl(f'open my $file, "<", "{mount.path}/file"; print "{TEXT}x";')
        mount.hang()
        ended = guard.run(guard.environ(script, LIMITER_SCRIPT_TIMEOUT="0.5"))
        mount.release()
    assert ended.stdout == FIELDS + LATE
    assert "silent for 0.5 seconds" in guard.entry["reason"]


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
    guard.ask(guard.script("tell"))  # the first hit takes more
    loaded = {}
    for setting in ("0", "1"):
        program = [PYTHON, "-ISc", text, str(installed / "cgi-bin/guard.py")]
        here = Supervised(program, guard.store, guard.scripts)
        query = "x=1" if setting == "0" else OWN["QUERY_STRING"]
        environ = here.environ(guard.script("tell"), LIMITER_SUPERVISE=setting, QUERY_STRING=query)
        loaded[setting] = set(here.run(environ).stderr.split())
    own = {f"limiter.{name}" for name in ("supervise", "child", "header")}
    assert not loaded["0"] & own
    assert own <= loaded["1"]
    assert loaded["1"] - loaded["0"] <= own | {"_signal", "select", "errno"}
