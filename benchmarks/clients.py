"""What the clients in PHP, Perl and Ruby cost.  Run ``python3 -m benchmarks.clients`` in the repository.

A CGI script of each language that does nothing is measured alone, with its client, and behind the guard: the
CPU time of its process.  A page of PHP is measured under php-fpm, behind Apache: the CPU time of all processes of
php-fpm, per request.  The rounds interleave all, and the medians of the differences count.

Takes about a minute.  Needs Linux, and the interpreters; what is missing is left out.
"""

from __future__ import annotations

import http.client
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.apache import cpu_of_session
from benchmarks.in_process import process
from benchmarks.report import Row, machine, progress, read_rounds, report
from tests.apache_server import apache
from tests.clients.kit import FILES
from tests.clients.pages import FPM, PAGES, SITE, php_fpm
from tests.places import install, temporary

ROUNDS = 30
REQUESTS = 300
AT_MOST = {"php-fpm, its client: admitted": 200}
"""The claim: the most CPU time added, in microseconds."""
GOALS = {"php-fpm, its client: admitted": 80}

LANGUAGES = {"php": "/usr/bin/php-cgi", "perl": "/usr/bin/perl", "ruby": "/usr/bin/ruby"}
LIMITS = {"admitted": "10000/hour fixed", "denied": "0/hour"}
_GUARD = "Limiter\\guard();", "Limiter::guard();", "Limiter.guard\n"


def scripts(place: Path, language: str) -> dict[str, Path]:
    """Write the script of a language, alone and with its client."""
    text = PAGES[language].replace("{client}", str(FILES[language]))
    end = ".php" if language == "php" else ""
    found = {}
    for name, content in (("nothing", _without_client(text)), ("client", text)):
        found[name] = place / f"{language}-{name}{end}"
        found[name].write_text(content)
        found[name].chmod(0o755)
    return found


def _without_client(text: str) -> str:
    lines = [line for line in text.splitlines() if "require" not in line or "<?php" in line]
    text = "\n".join(lines) + "\n"
    for guard in _GUARD:
        text = text.replace(guard, "")
    return "<?php" + text.partition(";")[2] if text.startswith("<?php") else text


def ways(place: Path, home: Path, language: str) -> Iterator[tuple[str, Callable[[], float]]]:
    """Each way to run the script: its name, and what runs it once and returns its CPU time in us."""
    made = scripts(place, language)
    base = {"REQUEST_METHOD": "GET", "GATEWAY_INTERFACE": "CGI/1.1", "PATH": "/usr/bin:/bin"}

    def run(script: Path, limit: str, is_limited: bool, *guard: str) -> float:
        environ = {
            **base,
            "LIMITER_ROOT": str(place / "store"),
            "LIMITER_LIMIT": LIMITS[limit],
            "QUERY_STRING": "app_id=acme",
        }
        if guard:
            command = [*guard]
            own = {"REDIRECT_HANDLER": "limited", "REDIRECT_URL": "/page", "PATH_INFO": "/page"}
            environ.update(own, PATH_TRANSLATED=str(script))
        elif language == "php":
            command = [LANGUAGES["php"]]
            environ.update(REDIRECT_STATUS="200", SCRIPT_FILENAME=str(script))
        else:
            command = [str(script)]
        return process(command, environ, b"429" if limit == "denied" and is_limited else b"page")

    yield f"{language}, nothing", partial(run, made["nothing"], "admitted", False)
    guard = str(home / "cgi-bin/guard.py")
    for limit in LIMITS:
        yield f"{language}, its client: {limit}", partial(run, made["client"], limit, True)
        yield f"{language}, the guard: {limit}", partial(run, made["nothing"], limit, True, guard)


@contextmanager
def fpm_pages(place: Path, home: Path) -> Iterator[dict[str, Callable[[], float]]]:
    """Run php-fpm behind Apache.  Each function sends requests, and returns the CPU time of one in us."""
    made = scripts(place, "php")
    shutil.copy(made["nothing"], place / "nothing")
    shutil.copy(made["client"], place / "client")
    shutil.copy(made["client"], place / "full")
    handler = f'SetHandler "proxy:unix:{place}/socket|fcgi://localhost/"'
    more = '<Location "/full">\nSetEnv LIMITER_LIMIT "0/hour"\n</Location>'
    site = SITE.format(site=place, handler=handler, more=more)
    site = site.replace("20/hour;login=25/day fixed", LIMITS["admitted"])
    modules = ("actions", "proxy", "proxy_fcgi")
    with php_fpm(place) as session, apache("event", home, after=site, modules=modules) as server:

        def ask(page: str, status: int) -> float:
            client = http.client.HTTPConnection("127.0.0.1", server.port)
            before = cpu_of_session(session)
            for _ in range(REQUESTS):
                client.request("GET", f"/{page}?app_id=acme")
                with client.getresponse() as response:
                    response.read()
                    if response.status != status:
                        raise RuntimeError(f"/{page}: answered {response.status}")
            client.close()
            return (cpu_of_session(session) - before) / REQUESTS * 1e6

        yield {
            "php-fpm, nothing": lambda: ask("nothing", 200),
            "php-fpm, its client: admitted": lambda: ask("client", 200),
            "php-fpm, its client: denied": lambda: ask("full", 429),
        }


def measure(rounds: int) -> Iterator[Row]:
    """Measure all, and compare each with the script that does nothing."""
    with ExitStack() as stack:
        place, home = [stack.enter_context(temporary("/tmp")) for _ in range(2)]
        install(home)
        (place / "store").mkdir()
        runs: dict[str, Callable[[], float]] = {}
        for language, program in LANGUAGES.items():
            if Path(program).exists():
                runs.update(ways(place, home, language))
            else:
                print(f"Left out: {language}: {program} is not installed", file=sys.stderr)
        if FPM and os.geteuid() == 0:
            runs.update(stack.enter_context(fpm_pages(stack.enter_context(temporary("/tmp")), home)))
        else:
            print("Left out: php-fpm: it is not installed, or this is not root", file=sys.stderr)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            progress(f"round {number} of {rounds}")
            for name, run in runs.items():
                times[name].append(run())
        progress("")
    for name, values in times.items():
        bare = times[f"{name.partition(',')[0]}, nothing"]
        added = median([time - least for time, least in zip(values[1:], bare[1:])])
        yield Row(name, added, "us more", median(values[1:]))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print.  Return 0 if the claim holds, else 1."""
    rounds = read_rounds("benchmarks.clients", __doc__, ROUNDS, arguments)
    print(f"{machine()}\n")
    return report(measure(rounds), AT_MOST, GOALS)


if __name__ == "__main__":
    sys.exit(main())
