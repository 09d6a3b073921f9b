"""limiter.conf in a real Apache: what check.py, the guard and the map's program get from it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from limiter.apache.guard import GUARD
from limiter.report.settings import REPORT
from limiter.request.settings import REQUEST
from tests.apache_server import LONG, Server, apache
from tests.doors.doors import clients
from tests.places import new_root

pytestmark = pytest.mark.one_python

DOORS = {"check": "/cgi-bin/check.py", "guard": "/guarded/script", "map": "/api/file.txt"}
MODULES = ("actions", "rewrite")

PRINTS_ENVIRONMENT = """\
#!/bin/sh
echo Content-Type: text/plain
echo
env
"""

# Admits everything, and records how it was started and which lines it got.
RECORDER = """\
import sys
with open("{record}", "wb", 0) as record:
    record.write(repr(sys.argv[1:]).encode() + b"\\n")
    for line in sys.stdin.buffer:
        record.write(line)
        sys.stdout.write("200\\n")
        sys.stdout.flush()
"""

# Most values have blanks and separators.
VALUES = {name: f"10 per 2 seconds; {name}, ::1" for name in {**REQUEST, **REPORT, **GUARD}}
VALUES["LIMITER_ON_ERROR"] = "admit"

QUERIES = [
    b"",
    b"a=%0a&b=%0d%00",
    b"$0${limiter:x}%{REMOTE_ADDR}%{ENV:PATH}$1%1",
    rb"\\\"'`\n|<>^[]{}",
    bytes(range(0x21, 0x7F)).replace(b"#", b""),
    bytes(range(0x80, 0x100)),
    b"?a=1?",
    b"x" * 8000,
]
HEADER = b'"a, b" ${x} %{y} | \\\t\xe4'
FORWARDED = b"%22a,%20b%22%20$%7bx%7d%20%25%7by%7d%20%7c%20%5c%09%e4"


class Recording(NamedTuple):
    """A server whose programs only report what they get, and the file to which the map's writes."""

    server: Server
    record: Path

    def variables(self, door: str) -> dict[str, str]:
        """Return the settings in the environment of check.py or the guard."""
        lines = self.server.ask(DOORS[door]).body.decode().splitlines()
        return dict(line.split("=", 1) for line in lines if line.startswith("LIMITER_"))

    def arguments(self) -> dict[str, str]:
        """Return the settings among the arguments of the map's program."""
        self.server.ask(DOORS["map"])
        arguments = ast.literal_eval(self.record.read_text("latin-1").partition("\n")[0])
        given = dict(argument.split("=", 1) for argument in arguments)
        assert given.pop("PATHS") == "^/api/"
        return given


@contextmanager
def recording(home: Path, place: Path, settings: Mapping[str, str]) -> Iterator[Recording]:
    """Run such a server with these settings."""
    for name in ("check.py", "guard.py"):
        (home / "cgi-bin" / name).write_text(PRINTS_ENVIRONMENT)
    (home / "rewritemap").write_text(RECORDER.format(record=place / "record"))
    with run(home, place, settings) as server:
        yield Recording(server, place / "record")


@contextmanager
def run(home: Path, place: Path, settings: Mapping[str, str], more: str = "") -> Iterator[Server]:
    """Run a server with three doors that admits one hit per hour, unless the settings say otherwise."""
    site = new_root(str(place))
    (site / "script").write_text(PRINTS_ENVIRONMENT)
    (site / "script").chmod(0o755)
    (site / "file.txt").touch()
    configuration = f"""
        Alias "/api" "{site}"
        Alias "/guarded" "{site}"
        <Directory "{site}">
            Require all granted
        </Directory>
        <Location "/guarded">
            SetHandler limited
        </Location>
        {more.format(site=site)}
    """
    definitions = {"LIMITER_PATHS": "^/api/", **settings}
    with apache("event", home, definitions, after=configuration, modules=MODULES) as server:
        yield server


def test_each_program_gets_every_setting_and_the_map_the_very_bytes(copy: Path, place: Path) -> None:
    """The map's program gets no setting of the guard."""
    with recording(copy, place, VALUES) as it:
        assert it.variables("check") == it.variables("guard") == VALUES
        assert it.arguments() == {name: VALUES[name] for name in {**REQUEST, **REPORT}}
        for query in QUERIES:
            request = b"GET /api/file.txt?%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            reply = it.server.send(request % query + b"X-Forwarded-For: " + HEADER + b"\r\n\r\n")
            assert reply.startswith(b"HTTP/1.1 200 "), query
        _, *lines = it.record.read_bytes().split(b"\n")
    first = b"127.0.0.1 GET /api/file.txt "
    expected = [b"%b%b %b %b" % (first, query, FORWARDED, HEADER) for query in QUERIES]
    assert lines == [first + b"  ", *expected, b""]


def test_each_program_gets_defaults_and_knows_the_header_of_the_key(copy: Path, place: Path) -> None:
    with recording(copy, place, {"LIMITER_HEADER": "X-Api-Key"}) as it:
        expected = {
            "LIMITER_ROOT": str(it.server.root),
            "LIMITER_LIMIT": "10/second",
            "LIMITER_ON_ERROR": "deny",
            "LIMITER_PROBLEM": "0",
            "LIMITER_KEY": "header:X-Api-Key",
            "LIMITER_TIMEOUT": LONG,
        }
        assert it.variables("check") == it.variables("guard") == expected
        assert it.arguments() == {**expected, "HEADER": "X-Api-Key"}
        reply = it.server.ask(f"{DOORS['map']}?a=1", headers={"X-Api-Key": "my own"})
        assert "Vary" not in reply.headers
        assert it.record.read_bytes().endswith(b"\n127.0.0.1 GET /api/file.txt a=1  my own\n")


def test_map_does_not_take_one_header_for_another(installed: Path, place: Path) -> None:
    """The map gets X-Forwarded-For unless LIMITER_HEADER names another header: then it cannot be the
    key.
    """
    with run(installed, place, {"LIMITER_KEY": "header:X-Api-Key"}) as server:
        for door in ("check", "guard"):
            assert server.ask(DOORS[door], headers={"X-Api-Key": door}).status == 200
        reply = server.ask(DOORS["map"], headers={"X-Forwarded-For": "forged", "X-Api-Key": "mine"})
        assert (reply.status, reply.body) == (500, b'{"message": "Internal Server Error"}')
        assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
        assert "forged" not in clients(str(server.root))
    assert server.log.count("Access Limiter: Define LIMITER_HEADER instead of LIMITER_KEY") == 1


def test_key_may_be_the_credentials(installed: Path, place: Path) -> None:
    """The guard sees them only where this is configured; its scripts then see them, too."""
    more = """
        Alias "/app/" "{site}/"
        <Location "/app/">
            SetHandler limited
        </Location>
        <Location "/access-limiter/guard/app/">
            CGIPassAuth On
        </Location>
    """
    settings = {"LIMITER_HEADER": "Authorization", "LIMITER_LIMIT": "1/hour"}
    with run(installed, place, settings, more) as server:
        for number, door in enumerate(("check", "map")):
            headers = {"Authorization": f"Bearer {number}"}
            replies = [server.ask(DOORS[door], headers=headers) for _ in range(2)]
            assert [reply.status for reply in replies] == [200, 429]
        headers = {"Authorization": "Bearer guard"}
        assert server.ask(DOORS["guard"], headers=headers).status == 401
        reply = server.ask("/app/script", headers=headers)
        assert reply.status == 200
        assert b"HTTP_AUTHORIZATION=Bearer guard\n" in reply.body


BOTH = {"LIMITER_HEADER": "X-Api-Key", "LIMITER_KEY": "app_id"}
PATHS = {"LIMITER_PATHS": "^/api/"}


@pytest.mark.parametrize(
    ("settings", "without", "message"),
    [
        (BOTH, "", "LIMITER_KEY or LIMITER_HEADER, not both"),
        # Otherwise Apache would send the text of the script, with 200.
        ({}, "cgid", "Access Limiter needs mod_cgid, or mod_cgi with mpm_prefork"),
        (PATHS, "rewrite", "The map needs mod_rewrite"),
        (PATHS, "headers", "The map needs mod_headers"),
        ({}, "actions", "Access Limiter needs mod_actions, or Apache would send the text"),
        ({}, "macro", "Access Limiter needs mod_macro"),
    ],
)
def test_apache_does_not_start_and_says_what_is_wrong(
    installed: Path, settings: dict[str, str], without: str, message: str
) -> None:
    with (
        pytest.raises(RuntimeError, match=message),
        apache("event", installed, settings, without=(without,), modules=MODULES),
    ):
        pass


def test_slashes_that_apache_keeps_get_around_no_limit(installed: Path, place: Path) -> None:
    any_slash = "(/|%2[Ff])+api(/|%2[Ff])"
    more = f"""
        MergeSlashes Off
        AllowEncodedSlashes NoDecode
        AliasMatch "^/v[12]{any_slash}" "{{site}}/file.txt"
    """
    spellings = ["/api/", "//api/", "%2fapi/", "/api%2F", "/%2f/api%2f/"]
    with run(installed, place, {"LIMITER_PATHS": f"^/v1{any_slash}|^/v2/api/"}, more) as server:
        fitting, simple = (
            [server.ask(f"/{version}{path}file.txt").status for path in spellings]
            for version in ("v1", "v2")
        )
    assert fitting == simple == [401] * 5
