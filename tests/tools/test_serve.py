"""The embedded server: it starts anywhere, answers over HTTP, and ends by Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import clean_environ
from tests.places import temporary

DEADLINE = 60


class Server:
    """A server that runs, or has run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.printed = "".join(iter(process.stdout.readline, "\n"))
        self.printed += "".join(iter(process.stdout.readline, "\n"))
        found = re.search(r"http://127\.0\.0\.1:([0-9]+)(/cgi-bin/check\.py\?app_id=acme)", self.printed)
        assert found is not None, self.printed
        self.port, self.path = int(found[1]), found[2]
        self.log = ""

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((host, self.port), timeout=DEADLINE)

    def send(self, path: str = "", method: str = "GET") -> tuple[int, bytes]:
        """Send a request; return status and body."""
        with self.connect() as connection:
            connection.sendall(f"{method} {path or self.path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
            return int(head.split()[1]), body


def start(
    home: Path,
    place: Path,
    *arguments: str,
    program: Sequence[str] = (sys.executable,),
    **settings: str,
) -> subprocess.Popen[str]:
    """Start it in another directory, with only these settings."""
    own = {"PYTHONPATH": str(home), "TMPDIR": str(place), "LIMITER_TIMEOUT": "600"}
    return subprocess.Popen(
        [*program, "-m", "limiter", *(arguments or ["serve", "--port", "0"])],
        env=clean_environ(**own, **settings),
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(home: Path, place: Path, **settings: str) -> Iterator[Server]:
    """Start the server on a free port.  At the end it must end by Ctrl-C."""
    with start(home, place, **settings) as process:
        try:
            server = Server(process)
            yield server
            process.send_signal(signal.SIGINT)
            server.log = process.communicate(timeout=DEADLINE)[1]
            assert process.returncode == 0
            assert "Traceback" not in server.log
        finally:
            process.kill()


@pytest.fixture(scope="module")
def shared(installed: Path) -> Iterator[Server]:
    with temporary("/tmp") as place, serving(installed, place, LIMITER_LIMIT="1000/minute") as server:
        yield server


def test_what_it_prints_is_what_happens(installed: Path, place: Path) -> None:
    """The printed address answers 200 ten times, then 429; the printed command shows them."""
    store = place / f"limiter-{os.geteuid()}"
    with serving(installed, place, LIMITER_LIMIT="10/hour") as server:
        assert server.printed.startswith(f"Serving {installed}/cgi-bin, limit 10/hour, store {store}.")
        url = f"http://127.0.0.1:{server.port}{server.path}"
        assert f"curl -i '{url}'\n" in server.printed
        assert f"'{url}&n=[1-11]'\n" in server.printed
        answers = [server.send(f"{server.path}&n={number}") for number in range(1, 12)]
        assert answers[:10] == [(200, b'{"message": "OK"}')] * 10
        assert answers[10] == (429, b'{"message": "Too Many Requests"}')
        with start(installed, place, "show", "acme", LIMITER_LIMIT="10/hour") as show:
            assert show.stdout is not None
            assert show.stdout.read().startswith(f"acme in {store}\n  10-per-3600s: 10 of 10 used, ")
    lines = server.log.splitlines()
    assert lines.pop() == "Ended."
    line_of_request = r'127\.0\.0\.1 - - \[.*\] "GET /cgi-bin/check.py.* HTTP/1.0" (200|429) \d+'
    assert [bool(re.fullmatch(line_of_request, line)) for line in lines] == [True] * 11
    assert store.stat().st_mode & 0o7777 == 0o700


@pytest.mark.one_python
def test_it_ends_by_sigterm_also_as_process_1(installed: Path, place: Path) -> None:
    """In a container it is process 1, to which the kernel sends only signals that it handles."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root can make a namespace of processes")
    python = ["unshare", "--pid", "--fork", "--kill-child", sys.executable]
    with start(home=installed, place=place, program=python) as process:
        try:
            server = Server(process)
            assert server.send()[0] == 200
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            os.kill(int(children), signal.SIGTERM)
            log = process.communicate(timeout=DEADLINE)[1]
            assert (process.returncode, log.splitlines()[-1]) == (0, "Ended.")
        finally:
            process.kill()


def test_the_settings_reach_the_scripts(installed: Path, place: Path, root: str) -> None:
    """These are the store, the limits and the verdict.  And a shell can read the printed command."""
    settings = {"LIMITER_LIMIT": "1/hour;5 per 2 hours", "LIMITER_ON_ERROR": "admit"}
    with serving(installed, place, LIMITER_ROOT=root, **settings) as server:
        assert [server.send()[0] for _ in range(2)] == [200, 429]
        command = f"  LIMITER_LIMIT='1/hour;5 per 2 hours' LIMITER_ON_ERROR=admit LIMITER_ROOT={root} "
        assert f"{command}LIMITER_TIMEOUT=600 python3 -m limiter show acme\n" in server.printed
        shutil.rmtree(root)
        assert server.send()[0] == 200
        os.mkdir(root)
    assert server.log.count("limiter: StoreError: [Errno 2] The store does not exist") == 1


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/cgi-bin/check.py", "GET", 401),
        ("/cgi-bin/check.py?app_id=acme", "HEAD", 200),
        ("/cgi-bin/check.py?app_id=acme", "POST", 200),
        ("/cgi-bin/%2e%2e/limiter/cgi.py", "GET", 404),
    ],
)
def test_only_the_scripts_are_served(shared: Server, path: str, method: str, status: int) -> None:
    answer, body = shared.send(path, method)
    assert answer == status
    assert bool(body) == (method != "HEAD")


def test_a_slow_request_does_not_delay_the_others(shared: Server) -> None:
    with shared.connect() as slow:
        slow.sendall(b"GET " + shared.path.encode() + b" HTTP/1.0\r\n")
        assert shared.send()[0] == 200
        slow.sendall(b"\r\n")
        assert slow.recv(65536).startswith(b"HTTP/1.0 200 OK\r\n")


def test_only_this_machine_can_reach_it(shared: Server) -> None:
    """Another address of this machine is refused, even on the loopback interface."""
    with pytest.raises(ConnectionRefusedError):
        shared.connect("127.0.0.2")


# What keeps it from starting


def check_failure(process: subprocess.Popen[str], *reasons: str) -> None:
    """Check that the server ends with one line that has these texts."""
    with process:
        output, log = process.communicate(timeout=DEADLINE)
    assert (process.returncode, output) == (2, "")
    (line,) = log.splitlines()
    assert line.startswith("limiter: ")
    for reason in reasons:
        assert reason in line


def test_a_port_that_is_taken_is_an_error(installed: Path, place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        check_failure(start(installed, place, "serve", "--port", port), "Address already in use")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("LIMITER_LIMIT", "many", "limit 'many': expected a number of hits"),
        ("LIMITER_ROOT", "/missing/store", "The store does not exist"),
        ("LIMITER_KEY", "header:", "key 'header:': expected a header's name"),
    ],
)
def test_a_mistake_in_a_setting_is_reported_at_the_start(
    installed: Path, place: Path, name: str, text: str, why: str
) -> None:
    check_failure(start(installed, place, **{name: text}), why)


def test_a_missing_interpreter_of_the_scripts_is_an_error(copy: Path, place: Path) -> None:
    check = copy / "cgi-bin/check.py"
    check.write_text(check.read_text().replace("#!/usr/bin/python3", "#!/missing/python3", 1))
    why = "Its first line names /missing/python3, which is missing: install it"
    check_failure(start(copy, place), why, str(check))


def test_missing_scripts_are_an_error(copy: Path, place: Path) -> None:
    shutil.rmtree(copy / "cgi-bin")
    check_failure(
        start(copy, place), "run this in a copy of the whole project", f"{copy}/cgi-bin/check.py"
    )
