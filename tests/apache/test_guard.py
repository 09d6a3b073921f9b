"""The door for Apache's Action: the real cgi-bin/guard.py, called as mod_actions calls it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from limiter.tools.bundle import BUNDLES
from tests.doors.doors import clients
from tests.places import PYTHON, temporary

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
    with temporary("/tmp") as place:
        (place / "app").mkdir()
        yield Guard([str(installed / "cgi-bin/guard.py")], Path(root), place / "app")


@pytest.fixture
def without_php(guard: Guard, installed: Path) -> Guard:
    """The guard on a machine that has php-cgi in none of the usual places."""
    text = "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
    text += "from limiter.apache import guard; guard._PLACES_OF_PHP = [b'/nowhere']; guard.run()"
    return Guard([PYTHON, "-ISc", text, str(installed)], guard.store, guard.scripts)


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


def test_key_may_be_a_variable_of_the_script_s_own_request(guard: Guard) -> None:
    """The words of its query are arguments."""
    ann = {"REDIRECT_REMOTE_USER": "ann", "LIMITER_KEY": "env:REMOTE_USER", "QUERY_STRING": "x=1"}
    file = guard.script("tell")
    words = ("-c", "print 1", "ä")
    given = told(guard.run(guard.environ(file, **ann), *words).stdout)
    assert given["arguments"] == [PYTHON, "-IS", str(file), *words, ""]
    assert clients(str(guard.store)) == ["ann"]


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


# What is not run


UNMAPPED: dict[str, dict[str, str]] = {
    "no redirect": {"REDIRECT_HANDLER": "", "REDIRECT_URL": "", "REDIRECT_STATUS": ""},
    "a client's header": {"REDIRECT_HANDLER": "", "HTTP_REDIRECT_HANDLER": "limited"},
    "an error document": {"REDIRECT_HANDLER": "", "REDIRECT_STATUS": "404"},
    "a redirect by a guarded script": {"REDIRECT_HANDLER": "", "REDIRECT_REDIRECT_HANDLER": "limited"},
    "a redirect of another URL": {"REDIRECT_URL": "/app/other"},
    "a handler without a URL": {"REDIRECT_URL": ""},
    "no path": {"PATH_INFO": "", "PATH_TRANSLATED": ""},
    "no file": {"PATH_TRANSLATED": ""},
}
NO_FILES = ("missing", "missing/tell", "fifo", "dangling", "tell2", "directory", "directory/", "../app")
UNMAPPED |= {name: {"PATH_TRANSLATED": f"{{scripts}}/{name}"} for name in NO_FILES}


@pytest.mark.parametrize("variables", UNMAPPED.values(), ids=UNMAPPED)
def test_nothing_is_run_or_counted_unless_apache_has_mapped_it_to_a_file(
    guard: Guard, variables: dict[str, str]
) -> None:
    os.mkfifo(guard.scripts / "fifo")
    (guard.scripts / "directory").mkdir()
    (guard.scripts / "dangling").symlink_to("nowhere")
    environ = {name: text.format(scripts=guard.scripts) for name, text in variables.items()}
    ended = guard.run(guard.environ(guard.script("tell"), **environ))
    assert (ended.stdout, ended.stderr) == (NOT_FOUND, "")
    assert os.listdir(guard.store) == []


@pytest.mark.parametrize(
    ("name", "top", "reason"),
    [
        ("loop", "", "/loop"),
        ("tell", "srv", "expected an absolute path"),
        ("tell", "/nowhere", "/nowhere"),
    ],
)
def test_a_script_or_a_root_that_cannot_be_found_is_a_500(
    guard: Guard, name: str, top: str, reason: str
) -> None:
    guard.script("tell")
    (guard.scripts / "loop").symlink_to("loop")
    ended = guard.run(guard.environ(guard.scripts / name, LIMITER_GUARD_ROOT=top))
    assert ended.stdout == FAILED
    assert reason in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert os.listdir(guard.store) == []


def test_url_may_be_a_whole_one(guard: Guard) -> None:
    """With QualifyRedirectURL it is one."""
    told(guard.ask(guard.script("tell"), REDIRECT_URL="http://localhost/app/tell"))


BROKEN = {
    "not executable": ("x", TELL, 0o644, "Permission denied (is it executable?  chmod +x)"),
    "no interpreter": ("x", "#!/nowhere/perl\n", 0o755, "the interpreter in its first line does not"),
    "no first line": ("x", "print 1\n", 0o755, "it needs a first line that names its interpreter"),
    "no php-cgi": ("x.php", "<?php\n", 0o644, "php-cgi is not installed (apt-get install php-cgi)"),
}


@pytest.mark.parametrize(("name", "text", "mode", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_run_is_a_500_and_a_line_that_says_what_to_do(
    without_php: Guard, name: str, text: str, mode: int, reason: str
) -> None:
    """The hit has been counted by then, and the answer says so."""
    file = without_php.script(name, text, mode)
    ended = without_php.run(without_php.environ(file, PATH="/nowhere"))
    assert ended.stdout == FIELDS + FAILED
    assert reason in ended.stderr
    assert ended.stderr.endswith(f": '{file}'\n")
    assert ended.stderr.count("\n") == 1


REFUSED = [("unexecutable", 0o644, 500), ("tell", 0o755, 401), ("tell", 0o755, 404)]


@pytest.mark.parametrize(("name", "mode", "status"), REFUSED)
def test_refusal_leaves_no_body_unread(guard: Guard, name: str, mode: int, status: int) -> None:
    """Under mod_cgid, with one socket for both directions, the answer would be lost.

    A form is not searched for an app_id, because it is the script's.
    """
    body = b"app_id=acme&".ljust(50000, b"x")
    file = guard.script(name, mode=mode)
    form = {"CONTENT_TYPE": "application/x-www-form-urlencoded", "CONTENT_LENGTH": str(len(body))}
    environ = guard.environ(file, REQUEST_METHOD="POST", **form)
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
        ours.sendall(body)
        answer = b"".join(iter(lambda: ours.recv(65536), b""))  # ECONNRESET if anything was left
    assert process.returncode == 0
    assert b"Status: %d " % status in answer


# LIMITER_GUARD_ROOT


@pytest.fixture
def links(guard: Guard) -> Guard:
    """A guard with the scripts root/tell and root2/tell, and links to them."""
    for name in ("root", "root2"):
        (guard.scripts / name).mkdir()
        guard.script(f"{name}/tell")
    for link, target in {
        "link": "root/tell",
        "linked": "root",
        "root/out": "../root2/tell",
        "root/there": "../root2",
    }.items():
        (guard.scripts / link).symlink_to(target)
    return guard


@pytest.mark.parametrize("path", ["root/tell", "link", "linked/tell"])
@pytest.mark.parametrize("top", ["root", "root/", "linked", "/"])
def test_a_file_below_the_root_is_run_however_it_is_reached(links: Guard, path: str, top: str) -> None:
    environ = links.environ(links.scripts / path, LIMITER_GUARD_ROOT=str(links.scripts / top))
    told(links.run(environ).stdout)


@pytest.mark.parametrize("path", ["root2/tell", "root/out", "root/there/tell", "root/../root2/tell"])
@pytest.mark.parametrize(
    "roots",
    [
        {"LIMITER_GUARD_ROOT": "/root"},
        {"REDIRECT_LIMITER_GUARD_ROOT": "/root"},
        # The script's directory cannot widen the guard's root.
        {"LIMITER_GUARD_ROOT": "/root", "REDIRECT_LIMITER_GUARD_ROOT": ""},
    ],
)
def test_a_file_outside_the_root_is_not_run_however_it_is_reached(
    links: Guard, path: str, roots: dict[str, str]
) -> None:
    variables = {name: f"{links.scripts}{text}" for name, text in roots.items()}
    ended = links.run(links.environ(links.scripts / path, **variables))
    assert ended.stdout == NOT_FOUND
    outside, root = f"{links.scripts}/root2/tell", f"{links.scripts}/root"
    assert ended.stderr == (
        f"limiter: {outside.encode()!r} is not run: it is not below LIMITER_GUARD_ROOT={root!r}\n"
    )
    assert os.listdir(links.store) == []


# php-cgi


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


# A process with a thread that hangs

STUCK = """\
import posix, sys
sys.path.insert(0, sys.argv.pop(1))
from limiter.apache import guard
from limiter.request import script_deadline as deadline
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
    text = (
        "import posix, sys\n"
        "end = posix._exit\n"
        "def told(*_):\n print(*sys.modules, file=sys.stderr)\n end(0)\n"
        "posix.closerange = posix.execve = told\n"
        "__file__ = sys.argv[1]\n"
        "exec(open(__file__, 'rb').read())"
    )
    environ = guard.environ(guard.script("tell"))
    checks, guards = (
        set(Guard([PYTHON, "-ISc", text, path], guard.store, guard.scripts).run(environ).stderr.split())
        for path in (str(installed / "cgi-bin" / name) for name in ("check.py", "guard.py"))
    )
    own = {f"limiter.{name}" for name in BUNDLES["guard"]} - {
        f"limiter.{name}" for name in BUNDLES["check"]
    }
    assert guards - checks <= {*own, "errno", "_signal"}
    assert "limiter.apache.guard" not in checks
