"""The contract of all doors: what each answers, logs and counts, whatever stands behind it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limiter import Limiter
from limiter.request.register import put
from tests.conftest import NOBODY
from tests.disks import small_disk
from tests.doors.doors import DOORS, THROUGH, Answer, Door, clients
from tests.places import new_root

REASONS = {
    "401": "Unauthorized",
    "429": "Too Many Requests",
    "500": "Internal Server Error",
}
POLICY = {"ratelimit-policy": '"2-per-3600s";q=2;w=3600'}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


def settings_of(store: str, **settings: str) -> dict[str, str]:
    """Return settings; the time-out is one that even a busy machine does not exceed."""
    named = {f"LIMITER_{name}": text for name, text in settings.items()}
    return {"LIMITER_ROOT": store, "LIMITER_LIMIT": "2/hour", "LIMITER_TIMEOUT": "60", **named}


def statuses(
    door: Door, settings: dict[str, str], *queries: str, **more: dict[str, str] | str
) -> list[str]:
    """Return the statuses of these requests; none may log anything."""
    answers = [door.send(settings, query, **more) for query in queries]  # type: ignore[arg-type]
    assert [answer.log for answer in answers] == [[] for _ in queries]
    return [answer.status for answer in answers]


def check(door: Door, answer: Answer, status: str, fields: dict[str, str]) -> None:
    """Check the status, the limiter's header fields and the body."""
    assert answer.status == status
    expected = dict(fields)
    body = b""
    if status == "401" and door.name != "rewritemap":
        expected["www-authenticate"] = 'AppId realm="limiter"'
    if status == "200" and door.guards:
        expected["content-type"] = "text/plain"
        body = THROUGH
    elif door.name != "rewritemap":
        expected.update({"content-type": "application/json; charset=utf-8", "cache-control": "no-store"})
        body = f'{{"message": "{REASONS.get(status, "OK")}"}}'.encode()
    own = dict(answer.fields)
    if "content-length" in own:
        assert own.pop("content-length") == str(len(body))
    assert own == expected
    assert answer.body == body


def check_one_line(answer: Answer, begin: str, part: str = "") -> None:
    """Check that one line was logged, without control characters."""
    (line,) = answer.log
    assert line.startswith(f"limiter: {begin}")
    assert part in line
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= 4000


# Decisions


def test_admits_up_to_the_limit_and_denies_after_it(door: Door, store: str) -> None:
    settings = settings_of(store)
    first, second, third, other = (
        door.send(settings, f"app_id={app}") for app in ("acme", "acme", "acme", "emca")
    )
    fresh = {**POLICY, "ratelimit": '"2-per-3600s";r=1;t=3600'}
    check(door, first, "200", fresh)
    check(door, other, "200", fresh)
    assert second.status == "200"
    assert second.fields["ratelimit"].startswith('"2-per-3600s";r=0;t=3')
    wait = third.fields["retry-after"]
    assert 3000 < int(wait) <= 3600
    full = {"ratelimit": f'"2-per-3600s";r=0;t={wait}', "retry-after": wait}
    check(door, third, "429", {**POLICY, **full})
    assert first.log == second.log == third.log == []
    assert clients(store) == ["acme", "emca"]


@pytest.mark.parametrize(
    ("limits", "policy"),
    [
        ("5/minute fixed", '"5-per-60s-fixed";q=5;w=60'),
        ("5/second burst 21", '"5-per-1s-burst-21";q=21;w=5'),
        ("login=5/minute;5/minute", '"login";q=5;w=60, "5-per-60s";q=5;w=60'),
        ("2/hour;9 per 2 days", '"2-per-3600s";q=2;w=3600, "9-per-172800s";q=9;w=172800'),
        ("", '"10-per-1s";q=10;w=1'),
    ],
)
def test_each_kind_of_limit_has_its_policy(door: Door, store: str, limits: str, policy: str) -> None:
    answer = door.send(settings_of(store, LIMIT=limits))
    assert (answer.status, answer.fields["ratelimit-policy"]) == ("200", policy)


def test_a_limit_of_zero_denies_with_a_number_of_seconds(door: Door, store: str) -> None:
    """Retry-After holds a number, though waiting never helps; nothing is written."""
    fields = {
        "ratelimit-policy": '"0-per-60s";q=0;w=60',
        "ratelimit": '"0-per-60s";r=0;t=1',
        "retry-after": "60",
    }
    check(door, door.send(settings_of(store, LIMIT="0/minute")), "429", fields)
    assert os.listdir(store) == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_every_method_is_a_hit(door: Door, store: str, method: str) -> None:
    answer = door.send(settings_of(store), method=method)
    check(door, answer, "200", {**POLICY, "ratelimit": '"2-per-3600s";r=1;t=3600'})


@pytest.mark.parametrize(
    ("query", "settings", "status"),
    [
        ("app_id=acme", {}, "200"),
        ("app_id=acme", {"LIMIT": "0/hour"}, "429"),
        ("", {}, "401"),
        ("app_id=acme", {"LIMIT": "many"}, "500"),
    ],
)
def test_head_is_a_hit_and_gets_the_fields_of_get(
    door: Door, store: str, query: str, settings: dict[str, str], status: str
) -> None:
    given = settings_of(store, **settings)
    head = door.send(given, query, method="HEAD")
    full = door.send(given, query.replace("acme", "emca"))
    assert head.status == full.status == status
    assert head.fields == full.fields
    if status == "200":
        assert Limiter(store, "2/hour").peek("acme").remaining == 1
    else:
        assert head.body == b""


def test_a_node_has_its_share(door: Door, store: str) -> None:
    answer = door.send(settings_of(store, NODES="2"))
    assert answer.fields["ratelimit-policy"] == '"1-per-3600s";q=1;w=3600'


# Who asks


@pytest.mark.parametrize(
    "query",
    [
        *("", "app_id", "app_id=", "app_ID=acme", "id=acme", "app_id=.", "app_id=..%2Facme"),
        *("app_id=a%00", "app_id=a+b", "app_id=" + "a" * 65, "app_id=%E9", "app_id=.new-1"),
        *("app_id=acme&app_id=acme", "app_id=acme&%61pp_id=other", "app_id=acme;", "app_id=a;app_id=b"),
        "app_id=acme%0AStatus:%20200%20OK",
    ],
)
def test_a_missing_bad_or_second_app_id_gets_401(door: Door, store: str, query: str) -> None:
    """Nothing is written or logged."""
    answer = door.send(settings_of(store), query)
    check(door, answer, "401", {})
    assert (answer.log, os.listdir(store)) == ([], [])


@pytest.mark.parametrize(
    "query",
    ["app_id=acme", "app_id=%61cme", "a%70p_id=acme", "x=1&app_id=acme&y", "&&app_id=acme&"],
)
def test_an_app_id_counts_as_it_decodes(door: Door, store: str, query: str) -> None:
    assert statuses(door, settings_of(store), query) == ["200"]
    assert clients(store) == ["acme"]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("acme", "acme"),
        ("Bearer token/1", "sha256-"),
        ("a, b", None),
        ("", None),
    ],
)
def test_the_key_can_be_a_header(door: Door, store: str, value: str, stored: str | None) -> None:
    """A value that is no app_id is stored hashed; two values are none."""
    settings = settings_of(store, LIMIT="1/hour", KEY="header:X-Api-Key")
    sent = [door.send(settings, fields={"X-Api-Key": value} if value else {}).status for _ in range(2)]
    assert sent == (["200", "429"] if stored else ["401", "401"])
    names = clients(store)
    assert len(names) == (stored is not None)
    assert all(name.startswith(stored or "") for name in names)


def test_the_key_can_be_the_address(door: Door, store: str) -> None:
    """An IPv6 network counts as one."""
    settings = settings_of(store, LIMIT="1/hour", KEY="env:REMOTE_ADDR")
    addresses = ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]
    sent = [door.send(settings, "", address=address).status for address in addresses]
    assert sent == ["200", "429", "200", "200", "429"]


def test_a_trusted_proxy_reports_the_address(door: Door, store: str) -> None:
    """Another client's X-Forwarded-For counts for nothing."""
    settings = settings_of(store, LIMIT="1/hour", KEY="env:REMOTE_ADDR", TRUSTED_PROXIES="192.0.2.1")
    fields = {"X-Forwarded-For": "192.0.2.9, 192.0.2.7"}
    sent = [
        door.send(settings, "", fields, address=address).status
        for address in ("192.0.2.1", "192.0.2.7", "192.0.2.9", "192.0.2.1")
    ]
    assert sent == ["200", "429", "200", "429"]


# The register


def test_the_register_decides_at_each_request(door: Door, store: str, apps: str) -> None:
    settings = settings_of(store, APPS=apps)
    query = "app_id=acme"
    assert statuses(door, settings, query) == ["401"]
    for limits, expected in [
        ("1/day", ["200", "429"]),
        ("2/day", ["200", "200", "429"]),
        ("0/second", ["429"]),
        ("unlimited", ["200", "200"]),
    ]:
        put(apps, "acme", limits)
        assert statuses(door, settings, *len(expected) * [query]) == expected
    check(door, door.send(settings), "200", {})
    assert statuses(door, settings, "app_id=other") == ["401"]
    put(apps, ".default", "1/day")
    assert statuses(door, settings, "app_id=other", "app_id=other") == ["200", "429"]


def test_a_bad_entry_of_the_register_is_named(door: Door, store: str, apps: str) -> None:
    put(apps, ".default", "10/fortnight")
    answer = door.send(settings_of(store, APPS=apps, ON_ERROR="admit"))
    check(door, answer, "500", {})
    check_one_line(answer, f"ValueError: {apps}/.default: limit '10/fortnight': expected a unit")


# New clients


@pytest.mark.parametrize("on_error", ["deny", "admit"])
def test_new_clients_beyond_the_bound_are_refused_and_known_ones_are_not(
    door: Door, store: str, on_error: str
) -> None:
    """One line is logged in a minute."""
    settings = settings_of(store, NEWCOMERS="1/hour", ON_ERROR=on_error)
    assert statuses(door, settings, "app_id=acme") == ["200"]
    first, second = [door.send(settings, f"app_id={app}") for app in ("first", "second")]
    wait = first.fields["retry-after"]
    assert 3000 < int(wait) <= 3600
    full = {"ratelimit": f'"2-per-3600s";r=0;t={wait}', "retry-after": wait}
    check(door, first, "429", {**POLICY, **full})
    check_one_line(first, f"{store}: new clients are refused (429): LIMITER_NEWCOMERS is 1/hour")
    assert (second.status, second.log) == ("429", [])
    assert statuses(door, settings, "app_id=acme", "app_id=acme") == ["200", "429"]
    assert clients(store) == ["acme"]


def test_a_new_client_that_is_refused_for_each_of_its_limits_is_one_line(door: Door, store: str) -> None:
    settings = settings_of(store, LIMIT="2/hour;9/day", NEWCOMERS="2/hour")
    assert statuses(door, settings, "app_id=acme") == ["200"]
    answer = door.send(settings, "app_id=other")
    assert answer.status == "429"
    check_one_line(answer, f"{store}: new clients are refused (429): LIMITER_NEWCOMERS is 2/hour")


def test_a_client_that_the_register_names_is_no_new_one(door: Door, store: str, apps: str) -> None:
    put(apps, "acme", "1/hour")
    put(apps, ".default", "1/hour")
    settings = settings_of(store, APPS=apps, NEWCOMERS="0/second")
    assert statuses(door, settings, "app_id=acme", "app_id=acme") == ["200", "429"]
    assert door.send(settings, "app_id=other").status == "429"
    assert clients(store) == ["acme"]


def test_without_a_bound_new_clients_are_not_counted(door: Door, store: str) -> None:
    assert statuses(door, settings_of(store, NEWCOMERS="unlimited"), "app_id=acme") == ["200"]
    assert os.listdir(store) == ["acme@2-per-3600s"]


def test_shadow_mode_admits_a_new_client_that_would_be_refused(door: Door, store: str) -> None:
    answer = door.send(settings_of(store, NEWCOMERS="0/second", MODE="shadow"))
    check(door, answer, "200", {})
    assert len(answer.log) == 2
    assert "new clients are refused (429)" in answer.log[0]
    assert answer.log[1] == "limiter: shadow: acme would have got 429 Too Many Requests"


@pytest.mark.parametrize("on_error", ["deny", "admit"])
def test_without_a_free_inode_new_clients_are_refused_and_known_ones_are_not(
    door: Door, on_error: str
) -> None:
    """Not even the lines can be counted, so each refusal has one."""
    with small_disk() as disk:
        store = str(new_root(str(disk.path)))
        os.chown(store, NOBODY, NOBODY)
        settings = settings_of(store, ON_ERROR=on_error)
        assert statuses(door, settings, "app_id=acme") == ["200"]
        disk.fill()
        for app in ("first", "second"):
            answer = door.send(settings, f"app_id={app}")
            full = {"ratelimit": '"2-per-3600s";r=0;t=60', "retry-after": "60"}
            check(door, answer, "429", {**POLICY, **full})
            check_one_line(
                answer, f"{store}: new clients are refused (429): few inodes or bytes are free"
            )
        assert statuses(door, settings, "app_id=acme", "app_id=acme") == ["200", "429"]


# Modes


def test_shadow_mode_admits_and_logs_what_it_would_have_denied(
    door: Door, store: str, apps: str
) -> None:
    """It counts as many hits as enforcing does."""
    put(apps, "acme", "1/day")
    settings = settings_of(store, MODE="shadow", APPS=apps)
    assert statuses(door, settings, "app_id=acme") == ["200"]
    for query, line in [
        ("app_id=acme", "acme would have got 429 Too Many Requests"),
        ("app_id=other", "other would have got 401 Unauthorized"),
        ("", "a request without a valid app_id would have got 401 Unauthorized"),
    ]:
        answer = door.send(settings, query)
        check(door, answer, "200", {})
        assert answer.log == [f"limiter: shadow: {line}"]
    assert len(Limiter(store, "1/day").hits("acme")[0]) == 1


def test_off_does_nothing(door: Door, store: str) -> None:
    settings = settings_of(f"{store}/missing", MODE="off", LIMIT="nonsense")
    for query in ("app_id=acme", ""):
        answer = door.send(settings, query)
        check(door, answer, "200", {})
        assert answer.log == []


# What goes wrong

MISTAKES = [
    ("LIMIT", "many", "limit 'many': expected a number of hits at character 1"),
    ("LIMIT", "10001/second", "expected a sliding limit of at most 10000 hits"),
    ("LIMIT", "1/second\nStatus: 200 OK", "limit '1/second"),
    ("LIMIT", "1/second \x1b[2J", "limit '1/second "),
    ("LIMIT", "9" * 10_000, "limit '999"),
    ("ROOT", "store", "LIMITER_ROOT='store': expected an absolute path"),
    ("ROOT", "./\n", "LIMITER_ROOT="),
    ("MODE", "on", "LIMITER_MODE='on'"),
    ("TIMEOUT", "-1", "LIMITER_TIMEOUT='-1': expected seconds"),
    ("NODES", "0", "LIMITER_NODES='0'"),
    ("NEWCOMERS", "many", "LIMITER_NEWCOMERS: limit 'many': expected a number of hits at character 1"),
    ("APPS", "apps", "LIMITER_APPS='apps'"),
    ("KEY", "header:X_Api_Key", "key 'header:X_Api_Key'"),
]


@pytest.mark.parametrize(("name", "text", "why"), MISTAKES)
def test_a_mistake_in_the_settings_gets_500_and_one_line(
    door: Door, store: str, name: str, text: str, why: str
) -> None:
    """The client gets no reason, and LIMITER_ON_ERROR does not matter."""
    answer = door.send(settings_of(store, ON_ERROR="admit", **{name: text}))
    check(door, answer, "500", {})
    check_one_line(answer, "ValueError: ", why)
    assert os.listdir(store) == []


def test_a_bad_word_for_errors_is_a_mistake(door: Door, store: str) -> None:
    answer = door.send(settings_of(store, ON_ERROR="perhaps"))
    check(door, answer, "500", {})
    check_one_line(answer, "ValueError: LIMITER_ON_ERROR='perhaps': expected 'deny' or 'admit'")


@pytest.mark.parametrize("name", ["missing", "missing\n[error] forged", "missing\x1b[2J"])
@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, "500"),
        ({"ON_ERROR": "deny"}, "500"),
        ({"ON_ERROR": "admit"}, "200"),
        ({"MODE": "shadow"}, "200"),
    ],
)
def test_a_store_that_fails_gets_the_status_of_the_settings(
    door: Door, store: str, settings: dict[str, str], status: str, name: str
) -> None:
    """One line is logged; without an app_id the store is not called."""
    given = settings_of(f"{store}/{name}", **settings)
    answer = door.send(given)
    check(door, answer, status, {})
    check_one_line(answer, "StoreError: [Errno 2] The store does not exist", f"{store}/missing")
    if settings != {"MODE": "shadow"} and door.name != "rewritemap":
        # The map's program reads no request as root, which it is until it has found the store.
        assert statuses(door, given, "") == ["401"]


@pytest.mark.parametrize(("on_error", "status"), [("deny", "500"), ("admit", "200")])
def test_a_register_that_fails_counts_as_a_store_that_fails(
    door: Door, store: str, on_error: str, status: str
) -> None:
    answer = door.send(settings_of(store, APPS=f"{store}/missing", ON_ERROR=on_error))
    check(door, answer, status, {})
    check_one_line(answer, "StoreError: [Errno 2] The register does not exist", f"{store}/missing")


@pytest.mark.parametrize("key", ["header:X-Api-Key", "api_key"])
def test_an_app_id_that_may_be_a_secret_is_masked_in_the_log(
    door: Door, store: str, apps: str, key: str
) -> None:
    """In shadow mode and in the path of an error."""
    request = ("api_key=sk-live-1", {"X-Api-Key": "sk-live-1"})
    answer = door.send(settings_of(store, KEY=key, MODE="shadow", LIMIT="0/day"), *request)
    assert answer.log == ["limiter: shadow: *** would have got 429 Too Many Requests"]
    put(apps, "sk-live-1", "1/fortnight")
    answer = door.send(settings_of(store, KEY=key, APPS=apps), *request)
    check_one_line(answer, f"ValueError: {apps}/***: limit '1/fortnight'")


@pytest.mark.parametrize(("query", "status"), [("", "401"), ("app_id=acme", "429")])
def test_a_denial_is_logged_if_the_level_is_warning(
    door: Door, store: str, query: str, status: str
) -> None:
    answer = door.send(settings_of(store, LIMIT="0/day", LOG_LEVEL="warning"), query)
    assert answer.status == status
    (line,) = answer.log
    assert f'"status": {status}' in line


# The default store


@pytest.fixture(params=[name for name in DOORS if name != "rewritemap"])
def users_door(request: pytest.FixtureRequest) -> Door:
    """A door that runs as the user; the map's program, which root starts, needs LIMITER_ROOT."""
    return DOORS[request.param]


def test_the_default_store_is_the_users_own(users_door: Door, tmp_path: Path) -> None:
    """If it is made in a directory for temporary files, the log gets a note."""
    settings = {**settings_of(""), "TMPDIR": str(tmp_path)}
    answer = users_door.send(settings)
    assert answer.status == "200"
    (store,) = tmp_path.iterdir()
    check_one_line(answer, f"The store is {store}, where cleaners of temporary files may remove it")
    assert store.name == f"limiter-{os.geteuid()}"
    assert store.stat().st_mode & 0o7777 == 0o700
    assert clients(str(store)) == ["acme"]
    assert statuses(users_door, settings, "app_id=acme", "app_id=acme") == ["200", "429"]


@pytest.mark.parametrize(
    ("temporary", "why"),
    [("link", "it is not trusted"), ("missing", "missing"), ("relative", "expected an absolute path")],
)
def test_a_default_store_that_cannot_be_trusted_or_made_gets_500(
    users_door: Door, tmp_path: Path, temporary: str, why: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"limiter-{os.geteuid()}").symlink_to("elsewhere")
    path = {"link": str(tmp_path), "missing": f"{tmp_path}/missing", "relative": "tmp"}[temporary]
    answer = users_door.send({**settings_of(""), "TMPDIR": path})
    check(users_door, answer, "500", {})
    assert len(answer.log) == 1
    assert why in answer.log[0]
    assert os.listdir(tmp_path / "elsewhere") == []
