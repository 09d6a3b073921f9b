"""The map's program is watched: one that is stopped, hangs or is killed holds no server."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apache_server import apache, contents, parent
from tests.conftest import NOBODY, clean_environ
from tests.places import PYTHON
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

LINE = b"192.0.2.1 GET / app_id=acme  \n"


@pytest.fixture
def hasty(copy: Path) -> Path:
    """A copy whose watcher waits for 2 s, while the store may take a minute."""
    change(copy, "_MORE = 1.0", "_MORE = -58.0")
    return copy


def change(copy: Path, old: str, new: str) -> None:
    """Change the program."""
    text = (copy / "limiter/apache/rewrite_map.py").read_text()
    assert text.count(old) == 1
    (copy / "limiter/apache/rewrite_map.py").write_text(text.replace(old, new))
    for compiled in (copy / "limiter/apache/__pycache__").glob("rewrite_map.*"):
        compiled.unlink()


class Program:
    """The program, and what is known of its processes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdin
        assert process.stdout
        self.stdin, self.stdout = process.stdin, process.stdout

    def send(self) -> None:
        self.stdin.write(LINE)
        self.stdin.flush()

    def ask(self) -> bytes:
        self.send()
        return self.stdout.readline()

    def all(self) -> dict[int, int]:
        """Its processes, and those that went on in its place, with the parent of each."""
        return {
            int(place.name): parent(place)
            for place in Path("/proc").glob("[0-9]*")
            if str(self.process.args[2]).encode() in contents(place / "cmdline")  # type: ignore[index,operator,unused-ignore]
        }

    def watchers(self) -> list[int]:
        """The copies that look at it."""
        found = self.all()
        return [number for number, its_parent in found.items() if its_parent in found]


@contextmanager
def program(copy: Path, root: str, stderr: int = subprocess.PIPE, **settings: str) -> Iterator[Program]:
    settings = {"ROOT": root, "LIMIT": "1000/day", "TIMEOUT": "60", **settings}
    command = [PYTHON, "-IS", str(copy / "rewritemap")]
    command += [f"LIMITER_{name}={text}" for name, text in settings.items()]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=stderr, env=clean_environ()
    ) as process:
        it = Program(process)
        yield it
        it.stdin.close()
        wait_until(lambda: not it.all(), "nothing of it is left")


def test_a_program_that_is_stopped_goes_on(hasty: Path, store: str) -> None:
    """Its request was waiting for ever, and with it every other one."""
    with program(hasty, store) as it:
        assert it.ask().startswith(b"200|")
        os.kill(it.process.pid, signal.SIGSTOP)
        wait_until(lambda: b"\nState:\tT" in contents(Path(f"/proc/{it.process.pid}/status")))
        assert it.ask().startswith(b"200|")
        assert it.ask().startswith(b"200|")
        assert it.process.stderr
        line = b"limiter: The map's program was stopped by a signal: it goes on\n"
        assert it.process.stderr.readline() == line


@pytest.mark.parametrize(("on_error", "answer"), [("deny", b"500\n"), ("admit", b"200\n")])
def test_a_program_that_hangs_is_replaced(hasty: Path, store: str, on_error: str, answer: bytes) -> None:
    """Here its log does not take anything any more: it is a pipe that nobody reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)
    with program(hasty, f"{store}/missing", write, ON_ERROR=on_error) as it:
        assert it.ask() == answer
        assert it.process.wait(60) == -signal.SIGKILL
        wait_until(it.watchers)
        os.mkdir(f"{store}/missing")
        os.chown(f"{store}/missing", NOBODY, NOBODY)
        for _ in range(3):
            assert it.ask().startswith(b"200|1000;86400;")
        size = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ)
        assert b"limiter" not in os.read(read, size)
    os.close(read)
    os.close(write)


def test_a_program_that_is_killed_while_it_works_is_replaced(copy: Path, store: str) -> None:
    """The request gets an answer, and the next ones are counted."""
    answer = "def answer(self, text: bytes) -> bytes:"
    change(copy, answer, f'{answer}\n        b"kill" in text and os.kill(os.getpid(), 9)')
    with program(copy, store, LIMIT="2/day") as it:
        assert it.ask().startswith(b"200|")
        for _ in range(2):
            it.stdin.write(LINE.replace(b"acme", b"kill"))
            it.stdin.flush()
            assert it.stdout.readline() == b"500\n"
        assert it.ask().startswith(b"200|")
        assert it.ask().startswith(b"429|")


def test_a_program_that_is_killed_while_it_waits_ends_with_its_watcher(copy: Path, store: str) -> None:
    """Apache then gives the answer of LIMITER_ON_ERROR, and logs that it must be restarted."""
    with program(copy, store) as it:
        it.ask()
        wait_until(it.watchers)
        it.process.kill()
        assert it.stdout.readline() == b""


def test_a_program_without_its_watcher_goes_on(copy: Path, store: str) -> None:
    with program(copy, store) as it:
        it.ask()
        wait_until(it.watchers)
        os.kill(it.watchers()[0], signal.SIGKILL)
        wait_until(lambda: not it.watchers())
        assert it.ask().startswith(b"200|")


def test_the_copy_after_a_graceful_restart_is_watched(hasty: Path, store: str) -> None:
    with program(hasty, store) as it:
        it.ask()
        it.process.terminate()
        assert it.process.wait(60) == 0
        wait_until(lambda: len(it.all()) == 2)
        pid = max(it.all())  # its watcher is older
        assert it.ask().startswith(b"200|")
        os.kill(pid, signal.SIGSTOP)
        assert it.ask().startswith(b"200|")


def test_apache_goes_on_when_the_program_is_stopped(hasty: Path) -> None:
    """The program held mod_rewrite's mutex, and with it all guarded URLs."""
    after = f"""
        Alias "/api/" "{hasty}/"
        <Directory "{hasty}">
            Require all granted
        </Directory>
    """
    settings = {"LIMITER_PATHS": "^/api/"}
    with apache("event", hasty, settings, after=after, modules=("rewrite",)) as server:
        path = "/api/500.json?app_id=acme"
        assert server.ask(path).status == 200
        (pid,) = server.maps()
        os.kill(pid, signal.SIGSTOP)
        assert [server.ask(path).status for _ in range(3)] == [200] * 3
    assert "The map's program was stopped by a signal: it goes on" in server.log
