"""check.py and the user's own scripts in a real Apache: under mod_cgid, and where it matters under
mod_cgi.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apache_server import LONG, MPMS, Reply, Server, apache
from tests.places import new_root

CHECK = "/cgi-bin/check.py"
# check.py itself and Apache in its place send the same bytes.
ERROR = b'{"message": "Internal Server Error"}'

MESSAGES = {401: "Unauthorized", 429: "Too Many Requests"}

# Fields that differ between two answers of a kind, or between answers with and without a body.
PASSING = {"Date", "Transfer-Encoding", "Content-Length"}

pytestmark = pytest.mark.one_python

OWN = """\
#!/usr/bin/python3
from limiter.cgi import guard
guard()
import sys
print("Content-Type: text/plain", end="\\n\\n")
print("I read:", sys.stdin.read())
"""

DEAD = {
    "crashed.py": "#!/usr/bin/python3 -IS\nimport nothing_of_this_name\n",
    "killed": '#!/bin/sh\nkill -KILL "$$"\n',
    "garbled": "#!/bin/sh\necho 'No header, this.'\n",
    "halved": "#!/bin/sh\necho 'RateLimit: something'\necho 'and then it dies'\n",
    "uninterpreted": "#!/nowhere/python3\n",
}

HOSTILE = [
    "",
    "?",
    "?app_id",
    "?app_id=",
    "?app=acme",
    "?APP_ID=acme",
    "?app_id=acme&app_id=acme",
    "?app_id=acme&app%5Fid=other",
    "?app%5fid=acme&%61pp_id=acme",
    "?app_id=/",
    "?app_id=../acme",
    "?app_id=%2e%2e",
    "?app_id=%2e%2e%2facme",
    "?app_id=..",
    "?app_id=.new-1",
    "?app_id=a/b",
    "?app_id=a%2Fb",
    "?app_id=a%00",
    "?app_id=%00",
    "?app_id=a%0a",
    "?app_id=a%20b",
    "?app_id=a+b",
    "?app_id=-a",
    "?app_id=_a",
    "?app_id=a%",
    "?app_id=%2561",
    "?app_id=%C3%A4",
    "?app_id=" + 65 * "a",
    "?app_id=" + 4000 * "a",
]


@pytest.fixture(scope="module")
def home(installed: Path) -> Iterator[Path]:
    """An installation, with scripts that die beside check.py."""
    path = new_root("/tmp")
    shutil.copytree(installed, path, dirs_exist_ok=True)
    for name, text in DEAD.items():
        add_script(path / "cgi-bin" / name, text)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def distribution(installed: Path) -> Iterator[Path]:
    """A cgi-bin as every distribution has one, with the package and the user's own scripts in it."""
    path = new_root("/tmp")
    shutil.copytree(installed / "limiter", path / "limiter")
    shutil.copy(installed / "cgi-bin/check.py", path / "copied.py")
    add_script(path / "own.py", OWN)
    add_script(path / "check.py", "#!/bin/sh\necho\necho 'Not the one that is meant.'\n")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def server(home: Path, distribution: Path) -> Iterator[Server]:
    """A server that admits ten hits per hour: no test lasts that long."""
    with run("event", home, distribution) as server:
        yield server


@pytest.fixture(scope="module", params=MPMS)
def either(
    request: pytest.FixtureRequest, server: Server, home: Path, distribution: Path
) -> Iterator[Server]:
    """That server, and the same with Apache's other way to run CGI scripts."""
    if request.param == "event":
        yield server
        return
    with run(request.param, home, distribution) as other:
        yield other


@contextmanager
def run(mpm: str, home: Path, distribution: Path) -> Iterator[Server]:
    scripts = "\n".join(
        f'<Location "/{name}">\nScriptAlias "{home}/cgi-bin/{name}"\n</Location>' for name in DEAD
    )
    store = new_root("/tmp")
    store.chmod(0o777)
    # As in RHEL's httpd.conf: before the configuration of the limiter.
    before = f"""
        ScriptAlias "/cgi-bin/" "{distribution}/"
        <Directory "{distribution}">
            Require all granted
            SetEnv LIMITER_ROOT "{store}"
            SetEnv LIMITER_LIMIT "2/hour"
            SetEnv LIMITER_TIMEOUT "{LONG}"
        </Directory>
        {scripts}
    """
    with apache(mpm, home, {"LIMITER_LIMIT": "10/hour"}, before) as server:
        yield server
    shutil.rmtree(store)


def add_script(path: Path, text: str) -> None:
    """Write an executable script."""
    path.write_text(text)
    path.chmod(0o755)


def assert_answer(reply: Reply, status: int, message: str) -> None:
    """Compare an answer with the contract: status, fields, body."""
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-store"
    assert json.loads(reply.body) == {"message": message}


def lasting(reply: Reply) -> dict[str, str]:
    """Return the fields, without those that differ between answers of a kind."""
    return {name: value for name, value in reply.headers.items() if name not in PASSING}


def test_ten_are_admitted_and_the_eleventh_is_not(server: Server) -> None:
    """This is what the limiter is for."""
    replies = [server.ask(f"{CHECK}?app_id=ten") for _ in range(11)]
    for reply in replies[:10]:
        assert_answer(reply, 200, "OK")
    assert_answer(replies[10], 429, "Too Many Requests")


def test_exactly_ten_of_concurrent_requests_are_admitted(either: Server) -> None:
    """8 clients at once get 200 exactly ten times, and otherwise 429."""
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(either.ask, [f"{CHECK}?app_id=concurrent"] * 100))
    statuses = [reply.status for reply in replies]
    assert sorted(statuses) == [200] * 10 + [429] * 90


def test_applications_do_not_count_for_each_other(server: Server) -> None:
    """Each app_id has the whole limit."""
    for _ in range(10):
        server.ask(f"{CHECK}?app_id=apart")
    assert server.ask(f"{CHECK}?app_id=apart").status == 429
    assert server.ask(f"{CHECK}?app_id=apart.").status == 200


def test_fields_tell_where_the_limit_stands(server: Server) -> None:
    """Each answer says how many hits remain, and for how long."""
    replies = [server.ask(f"{CHECK}?app_id=fields") for _ in range(11)]
    assert {reply.headers["RateLimit-Policy"] for reply in replies} == {'"10-per-3600s";q=10;w=3600'}
    assert replies[0].headers["RateLimit"] == '"10-per-3600s";r=9;t=3600'
    standings = [
        re.fullmatch(r'"10-per-3600s";r=(\d+);t=(\d+)', it.headers["RateLimit"]) for it in replies
    ]
    assert [int(it[1]) for it in standings if it] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert all(1 <= int(it[2]) <= 3600 for it in standings if it)
    assert 1 <= int(replies[10].headers["Retry-After"]) <= 3600
    assert not any("Retry-After" in reply.headers for reply in replies[:10])


def test_several_limits_are_set_as_one_text(home: Path) -> None:
    """Define and SetEnv pass blanks and semicolons on to the script."""
    with apache("event", home, {"LIMITER_LIMIT": "3 per 2 hours; 2/day"}) as server:
        replies = [server.ask(f"{CHECK}?app_id=acme") for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert (
        replies[0].headers["RateLimit-Policy"] == '"3-per-7200s";q=3;w=7200, "2-per-86400s";q=2;w=86400'
    )


def test_unauthorized_says_how_to_ask(server: Server) -> None:
    """A 401 needs a challenge (RFC 9110, 15.5.2), and reports no limit."""
    reply = server.ask(CHECK)
    assert_answer(reply, 401, "Unauthorized")
    assert reply.headers["WWW-Authenticate"] == 'AppId realm="limiter"'
    assert "RateLimit" not in reply.headers


@pytest.mark.parametrize(("app_id", "status"), [("head-200", 200), ("head-429", 429), ("", 401)])
def test_head_is_get_without_a_body(either: Server, app_id: str, status: int) -> None:
    """HEAD gets the same status and the same fields as GET, and no body."""
    path = f"{CHECK}?app_id={app_id}"
    if status == 429:
        for _ in range(10):
            either.ask(path)
    get = either.ask(path)
    head = either.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    start, _, rest = head.decode().partition("\r\n")
    fields, end, body = rest.partition("\r\n\r\n")
    assert get.status == status
    assert start.startswith(f"HTTP/1.1 {status} ")
    assert (end, body) == ("\r\n\r\n", "")
    names = {line.partition(":")[0] for line in fields.split("\r\n")}
    assert names - PASSING - {"Connection"} == set(lasting(get))


def test_app_id_may_be_in_a_form(either: Server) -> None:
    """The app_id in a form is the same application as in a query."""
    replies = [either.post(CHECK, b"colour=red&app_id=form") for _ in range(10)]
    assert {reply.status for reply in replies} == {200}
    assert_answer(either.post(CHECK, b"app_id=form"), 429, "Too Many Requests")
    assert_answer(either.ask(f"{CHECK}?app_id=form"), 429, "Too Many Requests")


@pytest.mark.parametrize("script", ["check.py", "own.py"])
@pytest.mark.parametrize(("app_id", "status"), [("unread", 429), ("", 401)])
def test_answer_does_not_suffer_from_a_body_that_nobody_wants(
    either: Server, script: str, app_id: str, status: int
) -> None:
    """Under mod_cgid a script has one socket for both directions: input left unread can damage its
    answer.
    """
    path = f"/cgi-bin/{script}?app_id={app_id}"
    for _ in range(10 if status == 429 else 0):
        either.ask(path)
    for media_type in ("application/json", "application/x-www-form-urlencoded"):
        for size in (1, 65537, 1000000):
            reply = either.ask(path, "POST", b"x" * size, {"Content-Type": media_type})
            assert_answer(reply, status, MESSAGES[status])


@pytest.mark.parametrize("app_id", ["chunked", ""])
def test_answer_does_not_suffer_from_a_body_of_unknown_length(either: Server, app_id: str) -> None:
    """A chunked request has no CONTENT_LENGTH."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Transfer-Encoding": "chunked"}
    reply = either.ask(f"{CHECK}?app_id={app_id}", "POST", b"1\r\nx\r\n0\r\n\r\n", headers)
    assert reply.status == (200 if app_id else 401)
    assert json.loads(reply.body) == {"message": "OK" if app_id else "Unauthorized"}


def test_hostile_requests_are_refused_and_leave_no_trace(home: Path) -> None:
    """They do not reach the store, neither in a query nor in a form."""
    with apache("event", home) as server:
        for query in HOSTILE:
            assert_answer(server.ask(CHECK + query), 401, "Unauthorized")
            assert_answer(server.post(CHECK, query.partition("?")[2].encode()), 401, "Unauthorized")
        assert_answer(server.post(f"{CHECK}?app_id=acme", b"app_id=acme"), 401, "Unauthorized")
        assert_answer(server.post(CHECK, b"app_id=\xe4"), 401, "Unauthorized")
        raw = server.send(b"GET %b?app_id=\xe4 HTTP/1.0\r\n\r\n" % CHECK.encode())
        assert raw.startswith(b"HTTP/1.1 401 ")
        assert os.listdir(server.root) == []
    assert "limiter:" not in server.log


@pytest.mark.parametrize(
    ("mpm", "settings", "reason"),
    [
        ("event", {"LIMITER_ROOT": "/nowhere/store"}, "StoreError: [Errno 2] The store does not exist"),
        (
            "prefork",
            {"LIMITER_ROOT": "/nowhere/store"},
            "StoreError: [Errno 2] The store does not exist",
        ),
        ("event", {"LIMITER_ROOT": "{closed}/store"}, "StoreError: [Errno 13] Permission denied"),
        ("event", {"LIMITER_ROOT": "store"}, "ValueError: LIMITER_ROOT='store'"),
        ("event", {"LIMITER_LIMIT": "ten a day"}, "ValueError: "),
        ("event", {"LIMITER_ON_ERROR": "shrug"}, "ValueError: LIMITER_ON_ERROR='shrug'"),
    ],
    ids=["missing", "missing-prefork", "closed", "relative", "limit", "verdict"],
)
def test_reason_of_an_error_is_in_the_log_only(
    mpm: str, home: Path, place: Path, settings: dict[str, str], reason: str
) -> None:
    """The client sees only that it is a 500; the administrator sees the reason, in one line."""
    closed = place / "closed"
    closed.mkdir(mode=0)
    settings = {name: value.format(closed=closed) for name, value in settings.items()}
    with apache(mpm, home, settings) as server:
        get = server.ask(f"{CHECK}?app_id=acme")
        head = server.ask(f"{CHECK}?app_id=acme", "HEAD")
        post = server.post(CHECK, b"app_id=acme")
    closed.rmdir()
    for reply in (get, post):
        assert_answer(reply, 500, "Internal Server Error")
        assert reply.body == ERROR
    assert (head.status, head.body, lasting(head)) == (500, b"", lasting(get))
    assert server.log.count(f"limiter: {reason}") == 3
    assert "Traceback" not in server.log


def test_failed_store_may_admit(home: Path) -> None:
    """LIMITER_ON_ERROR is only about the store: a bad app_id is still refused."""
    settings = {"LIMITER_ROOT": "/nowhere/store", "LIMITER_ON_ERROR": "admit"}
    with apache("event", home, settings) as server:
        assert_answer(server.ask(f"{CHECK}?app_id=acme"), 200, "OK")
        assert_answer(server.ask(f"{CHECK}?app_id=.."), 401, "Unauthorized")
    assert "limiter: StoreError: [Errno 2] The store does not exist" in server.log


@pytest.mark.parametrize("script", DEAD)
def test_script_that_dies_is_answered_as_json(either: Server, script: str) -> None:
    """The ErrorDocument answers in its place, for any method and any conditions."""
    get = either.ask(f"/{script}")
    head = either.ask(f"/{script}", "HEAD")
    post = either.post(f"/{script}", b"app_id=acme")
    conditional = either.ask(f"/{script}", headers={"If-None-Match": "*", "Range": "bytes=0-3"})
    for reply in (get, post, conditional):
        assert_answer(reply, 500, "Internal Server Error")
        assert reply.body == ERROR
    assert (head.status, head.body, lasting(head)) == (500, b"", lasting(get))


def test_package_that_is_missing_is_answered_as_json(home: Path, place: Path) -> None:
    """The log gets a traceback."""
    shutil.copytree(home, place, ignore=shutil.ignore_patterns("limiter"), dirs_exist_ok=True)
    with apache("event", place) as server:
        assert_answer(server.ask(f"{CHECK}?app_id=acme"), 500, "Internal Server Error")
    assert "No module named 'limiter'" in server.log


def test_answer_to_errors_cannot_be_asked_for(server: Server) -> None:
    """The ErrorDocument is no page of its own."""
    assert server.ask("/access-limiter/500.json").status == 403


def test_mod_headers_is_not_needed(home: Path) -> None:
    """Without it only "no-store" is missing, when a script dies."""
    crashing = f'<Location "/crashed">\nScriptAlias "{home}/cgi-bin/crashed.py"\n</Location>'
    with apache("event", home, before=crashing, without=("headers",)) as server:
        assert server.ask(f"{CHECK}?app_id=acme").status == 200
        reply = server.ask("/crashed")
    assert (reply.status, reply.body) == (500, ERROR)
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"


def test_apache_without_cgi_does_not_start(home: Path) -> None:
    """Otherwise it would send the text of the script, with 200."""
    needed = "Access Limiter needs mod_cgid, or mod_cgi with mpm_prefork"
    with pytest.raises(RuntimeError, match=needed), apache("event", home, without=("cgi", "cgid")):
        pass


def test_other_scripts_and_files_are_none_of_ours(server: Server) -> None:
    """Only check.py belongs to the limiter; all other scripts stay those of the distribution's
    directory.
    """
    assert server.ask("/cgi-bin/own.py").status == 401
    assert_answer(server.ask(f"{CHECK}?app_id=ours"), 200, "OK")
    for path in (
        "/cgi-bin/check",
        "/cgi-bin/check.pyc",
        "/cgi-bin/crashed.py",
        "/limiter/core/store.py",
    ):
        assert server.ask(path).status in (403, 404)


def test_guarded_script_answers_by_itself_until_the_limit(either: Server) -> None:
    """It sends its own fields and body, and gets the form that was posted."""
    replies = [either.post("/cgi-bin/own.py?app_id=guarded", b"app_id=other&x=1") for _ in range(3)]
    for reply in replies[:2]:
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain")
        assert reply.body == b"I read: app_id=other&x=1\n"
        assert reply.headers["RateLimit-Policy"] == '"2-per-3600s";q=2;w=3600'
    assert replies[0].headers["RateLimit"] == '"2-per-3600s";r=1;t=3600'
    assert replies[1].headers["RateLimit"].startswith('"2-per-3600s";r=0;')
    assert_answer(replies[2], 429, "Too Many Requests")


def test_package_may_lie_in_an_existing_cgi_bin(server: Server) -> None:
    """This is the manual installation."""
    replies = [server.ask("/cgi-bin/copied.py?app_id=copied") for _ in range(3)]
    assert_answer(replies[0], 200, "OK")
    assert_answer(replies[1], 200, "OK")
    assert_answer(replies[2], 429, "Too Many Requests")


def test_package_in_an_existing_cgi_bin_cannot_be_read(server: Server, distribution: Path) -> None:
    """It is not executable, so Apache refuses it."""
    for module in (distribution / "limiter").rglob("*.py"):
        reply = server.ask(f"/cgi-bin/{module.relative_to(distribution)}")
        assert reply.status in (403, 500)
        assert b"import" not in reply.body
