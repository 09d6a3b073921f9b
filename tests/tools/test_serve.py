"""The embedded server: it starts anywhere, answers over HTTP, and ends by Ctrl-C."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.core.limiter import Limiter
from tests.conftest import clean_environ
from tests.places import new_root

URL = re.compile(r"http://127\.0\.0\.1:([0-9]+)(/cgi-bin/check\.py\?app_id=acme)")
DEADLINE = 60


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory from which to start, and for temporary files."""
    path = new_root("/tmp")
    yield path
    shutil.rmtree(path)


def environ(home: Path, elsewhere: Path, settings: dict[str, str]) -> dict[str, str]:
    """Return an environment with only these settings, and with a temporary directory of its own."""
    own = {"PYTHONPATH": str(home), "TMPDIR": str(elsewhere), "LIMITER_TIMEOUT": "600"}
    return clean_environ(**own, **settings)


class Server:
    """A server that runs, or has run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.said = "".join(iter(process.stdout.readline, "\n"))
        self.said += "".join(iter(process.stdout.readline, "\n"))
        found = URL.search(self.said)
        assert found is not None, self.said
        self.port, self.path = int(found[1]), found[2]
        self.log = ""

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        """Send a request; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def send(self, request: bytes) -> bytes:
        """Send exactly these bytes; return everything that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self._process.send_signal(signal.SIGINT)
        _, self.log = self._process.communicate(timeout=DEADLINE)
        return self._process.returncode


@contextmanager
def serving(home: Path, elsewhere: Path, **settings: str) -> Iterator[Server]:
    """Start the server in another directory, on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "limiter", "serve", "--port", "0"],
        env=environ(home, elsewhere, settings),
        cwd=elsewhere,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Server(process)
        finally:
            if process.poll() is None:
                process.kill()


def refused(home: Path, elsewhere: Path, *arguments: str, **settings: str) -> str:
    """Start the server, which must fail; return the one line that it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "limiter", "serve", *(arguments or ("--port", "0"))],
        env=environ(home, elsewhere, settings),
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("limiter: ")
    return line


def test_what_it_prints_is_what_happens(installed: Path, elsewhere: Path) -> None:
    """The printed address answers 200 ten times, then 429; the printed command shows them; Ctrl-C ends
    the server.
    """
    with serving(installed, elsewhere, LIMITER_LIMIT="10/hour") as server:
        store = elsewhere / f"limiter-{os.geteuid()}"
        assert server.said.startswith(f"Serving {installed}/cgi-bin, limit 10/hour, store {store}.")
        assert f"curl -i 'http://127.0.0.1:{server.port}{server.path}'" in server.said
        assert f"'http://127.0.0.1:{server.port}{server.path}&n=[1-11]'" in server.said
        answers = [server.ask(f"{server.path}&n={number}") for number in range(1, 12)]
        assert answers == [(200, b'{"message": "OK"}')] * 10 + [
            (429, b'{"message": "Too Many Requests"}')
        ]
        show = next(line for line in server.said.splitlines() if line.endswith("show acme"))
        shown = subprocess.run(
            show.replace("python3", sys.executable),
            shell=True,
            env=environ(installed, elsewhere, {}),
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.startswith(f"acme in {store}\n  10-per-3600s: 10 of 10 used, next free in ")
        assert server.interrupt() == 0
    lines = server.log.splitlines()
    assert lines.pop() == "Ended."
    assert len(lines) == 11
    assert all(re.fullmatch(r'127\.0\.0\.1 - - \[.*\] "GET /cgi-bin/check.py.* HTTP/1.1" (200|429) \d+', line)
               for line in lines)  # fmt: skip
    assert store.stat().st_mode & 0o7777 == 0o700


def test_the_settings_reach_the_scripts(installed: Path, elsewhere: Path, root: str) -> None:
    """These are the store, the limits and the verdict.  And a shell can read the printed command."""
    settings = {
        "LIMITER_LIMIT": "1/hour;5 per 2 hours",
        "LIMITER_ROOT": root,
        "LIMITER_ON_ERROR": "admit",
    }
    with serving(installed, elsewhere, **settings) as server:
        assert [server.ask(server.path)[0] for _ in range(2)] == [200, 429]
        assert (
            f"  LIMITER_LIMIT='1/hour;5 per 2 hours' LIMITER_ON_ERROR=admit LIMITER_ROOT={root} "
            in server.said
        )
        shutil.rmtree(root)
        assert server.ask(server.path)[0] == 200
        os.mkdir(root)
        assert server.interrupt() == 0
    assert server.log.count("limiter: StoreError: [Errno 2] The store does not exist") == 1


@pytest.mark.parametrize("name", ["st\u00f6re", "\u20ac", "with blank"])
def test_a_store_of_any_name(installed: Path, elsewhere: Path, root: str, name: str) -> None:
    """The scripts find the store that the server has found."""
    path = Path(root, name)
    path.mkdir()
    with serving(installed, elsewhere, LIMITER_ROOT=str(path), PYTHONUTF8="1") as server:
        assert server.ask(server.path)[0] == 200
        assert server.interrupt() == 0
    assert os.listdir(path) == ["acme"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/cgi-bin/check.py", "GET", 401),
        ("/cgi-bin/check.py?app_id=acme", "HEAD", 200),
        ("/cgi-bin/check.py?app_id=acme", "POST", 200),
        ("/cgi-bin/check.py/more?app_id=acme", "GET", 200),
        ("/", "GET", 404),
        ("/cgi-bin/", "GET", 404),
        ("/cgi-bin/../limiter/cgi.py", "GET", 404),
        ("/cgi-bin/%2e%2e/limiter/cgi.py", "GET", 404),
        ("/cgi-bin/check.py%00", "GET", 404),
        ("/cgi-bin/check.py/%00", "GET", 400),
    ],
)
def test_addresses(shared: Server, path: str, method: str, status: int) -> None:
    """The scripts are served, and nothing else."""
    answer, body = shared.ask(path, method)
    assert answer == status
    assert bool(body) == (method != "HEAD")


@pytest.fixture(scope="module")
def shared(installed: Path) -> Iterator[Server]:
    """One server for many requests; it never shows a traceback."""
    elsewhere = new_root("/tmp")
    with serving(installed, elsewhere, LIMITER_LIMIT="1000/minute") as server:
        yield server
        assert server.interrupt() == 0
    shutil.rmtree(elsewhere)
    assert "Traceback" not in server.log


HOSTILE = [
    b"Content-Length: \xb2",
    b"Content-Length: " + b"9" * 5000,
    b"Content-Length: -1",
    b"Content-Length: 100",
    b"A=B: c",
    b"\xff\xfe: c",
    b"X: \x01\x02",
    b"Transfer-Encoding: chunked",
    b"Proxy: http://192.0.2.1/",
]


@pytest.mark.parametrize("field", HOSTILE, ids=lambda field: field[:22].decode("latin-1"))
def test_whatever_a_client_sends(installed: Path, elsewhere: Path, field: bytes) -> None:
    """The scripts answer, or the request is refused; the log never shows a traceback."""
    with serving(installed, elsewhere, LIMITER_LIMIT="5/minute") as server:
        target = server.path.encode()
        answer = server.send(b"GET " + target + b" HTTP/1.0\r\n" + field + b"\r\n\r\n")
        assert server.ask(server.path)[0] == 200
        assert server.interrupt() == 0
    assert re.match(rb"HTTP/1\.[01] (200|400) ", answer)
    assert "Traceback" not in server.log


def test_requests_at_once(shared: Server) -> None:
    """A slow request does not delay the others."""
    with socket.create_connection(("127.0.0.1", shared.port), timeout=DEADLINE) as slow:
        slow.sendall(b"GET " + shared.path.encode() + b" HTTP/1.0\r\n")
        assert shared.ask(shared.path)[0] == 200
        slow.sendall(b"\r\n")
        assert slow.recv(65536).startswith(b"HTTP/1.0 200 OK\r\n")


def test_it_is_seen_by_this_machine_only(shared: Server) -> None:
    """Another address of this machine is refused, even on the loopback interface."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", shared.port), timeout=DEADLINE)


# What keeps it from starting


def test_a_port_that_is_taken(installed: Path, elsewhere: Path) -> None:
    """The server says so, and ends."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = refused(installed, elsewhere, "--port", str(taken.getsockname()[1]))
    assert "Address already in use" in line


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"LIMITER_LIMIT": "many"}, "limit 'many': expected a number of hits"),
        ({"LIMITER_ROOT": "store"}, "LIMITER_ROOT='store': expected an absolute path"),
        ({"LIMITER_ROOT": "/missing/store"}, "The store does not exist"),
        ({"LIMITER_ROOT": "/dev/null"}, "Not a directory: '/dev/null"),
        ({"LIMITER_ON_ERROR": "perhaps"}, "LIMITER_ON_ERROR='perhaps'"),
        ({"LIMITER_KEY": "header:"}, "key 'header:': expected a header's name"),
    ],
)
def test_bad_settings(installed: Path, elsewhere: Path, settings: dict[str, str], why: str) -> None:
    """The mistake is reported at the start, not at the first request."""
    assert why in refused(installed, elsewhere, **settings)


def test_a_default_store_that_is_not_to_be_trusted(installed: Path, elsewhere: Path) -> None:
    """The message is the same as in the log of a request."""
    (elsewhere / f"limiter-{os.geteuid()}").symlink_to(elsewhere)
    assert "it is not trusted" in refused(installed, elsewhere)


def test_a_missing_interpreter(copy: Path, elsewhere: Path) -> None:
    """It is the interpreter in the first line of the scripts."""
    check = copy / "cgi-bin/check.py"
    check.write_text(check.read_text().replace("#!/usr/bin/python3", "#!/missing/python3", 1))
    line = refused(copy, elsewhere)
    assert "Its first line names /missing/python3, which is not here: install it" in line
    assert str(check) in line


def test_missing_scripts(copy: Path, elsewhere: Path) -> None:
    """As when only the package is installed."""
    shutil.rmtree(copy / "cgi-bin")
    line = refused(copy, elsewhere)
    assert "run this in a copy of the whole project" in line
    assert f"{copy}/cgi-bin/check.py" in line


def test_the_store_is_left_as_it_is(installed: Path, elsewhere: Path, root: str) -> None:
    """Start and end count no hits."""
    assert Limiter(root, "2/hour").hit("acme")
    with serving(installed, elsewhere, LIMITER_LIMIT="2/hour", LIMITER_ROOT=root) as server:
        assert server.interrupt() == 0
    assert Limiter(root, "2/hour").peek("acme").remaining == 1
