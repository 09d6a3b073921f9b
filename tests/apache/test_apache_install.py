"""The installer and the commands of docs/apache.md, run on real copies of this machine.

The machine itself is not changed.  A copy is a mount namespace and a process namespace.  Everything
written below /etc, /usr and /var goes to a tmpfs, and everything in the copy ends with its first process.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from limiter.tools.bundle import BUNDLES
from tests.apache_server import LONG, MPMS, Reply, Server, free_port
from tests.places import PYTHON, REPOSITORY, temporary
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

PROGRAM = "/usr/local/share/access-limiter"
STORE = "/var/lib/access-limiter/store"
SETTINGS = "/etc/apache2/conf-available/access-limiter.conf"
JOB = "/etc/cron.d/access-limiter-sweep"
CHECK = "/cgi-bin/check.py?app_id=acme"

_HOST = "/etc/apache2/sites-available/000-default.conf"
_DEADLINE = 300
_PLACES = ("etc", "usr", "var")

# The modules that the installer enables.
_MODULES = ("actions", "cgi", "cgid", "headers", "macro", "rewrite")

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
{modules}
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

    def written(self) -> dict[Path, object]:
        """Return all differences from the original machine, except Apache's logs, which come at any
        time.
        """
        found = _state(*[self.path(f"{self.place}/{name}") for name in _PLACES])
        return {
            path: (it, path.lstat().st_mtime_ns) for path, it in found.items() if path.suffix != ".log"
        }

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
    with temporary("/tmp") as directory, new_machine(directory) as machine:
        for name in ("limiter", "cgi-bin", "clients", "deploy/apache", "deploy/systemd"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, machine.sources / name, ignore=ignored)
        shutil.copy(REPOSITORY / "deploy/machine.bash", machine.sources / "deploy")
        machine.do("a2dismod", "-q", "-f", *_MODULES)
        machine.do("mv", "/usr/sbin/apache2ctl", "/usr/sbin/apache2ctl.real")
        machine.add_command("apache2ctl", _PATIENT)
        machine.path("/etc/apache2/conf-enabled/0.conf").write_text(_LONG)
        yield machine


@pytest.fixture
def site(machine: Machine) -> Server:
    """The copy's Apache, with the port on which it will listen."""
    port = free_port()
    machine.path("/etc/apache2/ports.conf").write_text(f"Listen 127.0.0.1:{port}\n")
    host = machine.path(_HOST)
    host.write_text(host.read_text().replace("<VirtualHost *:80>", f"<VirtualHost *:{port}>"))
    return Server(Path(STORE), port)


@pytest.fixture
def rocky(machine: Machine, site: Server) -> Machine:
    """A machine like Rocky 9: its layout, configuration and command names; SELinux is simulated."""
    machine.path("/etc/os-release").unlink()
    machine.path("/etc/os-release").write_text(_ROCKY)
    machine.do("useradd", "--system", "apache")
    loaded = (
        "mpm_event",
        "authz_core",
        "alias",
        "env",
        "headers",
        "actions",
        "macro",
        "rewrite",
        "cgid",
    )
    modules = "\n".join(f"LoadModule {it}_module modules/mod_{it}.so" for it in loaded)
    for directory in ("conf", "conf.d"):
        machine.path(f"/etc/httpd/{directory}").mkdir(parents=True)
    machine.path("/etc/httpd/conf/httpd.conf").write_text(
        _ROCKY_HTTPD.format(port=site.port, modules=modules)
    )
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


def _state(*tops: Path) -> dict[Path, object]:
    """Return what is at and below some directories, without the times."""

    def state(path: Path) -> object:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        link = os.readlink(path) if path.is_symlink() else ""
        return status.st_mode, status.st_uid, hashlib.sha256(content).digest(), link

    return {path: state(path) for top in tops for path in [top, *top.rglob("*")]}


def _wait_for(condition: Callable[[Reply], bool], site: Server, path: str = CHECK) -> None:
    """Send requests until the condition holds: a reload goes on after its command has ended."""
    wait_until(lambda: condition(site.ask(path)))


def _steps(text: str) -> list[str]:
    """Return the commands that it says it runs, without the names of scratch directories."""
    return re.findall(r"(?m)^\+ .*", re.sub(r"/tmp/tmp\.\w+", "", text))


@pytest.mark.parametrize("mpm", MPMS)
def test_limit_is_kept_after_an_installation(machine: Machine, site: Server, mpm: str) -> None:
    """The distribution's Apache and one run of the installer give a 429, with either way to run CGI
    scripts.  Debian's /cgi-bin/ goes on to work, but its check.py is hidden.
    """
    for name in ("check.py", "other.py"):
        script = machine.path(f"/usr/lib/cgi-bin/{name}")
        script.write_text("#!/bin/sh\necho\necho other\n")
        script.chmod(0o755)
    if mpm == "prefork":
        machine.do("a2dismod", "-q", "-f", "mpm_event")
        machine.do("a2enmod", "-q", "mpm_prefork")
    said = machine.install()
    assert "+ a2enmod -q " + {"event": "cgid", "prefork": "cgi"}[mpm] in _steps(said)
    assert "systemctl enable --now apache2" in said
    assert "RewriteEngine" not in said
    machine.define("LIMITER_LIMIT", "3/hour")
    machine.do("apache2ctl", "start")
    replies = [site.ask(CHECK) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert replies[0].body == b'{"message": "OK"}'
    assert site.ask("/cgi-bin/other.py").body == b"other\n"
    assert _apps(machine) == ["acme"]


def test_running_apache_is_restarted_for_a_new_module(machine: Machine, site: Server) -> None:
    """A reload cuts no connection, but it is not enough for mod_cgid."""
    machine.do("apache2ctl", "start")
    assert site.ask(CHECK).status == 404
    machine.do("a2enmod", "-q", "actions", "cgid", "headers", "macro", "rewrite")
    assert _steps(machine.install())[-2:] == ["+ apache2ctl -t", "+ service apache2 restart"]
    _wait_for(lambda reply: reply.status == 200, site)


def test_remove_leaves_the_store_and_says_so(machine: Machine, site: Server) -> None:
    """Apache is as it was, but for its modules.  A second time there is nothing to do."""
    before = {name: _state(machine.path(name)) for name in ("/etc/apache2/conf-available", "/usr/local")}
    machine.install()
    machine.do("apache2ctl", "start")
    assert site.ask(CHECK).status == 200
    dry = _steps(machine.install("--remove", "--dry-run"))
    said = machine.install("--remove")
    assert _steps(said) == dry
    assert f"The store stays: {STORE}.  To remove it: rm -r /var/lib/access-limiter" in said
    _wait_for(lambda reply: reply.status == 404, site)
    assert _apps(machine) == ["acme"]
    for name, state in before.items():
        after = _state(machine.path(name))
        assert set(after) - set(state) <= {machine.path("/usr/local/bin")}
    for path in (SETTINGS, JOB, PROGRAM, "/usr/local/bin/access-limiter"):
        assert not machine.path(path).exists()
    assert "Nothing changed: all is in order.\n" in machine.install("--remove")


def test_remove_refuses_while_something_uses_the_limiter(machine: Machine) -> None:
    machine.install()
    machine.path("/etc/apache2/conf-enabled/mine.conf").write_text(
        "<Location /x>\n  SetHandler limited\n</Location>\n"
    )
    written = machine.written()
    done = machine.run(machine.sources / "deploy/apache/install", "--remove")
    assert done.returncode == 1
    assert (
        "first remove these lines:\n/etc/apache2/conf-enabled/mine.conf:2:  SetHandler limited\n"
        in done.stderr
    )
    assert machine.written() == written


def test_the_command_answers_for_the_store_of_apache(machine: Machine, site: Server) -> None:
    machine.install()
    machine.define("LIMITER_LIMIT", "3/hour")
    machine.do("apache2ctl", "start")
    assert [site.ask(CHECK).status for _ in range(2)] == [200, 200]
    shown = machine.run("access-limiter", "show", "acme")
    assert shown.stderr == "limiter: settings of /etc/apache2/conf-enabled/access-limiter.conf\n"
    assert shown.stdout.startswith(f"acme in {STORE}\n  3-per-3600s: 2 of 3 used")
    assert machine.do("access-limiter", "--help").startswith("usage: access-limiter ")


def test_dry_run_says_the_same_and_changes_nothing(machine: Machine) -> None:
    written = machine.written()
    said = machine.install("--dry-run")
    assert "Nothing changed: this was a dry run.\n" in said
    assert machine.written() == written
    assert _steps(said) == _steps(machine.install())
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
    for path in _state(program):
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o022) == (0, 0), path
    configuration = ["500.json", "guard.conf", "limiter.conf", "macros.conf", "map.conf"]
    assert sorted(os.listdir(program)) == sorted(
        [*configuration, "cgi-bin", "clients", "limiter", "rewritemap", "sweep"]
    )
    for file in ("rewritemap", "sweep", "cgi-bin/check.py", "cgi-bin/guard.py", "cgi-bin/health.py"):
        assert (program / file).stat().st_mode & 0o777 == 0o755
    sources = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "limiter").rglob("*.py")}
    installed = {str(path.relative_to(program)) for path in (program / "limiter").rglob("*.*")}
    tag = machine.do(PYTHON, "-c", "import sys; print(sys.implementation.cache_tag, end='')")
    compiled = {re.sub(r"(\w+)\.py", rf"__pycache__/\1.{tag}.pyc", name) for name in sources}
    bundles = {f"limiter/__pycache__/{name}.{tag}.bundle" for name in BUNDLES}
    assert installed == sources | compiled | bundles
    parent = os.path.dirname(STORE)
    assert machine.do("stat", "-c", "%U %a", STORE, parent) == "www-data 700\nroot 755\n"


def test_changed_sources_are_compiled_anew(machine: Machine) -> None:
    """Python itself would use the old compiled files: they say that they need no check.

    Tracebacks name the place of the program, not the place where it was compiled.  The settings of the
    user survive.
    """
    source = machine.sources / "limiter/core/notation.py"
    (machine.sources / "limiter/old.py").touch()
    machine.install()
    machine.define("LIMITER_LIMIT", "2 per 3 hours")
    edited = machine.path(SETTINGS).read_text()
    with source.open("a") as text:
        text.write("\n\ndef generation():\n    return 2\n")
    (machine.sources / "limiter/old.py").unlink()
    (machine.sources / "deploy/apache/access-limiter.conf").write_text("# A new version\n")
    machine.install()
    assert machine.path(SETTINGS).read_text() == edited
    look = f"""
import sys
sys.path.insert(0, {PROGRAM!r})
import limiter
if sys.argv[1:]:
    limiter.preload("check")
from limiter.core.notation import generation
print(generation(), generation.__code__.co_filename)
"""
    for bundle in ([], ["bundle"]):
        said = machine.do(PYTHON, "-IS", "-c", look, *bundle)
        assert said == f"2 {PROGRAM}/limiter/core/notation.py\n"
    assert not machine.path(f"{PROGRAM}/limiter/old.py").exists()
    assert "Nothing changed" in machine.install()


def test_damage_is_repaired(machine: Machine) -> None:
    """One run installs again all that is not as it was installed, and leaves nothing behind.

    A compiled file may be missing, or made from other sources or by another Python.
    """
    machine.install()
    program = machine.path(PROGRAM)
    package = program / "limiter"
    (compiled,) = package.glob("core/__pycache__/notation.*.pyc")
    check, guard = (next(package.glob(f"__pycache__/{name}.*.bundle")) for name in ("check", "guard"))
    damages: dict[str, Callable[[], object]] = {
        "writable": lambda: (package / "core/notation.py").chmod(0o666),
        "foreign": lambda: machine.do("chown", "www-data", f"{PROGRAM}/cgi-bin"),
        "added": (package / "core/posix.py").touch,
        "checked": lambda: machine.do(PYTHON, "-m", "compileall", "-fq", f"{PROGRAM}/limiter"),
        "missing": compiled.unlink,
        "other sources": lambda: check.write_bytes(
            check.read_bytes().replace(check.read_bytes()[8:16], bytes(8))
        ),
        "other Python": lambda: guard.write_bytes(b"\0\0" + guard.read_bytes()[2:]),
    }
    before = _state(program)
    for name, do in damages.items():
        do()
        assert _state(program) != before, name
        assert "Nothing changed" not in machine.install(), name
        assert _state(program) == before, name
    assert "Nothing changed: all is in order." in machine.install()
    assert [path.name for path in program.parent.glob("access-limiter*")] == ["access-limiter"]


def test_map_and_guard_work_after_an_installation(machine: Machine, site: Server) -> None:
    """They need only the settings, and rules in the virtual host, which Debian's own has not.

    An update lets a running map program end.
    """
    host = machine.path(_HOST)
    machine.install()
    machine.define("LIMITER_PATHS", "^/index")
    warning = "the map guards: /etc/apache2/sites-enabled/000-default.conf, line 1"
    assert warning in machine.install()
    machine.path("/var/www/html/page").write_text("#!/bin/sh\necho\necho A page.\n")
    machine.path("/var/www/html/page").chmod(0o755)
    rules = 'RewriteEngine On\n<Location "/page">\nSetHandler limited\n</Location>\n</VirtualHost>'
    host.write_text(host.read_text().replace("</VirtualHost>", rules))
    machine.do("apache2ctl", "start")
    for path in ("/index.html", "/page"):
        assert site.ask(path).status == 401
        reply = site.ask(f"{path}?app_id={path[1:]}")
        assert (reply.status, reply.headers["RateLimit"]) == (200, '"10-per-1s";r=9;t=1')
    assert _apps(machine) == ["index.html", "page"]
    written = machine.written()
    said = machine.install()
    assert said.startswith("Nothing changed: all is in order.\n")
    assert warning not in said
    assert machine.written() == written  # not even a modification time
    with (machine.sources / "limiter/apache/rewrite_map.py").open("a") as text:
        text.write("\n\n_Door._line = lambda *_: b'401\\n'\n")
    assert _steps(machine.install())[-1] == "+ apache2ctl -k graceful"
    _wait_for(lambda reply: reply.status == 401, site, "/index.html?app_id=again")


def _start(machine: Machine, service: Path) -> subprocess.CompletedProcess[str]:
    """Run what a unit starts, as systemd would."""
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", service.read_text())
    return machine.run(*shlex.split(command))


def _run_job(machine: Machine, job: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of a cron job, as cron would."""
    (command,) = re.findall(r"(?m)^\*/15 \* \* \* \* root (.*)$", job.read_text())
    return machine.run("env", "-i", "PATH=/usr/bin:/bin", "HOME=/root", "/bin/sh", "-c", command)


def _apps(machine: Machine) -> list[str]:
    """Return the applications in the store."""
    names = os.listdir(machine.path(STORE))
    return sorted(name.partition("@")[0] for name in names if not name.startswith("."))


def test_systemd_sweeps_the_store_every_quarter_of_an_hour(machine: Machine) -> None:
    """It sweeps the store of the settings.

    The timer is enabled once: a user who disables it keeps it so.  A changed unit is replaced.
    """
    machine.path("/run/systemd/system").mkdir(parents=True)
    machine.add_command("systemctl", 'echo "$@" >>/var/asked')
    machine.install()
    asked = machine.path("/var/asked")
    enabled = "enable --now access-limiter-sweep.timer"
    assert asked.read_text().splitlines() == ["daemon-reload", "daemon-reload", enabled]
    units = machine.path("/etc/systemd/system")
    service = units / "access-limiter-sweep.service"
    assert "\nOnCalendar=*:0/15\n" in (units / "access-limiter-sweep.timer").read_text()
    assert not machine.path(JOB).exists()
    nothing = "0 of 0 directories removed, 0 leftovers of dead processes removed\n"
    assert _start(machine, service).stdout == f"{STORE}: {nothing}"
    machine.do("mkdir", "/var/store")
    machine.define("LIMITER_ROOT", f"/var/store:{STORE}")
    assert _start(machine, service).stdout == f"/var/store: {nothing}{STORE}: {nothing}"
    with machine.path(SETTINGS).open("a") as text:
        text.write("Mistake\n")
    refused = _start(machine, service)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Apache does not report it: apachectl configtest says why" in refused.stderr
    machine.path(SETTINGS).unlink()
    service.write_text("")
    asked.unlink()
    machine.install()
    assert asked.read_text() == "daemon-reload\n"
    assert service.read_text()
    assert not _steps(machine.install())


def test_cron_sweeps_the_store_where_there_is_no_systemd(machine: Machine) -> None:
    """Only errors are mailed to the administrator."""
    job = machine.path(JOB)
    assert f"+ install -m 644 {machine.sources}/deploy/apache/sweep.cron {JOB}" in _steps(
        machine.install()
    )
    assert (job.stat().st_uid, job.stat().st_mode & 0o777) == (0, 0o644)
    idle = machine.path(f"{STORE}/idle@1-per-1s")
    idle.mkdir()
    (idle / "1513123456.123456-0").touch()
    machine.do("chown", "-R", "www-data", STORE)
    swept = _run_job(machine, job)
    assert (swept.returncode, swept.stdout, swept.stderr) == (0, "", "")
    assert not idle.exists()
    machine.path(SETTINGS).unlink()
    assert "Apache does not report it" in _run_job(machine, job).stderr


def test_a_cron_job_that_the_administrator_has_changed_stays(machine: Machine) -> None:
    """It is neither replaced nor removed.  The job that was installed goes when systemd is there."""
    machine.install()
    job, systemd = machine.path(JOB), machine.path("/run/systemd/system")
    installed = job.read_text()
    changed = installed.replace("*/15", "#*/15")
    job.write_text(changed)
    machine.install()
    systemd.mkdir(parents=True)
    machine.add_command("systemctl", "")
    machine.install()
    assert job.read_text() == changed
    job.write_text(installed)
    assert _steps(machine.install())[0] == f"+ rm {JOB}"
    assert not job.exists()


def test_where_nothing_sweeps_the_installer_says_so(machine: Machine) -> None:
    advice = f"run {PROGRAM}/sweep every quarter of an hour\n"
    assert advice not in machine.install()
    machine.do("rm", "-r", "/etc/cron.d")
    assert advice in machine.install()
    assert not machine.path(JOB).exists()


def test_rocky_is_installed_too(rocky: Machine, site: Server) -> None:
    """RHEL's own ScriptAlias comes first, and its directory has no such script."""
    settings = "/etc/httpd/conf.d/access-limiter.conf"
    rocky.do("httpd", "-k", "start")
    steps = _steps(rocky.install())
    assert f"+ semanage fcontext -a -t httpd_sys_script_exec_t {PROGRAM}/cgi-bin\\(/.\\*\\)\\?" in steps
    assert f"+ semanage fcontext -a -t httpd_sys_rw_content_t {STORE}\\(/.\\*\\)\\?" in steps
    assert steps[-3:] == [f"+ restorecon -R {PROGRAM} {STORE}", "+ httpd -t", "+ httpd -k graceful"]
    assert rocky.do("stat", "-c", "%U %a", STORE) == "apache 700\n"
    _wait_for(lambda reply: reply.status == 200, site)
    written = rocky.written()
    assert rocky.install().startswith("Nothing changed: all is in order.\n")
    assert rocky.written() == written
    rocky.define("LIMITER_LIMIT", "1/hour", settings)
    rocky.do("httpd", "-k", "graceful")
    policy = '"1-per-3600s";q=1;w=3600'
    _wait_for(lambda reply: reply.headers["RateLimit-Policy"] == policy, site)
    assert site.ask(CHECK).status == 429


# What is missing or refused


def test_a_dry_run_on_rocky_needs_no_packages(rocky: Machine) -> None:
    rocky.path("/usr/sbin/httpd").unlink()
    rocky.path("/usr/sbin/semanage").unlink()
    steps = _steps(rocky.install("--dry-run"))
    assert steps[0] == "+ dnf install -y httpd python3"
    assert "+ dnf install -y policycoreutils-python-utils" in steps
    assert f"+ install -d -o apache -m 700 {STORE}" in steps
    assert not any("a2en" in step for step in steps)


def test_a_dry_run_on_debian_needs_no_packages(machine: Machine) -> None:
    machine.path("/usr/sbin/apache2ctl").unlink()
    steps = _steps(machine.install("--dry-run"))
    assert steps[1].endswith("apt-get install -qy --no-install-recommends apache2 python3")
    assert {f"+ a2enmod -q {module}" for module in _MODULES if module != "cgi"} < set(steps)
    assert "+ a2enconf -q access-limiter" in steps


def test_module_that_rocky_does_not_load_is_named(rocky: Machine) -> None:
    """Rocky has no command that enables a module."""
    configuration = rocky.path("/etc/httpd/conf/httpd.conf")
    configuration.write_text(re.sub("(?m)^.*cgi(d_module|sock).*$", "", configuration.read_text()))
    assert "does not load mod_cgid: enable it in /etc/httpd/conf.modules.d" in rocky.refuse()


OLD_PYTHON = "#!/bin/sh\n[ $1 = -V ] && echo Python 3.6.8\n"
BROKEN = "/etc/apache2/conf-enabled/broken.conf"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (PYTHON, OLD_PYTHON, f"{PYTHON} is Python 3.6.8, but 3.9 is needed"),
        ("/etc/os-release", "ID=slackware\n", "neither Debian's nor RHEL's family: 'slackware'"),
        # Otherwise it would look as if the limiter had broken it.
        (BROKEN, "Nonsense\n", "Apache's configuration has errors already"),
    ],
)
def test_a_machine_that_does_not_fit_is_refused_before_anything_is_done(
    machine: Machine, file: str, text: str, message: str
) -> None:
    path = machine.path(file)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    written = machine.written()
    assert message in machine.refuse()
    assert machine.written() == written


def test_failing_step_ends_the_installation(machine: Machine) -> None:
    """The message of the command itself comes first."""
    machine.add_command("a2enmod", "echo 'a2enmod: no space left' >&2; exit 1")
    done = machine.run(machine.sources / "deploy/apache/install")
    assert done.returncode == 1
    assert done.stderr.startswith("a2enmod: no space left\ninstall: the last command failed: ")


def test_only_root_may_install(place: Path) -> None:
    (place / "apache").mkdir()
    for file in ("machine.bash", "apache/install"):
        shutil.copy(REPOSITORY / "deploy" / file, place / file)
    done = _run(place / "apache/install", user="nobody" if os.geteuid() == 0 else None)
    assert (done.returncode, done.stdout) == (1, "")
    assert "only root can do this: run it with sudo, or with --dry-run" in done.stderr


def test_options() -> None:
    install = REPOSITORY / "deploy/apache/install"
    unknown = _run(install, "--dry-run", "--purge")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "unknown option --purge" in unknown.stderr
    helped = _run(install, "--help")
    assert (helped.returncode, helped.stderr, "[--dry-run]" in helped.stdout) == (0, "", True)


# The commands of docs/apache.md, with the real port 80

# No network is available: a package must be one that this machine has.
APT_GET = """
for word; do
    case $word in
        install | update | -*) ;;
        *) dpkg --status "$word" | grep -q '^Status: .* installed$' || exit 100 ;;
    esac
    # As the package does it.
    case $word in libapache2-mod-wsgi-py3) a2enmod -q wsgi ;; esac
done
"""

# The limit lasts long enough for all ten requests, and the store lies in the copy.
LASTING = """
echo '<Directory "/usr/lib/cgi-bin">
    SetEnv LIMITER_LIMIT 10/day
    SetEnv TMPDIR /var/tmp
</Directory>
<Location "/api">
    SetEnv LIMITER_LIMIT 10/day
</Location>' >/etc/apache2/conf-enabled/lasting.conf
"""


def commands(section: str) -> str:
    """Return the only shell block of a section."""
    text = (REPOSITORY / "docs/apache.md").read_text()
    _, _, rest = text.partition(f"\n## {section}\n")
    (block,) = re.findall(r"(?ms)^```sh\n(.*?)^```$", re.split("(?m)^##+ ", rest)[0])
    return str(block)


def expected(block: str) -> list[str]:
    """Return what the block says that its last command prints."""
    return [line[2:] for line in block.splitlines() if line.startswith("# ")]


def follow(machine: Machine, *blocks: str) -> list[str]:
    """Run the blocks one after the other, in one shell in the copy of the sources; return all output."""
    machine.add_command("sudo", 'exec "$@"')
    machine.add_command("systemctl", 'test "$*" = "enable --now httpd"')
    machine.path("/usr/bin/apt-get").unlink()
    machine.add_command("apt-get", APT_GET)
    machine.do("a2dismod", "-q", "-f", "wsgi")
    # A network of its own, where port 80 is free.
    begin = ["set -euo pipefail", "ip link set lo up", f"cd {machine.sources}", "service apache2 start"]
    return machine.do("unshare", "--net", "bash", "-c", "\n".join([*begin, *blocks])).splitlines()


def test_the_documented_installation(machine: Machine) -> None:
    said = follow(machine, commands("Installation"))
    answer = said[max(index for index, line in enumerate(said) if line.startswith("HTTP/")) :]
    assert answer[0] == "HTTP/1.1 200 OK"
    assert answer[-1] == '{"message": "OK"}'


@pytest.mark.parametrize(
    ("section", "before", "first", "package"),
    [
        ("By hand, into an existing cgi-bin", "", '{"message": "OK"} 200', "/usr/lib/cgi-bin/limiter"),
        ("mod_wsgi", "deploy/apache/install", "Hello 200", f"{PROGRAM}/limiter"),
    ],
)
def test_the_documented_commands_give_a_limit(
    machine: Machine, section: str, before: str, first: str, package: str
) -> None:
    if section == "mod_wsgi" and not Path("/usr/lib/apache2/modules/mod_wsgi.so").exists():
        pytest.skip("mod_wsgi is not installed (apt-get install libapache2-mod-wsgi-py3)")
    block = commands(section)
    said = follow(machine, LASTING, before, block)
    assert said[-2:] == expected(block) == [first, '{"message": "Too Many Requests"} 429']
    (bundle,) = machine.path(f"{package}/__pycache__").glob("check.*.bundle")
    assert bundle.stat().st_size
