"""The limiter finds the same app_id as the applications behind it: real parsers check this."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from limiter.request.key import Key

pytestmark = pytest.mark.one_python

# Each script reads the file "queries", with one query string in hexadecimal digits per line.  For
# each reading of app_id it prints the application, the number of the line, and the value, or "!" if
# the value is a structure.  A parser that returns several values of one name has several readings.
PHP = r"""<?php
foreach (file(__DIR__ . '/queries', FILE_IGNORE_NEW_LINES) as $number => $line) {
    parse_str(hex2bin($line), $found);
    if (isset($found['app_id'])) {
        echo "parse_str $number ", is_string($found['app_id']) ? bin2hex($found['app_id']) : '!', "\n";
    }
}
"""

PYTHON = r"""
import sys
from urllib.parse import parse_qs
from django.conf import settings
from django.http import QueryDict
from starlette.datastructures import QueryParams
from werkzeug.wrappers import Request
settings.configure()
applications = {
    "parse_qs": lambda query: parse_qs(query, keep_blank_values=True).get("app_id", []),
    "flask": lambda query: Request({"QUERY_STRING": query}).args.getlist("app_id"),
    "django": lambda query: QueryDict(query.encode("latin-1")).getlist("app_id"),
    "starlette": lambda query: QueryParams(query.encode("latin-1")).getlist("app_id"),
}
for number, line in enumerate(open("queries")):
    query = bytes.fromhex(line).decode("latin-1")
    for name, read in applications.items():
        try:
            values = read(query)
        except ValueError:
            values = []
        for value in values:
            print(name, number, value.encode("utf-8", "surrogateescape").hex())
"""

RUBY = r"""
require 'cgi'
require 'uri'
applications = {
  'CGI' => ->(query) { CGI.parse(query)['app_id'] },
  'URI' => ->(query) { URI.decode_www_form(query).select { |name, _| name == 'app_id' }.map(&:last) }
}
begin
  require 'rack'
  one = ->(found) { found.key?('app_id') ? [found['app_id']].flatten(1) : [] }
  applications['rack'] = ->(query) { one.(Rack::Utils.parse_query(query)) }
  applications['rack-nested'] = lambda do |query|
    found = Rack::Utils.parse_nested_query(query)
    found.key?('app_id') ? [found['app_id']] : []
  end
rescue LoadError
end
File.foreach('queries').with_index do |line, number|
  query = [line.chomp].pack('H*').force_encoding('UTF-8')
  applications.each do |name, read|
    values = begin
      read.(query)
    rescue ArgumentError, TypeError, RangeError
      []
    end
    values.each { |value| puts "#{name} #{number} #{value.is_a?(String) ? value.unpack1('H*') : '!'}" }
  end
end
"""

PERL = r"""
use CGI;
$CGI::LIST_CONTEXT_WARN = 0;
open(my $queries, '<', 'queries') or die;
my $number = 0;
while (my $line = <$queries>) {
    chomp $line;
    for my $value (CGI->new(pack('H*', $line))->multi_param('app_id')) {
        print "CGI.pm $number ", unpack('H*', $value), "\n";
    }
    $number++;
}
"""

NODE = r"""
const read = (found) => found === undefined ? [] : Array.isArray(found) ? found : [found];
const querystring = require('node:querystring');
const applications = {
  querystring: (query) => read(querystring.parse(query).app_id),
  URLSearchParams: (query) => new URLSearchParams(query).getAll('app_id'),
};
try {
  const qs = require('qs');
  const one = (found) => found.app_id === undefined ? [] : [found.app_id];
  applications['qs'] = (query) => one(qs.parse(query));
  applications['qs-dots'] = (query) => one(qs.parse(query, {allowDots: true, ignoreQueryPrefix: true}));
} catch {}
require('fs').readFileSync('queries', 'latin1').split('\n').slice(0, -1).forEach((line, number) => {
  const query = Buffer.from(line, 'hex').toString('latin1');
  for (const [name, read] of Object.entries(applications))
    for (const value of read(query))
      console.log(name, number, typeof value === 'string' ? Buffer.from(value).toString('hex') : '!');
});
"""

LANGUAGES = {
    "php": (["php-cgi", "-n", "-q"], PHP),
    "python": ([sys.executable], PYTHON),
    "ruby": (["ruby"], RUBY),
    "perl": (["perl"], PERL),
    "node": (["node"], NODE),
}
"""The command that runs a script in each language, and the script."""


def _is_there(language: str) -> bool:
    """Whether to run it.  Node, and CGI.pm, which Perl no longer includes, are optional."""
    if language == "perl" and shutil.which("perl"):
        return subprocess.run(["perl", "-MCGI", "-e1"], check=False, capture_output=True).returncode == 0
    return language not in ("perl", "node") or shutil.which(language) is not None


NAMES = b"""
    app_id %61pp_id app%5Fid %61%70%70%5f%69%64 %u0061pp_id app%u005fid
    APP_ID App_Id app-id appid app__id xapp_id app_idx _app_id
""".split()
BRACKETS = b"[] [0] [x] [x][y] [ ] [[ ]] []] [x .x [a.b [[]".split()
JOINTS = [b"&", b";", b"&%20", b"& ", b"&&", b"&x=1;", b";&"]
PIECES = b"""
    app_id acme evil = & ; % %61 pp_id %5f %5 %00 _ app id . [ ] %5B %5d + %20 %26 %3D %3b
    app_id= app_id=acme &app_id=evil ? # %0a x A %u0061
""".split()
PIECES += [b" ", b"\t", b"\n", b"\xff"]


def _spellings() -> list[bytes]:
    """Return names that some application may take for app_id, and names that none does."""
    names = list(NAMES)
    for byte in range(256):
        for odd in (bytes([byte]), b"%%%02x" % byte):
            names += [odd + b"app_id", b"app_id" + odd, b"app" + odd + b"id", b"app_id" + odd + b"x"]
    for bracket in BRACKETS:
        for mark in (bracket, quote_from_bytes(bracket).encode()):
            names += [
                name + mark for name in (b"app_id", b"app.id", b" app_id", b"+app+id", b"[app_id]")
            ]
            names += [mark + b"app_id", mark + b"app_id]", b"app" + mark + b"id"]
    return names


def _queries() -> list[bytes]:
    """Return hostile query strings: each spelling alone, each beside another id, and random ones."""
    queries = [b"app_id=acme"]
    for name in _spellings():
        queries += [name + end for end in (b"=acme", b"&app_id=acme", b"=&app_id=acme", b";app_id=acme")]
        for joint in JOINTS:
            queries += [
                b"app_id=acme" + joint + name + b"=evil",
                name + b"=evil" + joint + b"app_id=acme",
            ]
    chance = random.Random(20171213)  # the same on every run
    queries += [b"".join(chance.choices(PIECES, k=chance.randint(1, 9))) for _ in range(30_000)]
    return queries


@pytest.fixture(scope="module")
def found() -> dict[bytes, str | None]:
    """All queries, and the app_id that the limiter finds in each."""
    key = Key()
    return {query: key.find(lambda _: None, query) for query in _queries()}


@pytest.mark.parametrize("language", [language for language in LANGUAGES if _is_there(language)])
def test_every_application_reads_the_app_id_that_the_limiter_finds(
    language: str, found: dict[bytes, str | None], tmp_path: Path
) -> None:
    command, text = LANGUAGES[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    script = tmp_path / "script"
    script.write_text(text)
    (tmp_path / "queries").write_text("".join(f"{query.hex()}\n" for query in found))
    environ = {**os.environ, "REDIRECT_STATUS": "1", "SCRIPT_FILENAME": str(script)}  # for php-cgi
    output = subprocess.check_output([*command, script], cwd=tmp_path, env=environ, text=True)
    readings: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in output.splitlines():
        application, number, value = line.split(" ")
        if value != "!":
            value = bytes.fromhex(value).decode("utf-8", "surrogateescape")
        readings[application][int(number)].append(value)
    assert sum(app_id is not None for app_id in found.values()) > 1000
    assert readings
    for application, read in readings.items():
        assert read[0] == ["acme"], application
        wrong = {
            query: (app_id, read[number])
            for number, (query, app_id) in enumerate(found.items())
            if app_id is not None and read[number] not in ([], [app_id])
        }
        assert not wrong, application
