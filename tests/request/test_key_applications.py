"""The limiter finds the same app_id as the applications behind it: real parsers check this."""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from limiter.request.key import Key

one_python = pytest.mark.one_python

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
applications = {"parse_qs": lambda query: parse_qs(query, keep_blank_values=True).get("app_id", [])}
try:
    from werkzeug.wrappers import Request
    applications["flask"] = lambda query: Request({"QUERY_STRING": query}).args.getlist("app_id")
except ImportError:
    pass
try:
    from django.conf import settings
    from django.http import QueryDict
    settings.configure()
    applications["django"] = lambda query: QueryDict(query.encode("latin-1")).getlist("app_id")
except ImportError:
    pass
try:
    from starlette.datastructures import QueryParams
    applications["starlette"] = lambda query: QueryParams(query.encode("latin-1")).getlist("app_id")
except ImportError:
    pass
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
    "php": ("php-cgi -n -q", PHP),
    "python": (sys.executable, PYTHON),
    "ruby": ("ruby", RUBY),
    "perl": ("perl", PERL),
    "node": ("node", NODE),
}
"""The command that runs a script in each language, and the script."""


def _is_there(language: str) -> bool:
    """Whether to run it.  Node, and CGI.pm, which Perl no longer includes, are optional."""
    if language == "perl" and shutil.which("perl"):
        return subprocess.run(["perl", "-MCGI", "-e1"], check=False, capture_output=True).returncode == 0
    return language not in ("perl", "node") or shutil.which(language) is not None


def _spellings() -> list[bytes]:
    """Return names that some application may take for app_id, and names that none does."""
    odd = [bytes([byte]) for byte in range(256)]
    odd += [b"%%%02x" % byte for byte in range(256)]
    names = [b"app_id", b"%61pp_id", b"app%5Fid", b"%61%70%70%5f%69%64", b"%u0061pp_id", b"app%u005fid"]
    names += [b"APP_ID", b"App_Id", b"app-id", b"appid", b"app__id", b"xapp_id", b"app_idx", b"_app_id"]
    for byte in odd:
        names += [byte + b"app_id", b"app_id" + byte, b"app" + byte + b"id", b"app_id" + byte + b"x"]
    brackets = [
        b"[]",
        b"[0]",
        b"[x]",
        b"[x][y]",
        b"[",
        b"]",
        b"[[",
        b"]]",
        b"[]]",
        b"[x",
        b".x",
        b"[a.b",
        b"[[]",
    ]
    for bracket in brackets:
        quoted = quote_from_bytes(bracket).encode()
        for mark in (bracket, quoted):
            names += [
                name + mark for name in (b"app_id", b"app.id", b" app_id", b"+app+id", b"[app_id]")
            ]
            names += [mark + b"app_id", mark + b"app_id]", b"app" + mark + b"id"]
    return names


def _queries() -> list[bytes]:
    """Return hostile query strings: each spelling alone, each beside another id, and random ones."""
    names = _spellings()
    queries = [name + b"=acme" for name in names]
    for name, joint in product(names, (b"&", b";", b"&%20", b"& ", b"&&", b"&x=1;", b";&")):
        queries += [b"app_id=acme" + joint + name + b"=evil", name + b"=evil" + joint + b"app_id=acme"]
    queries += [
        name + ending
        for name in names
        for ending in (b"&app_id=acme", b"=&app_id=acme", b";app_id=acme")
    ]
    pieces = [
        b"app_id",
        b"acme",
        b"evil",
        b"=",
        b"&",
        b";",
        b"%",
        b"%61",
        b"pp_id",
        b"%5f",
        b"%5",
        b"%00",
        b"_",
    ]
    pieces += [
        b"app",
        b"id",
        b".",
        b"[",
        b"]",
        b"%5B",
        b"%5d",
        b"+",
        b" ",
        b"%20",
        b"%26",
        b"%3D",
        b"%3b",
        b"\xff",
    ]
    pieces += [
        b"app_id=",
        b"app_id=acme",
        b"&app_id=evil",
        b"?",
        b"#",
        b"\t",
        b"\n",
        b"%0a",
        b"x",
        b"A",
        b"%u0061",
    ]
    chance = random.Random(20171213)  # the same on every run
    queries += [b"".join(chance.choices(pieces, k=chance.randint(1, 9))) for _ in range(30_000)]
    return queries


@pytest.mark.parametrize(
    "language",
    [language for language in LANGUAGES if _is_there(language)],
)
@one_python
def test_every_application_reads_whom_the_limiter_found(language: str, tmp_path: Path) -> None:
    command, script = LANGUAGES[language]
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not installed")
    queries, found = _found()
    (tmp_path / "queries").write_text("".join(f"{query.hex()}\n" for query in queries))
    path = tmp_path / "read"
    path.write_text(script)
    ran = subprocess.run(
        [*command.split(), str(path)],
        cwd=tmp_path,
        env={**os.environ, "REDIRECT_STATUS": "1", "SCRIPT_FILENAME": str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    readings: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in ran.stdout.splitlines():
        application, number, value = line.split(" ")
        readings[application][int(number)].append("!" if value == "!" else _text(value))
    assert sum(app_id is not None for app_id in found.values()) > 1000
    assert readings
    for application, read in readings.items():
        assert read[0] == ["acme"], application
        wrong = {
            queries[number]: (app_id, read[number])
            for number, app_id in found.items()
            if app_id is not None and read[number] not in ([], [app_id])
        }
        assert not wrong, application


@one_python
@pytest.mark.parametrize(
    ("query", "form"),
    [
        ("app_id=acme", ""),
        ("", "app_id=acme"),
        ("app_id=acme&app.id=evil", ""),
        ("app_id=acme", "app+id=evil"),
        ("app_id=acme&app%5Bid=evil", "x=1"),
        ("app_id=acme&%20app_id%00x=evil", ""),
        ("app_id=acme", "app_id[]=evil"),
        ("app.id=evil", "app_id=acme"),
        ("x=1&app_id=acme", "y=1"),
    ],
)
def test_a_php_page_reads_whom_the_limiter_found(query: str, form: str, tmp_path: Path) -> None:
    php = shutil.which("php-cgi")
    if php is None:
        pytest.skip("php-cgi is not installed")
    page = tmp_path / "page.php"
    page.write_text(
        "<?php echo json_encode([$_GET['app_id'] ?? $_POST['app_id'] ?? 0, $_REQUEST['app_id'] ?? 0]);"
    )
    environ = {
        "REDIRECT_STATUS": "1",
        "SCRIPT_FILENAME": str(page),
        "REQUEST_METHOD": "POST",
        "QUERY_STRING": query,
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": str(len(form)),
    }
    ran = subprocess.run(
        [php, "-n", "-q"], input=form, env=environ, capture_output=True, text=True, check=True
    )
    app_id = _find(query.encode(), form.encode())
    is_one = "evil" not in query + form
    assert app_id == ("acme" if is_one else None)
    assert (ran.stdout.partition("\n\n")[2] == '["acme","acme"]') is is_one


@functools.cache
def _found() -> tuple[list[bytes], dict[int, str | None]]:
    """Return all queries, and the app_id that the limiter finds in each."""
    queries = [b"app_id=acme", *_queries()]
    return queries, {number: _find(query) for number, query in enumerate(queries)}


def _find(*texts: bytes) -> str | None:
    return Key().find(lambda _: None, *texts)


def _text(digits: str) -> str:
    return bytes.fromhex(digits).decode("utf-8", "surrogateescape")
