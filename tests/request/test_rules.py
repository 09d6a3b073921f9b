"""Rules: their notation with every mistake in it, which rule a request meets, and their file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.request.paths import path_of, readings
from limiter.request.rule import AMBIGUOUS, Rule
from limiter.request.rules import Rules, RulesError, parse
from limiter.request.rules_file import RulesFile, load

# The notation


def rule_of(text: str) -> Rule:
    (rule,) = parse(text).all
    return rule


def test_a_rule_has_what_its_words_say() -> None:
    rule = rule_of('  /login\tPOST,PUT  login=5/minute key=env:REMOTE_ADDR mode=shadow count="401,5XX" ')
    assert (rule.path, rule.limits, rule.methods) == (
        "/login",
        "login=5/minute",
        frozenset(["POST", "PUT"]),
    )
    assert (rule.key, rule.mode, rule.count) == ("env:REMOTE_ADDR", "shadow", frozenset(["401", "5xx"]))
    assert (rule.line, rule.text[:7]) == (1, "/login\t")


def test_what_a_rule_does_not_say_is_none() -> None:
    rule = rule_of("/ * exempt")
    assert [rule.methods, rule.limits, rule.key, rule.mode] == 4 * [None]
    assert not rule.count


def test_a_word_with_blanks_stands_in_quotes() -> None:
    rule = rule_of(r'"/a \"b" * "5 per 2 minutes; 9/hour burst 3" key="app_id"')
    assert (rule.path, rule.limits, rule.key) == ('/a "b', "5 per 2 minutes; 9/hour burst 3", "app_id")


def test_comments_and_blank_lines_are_no_rules() -> None:
    rules = parse("# a comment\n\n \t\n   # another\n/ * 1/second\r\n")
    assert [(rule.line, rule.limits) for rule in rules.all] == [(5, "1/second")]


MISTAKES = [
    ("login POST 5/minute", 1, "path 'login': expected one that begins with '/'"),
    ("* POST 5/minute", 1, "('/' is for every path)"),
    ("/login?a=b * 5/minute", 7, "expected a path without a query"),
    ("/api/* * 5/minute", 6, "expected a prefix (what is below it matches, too)"),
    (r"/api/\d * 5/minute", 6, "expected a prefix, or an expression that begins with '^'"),
    ("/a%20b * 5/minute", 3, "expected a decoded path"),
    ("/a;b * 5/minute", 3, "expected a path without parameters"),
    ("/a//b * 5/minute", 3, "expected single slashes"),
    ("/a/../b * 5/minute", 4, "expected a path without dot segments"),
    ("^/a(b * 5/minute", 4, "expected a regular expression"),
    ("^(?i)/a * 5/minute", 2, "expected them for a group, as '(?i:/login)'"),
    ("/login", 7, "found the end: expected methods"),
    ("/login POST", 12, "found the end: expected limits"),
    ("/login post 5/minute", 8, "method 'post': expected * or names in upper case"),
    ("/login GET,,POST 5/minute", 12, "method '': expected"),
    ("/login GET,* 5/minute", 12, "expected '*' alone, or names"),
    ("/login GET,GET 5/minute", 12, "method GET twice: expected each once"),
    ("/login GET 5/fortnight", 14, "expected a unit"),
    ("/login GET many", 12, "expected a number of hits"),
    ("/login GET key=app_id 5/minute", 12, "expected limits, exempt or register before options"),
    ("/login GET 5/minute burst 3", 21, "limits with blanks stand in double quotes"),
    ("/login GET 5/minute # often", 21, "a comment has its own line"),
    ("/login GET 5/minute keys=app_id", 21, "found 'keys=app_id': expected key=, mode= or count="),
    ("/login GET 5/minute key=header:", 25, "expected a header's name"),
    ("/login GET 5/minute mode=on", 26, "mode 'on': expected enforce, shadow or off"),
    ("/login GET 5/minute mode=off mode=off", 30, "mode= twice: expected it once"),
    ("/login GET 5/minute count=401,6xx", 31, "status '6xx': expected statuses from 200 to 599"),
    ("/login GET 5/minute count=", 27, "status '': expected statuses"),
    ("/login GET 5/minute count=40", 27, "status '40': expected statuses"),
    ("/login GET 5/minute mode=off count=401", 21, "options beside mode=off: expected none"),
    ("/login GET exempt key=app_id", 19, "an option of an exempt request: expected none"),
    ('/login GET "5/minute', 12, "a quote without its end: expected a second one"),
    ('/login GET 5"/minute"', 13, "a quote within a word: expected a blank or '=' before it"),
    ('/login GET "5/minute"key=app_id', 22, "found 'k' after a quote: expected a blank"),
    ("/login\0 GET 5/minute", 7, "expected text in UTF-8 without control characters"),
    ("/\udcff GET 5/minute", 2, "expected text in UTF-8 without control characters"),
]


@pytest.mark.parametrize(("line", "column", "expected"), MISTAKES)
def test_a_mistake_has_its_place_and_what_is_expected(line: str, column: int, expected: str) -> None:
    with pytest.raises(RulesError) as error:
        parse(f"# rules\n{line}", "rules.conf")
    (mistake,) = error.value.mistakes
    assert (mistake.line, mistake.column) == (2, column), mistake.message
    assert expected in mistake.message
    assert str(error.value) == f"rules.conf:2:{column}: {mistake.message}"
    assert str(error.value).isprintable()


def test_all_mistakes_are_found() -> None:
    with pytest.raises(RulesError, match=r"^rules:1:1: .* \(and 3 more\)$") as error:
        parse("login post 5/m\n/ * 5/m\n/ * 5/m mode=x count=y")
    places = [(mistake.line, mistake.column) for mistake in error.value.mistakes]
    assert places == [(1, 1), (1, 7), (3, 14), (3, 22)]


@given(st.text())
def test_any_text_is_rules_or_has_mistakes_with_places(text: str) -> None:
    try:
        rules = parse(text)
    except RulesError as error:
        for mistake in error.mistakes:
            line = text.split("\n")[mistake.line - 1]
            assert 1 <= mistake.column <= len(line) + 1
    else:
        assert len(rules.all) <= text.count("\n") + 1


# Which rule a request meets


@pytest.mark.parametrize(
    ("path", "matching", "others"),
    [
        (
            "/login",
            ["/login", "/login/", "/login/x", "//login", "/login;a=b"],
            ["/loginx", "/", "/x/login"],
        ),
        ("/api/", ["/api/", "/api/x", "/api"], ["/apix"]),
        ("/", ["/", "", "/x", "*"], []),
        ("/m\u00fcsli", ["/m\u00fcsli", "/m%C3%BCsli"], ["/musli"]),
        (r"^/v\d+/", ["/v1/x", "/v12", "/v1/"], ["/v/x", "/x/v1/"]),
        ("^/login$", ["/login", "/login/"], ["/login/x"]),
        ("^/(a|b)$", ["/a", "/b/"], ["/c"]),
        ("^/a|/b", ["/a", "/x/b"], ["/x"]),
        ("^/colou?r", ["/color", "/colour"], ["/colo"]),
        (r"^/a\.b", ["/a.b"], ["/axb"]),
        ("^(?i:/login)", ["/LogIn"], ["/x"]),
        ("^/[|]+/a.*z$", ["/|/a\nz"], ["/a"]),
    ],
)
def test_a_path_matches(path: str, matching: list[str], others: list[str]) -> None:
    rules = parse(f"{path} * 1/second")
    assert [it for it in matching if rules.find(it, "GET") is None] == []
    assert [it for it in others if rules.find(it, "GET") is not None] == []


@pytest.mark.parametrize(
    ("methods", "matching"),
    [
        ("*", ["GET", "HEAD", "POST", "PURGE", ""]),
        ("GET", ["GET", "HEAD"]),
        ("HEAD", ["HEAD"]),
        ("GET,POST", ["GET", "HEAD", "POST"]),
    ],
)
def test_a_method_matches(methods: str, matching: list[str]) -> None:
    rules = parse(f"/ {methods} 1/second")
    assert [it for it in ("GET", "HEAD", "POST", "PURGE", "") if rules.find("/", it)] == matching


def test_the_first_rule_that_matches_decides() -> None:
    rules = parse(
        "/a/b POST 1/second\n/a * 2/second\n^/.*b 3/second\n/ GET 4/second".replace("b 3", "b * 3")
    )
    asked = [
        ("/a/b", "POST"),
        ("/a/b", "PUT"),
        ("/a", "GET"),
        ("/b", "GET"),
        ("/c", "GET"),
        ("/c", "PUT"),
    ]
    found = [rules.find(*it) for it in asked]
    assert [rule and rule.line for rule in found] == [1, 2, 2, 3, 4, None]


PARTS = st.sampled_from(["/", "a", "b", "/a", "/b", ".", "..", "//"])
PATHS = st.lists(PARTS, max_size=6).map("".join)
WRITTEN = st.sampled_from(
    ["/", "/a", "/b/", "/a/b", "^/a$", "^/a+b?", "^/(a|b)/a", "^/b|a", r"^\/ab*", "^/"]
)


@given(st.lists(WRITTEN, max_size=6), PATHS)
def test_the_index_finds_what_a_search_in_order_finds(written: list[str], path: str) -> None:
    rules = parse("\n".join(f"{it} * 1/second" for it in written))
    for reading in readings(f"/{path}"):
        found = [rule for rule in rules.all if rule.matches(reading, "GET")]
        assert rules._first(reading, "GET") is (found[0] if found else None)


# Spellings


ATTEMPTS = [
    *("/login", "/login/", "//login", "/./login", "/x/../login", "/login;a=b", "/;a/login", "/login/."),
    *("/x/..;/login", "/x/%2e%2e/login", "/%6cogin", "/x%2f..%2flogin", "\\login", "/x\\..\\login"),
    *("/x/..;a=b/login", "/x;/../login", "/x/.;/../login", "/x//../../login", "/x/y/../..//login;"),
    *(
        "/login/x/..",
        "/static/../login",
        "/static/..;/login",
        "/static/%2e%2e;/login",
        "/static\\../login",
    ),
]


@pytest.mark.parametrize("path", ATTEMPTS)
@pytest.mark.parametrize("method", ["POST", "post", "Post"])
def test_no_spelling_gets_around_a_limit(path: str, method: str) -> None:
    """An exemption beside it does not help."""
    rules = parse("/static/ * exempt\n/x * 9/second mode=shadow\n/login POST 1/second\n")
    found = rules.find(path, method)
    assert found in (rules.all[2], AMBIGUOUS)


@pytest.mark.parametrize(
    "path", ["/api/../login", "/api/..;/login", "/api/%2e%2e/login", "/login/..;/api"]
)
def test_a_path_between_two_limits_is_ambiguous(path: str) -> None:
    """Neither limit alone can be right: an application reads one path, the next one the other."""
    rules = parse("/api/ * 100/second\n/login * 1/minute")
    assert rules.find(path, "GET") is AMBIGUOUS


@pytest.mark.parametrize(
    "path", ["//api//x", "/api/x;jsessionid=1", "/api/./x", "/api/x/../y", "/api;v=1/x"]
)
def test_a_sloppy_spelling_of_one_path_is_not_ambiguous(path: str) -> None:
    rules = parse("/api/ * 100/second\n/ * 1/second")
    assert rules.find(path, "GET") is rules.all[0]


@pytest.mark.parametrize("path", ["/static/../x", "/static/..;/x", "/x/../static/y", "/static/..%2fx"])
def test_what_is_exempt_in_one_reading_alone_is_not_exempt(path: str) -> None:
    rules = parse("/static/ * exempt\n/x * exempt\n/ * 1/second")
    assert rules.find("/static/y", "GET") is rules.all[0]
    if "static/y" in path:
        assert rules.find(path, "GET") is rules.all[0]  # both readings are exempt
    else:
        assert parse("/static/ * exempt").find(path, "GET") is None
        assert parse("/static/ * exempt\n/ * 1/second").find(path, "GET") is not None


def test_a_path_has_few_readings_however_odd_it_is() -> None:
    odd = "/;%41/.././/\\..;x/%5c%2e" * 300
    assert 1 < len(readings(odd)) <= 16
    assert readings("/a/b") == {"/a/b"}


@given(st.text("/.;%2e\\a", max_size=12))
def test_every_reading_is_a_plain_one_but_for_dots(path: str) -> None:
    for reading in readings(f"/{path}"):
        assert reading[:1] == "/"
        assert "//" not in reading
        assert ";" not in reading


def test_the_script_that_the_server_chose_counts_too_but_not_for_an_exemption() -> None:
    """MultiViews finds login.php for /login."""
    rules = parse("/login.php POST 1/minute\n/open * exempt\n/index.php * exempt\n/ * 9/second")
    assert rules.find("/login", "POST", "/login.php") is rules.all[0]
    assert rules.find("/open", "GET", "/index.php") is rules.all[1]
    assert rules.find("/api", "GET", "/index.php") is rules.all[3]
    assert rules.find("/open", "POST", "/login.php") is rules.all[0]


@pytest.mark.parametrize(
    ("variables", "paths"),
    [
        ({"REQUEST_URI": "/a%20b?c=/d", "SCRIPT_NAME": "/s", "PATH_INFO": "/p"}, ("/a b", "/s/p")),
        ({"SCRIPT_NAME": "/s", "PATH_INFO": "/p"}, ("/s/p", "/s/p")),
        ({"REQUEST_URI": "http://host/login?x", "SCRIPT_NAME": "/login"}, ("/login", "/login")),
        ({"REQUEST_URI": "http://host", "SCRIPT_NAME": "/"}, ("/", "/")),
        ({"REQUEST_URI": "/login#/../static"}, ("/login", "")),
        ({"REQUEST_URI": "/login//http://x"}, ("/login//http://x", "")),
        ({"REQUEST_URI": "*"}, ("*", "")),
        ({}, ("", "")),
    ],
)
def test_the_path_is_the_one_that_the_client_asked_for(
    variables: dict[str, str], paths: tuple[str, str]
) -> None:
    assert path_of({name.encode(): it.encode() for name, it in variables.items()}) == paths


# The file


def test_the_file_is_read_as_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    for begin in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(begin + "/m\u00fcsli * 1/second\r\n".encode())
        assert load(str(file)).find("/m\u00fcsli", "GET") is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No such file or directory: expected a file of rules"),
        (b"", "expected at least one rule"),
        (b"# nothing\n", "expected at least one rule"),
        (b"/ * 1/second\n/ * x\n", ":2:5: limit 'x': expected"),
        (b"#" * 1_000_001, "expected a file of at most 1,000,000 bytes"),
        (b"/\xff * 1/second", ":1:2: found '\\udcff': expected text in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(
    tmp_path: Path, text: bytes | None, expected: str
) -> None:
    file = tmp_path / "rules"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ValueError, match=f"^LIMITER_RULES={file}:") as error:
        load(str(file))
    assert expected in str(error.value)


def test_a_directory_is_no_file_of_rules(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Is a directory"):
        load(str(tmp_path))


class Watched:
    """A file of rules, a clock, and what was logged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.log: list[str] = []
        self.write("1/second")
        self.file = RulesFile(str(path), self.prepare, lambda: self.now)

    def prepare(self, rules: Rules) -> list[str | None]:
        return [rule.limits for rule in rules.all]

    def write(self, *limits: str) -> None:
        """Replace the file, as ``mv`` does."""
        aside = self.path.with_suffix(".new")
        aside.write_text("".join(f"/ * {it}\n" for it in limits))
        os.replace(aside, self.path)

    def limits(self, seconds: float) -> object:
        """Return the limits so many seconds later."""
        self.now += seconds
        return self.file.current(self.log.append)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "rules")


def test_a_changed_file_is_read_again_after_a_second(watched: Watched) -> None:
    watched.write("2/second")
    assert watched.limits(0.9) == ["1/second"]
    assert watched.limits(0.1) == ["2/second"]
    watched.write("3/second", "4/second")
    assert watched.limits(1) == ["3/second", "4/second"]
    assert watched.log == []


def test_a_file_that_stays_is_not_read_again(watched: Watched) -> None:
    first = watched.limits(0)
    assert [watched.limits(1) is first for _ in range(3)] == [True, True, True]


def test_a_mistake_in_a_changed_file_keeps_the_rules_and_is_logged_once(watched: Watched) -> None:
    for _ in range(2):
        watched.write("nonsense")
        assert [watched.limits(1), watched.limits(1)] == [["1/second"], ["1/second"]]
    (line,) = watched.log
    assert f"LIMITER_RULES={watched.path}:1:5: limit 'nonsense'" in line
    assert line.endswith("(until then, the rules from before apply)")
    watched.write("2/second")
    assert watched.limits(1) == ["2/second"]
    watched.write("nonsense")
    assert watched.limits(1) == ["2/second"]
    assert len(watched.log) == 2


def test_a_file_that_is_gone_keeps_the_rules_and_is_logged_once(watched: Watched) -> None:
    watched.path.unlink()
    assert [watched.limits(1), watched.limits(1)] == [["1/second"], ["1/second"]]
    assert len(watched.log) == 1
    assert "No such file or directory" in watched.log[0]
    watched.write("2/second")
    assert watched.limits(1) == ["2/second"]
