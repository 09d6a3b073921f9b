"""What the limiter costs a real Apache: run ``python3 -m tests.benchmark_apache`` in the repository.

Each door of the server is measured bare, with the limiter before it, and while the limiter denies:

    name                 CPU a request, of all processes of the server, the map program, the daemons of
                         mod_wsgi and the CGI scripts included; requests a second, 4 clients at once; how
                         many microseconds of CPU more, and how many times as much, as the bare door takes

The claims are about the CPU added.  Every round measures all doors, one after the other, and the medians of the
rounds count, so that a noisy moment hurts all alike.

The limit is 10/second, as it comes.  The admitted requests are those of many applications, none of which uses
up its limit; the denied ones are a flood from a single one.  A script's denied requests are against 10/hour
instead, since a flood of those would be too slow for 10/second to deny all of it.  Every status is checked.

Scripts are run by mod_cgi, in a prefork Apache of their own: mod_cgid does not wait for the scripts that it
starts, so that nobody can tell what these have used.  The proxied back end is that Apache, too; what it does for
a proxied request is not counted.

The table goes to standard output, progress to a terminal on standard error.  Ends with 1, and says which, if
a claim does not hold here.  Takes about a minute; needs Linux, Apache, and h2load of nghttp2-client, which
takes a list of URLs and tells every status.  What needs gcc or mod_wsgi is left out without these.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.apache import Server, apache
from tests.places import REPOSITORY, install, new_root
from tests.report import Row, file_system, machine, read_rounds, report

ROUNDS = 12
CLIENTS = 4
FAST = 2000
"""Requests a round to a door that starts no process."""
SLOW = 120

AT_MOST = {
    "file, map: admitted": 150,
    "file, map: denied": 100,
    "WSGI, RateLimit: admitted": 30,
    "WSGI, RateLimit: denied": 30,
}
"""The claims: no more microseconds of CPU are added."""

QUOTA = 10
SETTINGS = {"LIMITER_LIMIT": f"{QUOTA}/second", "LIMITER_PATHS": "^/map/"}
MODULES = ("rewrite", "actions", "dir", "mime", "proxy", "proxy_http", "wsgi")

_FILES = """
DocumentRoot "{site}"
TypesConfig "/dev/null"
<Directory "{site}">
    Require all granted
</Directory>
Alias "/map/page" "{site}/page"
"""

_FRONT = """
ProxyPass "/proxy/" "http://127.0.0.1:{port}/"
ProxyPass "/map/proxy/" "http://127.0.0.1:{port}/"
<IfModule wsgi_module>
    WSGIDaemonProcess site processes=2 threads=15 python-path="{home}"
    WSGIScriptAlias "/wsgi/bare" "{site}/bare.wsgi" process-group=site application-group=%{{GLOBAL}}
    WSGIScriptAlias "/wsgi/limited" "{site}/limited.wsgi" process-group=site application-group=%{{GLOBAL}}
    <Location "/wsgi/limited">
        SetEnv LIMITER_ROOT "${{LIMITER_ROOT}}"
    </Location>
</IfModule>
"""

# Always the same processes: the times of those that they have waited for come in hundredths of a second.
_BACK = f"""
StartServers {CLIENTS}
MinSpareServers 1
MaxSpareServers {CLIENTS}
ServerLimit {CLIENTS}
MaxRequestWorkers {CLIENTS}
Include "{{home}}/guard.conf"
ScriptAlias "/script/" "{{site}}/scripts/"
ScriptAlias "/map/script/" "{{site}}/scripts/"
AliasMatch "^/guarded/[a-z]+/" "{{site}}/scripts/page"
<Location "/guarded">
    SetHandler limited
</Location>
<Location "/check">
    ScriptAlias "{{home}}/cgi-bin/check.py"
</Location>
<LocationMatch "^/[a-z]+/hour/">
    SetEnv LIMITER_LIMIT "{QUOTA}/hour"
</LocationMatch>
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


@dataclass(frozen=True)
class Door:
    """A URL of a server, how often a round asks for it, and what it answers: 200, or 429."""

    name: str
    bare: str
    """The name of the door that it is compared with."""
    server: Server
    path: str
    requests: int
    denies: bool = False

    def urls(self) -> list[str]:
        """What each client asks for in turn: the same application over and over, or each just once."""
        app = "".join(filter(str.isalnum, self.name))
        apps = 1 if self.denies else self.requests // CLIENTS
        return [
            f"http://127.0.0.1:{self.server.port}{self.path}?app_id={app}-{nth}" for nth in range(apps)
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


# What is measured with.


def load(door: Door) -> Load:
    """Send a round of requests, and check the answers."""
    tool = ["h2load", "--h1", f"--clients={CLIENTS}", f"--requests={door.requests}"]
    with tempfile.NamedTemporaryFile("w") as urls, tempfile.NamedTemporaryFile("r") as log:
        urls.write("\n".join(door.urls()))
        urls.flush()
        files = [f"--input-file={urls.name}", f"--log-file={log.name}"]
        before = cpu_of_session(door.server.pid)
        result = subprocess.run([*tool, *files], capture_output=True, text=True, check=True)
        cpu = cpu_of_session(door.server.pid) - before
        statuses = [line.split("\t")[1] for line in log]
    found = re.search(r"finished in ([0-9.]+)(m?s), ([0-9.]+) req/s", result.stdout)
    if found is None:
        raise RuntimeError(f"h2load said: {result.stdout}{result.stderr}")
    door.check(statuses, float(found[1]) * (0.001 if found[2] == "ms" else 1))
    return Load(cpu / door.requests * 1e6, float(found[3]))


def cpu_of_session(leader: int) -> float:
    """The CPU time, in seconds, of all processes of a session, and of those that they have waited for."""
    total = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            if int(stat[3]) == leader:
                # The process's own clock, as clock_getcpuclockid(3) names it: stat tells hundredths only.
                total += time.clock_gettime(~int(process.name) << 3 | 2)
                total += (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass  # it has ended
    return total


def measure(doors: list[Door], rounds: int) -> Iterator[Row]:
    """All doors, each compared with its bare one."""
    loads: list[dict[str, Load]] = []
    for number in range(rounds + 1):
        if sys.stderr.isatty():
            print(f"\rround {number} of {rounds}", end="", file=sys.stderr, flush=True)
        loads.append({door.name: load(door) for door in doors})
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


@contextmanager
def all_doors() -> Iterator[list[Door]]:
    """The doors of two servers that run meanwhile."""
    with ExitStack() as stack:
        home, site = new_root("/tmp"), new_root("/tmp")
        stack.callback(shutil.rmtree, home)
        stack.callback(shutil.rmtree, site)
        install(home)
        for name in ("map.conf", "guard.conf", "500.json"):
            shutil.copy(REPOSITORY / "deploy/apache" / name, home)
        (site / "page").write_text("A page.\n")
        (site / "bare.wsgi").write_text(_WSGI)
        (site / "limited.wsgi").write_text(_WSGI + _LIMITED)
        has_script = compile_script(site / "scripts")

        def start(mpm: str, text: str, port: int = 0) -> Server:
            text = text.format(home=home, site=site, port=port)
            before = _FILES.format(site=site)
            return stack.enter_context(apache(mpm, home, SETTINGS, before, (), text, MODULES))

        back = start("prefork", _BACK)
        front = start("event", _FRONT, back.port)
        has_wsgi = "mod_wsgi" in front.ask("/page").headers["Server"]
        for is_there, what in ((has_wsgi, "mod_wsgi"), (has_script, "gcc")):
            if not is_there:
                print(f"Left out: what needs {what}, which is not installed", file=sys.stderr)
        yield [
            *in_front(front, "file", "/page", FAST),
            *in_front(front, "proxied", "/proxy/page", FAST),
            *(wsgi(front) if has_wsgi else ()),
            *(scripts(back) if has_script else ()),
        ]


def in_front(server: Server, name: str, path: str, requests: int) -> Iterator[Door]:
    """A door, bare and behind the map."""
    yield Door(name, name, server, path, requests)
    yield Door(f"{name}, map: admitted", name, server, f"/map{path}", requests)
    yield Door(f"{name}, map: denied", name, server, f"/map{path}", requests, denies=True)


def wsgi(server: Server) -> Iterator[Door]:
    """An application, bare and with the middleware."""
    yield Door("WSGI", "WSGI", server, "/wsgi/bare", FAST)
    yield Door("WSGI, RateLimit: admitted", "WSGI", server, "/wsgi/limited", FAST)
    yield Door("WSGI, RateLimit: denied", "WSGI", server, "/wsgi/limited", FAST, denies=True)


def scripts(server: Server) -> Iterator[Door]:
    """A script in C, bare and guarded, and check.py beside it."""
    yield from in_front(server, "C script", "/script/page", SLOW)
    for name, path in (("C script, guard.py", "/guarded"), ("check.py", "/check")):
        yield Door(f"{name}: admitted", "C script", server, f"{path}/second/page", SLOW)
        yield Door(f"{name}: denied", "C script", server, f"{path}/hour/page", SLOW, denies=True)


def compile_script(directory: Path) -> bool:
    """Make the script ``page`` there; whether that can be done here."""
    directory.mkdir()
    if shutil.which("gcc") is None:
        return False
    command = ["gcc", "-O2", "-x", "c", "-", "-o", directory / "page"]
    subprocess.run(command, input=_C, text=True, check=True)
    return True


# The report.


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 0 if all claims hold, else 1."""
    rounds = read_rounds("tests.benchmark_apache", __doc__, ROUNDS, arguments)
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed (Debian, Ubuntu: nghttp2-client)")
    with all_doors() as doors:
        server = doors[0].server
        print(machine())
        print(server.ask("/page").headers["Server"])
        print(f"Store: {server.root} ({file_system(str(server.root))})\n")
        return report(measure(doors, rounds), AT_MOST)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except pytest.skip.Exception as reason:
        sys.exit(str(reason))
