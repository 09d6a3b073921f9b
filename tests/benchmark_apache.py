"""What the limiter costs a real Apache: run ``python3 -m tests.benchmark_apache`` in the repository.

Each door of the server is measured bare, guarded, and while the guard denies.  A line of the table has

- the CPU time of a request, in all processes of the server: the map program, mod_wsgi's and the scripts too,
- requests a second, from several clients that each send the next one when they have got an answer,
- how much more CPU time that is than at the bare door, and how many times as much.

The claims are about the CPU time added.  Every round asks at all doors, one after the other, and the medians
of the rounds count, so that a noisy moment hurts all alike.

The limit is 10/second.  Admitted requests are those of many applications, none of which uses up its limit;
denied ones are a flood from one alone.  Scripts deny by 10/hour instead, for they are too slow for a flood.  All
answers are checked.

The CPU time of scripts is that under mod_cgi, for mod_cgid does not wait for them, and so nobody is told what
they have used; their requests a second are those under mod_cgid, for mod_cgi naps when a script has ended.
The proxied back end is another Apache, whose CPU time does not count.

The table goes to standard output, progress to a terminal on standard error.  Ends with 1, and says which, if
a claim does not hold here.  Takes about a minute; needs Linux, Apache, and nghttp2's h2load, which takes a
list of URLs and tells every status.  What needs gcc or mod_wsgi is left out where these are missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.apache import Server, apache
from tests.places import install, new_root
from tests.report import Row, file_system, machine, read_rounds, report

ROUNDS = 6
FAST = 2000
SLOW = 96
"""Requests a round to a door that runs no script, and to one that does."""
CLIENTS = 8
AT_MOST = {
    "file, map: admitted": 150,
    "file, map: denied": 100,
    "WSGI, RateLimit: denied": 30,
}
"""The claims: no more microseconds of CPU are added."""
GOALS = {"WSGI, RateLimit: admitted": 30}
"""What is not reached: the middleware asks the store in another thread, which it can give up."""

QUOTA = 10
SETTINGS = {"LIMITER_LIMIT": f"{QUOTA}/second", "LIMITER_PATHS": "^/map/"}
MODULES = ("rewrite", "actions", "dir", "mime", "proxy", "proxy_http", "wsgi")

# As many processes at the end as at the start.
_CONFIGURATION = f"""
StartServers 2
ServerLimit 2
MaxRequestWorkers 50
MaxSpareThreads 50
DocumentRoot "{{site}}"
TypesConfig "/dev/null"
<Directory "{{site}}">
    Require all granted
</Directory>
Alias "/map/page" "{{site}}/page"
<LocationMatch "^/[a-z]+/hour/">
    SetEnv LIMITER_LIMIT "{QUOTA}/hour"
</LocationMatch>

ScriptAlias "/script/" "{{site}}/scripts/"
ScriptAlias "/map/script/" "{{site}}/scripts/"
AliasMatch "^/guarded/[a-z]+/" "{{site}}/scripts/page"
<Location "/guarded">
    SetHandler limited
</Location>
<Location "/check">
    ScriptAlias "{{home}}/cgi-bin/check.py"
</Location>

<IfModule wsgi_module>
    WSGIDaemonProcess site processes=2 threads=15 python-path="{{home}}"
    WSGIScriptAlias "/wsgi/bare" "{{site}}/bare.wsgi" process-group=site application-group=%{{{{GLOBAL}}}}
    WSGIScriptAlias "/wsgi/limited" "{{site}}/limited.wsgi" process-group=site application-group=%{{{{GLOBAL}}}}
    <Location "/wsgi/limited">
        SetEnv LIMITER_ROOT "${{{{LIMITER_ROOT}}}}"
    </Location>
</IfModule>
"""

_PROXY = """
ProxyPass "/proxy/" "http://127.0.0.1:{port}/"
ProxyPass "/map/proxy/" "http://127.0.0.1:{port}/"
"""

_WSGI = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "8")])
    return [b"A page.\\n"]
"""

_LIMITED = """
from limiter.wsgi import RateLimit

application = RateLimit(application)
"""

_C = r"""
#include <stdio.h>

int main(void) {
    fputs("Content-Type: text/plain\nContent-Length: 8\n\nA page.\n", stdout);
    return 0;
}
"""


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Door:
    """A URL, whether it is that of a script, and whether it answers 200 or 429."""

    name: str
    bare: str
    """The name of the door that it is compared with."""
    path: str
    runs_script: bool = False
    denies: bool = False

    @property
    def requests(self) -> int:
        """How many of a round are for this door."""
        return SLOW if self.runs_script else FAST

    def urls(self, port: int, client: int) -> list[str]:
        """What one of the clients asks for, with applications of its own unless there is but one for all."""
        app = "".join(filter(str.isalnum, self.name))
        each = self.requests // CLIENTS
        apps = [app] if self.denies else [f"{app}-{client}-{nth}" for nth in range(each // (QUOTA // 2))]
        return [
            f"http://127.0.0.1:{port}{self.path}?app_id={apps[nth % len(apps)]}" for nth in range(each)
        ]

    def check(self, statuses: list[str], seconds: float) -> None:
        """Raise RuntimeError unless these are the right answers to a round that took so long."""
        count = Counter(statuses)
        # A flood is admitted as often as the limit says.
        most = QUOTA * (seconds + 1) if self.denies else self.requests
        expected = count["200"] + count["429"] * self.denies
        if count["200"] > most or expected != self.requests or len(statuses) != self.requests:
            raise RuntimeError(f"{self.name}: answered {dict(count)} in {seconds:.1f} s")


@dataclass(frozen=True)
class Load:
    """What one round took of a server: microseconds of CPU a request, and requests a second."""

    cpu: float
    rate: float


def ask(door: Door, server: Server) -> Load:
    """Send a round of requests, and check the answers."""
    before = cpu_of_session(server.pid)
    with ExitStack() as stack:
        clients = [stack.enter_context(client(door.urls(server.port, nth))) for nth in range(CLIENTS)]
        ends = [finish() for finish in clients]
    while scripts_run(server.pid):
        time.sleep(0.005)
    cpu = cpu_of_session(server.pid) - before
    seconds = max(seconds for seconds, _ in ends)
    door.check([status for _, statuses in ends for status in statuses], seconds)
    return Load(cpu / door.requests * 1e6, door.requests / seconds)


@contextmanager
def client(urls: list[str]) -> Iterator[Callable[[], tuple[float, list[str]]]]:
    """A client that has begun with these requests; what waits for its end returns the seconds and the statuses."""
    with tempfile.NamedTemporaryFile("w") as file, tempfile.NamedTemporaryFile("r") as log:
        file.write("\n".join(urls))
        file.flush()
        tool = ["h2load", "--h1", "--clients=1", f"--requests={len(urls)}"]
        tool += [f"--input-file={file.name}", f"--log-file={log.name}"]

        def finish() -> tuple[float, list[str]]:
            said, _ = process.communicate()
            found = re.search(r"finished in ([0-9.]+)(us|ms|s)\b", said)
            if found is None:
                raise RuntimeError(f"h2load said: {said}")
            seconds = float(found[1]) * _UNITS[found[2]]
            return seconds, [line.split("\t")[1] for line in log]

        with subprocess.Popen(
            tool, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield finish
            finally:
                process.kill()


def cpu_of_session(leader: int) -> float:
    """The CPU time, in seconds, of all processes of a session, and of those that they have waited for."""
    total = 0.0
    for pid, stat in session(leader):
        # The process's own clock, as clock_getcpuclockid(3) names it: stat tells hundredths only.
        with suppress(OSError):
            total += time.clock_gettime(~pid << 3 | 2)
        total += (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")
    return total


def scripts_run(leader: int) -> bool:
    """Whether a child of that Apache has any children itself, if only ended ones."""
    return any(int(stat[1]) != leader for pid, stat in session(leader) if pid != leader)


def session(leader: int) -> Iterator[tuple[int, list[str]]]:
    """The processes of a session, each with the fields of its stat behind its name, proc_pid_stat(5)."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            if int(stat[3]) == leader:
                yield int(process.name), stat


def measure(site: Site, rounds: int) -> Iterator[Row]:
    """All doors, each compared with its bare one."""
    doors = site.doors
    loads: list[dict[str, Load]] = []
    for number in range(rounds + 1):
        if sys.stderr.isatty():
            print(f"\rround {number} of {rounds}", end="", file=sys.stderr, flush=True)
        loads.append({door.name: site.ask(door) for door in doors})
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    del loads[0]  # furnishes, and whatever else is slow the first time only
    for door in doors:
        pairs = [(each[door.name].cpu, each[door.bare].cpu) for each in loads]
        ratio = median(cpu / bare for cpu, bare in pairs)
        yield Row(
            door.name,
            median(cpu - bare for cpu, bare in pairs),
            f"us more, {ratio:,.2f} x",
            median(cpu for cpu, _ in pairs),
            median(each[door.name].rate for each in loads),
        )


# What is measured.


@dataclass(frozen=True)
class Site:
    """The same site on two servers: ``mod_cgi`` waits for the scripts that it starts, ``mod_cgid`` does not."""

    mod_cgi: Server
    mod_cgid: Server
    doors: list[Door]

    def ask(self, door: Door) -> Load:
        """Ask a round of requests at a door, of both servers if it is one of scripts."""
        load = ask(door, self.mod_cgi)
        return Load(load.cpu, ask(door, self.mod_cgid).rate) if door.runs_script else load


@contextmanager
def site() -> Iterator[Site]:
    """The servers run meanwhile."""
    with ExitStack() as stack:
        home, pages = new_root("/tmp"), new_root("/tmp")
        stack.callback(shutil.rmtree, home)
        stack.callback(shutil.rmtree, pages)
        install(home)
        (pages / "page").write_text("A page.\n")
        (pages / "bare.wsgi").write_text(_WSGI)
        (pages / "limited.wsgi").write_text(_WSGI + _LIMITED)
        configuration = _CONFIGURATION.format(home=home, site=pages)
        compiled = compile_script(pages / "scripts")

        def start(without: tuple[str, ...], more: str) -> Server:
            modules = (*MODULES, "cgi") if without else MODULES
            return stack.enter_context(
                apache("event", home, SETTINGS, "", without, configuration + more, modules)
            )

        mod_cgid = start((), "")
        mod_cgi = start(("cgid",), _PROXY.format(port=mod_cgid.port))
        has_wsgi = "mod_wsgi" in mod_cgi.ask("/page").headers["Server"]
        for is_there, what in ((has_wsgi, "mod_wsgi"), (compiled, "gcc")):
            if not is_there:
                print(f"Left out: what needs {what}, which is not installed", file=sys.stderr)
        doors = [
            *in_front("file", "/page"),
            *in_front("proxied", "/proxy/page"),
            *(wsgi() if has_wsgi else ()),
            *(scripts() if compiled else ()),
        ]
        yield Site(mod_cgi, mod_cgid, doors)


def in_front(name: str, path: str, runs_script: bool = False) -> Iterator[Door]:
    """A door, bare and behind the map."""
    yield Door(name, name, path, runs_script)
    yield Door(f"{name}, map: admitted", name, f"/map{path}", runs_script)
    yield Door(f"{name}, map: denied", name, f"/map{path}", denies=True)


def wsgi() -> Iterator[Door]:
    """An application, bare and with the middleware."""
    yield Door("WSGI", "WSGI", "/wsgi/bare")
    yield Door("WSGI, RateLimit: admitted", "WSGI", "/wsgi/limited")
    yield Door("WSGI, RateLimit: denied", "WSGI", "/wsgi/limited", denies=True)


def scripts() -> Iterator[Door]:
    """A script in C, bare and guarded, and check.py beside it."""
    yield from in_front("C script", "/script/page", runs_script=True)
    for name, path in (("C script, guard.py", "/guarded"), ("check.py", "/check")):
        yield Door(f"{name}: admitted", "C script", f"{path}/second/page", runs_script=True)
        yield Door(f"{name}: denied", "C script", f"{path}/hour/page", runs_script=True, denies=True)


def compile_script(directory: Path) -> bool:
    """Make the script ``page`` there; whether that can be done here."""
    directory.mkdir()
    if shutil.which("gcc") is None:
        return False
    command = ["gcc", "-O2", "-x", "c", "-", "-o", f"{directory}/page"]
    subprocess.run(command, input=_C, text=True, check=True)
    return True


# The report.


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 0 if all claims hold, else 1."""
    rounds = read_rounds("tests.benchmark_apache", __doc__, ROUNDS, arguments)
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed (Debian, Ubuntu: nghttp2-client)")
    with site() as both:
        server = both.mod_cgi
        print(machine())
        print(server.ask("/page").headers["Server"])
        print(f"Store: {server.root} ({file_system(str(server.root))})\n")
        return report(measure(both, rounds), AT_MOST, GOALS)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except pytest.skip.Exception as reason:
        sys.exit(str(reason))
