"""The installer, run on real copies of this machine.  The machine itself is not changed.

A copy is a mount namespace and a process namespace.  Everything written below /etc, /usr and /var goes
to a tmpfs, and everything in the copy ends with its first process.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from limiter.tools.bundle import BUNDLES
from tests.apache_server import LONG, MPMS, Reply, ask, free_port, wait_until
from tests.places import PYTHON, REPOSITORY, new_root

pytestmark = pytest.mark.one_python

PROGRAM = "/usr/local/share/access-limiter"
STORE = "/var/lib/access-limiter/store"
SETTINGS = "/etc/apache2/conf-available/access-limiter.conf"
CHECK = "/cgi-bin/check.py?app_id=acme"

_DEADLINE = 300
_PLACES = ("etc", "usr", "var")

# The modules that the installer enables.
_MODULES = ("actions", "cgi", "cgid", "headers", "rewrite")

_NEW_MACHINE = """
mount -t tmpfs tmpfs "$0"
for place in etc usr var; do
  mkdir "$0/$place" "$0/$place.work"
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$0/$place,workdir=$0/$place.work" "/$place"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
echo made
exec env --ignore-signal=CHLD cat  # whoever is orphaned here vanishes when it ends, as under any init
"""

# Stands for apache2ctl, which may return from a start before Apache listens, and runs scripts.
_PATIENT = """\
apache2ctl.real "$@" || exit
[ "${1#-k}$2" = start ] || exit 0
until pid=$(cat /run/apache2/apache2.pid) &&
    { [ ! -e /etc/apache2/mods-enabled/cgid.load ] ||
      [ "$(stat -c %U "/run/apache2/socks/cgisock.$pid")" = www-data ]; }
do sleep 0.01; done 2>/dev/null"""

# On a busy machine a store may take long to answer.
_LONG = f'Define LIMITER_TIMEOUT "{LONG}"\nSetEnv LIMITER_TIMEOUT "{LONG}"\n'

# As in RHEL 9, as far as it matters.
_ROCKY = 'NAME="Rocky Linux"\nVERSION="9.4 (Blue Onyx)"\nID="rocky"\nID_LIKE="rhel centos fedora"\n'

_ROCKY_HTTPD = """\
ServerRoot "/etc/httpd"
ServerName localhost
Listen 127.0.0.1:{port}
PidFile /run/httpd.pid
ErrorLog /var/log/httpd.log
DefaultRuntimeDir /run
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule alias_module modules/mod_alias.so
LoadModule env_module modules/mod_env.so
LoadModule headers_module modules/mod_headers.so
LoadModule actions_module modules/mod_actions.so
LoadModule rewrite_module modules/mod_rewrite.so
LoadModule cgid_module modules/mod_cgid.so
ScriptSock /run/cgisock
User apache
Group apache
<Directory />
    AllowOverride none
    Require all denied
</Directory>
ScriptAlias /cgi-bin/ "/var/www/cgi-bin/"
<Directory "/var/www/cgi-bin">
    AllowOverride None
    Options None
    Require all granted
</Directory>
IncludeOptional conf.d/*.conf
"""

# They write to files what the real commands would write to the policy and to the labels.
_SELINUX = {
    "selinuxenabled": "exit 0",
    "semanage": 'echo "$5 $4" >>/var/policy',
    "matchpathcon": 'echo "system_u:object_r:$(sed -n "s#^$2(/\\.\\*)? ##p" /var/policy):s0"',
    "restorecon": 'case $1 in -nRv) cmp -s /var/policy /var/labels || echo "Would relabel $2" ;;'
    " -R) cp /var/policy /var/labels ;; *) exit 1 ;; esac",
}


@dataclass
class Machine:
    """A copy of this machine: its written files, its first process, the sources of the limiter."""

    place: Path
    pid: int
    sources: Path

    def path(self, path: str) -> Path:
        """Return where a file of the copy is found."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy, with any exit status."""
        namespaces = [
            f"--mount=/proc/{self.pid}/ns/mnt",
            f"--pid=/proc/{self.pid}/ns/pid_for_children",
        ]
        return _run("nsenter", *namespaces, *command)

    def do(self, *command: str | Path) -> str:
        """Run a command that must succeed; return its output."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, *options: str) -> str:
        """Run the installer, which must succeed; return its output."""
        return self.do(self.sources / "deploy/apache/install", *options)

    def refuse(self, *options: str) -> str:
        """Run the installer, which must fail with one line; return that line."""
        done = self.run(self.sources / "deploy/apache/install", *options)
        assert done.returncode == 1
        assert re.fullmatch(r"install: .+\n", done.stderr)
        return done.stderr

    def written(self) -> dict[str, object]:
        """Return all differences from the original machine, except Apache's logs, which come at any
        time.
        """
        place = self.path(str(self.place))
        paths = [path for name in _PLACES for path in _tree(str(place / name))]
        return {path: _description(Path(path)) for path in paths if not path.endswith(".log")}

    def add_command(self, name: str, script: str) -> None:
        """Replace a command by a shell script."""
        path = self.path(f"/usr/sbin/{name}")
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def define(self, name: str, value: str, settings: str = SETTINGS) -> None:
        """Edit the settings as a user does, who may have to remove a "#"."""
        path = self.path(settings)
        text, count = re.subn(
            f'(?m)^#?Define {name} ".*"$', f'Define {name} "{value}"', path.read_text()
        )
        assert count == 1
        path.write_text(text)


@contextmanager
def new_machine(directory: Path) -> Iterator[Machine]:
    """Copy this machine, as long as the context lasts."""
    place = directory / "machine"
    place.mkdir()
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"]
    with subprocess.Popen(
        [*unshare, "bash", "-ec", _NEW_MACHINE, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"made\n":
            pytest.skip(f"Namespaces or overlays are not to be had: {holder.stderr.read().decode()}")
        # At the end its standard input is closed, so "cat" ends, and with it everything in the copy.
        yield Machine(place, holder.pid, directory / "sources")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A Debian machine with Apache, the sources of the limiter, and none of our modules enabled."""
    if os.geteuid() != 0:
        pytest.skip("Only root can make namespaces and overlays")
    if not Path("/usr/sbin/apache2ctl").exists():
        pytest.skip("Debian's Apache is not installed (apt-get install apache2)")
    with ExitStack() as stack:
        directory = new_root("/tmp")
        stack.callback(shutil.rmtree, directory)
        machine = stack.enter_context(new_machine(directory))
        for name in ("limiter", "cgi-bin", "deploy/apache", "deploy/systemd"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, machine.sources / name, ignore=ignored)
        machine.do("a2dismod", "-q", "-f", *_MODULES)
        machine.do("mv", "/usr/sbin/apache2ctl", "/usr/sbin/apache2ctl.real")
        machine.add_command("apache2ctl", _PATIENT)
        machine.path("/etc/apache2/conf-enabled/0.conf").write_text(_LONG)
        yield machine


@pytest.fixture
def port(machine: Machine) -> int:
    """The port on which the copy's Apache will listen."""
    port = free_port()
    machine.path("/etc/apache2/ports.conf").write_text(f"Listen 127.0.0.1:{port}\n")
    site = machine.path("/etc/apache2/sites-available/000-default.conf")
    site.write_text(site.read_text().replace("<VirtualHost *:80>", f"<VirtualHost *:{port}>"))
    return port


@pytest.fixture
def rocky(machine: Machine, port: int) -> Machine:
    """A machine like Rocky 9: its layout, configuration and command names; SELinux is simulated."""
    machine.path("/etc/os-release").unlink()
    machine.path("/etc/os-release").write_text(_ROCKY)
    machine.do("useradd", "--system", "apache")
    for directory in ("conf", "conf.d"):
        machine.path(f"/etc/httpd/{directory}").mkdir(parents=True)
    machine.path("/etc/httpd/conf/httpd.conf").write_text(_ROCKY_HTTPD.format(port=port))
    machine.path("/etc/httpd/modules").symlink_to("/usr/lib/apache2/modules")
    machine.path("/usr/sbin/apache2ctl").unlink()
    machine.path("/etc/httpd/conf.d/0.conf").write_text(_LONG)
    until = 'until [ "$2" != start ] || [ -e /run/httpd.pid ]; do sleep 0.01; done'
    machine.add_command("httpd", f'apache2 -f /etc/httpd/conf/httpd.conf "$@" || exit\n{until}')
    machine.path("/var/policy").touch()
    for name, script in _SELINUX.items():
        machine.add_command(name, script)
    return machine


def _run(*command: str | Path, user: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
        check=False,
        user=user,
    )


def _tree(top: str) -> list[str]:
    return [top] + [
        os.path.join(directory, name)
        for directory, directories, files in os.walk(top)
        for name in directories + files
    ]


def _description(path: Path) -> object:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    link = os.readlink(path) if path.is_symlink() else ""
    return status.st_mode, status.st_uid, status.st_mtime_ns, hashlib.sha256(content).digest(), link


def _wait_for(condition: Callable[[Reply], bool], port: int, path: str = CHECK) -> Reply:
    """Send requests until the condition holds: a reload goes on after its command has ended."""
    replies: list[Reply] = []

    def is_so() -> bool:
        replies.append(ask(port, path))
        return condition(replies[-1])

    wait_until(is_so)
    return replies[-1]


def _steps(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("+ ")]


@pytest.mark.parametrize("mpm", MPMS)
def test_limit_is_kept_after_an_installation(machine: Machine, port: int, mpm: str) -> None:
    """The distribution's Apache and one run of the installer give a 429, with either way to run CGI
    scripts.
    """
    if mpm == "prefork":
        machine.do("a2dismod", "-q", "-f", "mpm_event")
        machine.do("a2enmod", "-q", "mpm_prefork")
    said = machine.install()
    assert "+ a2enmod -q " + {"event": "cgid", "prefork": "cgi"}[mpm] in _steps(said)
    assert "systemctl enable --now apache2" in said
    assert said.endswith("curl -i 'http://localhost/cgi-bin/check.py?app_id=acme'\n")
    machine.define("LIMITER_LIMIT", "3/hour")
    machine.do("apache2ctl", "start")
    replies = [ask(port, CHECK) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert os.listdir(machine.path(STORE)) == ["acme"]


@pytest.mark.parametrize("enabled", [False, True])
def test_running_apache_is_restarted_for_a_new_module(
    machine: Machine, port: int, enabled: bool
) -> None:
    """A reload is not enough for mod_cgid, whether the installer or the user enabled it."""
    machine.do("apache2ctl", "start")
    assert ask(port, CHECK).status == 404
    if enabled:
        machine.do("a2enmod", "-q", "actions", "cgid", "headers", "rewrite")
    said = machine.install()
    assert _steps(said)[-2:] == ["+ apache2ctl -t", "+ service apache2 restart"]
    reply = ask(port, CHECK)
    assert (reply.status, reply.headers["RateLimit-Policy"]) == (200, '"10-per-1s";q=10;w=1')


def test_running_apache_is_reloaded_else(machine: Machine, port: int) -> None:
    """No connection is cut without need."""
    machine.do("a2enmod", "-q", "actions", "cgid", "headers", "rewrite")
    machine.do("apache2ctl", "start")
    assert ask(port, CHECK).status == 404
    said = machine.install()
    assert _steps(said)[-2:] == ["+ apache2ctl -t", "+ apache2ctl -k graceful"]
    reply = _wait_for(lambda reply: reply.status == 200, port)
    assert reply.headers["RateLimit-Policy"] == '"10-per-1s";q=10;w=1'


def test_dead_script_is_answered_as_json(machine: Machine, port: int) -> None:
    """The ErrorDocument also works within the distribution's configuration."""
    (machine.sources / "cgi-bin/check.py").write_text("#!/bin/false\n")
    machine.install()
    machine.do("apache2ctl", "start")
    reply = ask(port, CHECK)
    assert (reply.status, reply.body) == (500, b'{"message": "Internal Server Error"}')
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-store"


def test_other_scripts_stay_where_they_are(machine: Machine, port: int) -> None:
    """Debian's /cgi-bin/ goes on to work, but its check.py is hidden."""
    for name in ("check.py", "other.py"):
        script = machine.path(f"/usr/lib/cgi-bin/{name}")
        script.write_text("#!/bin/sh\necho\necho other\n")
        script.chmod(0o755)
    machine.install()
    machine.do("apache2ctl", "start")
    assert ask(port, "/cgi-bin/other.py").body == b"other\n"
    assert ask(port, CHECK).body == b'{"message": "OK"}'


def test_second_run_changes_nothing(machine: Machine, port: int) -> None:
    """Not even a modification time changes."""
    machine.do("apache2ctl", "start")
    assert "Nothing changed" not in machine.install()
    written = machine.written()
    said = machine.install()
    assert said.startswith("Nothing changed: all is in order.\n")
    assert _steps(said) == []
    assert machine.written() == written


def test_dry_run_says_the_same_and_changes_nothing(machine: Machine) -> None:
    """Only the name of a scratch directory differs."""
    written = machine.written()
    said = machine.install("--dry-run")
    assert "Nothing changed: this was a dry run.\n" in said
    assert machine.written() == written
    scratch = re.compile(r"/tmp/tmp\.\w+")
    done = machine.install()
    assert [scratch.sub("", step) for step in _steps(said)] == [
        scratch.sub("", it) for it in _steps(done)
    ]
    assert "Nothing changed: all is in order.\n" in machine.install("--dry-run")


def test_what_is_installed_belongs_to_root(machine: Machine) -> None:
    """All that is needed is there, compiled, and nothing else.

    Apache's user can write only to the store.
    """
    (machine.sources / "limiter/__pycache__").mkdir()
    (machine.sources / "limiter/__pycache__/cgi.pyc").touch()
    (machine.sources / "limiter/notes.txt").touch()
    os.chown(machine.sources / "limiter/core/limit.py", 1, 1)
    (machine.sources / "limiter/core/limit.py").chmod(0o666)
    machine.install()
    program = machine.path(PROGRAM)
    for path in map(Path, _tree(str(program))):
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o022) == (0, 0), path
    configuration = ["500.json", "guard.conf", "limiter.conf", "map.conf"]
    assert sorted(os.listdir(program)) == sorted([*configuration, "cgi-bin", "limiter", "rewritemap"])
    for file in ("rewritemap", "cgi-bin/check.py", "cgi-bin/guard.py", "cgi-bin/health.py"):
        assert (program / file).stat().st_mode & 0o777 == 0o755
    package = REPOSITORY / "limiter"
    sources = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    installed = {
        str(path.relative_to(program / "limiter")) for path in (program / "limiter").rglob("*.*")
    }
    tag = machine.do(PYTHON, "-c", "import sys; print(sys.implementation.cache_tag, end='')")
    compiled = {re.sub(r"(\w+)\.py", rf"__pycache__/\1.{tag}.pyc", name) for name in sources}
    bundles = {f"__pycache__/{name}.{tag}.bundle" for name in BUNDLES}
    assert installed == sources | compiled | bundles
    parent = os.path.dirname(STORE)
    assert machine.do("stat", "-c", "%U %a", STORE, parent) == "www-data 700\nroot 755\n"


def test_changed_sources_are_compiled_anew(machine: Machine) -> None:
    """Python itself would use the old compiled files: they say that they need no check."""
    source = machine.sources / "limiter/core/notation.py"
    (machine.sources / "limiter/old.py").touch()
    machine.install()
    with source.open("a") as text:
        text.write("\n\ndef generation():\n    return 2\n")
    (machine.sources / "limiter/old.py").unlink()
    machine.install()
    look = f"""
import sys
sys.path.insert(0, {PROGRAM!r})
from limiter.core.notation import generation
print(generation(), generation.__code__.co_filename)
"""
    assert machine.do(PYTHON, "-IS", "-c", look) == f"2 {PROGRAM}/limiter/core/notation.py\n"
    assert not machine.path(f"{PROGRAM}/limiter/old.py").exists()
    assert "Nothing changed" in machine.install()


def test_damage_is_repaired(machine: Machine) -> None:
    """One run installs again all that is not as it was installed, and leaves nothing behind."""
    machine.install()
    source = machine.path(f"{PROGRAM}/limiter/core/notation.py")
    damages: dict[str, Callable[[], object]] = {
        "writable": lambda: source.chmod(0o666),
        "foreign": lambda: machine.do("chown", "www-data", f"{PROGRAM}/cgi-bin"),
        "added": (source.parent / "posix.py").touch,
        "checked": lambda: machine.do(PYTHON, "-m", "compileall", "-fq", f"{PROGRAM}/limiter"),
    }
    for name, do in damages.items():
        do()
        assert "Nothing changed" not in machine.install(), name
    assert "Nothing changed: all is in order." in machine.install()
    assert not machine.path(f"{PROGRAM}.new").exists()
    assert not machine.path(f"{PROGRAM}.old").exists()


def test_compiled_file_is_made_anew(machine: Machine) -> None:
    """It may be missing, or made from other sources or by another Python."""
    machine.install()
    place = machine.path(f"{PROGRAM}/limiter")
    spoil: dict[str, Callable[[bytes], bytes]] = {
        "core/__pycache__/notation.*.pyc": lambda whole: b"",
        "__pycache__/check.*.bundle": lambda whole: whole[:8] + bytes(8) + whole[16:],
        "__pycache__/guard.*.bundle": lambda whole: b"\0\0" + whole[2:],
    }
    for file, spoilt in spoil.items():
        (compiled,) = place.glob(file)
        whole = compiled.read_bytes()
        compiled.unlink()
        if spoilt(whole):
            compiled.write_bytes(spoilt(whole))
        assert "Nothing changed" not in machine.install(), file
        assert compiled.read_bytes()[:16] == whole[:16]


def test_virtual_host_without_rules_is_named(machine: Machine) -> None:
    """Debian's own one has none."""
    site = "/etc/apache2/sites-enabled/000-default.conf"
    line = f"answers 500 where LIMITER_PATHS guards: {site}, line 1\n"
    machine.install()
    assert "LIMITER_PATHS" not in machine.install()
    machine.define("LIMITER_PATHS", "^/api/")
    assert line in machine.install()
    text = machine.path("/etc/apache2/sites-available/000-default.conf")
    text.write_text(text.read_text().replace("</VirtualHost>", "RewriteEngine On\n</VirtualHost>"))
    assert line not in machine.install()


def test_tracebacks_name_the_place_of_the_program(machine: Machine) -> None:
    """They do not name the place where it was compiled.  This includes code from a bundle."""
    machine.install()
    machine.path(f"{PROGRAM}/limiter/core/notation.py").unlink()
    look = f"""
import sys
sys.path.insert(0, {PROGRAM!r})
import limiter
limiter.preload("check")
from limiter.core.notation import parse
parse("nonsense")
"""
    said = machine.run(PYTHON, "-IS", "-c", look).stderr
    assert f'File "{PROGRAM}/limiter/core/notation.py", line ' in said


def test_map_and_guard_work_after_an_installation(machine: Machine, port: int) -> None:
    """They need only the settings; and an update lets a running map program end."""
    machine.install()
    machine.define("LIMITER_PATHS", "^/index")
    machine.path("/var/www/html/page").write_text("#!/bin/sh\necho\necho A page.\n")
    machine.path("/var/www/html/page").chmod(0o755)
    site = machine.path("/etc/apache2/sites-available/000-default.conf")
    more = 'RewriteEngine On\n<Location "/page">\nSetHandler limited\n</Location>\n</VirtualHost>'
    site.write_text(site.read_text().replace("</VirtualHost>", more))
    machine.do("apache2ctl", "start")
    assert [ask(port, path).status for path in ("/index.html", "/page")] == [401, 401]
    for path in ("/index.html", "/page"):
        reply = ask(port, f"{path}?app_id={path[1:]}")
        assert (reply.status, reply.headers["RateLimit"]) == (200, '"10-per-1s";r=9;t=1')
    assert sorted(os.listdir(machine.path(STORE))) == ["index.html", "page"]
    written = machine.written()
    assert _steps(machine.install()) == []
    assert machine.written() == written
    with (machine.sources / "limiter/apache/rewrite_map.py").open("a") as text:
        text.write("\n\ndef _line(*_):\n    return b'401|||\\n'\n")
    assert _steps(machine.install())[-1] == "+ apache2ctl -k graceful"
    _wait_for(lambda reply: reply.status == 401, port, "/index.html?app_id=again")


def _start(machine: Machine, service: Path) -> subprocess.CompletedProcess[str]:
    """Run what a unit starts, as systemd would."""
    text = service.read_text().replace("\\\n", " ")
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", text)
    (directory,) = re.findall(r"(?m)^WorkingDirectory=(.*)$", text)
    return machine.run("env", "-C", directory, *shlex.split(command.replace("$$", "$")))


def test_systemd_sweeps_the_store_every_day(machine: Machine, port: int) -> None:
    """It sweeps the store of the settings.

    The timer is enabled once: a user who disables it keeps it so.  A changed unit is replaced.
    """
    machine.path("/run/systemd/system").mkdir(parents=True)
    machine.add_command("systemctl", 'echo "$@" >>/var/asked')
    machine.install()
    asked = machine.path("/var/asked")
    assert asked.read_text().splitlines() == [
        "daemon-reload",
        "daemon-reload",
        "enable --now access-limiter-sweep.timer",
    ]
    service = machine.path("/etc/systemd/system/access-limiter-sweep.service")
    nothing = "0 of 0 applications removed, 0 leftovers of dead processes removed\n"
    assert _start(machine, service).stdout == f"{STORE}: {nothing}"
    machine.do("mkdir", "/var/store")
    machine.define("LIMITER_ROOT", f"/var/store:{STORE}")
    assert _start(machine, service).stdout == f"/var/store: {nothing}{STORE}: {nothing}"
    with machine.path(SETTINGS).open("a") as text:
        text.write("Mistake\n")
    refused = _start(machine, service)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Apache does not tell it: apachectl configtest says why" in refused.stderr
    machine.path(SETTINGS).unlink()
    service.write_text("")
    asked.unlink()
    machine.install()
    assert asked.read_text() == "daemon-reload\n"
    assert service.read_text()
    assert not _steps(machine.install())


def test_settings_of_the_user_survive(machine: Machine, port: int) -> None:
    """A new version of the program and of the default settings leaves them unchanged."""
    machine.install()
    machine.define("LIMITER_LIMIT", "2 per 3 hours")
    edited = machine.path(SETTINGS).read_text()
    with (machine.sources / "limiter/core/notation.py").open("a") as text:
        text.write("# A new version\n")
    with (machine.sources / "deploy/apache/access-limiter.conf").open("a") as text:
        text.write("# with other defaults\n")
    assert "Nothing changed" not in machine.install()
    assert machine.path(SETTINGS).read_text() == edited
    machine.do("apache2ctl", "start")
    assert ask(port, CHECK).headers["RateLimit-Policy"] == '"2-per-10800s";q=2;w=10800'


def test_rocky_is_installed_too(rocky: Machine, port: int) -> None:
    """RHEL's own ScriptAlias comes first, and its directory has no such script."""
    settings = "/etc/httpd/conf.d/access-limiter.conf"
    rocky.do("httpd", "-k", "start")
    steps = _steps(rocky.install())
    assert f"+ semanage fcontext -a -t httpd_sys_script_exec_t {PROGRAM}/cgi-bin\\(/.\\*\\)\\?" in steps
    assert f"+ semanage fcontext -a -t httpd_sys_rw_content_t {STORE}\\(/.\\*\\)\\?" in steps
    assert steps[-3:] == [f"+ restorecon -R {PROGRAM} {STORE}", "+ httpd -t", "+ httpd -k graceful"]
    assert rocky.do("stat", "-c", "%U %a", STORE) == "apache 700\n"
    reply = _wait_for(lambda reply: reply.status == 200, port)
    assert reply.headers["RateLimit-Policy"] == '"10-per-1s";q=10;w=1'
    written = rocky.written()
    assert rocky.install().startswith("Nothing changed: all is in order.\n")
    assert rocky.written() == written
    rocky.define("LIMITER_LIMIT", "1/hour", settings)
    rocky.do("httpd", "-k", "graceful")
    policy = '"1-per-3600s";q=1;w=3600'
    _wait_for(lambda reply: reply.headers["RateLimit-Policy"] == policy, port)
    assert ask(port, CHECK).status == 429


def test_rocky_without_the_packages_is_told_what_would_be_done(rocky: Machine) -> None:
    """A dry run needs neither Apache nor SELinux tools."""
    rocky.path("/usr/sbin/httpd").unlink()
    rocky.path("/usr/sbin/semanage").unlink()
    steps = _steps(rocky.install("--dry-run"))
    assert steps[0] == "+ dnf install -y httpd python3"
    assert "+ dnf install -y policycoreutils-python-utils" in steps
    assert f"+ install -d -o apache -m 700 {STORE}" in steps
    assert not any("a2en" in step for step in steps)


def test_module_that_rocky_does_not_load_is_named(rocky: Machine) -> None:
    """Rocky has no command that enables a module."""
    configuration = rocky.path("/etc/httpd/conf/httpd.conf")
    configuration.write_text(re.sub("(?m)^.*cgi(d_module|sock).*$", "", configuration.read_text()))
    assert "does not load mod_cgid: enable it in /etc/httpd/conf.modules.d" in rocky.refuse()


def test_debian_without_the_packages_is_told_what_would_be_done(machine: Machine) -> None:
    """A dry run assumes a fresh Apache."""
    machine.path("/usr/sbin/apache2ctl").unlink()
    steps = _steps(machine.install("--dry-run"))
    assert steps[0] == "+ apt-get update -q"
    assert steps[1].endswith("apt-get install -qy --no-install-recommends apache2 python3")
    assert {f"+ a2enmod -q {module}" for module in _MODULES if module != "cgi"} < set(steps)
    assert "+ a2enconf -q access-limiter" in steps


def test_old_python_is_refused(machine: Machine) -> None:
    """This happens before anything is done."""
    python = machine.path(PYTHON)
    python.unlink()
    python.write_text(
        "#!/bin/sh\n[ $1 = -V ] && echo Python 3.6.8\nexit 1\n".replace("exit 1", "exit $?")
    )
    python.chmod(0o755)
    written = machine.written()
    assert "/usr/bin/python3 is Python 3.6.8, but 3.9 is needed" in machine.refuse()
    assert machine.written() == written


def test_unknown_distribution_is_refused(machine: Machine) -> None:
    """The message says what to do by hand."""
    machine.path("/etc/os-release").unlink()
    machine.path("/etc/os-release").write_text("NAME=Slackware\nID=slackware\n")
    assert "neither Debian's nor RHEL's family: 'slackware'" in machine.refuse()


def test_broken_configuration_is_refused_before_anything_is_done(machine: Machine) -> None:
    """Otherwise it would look as if the limiter had broken it."""
    machine.path("/etc/apache2/conf-enabled/broken.conf").write_text("Nonsense\n")
    written = machine.written()
    assert "Apache's configuration has errors already" in machine.refuse()
    assert machine.written() == written


def test_failing_step_ends_the_installation(machine: Machine) -> None:
    """The message of the command itself comes first."""
    machine.add_command("a2enmod", "echo 'a2enmod: no space left' >&2; exit 1")
    done = machine.run(machine.sources / "deploy/apache/install")
    assert done.returncode == 1
    assert done.stderr == (
        "a2enmod: no space left\n"
        "install: the last command failed: correct the cause and run this again\n"
    )


def test_only_root_may_install() -> None:
    """The installer says so at once."""
    user = "nobody" if os.geteuid() == 0 else None
    place = new_root("/tmp")
    try:
        shutil.copy(REPOSITORY / "deploy/apache/install", place)
        done = _run(place / "install", user=user)
    finally:
        shutil.rmtree(place)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "install: only root can do this: run it with sudo, or with --dry-run\n"


def test_options() -> None:
    """There are few, and any other is a usage error."""
    install = REPOSITORY / "deploy/apache/install"
    unknown = _run(install, "--dry-run", "--remove")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == f"install: unknown option --remove (see {install} --help)\n"
    told = _run(install, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"Usage: {install} [--dry-run] [--help]\n")
