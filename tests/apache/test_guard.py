"""The door for Apache's Action: the real cgi-bin/guard.py, called as mod_actions calls it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.places import PYTHON, new_root

# The environment that Apache would make for the script, without the place of the script.
OWN = {
    "DOCUMENT_ROOT": "/srv/www",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "HTTP_HOST": "localhost",
    "PATH": "/usr/bin:/bin",
    "QUERY_STRING": "app_id=acme",
    "REMOTE_ADDR": "127.0.0.1",
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/app/tell?app_id=acme",
}
# What mod_actions and the redirect add to each such request.
ADDED = {"REDIRECT_HANDLER": "limited", "REDIRECT_STATUS": "200", "REDIRECT_QUERY_STRING": "app_id=acme"}

# Prints what it gets, except the one variable that Python sets itself.
TELL = f"""\
#!{PYTHON} -IS
import posix, sys
sys.stdout.write("Content-Type: text/plain\\n\\n")
print(repr({{
    "arguments": open("/proc/self/cmdline").read().split("\\0"),
    "environ": {{k.decode(): v.decode() for k, v in posix.environ.items() if k != b"LC_CTYPE"}},
    "directory": posix.getcwd(),
    "process": posix.getpid(),
    "body": sys.stdin.read(),
}}))
"""
FIELDS = 'RateLimit-Policy: "2-per-3600s";q=2;w=3600\nRateLimit: "2-per-3600s";r=1;t=3600\n'

NOT_FOUND = (
    "Status: 404 Not Found\nContent-Type: application/json; charset=utf-8\nCache-Control: no-store\n\n"
    '{"message": "Not Found"}'
)
FAILED = NOT_FOUND.replace("404 Not Found", "500 Internal Server Error").replace(
    "Not Found", "Internal Server Error"
)


@dataclass
class Guard:
    """The installed guard, a store of its own, and a directory of scripts."""

    program: list[str]
    store: Path
    scripts: Path

    def script(self, name: str, text: str = TELL, mode: int = 0o755) -> Path:
        path = self.scripts / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def environ(self, file: Path, extra: str = "", **more: str) -> dict[str, str]:
        """Return the environment that Apache gives to the guard for a request to that file, as
        /app/NAME.
        """
        url = f"/app/{file.name}{extra}"
        settings = {"LIMITER_ROOT": str(self.store), "LIMITER_LIMIT": "2/hour"}
        request = {"PATH_INFO": url, "PATH_TRANSLATED": f"{file}{extra}", "REDIRECT_URL": url}
        return {**OWN, **ADDED, **settings, **request, **more}

    def run(
        self, environ: dict[str, str], *arguments: str, body: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *arguments],
            env={name: value for name, value in environ.items() if value},
            input=body,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )

    def ask(self, file: Path, extra: str = "", **more: str) -> str:
        return self.run(self.environ(file, extra, **more)).stdout


@pytest.fixture
def guard(installed: Path, root: str) -> Iterator[Guard]:
    place = new_root("/tmp")
    scripts = place / "app"
    scripts.mkdir()
    yield Guard([str(installed / "cgi-bin/guard.py")], Path(root), scripts)
    shutil.rmtree(place)


def told(output: str) -> dict[str, object]:
    """Return what an admitted script got."""
    header, _, text = output.partition("\n\n")
    assert header == FIELDS + "Content-Type: text/plain"
    given: dict[str, object] = eval(text)
    return given


# What the script gets


@pytest.mark.parametrize(
    "extra", ["", "/", "/a/b", "/ä ;?=%25/.x", "/" + 300 * "long", "/" + 3000 * "a/"]
)
def test_script_gets_its_own_url_file_and_extra_path(guard: Guard, extra: str) -> None:
    file = guard.script("tell")
    given = told(guard.ask(file, extra))
    expected = {**OWN, "SCRIPT_NAME": "/app/tell", "SCRIPT_FILENAME": str(file)}
    if extra:
        expected.update(PATH_INFO=extra, PATH_TRANSLATED="/srv/www" + extra)
    assert given["environ"] == expected
    assert given["directory"] == str(guard.scripts)
    assert given["arguments"] == [PYTHON, "-IS", str(file), ""]


def test_context_is_told_where_it_is_certain(guard: Guard) -> None:
    """It is certain below the document root, which is then the context."""
    given = told(guard.ask(guard.script("tell"), DOCUMENT_ROOT=str(guard.scripts.parent)))
    assert isinstance(given["environ"], dict)
    assert given["environ"]["CONTEXT_PREFIX"] == ""
    assert given["environ"]["CONTEXT_DOCUMENT_ROOT"] == str(guard.scripts.parent)


def test_variables_of_the_script_are_renamed_back_and_those_of_the_guard_left_out(guard: Guard) -> None:
    variables = {
        "REDIRECT_COLOUR": "red",
        "COLOUR": "green",
        "ONLY_OF_THE_GUARD": "x",
        "REDIRECT_REDIRECT_STATUS": "404",
        "REDIRECT_REMOTE_USER": "ann",
        "CONTENT_TYPE": "text/plain",
        "REDIRECT_LIMITER_MODE": "enforce",
    }
    given = told(guard.ask(guard.script("tell"), **variables))
    assert isinstance(given["environ"], dict)
    names = ("COLOUR", "REDIRECT_STATUS", "REMOTE_USER", "CONTENT_TYPE", "LIMITER_MODE")
    assert {name: given["environ"].get(name) for name in names} == dict(
        zip(names, ("red", "404", "ann", "text/plain", "enforce"))
    )
    assert given["environ"].keys() == {*OWN, *names, "SCRIPT_NAME", "SCRIPT_FILENAME"}


def test_settings_of_the_script_go_before_those_of_the_guard(guard: Guard) -> None:
    file = guard.script("tell")
    answers = [guard.ask(file, REDIRECT_LIMITER_LIMIT="3/hour") for _ in range(4)]
    assert [answer.startswith("Status: 429") for answer in answers] == [False] * 3 + [True]


def test_script_may_be_what_identifies_the_client(guard: Guard) -> None:
    """REMOTE_USER is known only in the script's own request."""
    file = guard.script("tell")
    ann = {"REDIRECT_REMOTE_USER": "ann", "LIMITER_KEY": "env:REMOTE_USER", "QUERY_STRING": "x=1"}
    told(guard.ask(file, **ann))
    assert os.listdir(guard.store) == ["ann"]


def test_body_is_left_to_the_script(guard: Guard) -> None:
    form = {"CONTENT_TYPE": "application/x-www-form-urlencoded", "CONTENT_LENGTH": "11"}
    environ = guard.environ(guard.script("tell"), REQUEST_METHOD="POST", **form)
    assert told(guard.run(environ, body="app_id=acme").stdout)["body"] == "app_id=acme"
    without = guard.run({**environ, "QUERY_STRING": "x=1"}, body="app_id=acme").stdout
    assert without.startswith("Status: 401")


def test_words_of_a_query_are_arguments(guard: Guard) -> None:
    file = guard.script("tell")
    environ = guard.environ(file, LIMITER_KEY="env:REMOTE_USER", REDIRECT_REMOTE_USER="ann")
    words = ("-c", "print 1", "ä")
    assert told(guard.run(environ, *words).stdout)["arguments"] == [PYTHON, "-IS", str(file), *words, ""]


SIGNALS = "#!/bin/sh\necho Content-Type: text/plain\necho\nexec grep SigIgn /proc/self/status\n"
# The C library uses signals 32 and 33, and some versions of Python start programs that ignore these.
OWN_SIGNALS = 1 << 31 | 1 << 32


def ignored_signals(guard: Guard, ignored: str) -> list[int]:
    """Return what a script ignores behind the guard, and without it, if their parent ignores ``ignored``.

    The parent is a shell, like Apache's mod_cgi.  Each result has a bit for each signal.
    """
    file = guard.script("signals", SIGNALS)
    trap = f"trap '' {ignored};" if ignored else ""
    shell = ["/bin/sh", "-c", f'{trap} "$0"; exit']
    bare = subprocess.run([*shell, str(file)], capture_output=True, text=True, check=True).stdout
    guarded = subprocess.run(
        [*shell, *guard.program], env=guard.environ(file), capture_output=True, text=True, check=True
    )
    assert guarded.stdout.startswith(FIELDS)
    return [int(text.rpartition("SigIgn:")[2], 16) & ~OWN_SIGNALS for text in (guarded.stdout, bare)]


@pytest.mark.parametrize("ignored", ["", "PIPE", "XFSZ", "PIPE XFSZ"])
def test_script_ignores_the_signals_that_it_would_have_ignored(guard: Guard, ignored: str) -> None:
    """Python ignores two signals by itself."""
    behind, bare = ignored_signals(guard, ignored)
    assert behind == bare


# What is not run


DIRECT: dict[str, dict[str, str]] = {
    "no redirect": {"REDIRECT_HANDLER": "", "REDIRECT_URL": "", "REDIRECT_STATUS": ""},
    "a client's header": {"REDIRECT_HANDLER": "", "HTTP_REDIRECT_HANDLER": "limited"},
    "an error document": {"REDIRECT_HANDLER": "", "REDIRECT_STATUS": "404"},
    "a redirect by a guarded script": {"REDIRECT_HANDLER": "", "REDIRECT_REDIRECT_HANDLER": "limited"},
    "a redirect of another URL": {"REDIRECT_URL": "/app/other"},
    "a handler without a URL": {"REDIRECT_URL": ""},
    "no path": {"PATH_INFO": "", "PATH_TRANSLATED": ""},
    "no file": {"PATH_TRANSLATED": ""},
}


@pytest.mark.parametrize("environ", DIRECT.values(), ids=DIRECT)
def test_nothing_is_run_or_counted_unless_apache_has_mapped_it(
    guard: Guard, environ: dict[str, str]
) -> None:
    ended = guard.run(guard.environ(guard.script("tell"), **environ))
    assert (ended.stdout, ended.stderr) == (NOT_FOUND, "")
    assert os.listdir(guard.store) == []


def test_url_may_be_a_whole_one(guard: Guard) -> None:
    """With QualifyRedirectURL it is one."""
    told(guard.ask(guard.script("tell"), REDIRECT_URL="http://localhost/app/tell"))


def test_what_is_no_file_is_not_found(guard: Guard) -> None:
    guard.script("tell")
    os.mkfifo(guard.scripts / "fifo")
    (guard.scripts / "directory").mkdir()
    (guard.scripts / "dangling").symlink_to("nowhere")
    for name in (
        "missing",
        "missing/tell",
        "directory",
        "directory/",
        "fifo",
        "dangling",
        "../app",
        "tell2",
    ):
        ended = guard.run(guard.environ(guard.scripts / "x", PATH_TRANSLATED=f"{guard.scripts}/{name}"))
        assert (ended.stdout, ended.stderr) == (NOT_FOUND, "")
    assert os.listdir(guard.store) == []


BROKEN = {
    "not executable": (TELL, 0o644, "Permission denied (is it executable?  chmod +x)"),
    "no interpreter": ("#!/nowhere/perl\n", 0o755, "the interpreter in its first line does not exist"),
    "no first line": ("print 1\n", 0o755, "it needs a first line that names its interpreter"),
}


@pytest.mark.parametrize(("text", "mode", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_run_is_a_500_and_a_line_that_says_what_to_do(
    guard: Guard, text: str, mode: int, reason: str
) -> None:
    """The hit has been counted by then, and the answer says so."""
    file = guard.script("broken", text, mode)
    ended = guard.run(guard.environ(file))
    assert ended.stdout == FIELDS + FAILED
    assert ended.stderr.startswith(f"limiter: {file}: ")
    assert reason in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_script_that_cannot_be_looked_at_is_a_500(guard: Guard) -> None:
    loop = guard.scripts / "loop"
    loop.symlink_to("loop")
    ended = guard.run(guard.environ(loop))
    assert ended.stdout == FAILED
    assert str(loop) in ended.stderr
    assert os.listdir(guard.store) == []


@pytest.mark.parametrize("query", ["app_id=..", "x=1"])
def test_refusals_are_those_of_every_door(guard: Guard, query: str) -> None:
    answer = guard.ask(guard.script("tell"), QUERY_STRING=query)
    assert answer.startswith("Status: 401 Unauthorized\nWWW-Authenticate: ")


REFUSED = [("unexecutable", 0o644, 500), ("tell", 0o755, 401), ("tell", 0o755, 404)]


@pytest.mark.parametrize(("name", "mode", "status"), REFUSED)
def test_refusal_leaves_no_body_unread(guard: Guard, name: str, mode: int, status: int) -> None:
    """Under mod_cgid, with one socket for both directions, the answer would be lost."""
    file = guard.script(name, mode=mode)
    environ = guard.environ(file, REQUEST_METHOD="POST", CONTENT_LENGTH="100000")
    if status != 500:
        environ["QUERY_STRING"] = ""
    if status == 404:
        del environ["REDIRECT_HANDLER"]
    ours, its = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            guard.program,
            env=environ,
            stdin=its.fileno(),
            stdout=its.fileno(),
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        its.close()
        ours.sendall(b"x" * 100000)
        answer = b"".join(iter(lambda: ours.recv(65536), b""))  # ECONNRESET if anything was left
    assert process.returncode == 0
    assert b"Status: %d " % status in answer


# LIMITER_GUARD_ROOT


def test_files_below_the_root_are_run_however_they_are_reached(guard: Guard) -> None:
    below = guard.scripts / "below"
    below.mkdir()
    file = guard.script("below/tell")
    link = guard.scripts / "link"
    link.symlink_to("below/tell")
    elsewhere = guard.scripts / "elsewhere"
    elsewhere.symlink_to("below")
    for path in (file, link, elsewhere / "tell"):
        for root in (guard.scripts, f"{guard.scripts}/", elsewhere, "/"):
            environ = guard.environ(path, LIMITER_GUARD_ROOT=str(root), REDIRECT_LIMITER_LIMIT="99/hour")
            assert "Status: " not in guard.run(environ).stdout


def test_files_outside_of_the_root_are_not_run_however_they_are_reached(guard: Guard) -> None:
    root = guard.scripts / "root"
    root.mkdir()
    sibling = guard.scripts / "root2"
    sibling.mkdir()
    outside = guard.script("root2/tell")
    (root / "link").symlink_to(outside)
    (root / "there").symlink_to(sibling)
    for path in (outside, root / "link", root / "there/tell", root / "../root2/tell"):
        for name in ("LIMITER_GUARD_ROOT", "REDIRECT_LIMITER_GUARD_ROOT"):
            ended = guard.run(guard.environ(path, **{name: str(root)}))
            assert ended.stdout == NOT_FOUND
            reason = f"limiter: {bytes(outside)!r} is not run: it is not below LIMITER_GUARD_ROOT="
            assert ended.stderr == f"{reason}{bytes(root)!r}\n"
    assert os.listdir(guard.store) == []


def test_directory_cannot_widen_the_root_of_the_guard(guard: Guard) -> None:
    file = guard.script("tell")
    (guard.scripts / "root").mkdir()
    roots = {"LIMITER_GUARD_ROOT": f"{guard.scripts}/root", "REDIRECT_LIMITER_GUARD_ROOT": "/"}
    assert guard.ask(file, **roots) == NOT_FOUND


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("srv", "LIMITER_GUARD_ROOT=b'srv': expected an absolute path"), ("/nowhere/srv", "/nowhere/srv")],
)
def test_root_that_is_none_is_a_500(guard: Guard, setting: str, reason: str) -> None:
    ended = guard.run(guard.environ(guard.script("tell"), LIMITER_GUARD_ROOT=setting))
    assert ended.stdout == FAILED
    assert reason in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert os.listdir(guard.store) == []


# php-cgi


@pytest.fixture
def without_php(guard: Guard, installed: Path) -> Guard:
    """The guard on a machine that has php-cgi in none of the usual places."""
    text = "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
    text += "from limiter.apache import guard; guard._PLACES_OF_PHP = [b'/nowhere']; guard.run()"
    return Guard([PYTHON, "-ISc", text, str(installed)], guard.store, guard.scripts)


def test_php_is_run_by_the_first_php_cgi_of_the_path_without_arguments(without_php: Guard) -> None:
    """The words of the query would be options (CVE-2012-1823), and REDIRECT_URL would name another
    script.
    """
    guard = without_php
    php = guard.script("php-cgi")
    page = guard.script("page.php", "<?php\n", 0o644)
    more = {
        "PATH": f"/nowhere:app::{guard.scripts}:/usr/bin",
        "LIMITER_KEY": "env:REMOTE_ADDR",
        "REDIRECT_REDIRECT_URL": "/app/tell",
    }
    given = told(guard.run(guard.environ(page, "/extra", **more), "-s", "-d", "x").stdout)
    assert given["arguments"] == [PYTHON, "-IS", str(php), ""]
    assert given["environ"] == {
        **OWN,
        "PATH": more["PATH"],
        "PATH_INFO": "/extra",
        "PATH_TRANSLATED": "/srv/www/extra",
        "SCRIPT_NAME": "/app/page.php",
        "SCRIPT_FILENAME": str(page),
        "REDIRECT_STATUS": "200",
    }


def test_php_without_php_cgi_is_a_500_and_a_line_that_says_what_to_do(without_php: Guard) -> None:
    page = without_php.script("page.php", "<?php\n", 0o644)
    ended = without_php.run(without_php.environ(page, PATH="/nowhere"))
    assert ended.stdout == FIELDS + FAILED
    assert ended.stderr.startswith(f"limiter: {page}: FileNotFoundError: ")
    assert "apt-get install php-cgi" in ended.stderr
    assert ended.stderr.count("\n") == 1


# A process with a thread that hangs

STUCK = """\
import posix, sys
sys.path.insert(0, sys.argv.pop(1))
from limiter.apache import guard
from limiter.request import deadline
from limiter.core.store import StoreError
try:
    deadline.call_within(0.01, posix.read, posix.pipe()[0], 1)
except StoreError:
    guard.run()
"""


@pytest.mark.parametrize("is_stuck", [True, False])
def test_script_is_the_process_itself_or_a_child_of_one_that_is_stuck(
    guard: Guard, installed: Path, is_stuck: bool
) -> None:
    """A process with a thread in a dead file system cannot become another program."""
    command = [sys.executable, "-ISBc", STUCK, str(installed)] if is_stuck else guard.program
    with subprocess.Popen(
        command,
        env=guard.environ(guard.script("tell")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        output, log = process.communicate("the body", timeout=60)
    given = told(output)
    assert (process.returncode, log, given["body"]) == (0, "", "the body")
    assert (given["process"] != process.pid) == is_stuck


# What a request loads


def test_guard_loads_nothing_else_than_check_does_but_itself(guard: Guard, installed: Path) -> None:
    """Besides the package, it loads only what is built into the interpreter."""
    tell = "import sys; print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    text = (
        "import posix, sys\n"
        "before = set(sys.modules)\n"
        "end = posix._exit\n"
        f"def told(*arguments):\n {tell}\n end(0)\n"
        "posix.closerange = posix.execve = told\n"
        "__file__ = sys.argv[1]\n"
        "exec(open(__file__, 'rb').read())"
    )
    loaded = {}
    for name in ("check.py", "guard.py"):
        program = [PYTHON, "-ISc", text, str(installed / "cgi-bin" / name)]
        environ = guard.environ(guard.script("tell"))
        loaded[name] = set(Guard(program, guard.store, guard.scripts).run(environ).stderr.split())
    assert loaded["guard.py"] - loaded["check.py"] <= {"limiter.apache.guard", "errno", "_signal"}
    assert "limiter.apache.guard" not in loaded["check.py"]
