"""What the clients in PHP, Perl and Ruby cost.  Run ``python3 -m benchmarks.clients`` in the repository.

A real Apache runs a page of each language that does nothing else: alone, with its client, behind the guard, and
behind the map.  The CPU time of a request counts all processes: Apache's, the scripts, php-fpm's.  Every
round sends requests to all doors, and the medians of the rounds count.

Then 8 clients flood one application, with the limit 10/second, by the scripts of the 2017 article and by ours:
requests a second, and how many were admitted within one second.

Takes about two minutes.  Needs root, Linux, Apache, h2load of nghttp2, php-fpm, php-cgi, Perl and Ruby.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.apache import CLIENTS, QUOTA, Door, Load, ask, flood
from benchmarks.report import Row, machine, progress, read_rounds, report
from tests.apache_server import Server, apache
from tests.clients.kit import FILES
from tests.clients.pages import PAGES, php_fpm
from tests.places import REPOSITORY, install, temporary

ROUNDS = 6
FLOOD = 960
"""Requests of a flood."""
SCRIPTS = ("php-cgi", "perl", "ruby")
STAYS = "php-fpm"
AT_MOST = {
    f"{STAYS}, its client: admitted": 200.0,
    **{f"{name}: flood": float(QUOTA) for name in (*SCRIPTS, "python")},
}
"""The claims: the most CPU time added, in microseconds; the most hits within a second."""
GOALS = {f"{STAYS}, its client: admitted": 80.0}

_CONFIGURATION = """
StartServers 2
ServerLimit 2
MaxRequestWorkers 50
MaxSpareThreads 50
DocumentRoot "{site}"
ScriptAlias "/php-cgi" "/usr/bin/php-cgi"
Action php-script "/php-cgi"
<Files "php-cgi">
    Require all granted
</Files>
AliasMatch "^/(?:second|hour|map)/([a-z-]+\\.[a-z]+)$" "{site}/$1"
AliasMatch "^/guarded/(?:second|hour)/([a-z-]+\\.[a-z]+)$" "{site}/$1"
<Directory "{site}">
    Require all granted
    Options ExecCGI
    SetHandler cgi-script
    SetEnv LIMITER_ROOT "${{LIMITER_ROOT}}"
    SetEnv LIMITER_NEWCOMERS "unlimited"
    SetEnv ARTICLE_ROOT "{article}"
    <FilesMatch "^php-cgi">
        SetHandler php-script
    </FilesMatch>
    <FilesMatch "^php-fpm">
        SetHandler "proxy:unix:{pool}/socket|fcgi://localhost/"
    </FilesMatch>
</Directory>
<Location "/guarded">
    SetHandler limited
</Location>
<LocationMatch "^/(guarded/)?hour/">
    SetEnv LIMITER_LIMIT "{quota}/hour"
</LocationMatch>
<Location "/check">
    ScriptAlias "{home}/cgi-bin/check.py"
</Location>
"""
_GUARDS = ("Limiter\\guard();", "Limiter::guard();", "Limiter.guard\n")


@dataclass(frozen=True)
class Site:
    """The same pages on two servers: mod_cgi waits for scripts, so their CPU counts; mod_cgid does not sleep."""

    mod_cgi: Server
    mod_cgid: Server
    session: int
    """That of php-fpm."""

    def ask(self, door: Door) -> Load:
        """Send a round of requests to a door."""
        return ask(door, self.mod_cgi, self.session)


def write_pages(site: Path) -> None:
    """Write the page of each language, alone (``ruby.nothing``) and with its client, and those of the article."""
    for name in (*SCRIPTS, STAYS):
        language = name.partition("-")[0]
        text = PAGES[language].replace("{client}", str(FILES[language]))
        # The guard runs PHP by the end of the name.
        end = ".php" if name == "php-cgi" else f".{language}"
        for stem, content in (("client", text), ("nothing", without_client(text))):
            page = site / f"{name}-{stem}{end}"
            page.write_text(content)
            page.chmod(0o755)
    for file in (REPOSITORY / "benchmarks/articles").iterdir():
        shutil.copy(file, site / f"{file.stem}-article{file.suffix or '.' + file.stem}")


def without_client(text: str) -> str:
    """The page that does all but ask the client."""
    for guard in _GUARDS:
        text = text.replace(guard, "")
    head, _, rest = text.partition("require '")
    return head + rest.partition("'")[2].lstrip(";\n")


def doors() -> Iterator[Door]:
    """Each page, alone and limited in each way."""
    for name in (*SCRIPTS, STAYS):
        end = name.partition("-")[0]
        runs = name != STAYS
        yield Door(f"{name}, alone", f"{name}, alone", f"/second/{name}-nothing.{end}", runs)
        ways = [("its client", "/", f"{name}-client.{end}", runs)]
        if runs:
            ways.append(("the guard", "/guarded/", f"{name}-nothing.{end}", True))
        for way, place, page, is_script in ways:
            for kind, limit in (("admitted", "second"), ("denied", "hour")):
                path = f"{place}{limit}/{page}"
                yield Door(f"{name}, {way}: {kind}", f"{name}, alone", path, is_script, kind == "denied")
        for kind in ("admitted", "denied"):
            is_script = runs and kind == "admitted"
            path = f"/map/{name}-nothing.{end}"
            yield Door(f"{name}, the map: {kind}", f"{name}, alone", path, is_script, kind == "denied")


def measure(rounds: int) -> Iterator[Row]:
    """Measure all, and compare each with the page that does nothing else."""
    with ExitStack() as stack:
        home, site, article, pool = [stack.enter_context(temporary("/tmp")) for _ in range(4)]
        install(home)
        write_pages(site)
        shutil.chown(article, "www-data")
        session = stack.enter_context(php_fpm(pool))
        settings = {
            "LIMITER_LIMIT": f"{QUOTA}/second",
            "LIMITER_PATHS": "^/map/",
            "LIMITER_NEWCOMERS": "unlimited",
        }
        after = _CONFIGURATION.format(site=site, article=article, pool=pool, home=home, quota=QUOTA)
        modules = ("rewrite", "actions", "proxy", "proxy_fcgi")

        def start(without: tuple[str, ...], *more: str) -> Server:
            return stack.enter_context(
                apache("event", home, settings, "", without, after, (*modules, *more))
            )

        it = Site(start(("cgid",), "cgi"), start(()), session)
        yield from _cpu(it, rounds)
        yield from _floods(it)


def _cpu(site: Site, rounds: int) -> Iterator[Row]:
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for door in doors():
            progress(f"round {number} of {rounds}: {door.name}")
            times.setdefault(door.name, []).append(site.ask(door).cpu)
    progress("")
    for door in doors():
        # The first round furnishes.
        both = list(zip(times[door.name], times[door.bare]))[1:]
        added = median([time - bare for time, bare in both])
        yield Row(door.name, added, "us more", median([time for time, _ in both]))


def _floods(site: Site) -> Iterator[Row]:
    for name in (*SCRIPTS, "python"):
        end = name.partition("-")[0]
        ours = "/check" if name == "python" else f"/second/{name}-client.{end}"
        for whose, path in (("", ours), (" of 2017", f"/second/{name}-article.{end}")):
            progress(f"flood: {name}{whose}")
            seen = flood(path, f"flood-{end}", site.mod_cgid, FLOOD)
            progress("")
            of = f"in 1 s; {seen.errors} errors"
            yield Row(f"{name}{whose}: flood", seen.most_in_a_second, of, rate=seen.rate)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print.  Return 0 if the claims hold, else 1."""
    rounds = read_rounds("benchmarks.clients", __doc__, ROUNDS, arguments)
    print(f"{machine()}; {CLIENTS} clients\n")
    return report(measure(rounds), AT_MOST, GOALS)


if __name__ == "__main__":
    sys.exit(main())
