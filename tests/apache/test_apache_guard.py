"""The guard in a real Apache, in front of PHP, Perl and Python scripts unaware of it."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from pathlib import Path

import pytest

from tests.apache_server import BASIC_AUTH, MPMS, Reply, Server, apache, assert_answer
from tests.doors.doors import clients
from tests.places import temporary
from tests.waiting import wait_until

pytestmark = pytest.mark.one_python

# Each prints its environment, its directory and its arguments, each followed by a NUL; then another NUL
# and its body.
SCRIPTS = {
    "tell.pl": r"""#!/usr/bin/perl
use Cwd;
print "Content-Type: application/octet-stream\n\n";
print map("$_=$ENV{$_}\0", keys %ENV), "(directory)=", getcwd(), "\0(arguments)=@ARGV\0\0", <STDIN>;
""",
    "tell.py": r"""#!/usr/bin/python3
import os, sys
out = sys.stdout.buffer
out.write(b"Content-Type: application/octet-stream\n\n")
out.write(b"".join(k + b"=" + v + b"\0" for k, v in os.environb.items() if k != b"LC_CTYPE"))
out.write(os.fsencode(f"(directory)={os.getcwd()}\0(arguments)={' '.join(sys.argv[1:])}\0\0"))
out.write(sys.stdin.buffer.read())
""",
    "tell.php": r"""<?php
header("Content-Type: application/octet-stream");
foreach ($_SERVER as $name => $value) {
    if (!is_array($value)) { echo $name, "=", $value, "\0"; }
}
echo "(directory)=", getcwd(), "\0(arguments)=", implode(" ", $argv ?? []), "\0";
echo "(get)=", json_encode($_GET), "\0(post)=", json_encode($_POST), "\0";
echo "\0", file_get_contents("php://input");
""",
}
TOOLS = ("/usr/bin/perl", "/usr/bin/python3", "/usr/bin/php-cgi")
NAMES = list(SCRIPTS)
EXECUTABLE = [name for name in SCRIPTS if not name.endswith(".php")]

# Reports on the process itself: its signals, its umask and its files.
PROCESS = r"""#!/bin/sh
echo Content-Type: text/plain
echo
umask
while read line; do
    case $line in Sig[BI]*) echo "$line" ;; esac
done </proc/$$/status
for file in /proc/$$/fd/*; do
    echo "${file##*/} $(readlink "$file")"
done
"""
# The file of the shell, which is its script, and the numbers of pipes and sockets.
PROCESS_OWN = re.compile(rb"\d+ \S*/process\n|\[\d+\]")

# Variables that differ between any two requests.
PASSING = {b"REMOTE_PORT", b"REQUEST_TIME", b"REQUEST_TIME_FLOAT", b"UNIQUE_ID", b"REDIRECT_UNIQUE_ID"}

MODULES = (*BASIC_AUTH, "actions", "dir", "rewrite", "setenvif", "unique_id", "userdir")
# Two directories with the same content: one as Apache has it, one behind the guard.
SITE = """
DocumentRoot "{site}"
DirectoryIndex tell.pl
UserDir "{site}/*/home"
Alias "/bare-alias" "{elsewhere}/bare"
Alias "/kept-alias" "{elsewhere}/kept"
ScriptAlias "/cgi-bin/" "{home}/cgi-bin/"
ScriptAlias "/php-cgi" "/usr/bin/php-cgi"
Action php "/php-cgi"
<Files "php-cgi">
    Require all granted
</Files>
<DirectoryMatch "^({site}|{elsewhere})">
    Require all granted
    SetEnv COLOUR red
    SetEnvIf User-Agent (.*) AGENT=$1
</DirectoryMatch>
<DirectoryMatch "/bare">
    SetEnv LIMITER_LIMIT "1000/day"
    Options ExecCGI FollowSymLinks
    SetHandler cgi-script
    <FilesMatch "\\.php$">
        SetHandler php
    </FilesMatch>
</DirectoryMatch>
<DirectoryMatch "/kept">
    SetEnv LIMITER_LIMIT "1000/day"
    SetHandler limited
</DirectoryMatch>
<DirectoryMatch "{site}/(bare|kept)/anyone">
    SetEnv LIMITER_KEY env:REMOTE_ADDR
</DirectoryMatch>
<DirectoryMatch "{site}/(bare|kept)/secret">
    AuthType Basic
    AuthName secret
    AuthUserFile "{site}/users"
    Require valid-user
</DirectoryMatch>
"""
REDIRECTED = """
<Directory "{site}/{one}/rewritten">
    RewriteEngine on
    RewriteRule ^ /{one}/tell.pl/extra [QSA]
</Directory>
<Location "/{one}/forbidden">
    Require all denied
    ErrorDocument 403 "/{one}/tell.pl?app_id=acme"
</Location>
"""


@pytest.fixture(scope="module")
def home(installed: Path) -> Path:
    """An installation."""
    return installed


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """Directories of scripts."""
    for tool in TOOLS:
        if not Path(tool).exists():
            pytest.skip(f"{tool} is not installed")
    with temporary("/tmp") as path:
        for directory in ("bare", "kept"):
            for name in ("", "home", "anyone", "secret"):
                furnish(path / directory / name)
        for directory in ("bare", "kept"):
            (path / directory / "rewritten").mkdir()
            (path / directory / "link.pl").symlink_to("tell.pl")
            (path / directory / "linked").symlink_to("home")
            add(path / directory / "with a blank & ä.pl", SCRIPTS["tell.pl"])
            add(path / directory / "process", PROCESS)
        add(path / "kept/crashed.pl", "#!/usr/bin/perl\ndie 'It crashes.';\n")
        # Apache's htpasswd -s writes {SHA}.
        password = base64.b64encode(sha1(b"secret").digest()).decode()
        (path / "users").write_text(f"ann:{{SHA}}{password}\n")
        yield path


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """Directories outside the document root."""
    with temporary("/tmp") as path:
        for directory in ("bare", "kept"):
            furnish(path / directory)
        yield path


@pytest.fixture(scope="module")
def more() -> str:
    """Further configuration."""
    return ""


@pytest.fixture(scope="module")
def server(home: Path, site: Path, elsewhere: Path, more: str) -> Iterator[Server]:
    """A server with the guard in front of some directories."""
    with run("event", home, site, elsewhere, more) as server:
        yield server


@pytest.fixture(scope="module", params=MPMS)
def either(
    request: pytest.FixtureRequest, server: Server, home: Path, site: Path, elsewhere: Path, more: str
) -> Iterator[Server]:
    """That server, and the same with Apache's other way to run CGI scripts: pipes, not one socket."""
    if request.param == "event":
        yield server
        return
    with run(request.param, home, site, elsewhere, more) as other:
        yield other


@contextmanager
def run(mpm: str, home: Path, site: Path, elsewhere: Path, more: str = "") -> Iterator[Server]:
    """Run the server, with further configuration."""
    after = (SITE + more).format(site=site, elsewhere=elsewhere, home=home)
    after += "".join([REDIRECTED.format(site=site, one=it) for it in ("bare", "kept")])
    with apache(mpm, home, {"LIMITER_LIMIT": "1/hour"}, after=after, modules=MODULES) as server:
        yield server


def everything(directory: Path) -> str:
    """Return the configuration that guards everything in the directory."""
    return f"""
        DocumentRoot "{directory}"
        <Directory "{directory}">
            Require all granted
            SetHandler limited
        </Directory>
    """


def furnish(directory: Path) -> None:
    """Put one script of each language there."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in SCRIPTS.items():
        add(directory / name, text, 0o644 if name.endswith(".php") else 0o755)


def add(path: Path, text: str, mode: int = 0o755) -> None:
    """Write a script."""
    path.write_text(text)
    path.chmod(mode)


def told(reply: Reply) -> tuple[dict[bytes, bytes], bytes]:
    """Return what a script reports that it got: variables by name, and its body."""
    assert reply.status == 200, reply
    given, _, body = reply.body.partition(b"\0\0")
    return dict(line.split(b"=", 1) for line in given.split(b"\0")), body


def both(
    server: Server,
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> list[Reply]:
    """Return the answers to the same request without the guard and with it."""
    return [server.ask(url.format(it), method, body, headers) for it in ("bare", "kept")]


def differences(bare: Reply, kept: Reply) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """Return the names of what a script got only without the guard, only with it, and with another
    value.
    """
    one, two = ({k: v.replace(b"bare", b"kept") for k, v in told(it)[0].items()} for it in (bare, kept))
    other = {name for name in one.keys() & two if one[name] != two[name]}
    return one.keys() - two, two.keys() - one, other - PASSING


@pytest.mark.parametrize("extra", ["", "/", "/a%20b/%C3%A4%E4%3B%3F%25%26+=/.x", "/a/./b/../c"])
@pytest.mark.parametrize("name", [*EXECUTABLE, "with%20a%20blank%20&%20%C3%A4.pl", "link.pl"])
def test_script_is_given_what_it_would_be_given_without_the_guard(
    server: Server, name: str, extra: str
) -> None:
    """All variables, the directory and the arguments are the same."""
    url = f"/{{}}/{name}{extra}?app_id=acme&x=%20"
    bare, kept = both(server, url, headers={"User-Agent": "me", "X-Header": "its value"})
    assert differences(bare, kept) == (set(), set(), set())
    assert told(kept)[0][b"AGENT"] == b"me"


CONTEXT = {b"CONTEXT_PREFIX", b"CONTEXT_DOCUMENT_ROOT"}
FIRST = {b"REDIRECT_URL", b"REDIRECT_QUERY_STRING"}


@pytest.mark.parametrize(
    ("url", "status", "missing"),
    [
        ("/{}-alias/tell.pl/extra?app_id=acme", 200, CONTEXT),
        ("/~{}/tell.pl/extra?app_id=acme", 200, CONTEXT),
        ("/{}/?app_id=acme", 200, set()),
        ("/{}/linked/tell.pl/extra?app_id=acme", 200, set()),
        ("/{}/rewritten/x?app_id=acme", 200, FIRST),
        ("/{}/forbidden?app_id=acme", 403, FIRST),
    ],
)
def test_only_this_is_missing_at_other_places_and_after_another_redirect(
    server: Server, url: str, status: int, missing: set[bytes]
) -> None:
    bare, kept = both(server, url)
    assert bare.status == kept.status == status
    kept = kept._replace(status=200)
    assert differences(bare._replace(status=200), kept) == (missing, set(), set())
    assert missing != FIRST or told(kept)[0][b"REDIRECT_STATUS"] == str(status).encode()


def test_user_is_known(server: Server) -> None:
    """The script gets REMOTE_USER, but not AUTH_TYPE."""
    header = "Basic " + base64.b64encode(b"ann:secret").decode()
    bare, kept = both(server, "/{}/secret/tell.pl?app_id=acme", headers={"Authorization": header})
    assert differences(bare, kept) == ({b"AUTH_TYPE"}, set(), set())
    assert told(kept)[0][b"REMOTE_USER"] == b"ann"
    assert [it.status for it in both(server, "/{}/secret/tell.pl?app_id=acme")] == [401, 401]


def test_words_of_a_query_are_arguments_of_all_but_php(either: Server) -> None:
    """php-cgi would take them for options (CVE-2012-1823)."""
    for name in EXECUTABLE:
        bare, kept = both(either, f"/{{}}/anyone/{name}?-s+-d%20x")
        assert differences(bare, kept) == (set(), set(), set())
        assert told(kept)[0][b"(arguments)"] == b"-s -d x"
    reply = either.ask("/kept/anyone/tell.php?-s+-d%20x")
    assert b"&lt;?php" not in reply.body
    assert told(reply)[0][b"QUERY_STRING"] == b"-s+-d%20x"


def test_process_is_as_it_would_be_without_the_guard(either: Server) -> None:
    """Its signals, its umask and its files are the same."""
    bare, kept = both(either, "/{}/process?app_id=acme")
    assert PROCESS_OWN.sub(b"", kept.body) == PROCESS_OWN.sub(b"", bare.body)
    assert b"\n2 " in kept.body
    assert b"SigIgn:" in kept.body


@pytest.mark.parametrize("extra", ["", "/", "/a%20b/c.php"])
def test_php_is_given_what_apache_s_own_action_gives_it(server: Server, extra: str) -> None:
    """It gets no other trace of a redirect."""
    url = f"/{{}}/tell.php{extra}?app_id=acme&x%5B%5D=1"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    bare, kept = both(server, url, "POST", b"a=1&b%5B%5D=2", form)
    missing, added, other = differences(bare, kept)
    assert other == {b"CONTEXT_PREFIX", b"CONTEXT_DOCUMENT_ROOT"}
    assert all(name.startswith((b"REDIRECT_", b"ORIG_")) for name in missing)
    assert added == {b"COLOUR", b"AGENT", b"LIMITER_LIMIT"}
    given, body = told(kept)
    assert given[b"PHP_SELF"] == f"/kept/tell.php{extra}".replace("%20", " ").encode()
    assert body == b"a=1&b%5B%5D=2"


@pytest.mark.parametrize("name", NAMES)
def test_body_is_the_script_s_byte_for_byte(either: Server, name: str) -> None:
    body = os.urandom(1000000)
    url = f"/kept/{name}?app_id=acme"
    media_type = {"Content-Type": "application/octet-stream"}
    assert told(either.ask(url, "POST", body, media_type))[1] == body
    parts = [body[:1], body[1:65536], body[65536:]]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
    chunked = {**media_type, "Transfer-Encoding": "chunked"}
    if not name.endswith(".php"):  # php-cgi reads no body of unknown length
        assert told(either.ask(url, "POST", chunks, chunked))[1] == body


def test_nothing_is_run_that_apache_has_not_mapped(server: Server, home: Path, site: Path) -> None:
    """This holds for any call of the guard by its own name, and for anything that a client claims."""
    claims = {"Redirect-Handler": "limited", "Redirect-URL": "/kept/tell.pl", "Redirect-Status": "200"}
    for guard in ("/access-limiter/guard", "/cgi-bin/guard.py"):
        for path in (
            "/kept/tell.pl",
            "/kept/tell.php",
            "//kept/tell.pl",
            f"{site}/kept/tell.pl",
            "/",
            "/x",
        ):
            reply = server.ask(f"{guard}{path}?app_id=direct", headers=claims)
            assert reply.status == 404
            assert b"DOCUMENT_ROOT" not in reply.body
    assert server.ask("/access-limiter/guard?app_id=direct").status == 404
    assert "direct" not in clients(str(server.root))


def test_a_script_that_dies_is_answered_as_json_and_logged(either: Server) -> None:
    """As for check.py: Apache answers in its place."""
    before = either.logged().count("It crashes.")
    assert_answer(either.ask("/kept/crashed.pl?app_id=acme"), 500)
    wait_until(lambda: either.logged().count("It crashes.") == before + 1)


def test_guard_is_not_guarded(home: Path, site: Path) -> None:
    """A server may guard all its *.py files."""
    all_python = """
        <FilesMatch "\\.py$">
            SetHandler limited
        </FilesMatch>
    """
    after = everything(site) + all_python
    with apache("event", home, after=after, modules=("actions",)) as server:
        told(server.ask("/kept/tell.py?app_id=acme"))
