"""The guard in a real Apache, in front of PHP, Ruby, Perl and Python scripts unaware of it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.apache_server import MPMS, Reply, Server, apache
from tests.hanging import hanging_mount
from tests.places import new_root

pytestmark = pytest.mark.one_python

# Each prints its environment, its directory and its arguments, each followed by a NUL; then another NUL
# and its body.
SCRIPTS = {
    "tell.pl": r"""#!/usr/bin/perl
use Cwd;
print "Content-Type: application/octet-stream\n\n";
print map("$_=$ENV{$_}\0", keys %ENV), "(directory)=", getcwd(), "\0(arguments)=@ARGV\0\0", <STDIN>;
""",
    "tell.rb": r"""#!/usr/bin/ruby
STDOUT.binmode
print "Content-Type: application/octet-stream\n\n"
ENV.each { |name, value| print name, "=", value, "\0" }
print "(directory)=", Dir.pwd, "\0(arguments)=", ARGV.join(" "), "\0\0", STDIN.binmode.read
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
foreach ($_FILES as $file) { echo "(file)=", md5_file($file["tmp_name"]), "\0"; }
echo "\0", file_get_contents("php://input");
""",
}
TOOLS = {
    ".pl": "/usr/bin/perl",
    ".rb": "/usr/bin/ruby",
    ".py": "/usr/bin/python3",
    ".php": "/usr/bin/php-cgi",
}
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

MODULES = ("actions", "auth_basic", "authn_core", "authn_file", "authz_user", "dir", "rewrite", "setenvif",
           "unique_id", "userdir")  # fmt: skip
MESSAGES = {
    401: b'{"message": "Unauthorized"}',
    404: b'{"message": "Not Found"}',
    429: b'{"message": "Too Many Requests"}',
    500: b'{"message": "Internal Server Error"}',
}
LIMIT = 20

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
<DirectoryMatch "/twenty">
    SetHandler limited
    SetEnv LIMITER_LIMIT "{limit}/hour"
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
<Directory "{site}/bare/rewritten">
    RewriteEngine on
    RewriteRule ^ /bare/tell.pl/extra [QSA]
</Directory>
<Directory "{site}/kept/rewritten">
    RewriteEngine on
    RewriteRule ^ /kept/tell.pl/extra [QSA]
</Directory>
<Location "/bare/forbidden">
    Require all denied
    ErrorDocument 403 "/bare/tell.pl?app_id=acme"
</Location>
<Location "/kept/forbidden">
    Require all denied
    ErrorDocument 403 "/kept/tell.pl?app_id=acme"
</Location>
"""


@pytest.fixture(scope="module")
def home(installed: Path) -> Path:
    """An installation."""
    return installed


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """Directories of scripts."""
    for tool in TOOLS.values():
        if not Path(tool).exists():
            pytest.skip(f"{tool} is not installed")
    path = new_root("/tmp")
    for directory in ("bare", "kept", "twenty"):
        furnish(path / directory)
    for directory in (
        "bare/home",
        "kept/home",
        "kept/anyone",
        "bare/anyone",
        "bare/secret",
        "kept/secret",
    ):
        furnish(path / directory)
    for directory in ("bare", "kept"):
        (path / directory / "rewritten").mkdir()
        (path / directory / "empty").mkdir()
        (path / directory / "link.pl").symlink_to("tell.pl")
        (path / directory / "linked").symlink_to("home")
        add(path / directory / "with a blank & ä.pl", SCRIPTS["tell.pl"])
        add(path / directory / "process", PROCESS)
    # Apache's htpasswd -s writes {SHA}.
    password = base64.b64encode(hashlib.sha1(b"secret").digest()).decode()
    (path / "users").write_text(f"ann:{{SHA}}{password}\n")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """Directories outside the document root."""
    path = new_root("/tmp")
    for directory in ("bare", "kept"):
        furnish(path / directory)
    yield path
    shutil.rmtree(path)


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
    after = (SITE + more).format(site=site, elsewhere=elsewhere, home=home, limit=LIMIT)
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
    directory.mkdir(parents=True)
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


def assert_refused(reply: Reply, status: int) -> None:
    """Compare a refusal with the contract."""
    assert (reply.status, reply.body) == (status, MESSAGES[status])
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", NAMES)
def test_script_answers_until_the_limit(server: Server, name: str) -> None:
    url = f"/twenty/{name}?app_id=until-{name}"
    replies = [server.ask(url) for _ in range(LIMIT)]
    for reply in replies:
        told(reply)
        assert reply.headers["RateLimit-Policy"] == f'"{LIMIT}-per-3600s";q={LIMIT};w=3600'
    standing = replies[7].headers["RateLimit"]
    assert re.fullmatch(rf'"{LIMIT}-per-3600s";r={LIMIT - 8};t=\d+', standing)
    denied = server.ask(url)
    assert_refused(denied, 429)
    assert re.fullmatch(rf'"{LIMIT}-per-3600s";r=0;t=\d+', denied.headers["RateLimit"])
    assert 1 <= int(denied.headers["Retry-After"]) <= 3600


@pytest.mark.parametrize("name", NAMES)
def test_who_does_not_say_who_asks_is_unauthorized(server: Server, name: str) -> None:
    for query in ("", "?app_id=..", "?app_id=acme&app_id=acme"):
        reply = server.ask(f"/kept/{name}{query}")
        assert_refused(reply, 401)
        assert reply.headers["WWW-Authenticate"] == 'AppId realm="limiter"'
        assert "RateLimit" not in reply.headers


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


PLACES = {
    "alias": "/{}-alias/tell.pl/extra?app_id=acme",
    "userdir": "/~{}/tell.pl/extra?app_id=acme",
    "index": "/{}/?app_id=acme",
    "link": "/{}/linked/tell.pl/extra?app_id=acme",
}


@pytest.mark.parametrize("place", PLACES)
def test_place_of_a_script_is_no_matter(server: Server, place: str) -> None:
    """Only the context is unknown, and only outside the document root."""
    contexts = {b"CONTEXT_PREFIX", b"CONTEXT_DOCUMENT_ROOT"}
    missing = contexts if place in ("alias", "userdir") else set()
    assert differences(*both(server, PLACES[place])) == (missing, set(), set())


@pytest.mark.parametrize("place", ["rewritten/x", "forbidden"])
def test_script_of_another_redirect_is_given_what_that_set(server: Server, place: str) -> None:
    """Only the first URL is missing."""
    bare, kept = (
        server.ask(f"/{it}/{place}?app_id=acme")._replace(status=200) for it in ("bare", "kept")
    )
    first = {b"REDIRECT_URL", b"REDIRECT_QUERY_STRING"}
    assert differences(bare, kept) == (first, set(), set())
    assert told(kept)[0][b"REDIRECT_STATUS"] == (b"403" if place == "forbidden" else b"200")


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


def test_php_gets_files(either: Server) -> None:
    content = os.urandom(1000000)
    head = b'--X\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    media_type = {"Content-Type": "multipart/form-data; boundary=X"}
    url = "/kept/tell.php?app_id=acme"
    reply = either.ask(url, "POST", head + content + b"\r\n--X--\r\n", media_type)
    assert told(reply)[0][b"(file)"] == hashlib.md5(content).hexdigest().encode()


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


@pytest.mark.parametrize(("query", "status"), [("", 401), ("?app_id=unread", 429)])
def test_refusal_does_not_suffer_from_a_body_that_nobody_wants(
    either: Server, query: str, status: int
) -> None:
    url = f"/twenty/tell.php{query}"
    for _ in range(LIMIT if status == 429 else 0):
        either.ask(url)
    assert_refused(either.ask(url, "POST", b"x" * 1000000), status)
    assert_refused(either.ask("/access-limiter/guard/x", "POST", b"x" * 1000000), 404)


@pytest.mark.parametrize("name", NAMES)
def test_head_is_get_without_a_body(either: Server, name: str) -> None:
    # Each is the first request of its app_id; otherwise the seconds until there are more hits would
    # differ.
    get, head = (either.ask(f"/kept/{name}?app_id=head-{name}-{it}", it) for it in ("GET", "HEAD"))
    passing = {"Date", "Transfer-Encoding", "Content-Length"}
    assert (head.status, head.body) == (200, b"")
    assert [it for it in head.headers.items() if it[0] not in passing] == [
        it for it in get.headers.items() if it[0] not in passing
    ]


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
    assert "direct" not in os.listdir(server.root)


def test_what_is_no_script_is_not_found(server: Server) -> None:
    assert server.ask("/kept/missing.pl?app_id=missing").status == 404
    assert server.ask("/kept/missing/tell.pl?app_id=missing").status == 404
    assert_refused(server.ask("/kept/empty/?app_id=missing"), 404)
    assert "missing" not in os.listdir(server.root)


def test_exactly_twenty_are_admitted_over_all_languages(either: Server) -> None:
    """8 clients at once request scripts in 4 languages, for one application."""
    urls = [f"/twenty/{name}?app_id=together" for name in islice(cycle(NAMES), 60)]
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(either.ask, urls))
    assert sorted(reply.status for reply in replies) == [200] * LIMIT + [429] * (60 - LIMIT)


DEAD = {
    "crashed.pl": ("#!/usr/bin/perl\ndie 'It crashes.';\n", 0o755, "It crashes."),
    "headless": ("#!/bin/sh\necho 'It says little.' >&2\necho X: Y", 0o755, "It says little."),
    "unexecutable.rb": ("#!/usr/bin/ruby\n", 0o644, "is it executable?  chmod +x"),
    "uninterpreted.py": (
        "#!/nowhere/python3\n",
        0o755,
        "the interpreter in its first line does not exist",
    ),
    "binary": ("\x7f\x01\x02", 0o755, "it needs a first line that names its interpreter"),
}


@pytest.mark.parametrize("mpm", MPMS)
def test_script_that_fails_is_answered_as_json_and_said_why_in_the_log(
    mpm: str, home: Path, place: Path
) -> None:
    for name, (text, mode, _) in DEAD.items():
        add(place / name, text, mode)
    with apache(mpm, home, after=everything(place), modules=("actions",)) as server:
        for name in DEAD:
            assert_refused(server.ask(f"/{name}?app_id=acme"), 500)
    for _, _, reason in DEAD.values():
        assert server.log.count(reason) == 1
    assert server.log.count("limiter: ") == 3


def test_root_confines_what_is_run(home: Path, site: Path, place: Path) -> None:
    """Links may lead anywhere inside it, and not out of it."""
    furnish(place / "root")
    (place / "root/out.pl").symlink_to(site / "kept/tell.pl")
    (place / "root/in.pl").symlink_to("tell.pl")
    furnish(place / "root2")
    settings = {"LIMITER_GUARD_ROOT": f"{place}/root"}
    with apache("event", home, settings, after=everything(place), modules=("actions",)) as server:
        for name in ("tell.pl", "tell.php", "in.pl"):
            told(server.ask(f"/root/{name}?app_id=acme"))
        for url in ("/root/out.pl", "/root2/tell.pl"):
            assert_refused(server.ask(f"{url}?app_id=outside"), 404)
        assert os.listdir(server.root) == ["acme"]
    assert server.log.count("is not run: it is not below LIMITER_GUARD_ROOT") == 2


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


@pytest.mark.parametrize("mpm", MPMS)
def test_store_that_hangs_may_admit(mpm: str, home: Path, site: Path) -> None:
    """The script answers while its guard still hangs in the dead file system."""
    with hanging_mount() as mount:
        store = mount.path / "store"
        store.mkdir()
        store.chmod(0o777)
        settings = {"LIMITER_ROOT": str(store), "LIMITER_ON_ERROR": "admit", "LIMITER_TIMEOUT": "0.2"}
        with apache(mpm, home, settings, after=everything(site), modules=("actions",)) as server:
            mount.hang()
            try:
                for name in NAMES:
                    reply = server.ask(f"/kept/{name}?app_id=acme", "POST", b"the body")
                    assert told(reply)[1] == b"the body"
                mount.wait_until_stuck()
            finally:
                mount.release()
    silent = "limiter: StoreError: [Errno 110] The store did not answer within 0.2 s (LIMITER_TIMEOUT)"
    assert server.log.count(silent) == len(NAMES), server.log
