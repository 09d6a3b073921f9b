"""The page, JSON and metrics of a store: what they show, and what they must not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from limiter import Limiter, wsgi
from limiter.core.limit import make
from limiter.status import survey as module
from limiter.status.answer import answer
from limiter.status.open_metrics import metrics
from limiter.status.page import as_json, page
from limiter.status.survey import Survey
from tests.conftest import clean_environ
from tests.places import REPOSITORY


def look(root: str, **settings: str) -> Survey:
    return Survey(
        {b"LIMITER_ROOT": root.encode(), **{k.encode(): it.encode() for k, it in settings.items()}}
    )


def fill(root: str) -> None:
    """Clients at a limit, near one, and far from any."""
    for app, limit, hits in (
        ("full", "5/hour", 5),
        ("near", "100/hour fixed", 95),
        ("far", "5/hour", 1),
    ):
        limiter = Limiter(root, limit)
        for _ in range(hits):
            assert limiter.hit(app)


def test_the_busiest_come_first_and_the_idle_not_at_all(root: str) -> None:
    fill(root)
    Limiter(root, "5/hour").reset("far")
    seen = look(root)
    assert [(it.app, it.used, it.limit.quota) for it in seen.standings] == [
        ("full", 5, 5),
        ("near", 95, 100),
    ]
    assert (seen.at_limit, seen.near_limit, seen.stores[0].clients) == (1, 1, 3)


def test_it_counts_and_changes_nothing(root: str) -> None:
    fill(root)
    before = sorted(str(it) for it in Path(root).rglob("*"))
    for _ in range(3):
        page(look(root))
    assert sorted(str(it) for it in Path(root).rglob("*")) == before


def test_json_says_the_same(root: str) -> None:
    fill(root)
    told = json.loads(as_json(look(root, LIMITER_LIMIT="5/hour", LIMITER_SMTP="me:secret@mail")))
    first = {"app_id": "full", "limit": "5-per-3600s", "used": 5, "quota": 5}
    assert {name: told["clients"][0][name] for name in first} == first
    assert told["settings"] == {"LIMITER_LIMIT": "5/hour", "LIMITER_ROOT": root}
    assert (told["well"], told["counters"], told["stores"][0]["root"]) == (True, None, root)


HOSTILE = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    "show", [page, as_json, lambda it: metrics(it, True), lambda it: metrics(it, False)]
)
def test_names_are_escaped_and_keys_hidden(
    root: str, show: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Limiter(root, "5/hour").hit("key-1234")
    text = show(look(root, LIMITER_KEY="header:X-Api-Key", LIMITER_LIMIT="5/hour"))
    assert "key-1234" not in text
    shown = show(look(f'{root}/{HOSTILE}"\\\n', LIMITER_LIMIT=f"login=5/hour{HOSTILE}"))
    assert "<script>" not in shown or show is not page
    if show is not page:
        json.loads(shown) if show is as_json else check_metrics(shown)


def check_metrics(text: str) -> None:
    for line in text.splitlines():
        assert re.fullmatch(
            r'# (HELP|TYPE|UNIT) limiter_.*|# EOF|limiter_[a-z_]+(\{([a-z]+="([^"\\]|\\.)*",?)+\})? [-+0-9.e]+',
            line,
        ), line


def test_the_page_can_be_held_still(root: str) -> None:
    def ask(query: str) -> tuple[dict[str, str], str]:
        _, fields, body = answer(
            {b"LIMITER_ROOT": root.encode(), b"QUERY_STRING": query.encode()}, "", print
        )
        return dict(fields), body.decode()

    assert ask("")[0]["Refresh"] == "5"
    assert '<a href="?still">' in ask("")[1]
    assert "Refresh" not in ask("still")[0]
    assert '<a href="?">' in ask("still")[1]


@pytest.mark.parametrize(
    ("settings", "is_shown"),
    [
        ({}, True),
        ({"LIMITER_KEY": "env:REMOTE_ADDR"}, True),
        ({"LIMITER_KEY": "header:X-Key"}, False),
        ({"LIMITER_KEY": "api_key"}, False),
        ({"LIMITER_HEADER": "X-Key"}, False),
        ({"LIMITER_HEADER": "x-forwarded-for"}, True),
        ({"LIMITER_USED": "'RULE=/a' '*' '5/hour key=header:X-Key' "}, False),
        ({"LIMITER_USED": "'RULE=/a' '*' '5/hour key=env:REMOTE_ADDR' "}, True),
        ({"LIMITER_RULES": "/a * 5/hour key=header:X-Key"}, False),
        ({"LIMITER_RULES": "/a * 5/hour"}, True),
    ],
)
def test_what_may_be_a_key_is_hidden_wherever_the_key_is_set(
    settings: dict[str, str], is_shown: bool, root: str, tmp_path: Path
) -> None:
    """Also of the map, whose settings the page does not have."""
    if "LIMITER_RULES" in settings:
        (tmp_path / "rules").write_text(settings["LIMITER_RULES"])
        settings = {"LIMITER_RULES": str(tmp_path / "rules")}
    Limiter(root, "5/hour").hit("acme-17")
    for show in (page, as_json):
        assert ("acme-17" in show(look(root, **settings))) == is_shown


def test_a_store_that_fails_is_shown_as_such(root: str) -> None:
    seen = look(f"{root}:{root}/missing")
    assert [bool(it.error) for it in seen.stores] == [False, True]
    assert "the store has failed" in page(seen)
    assert "The store does not exist" in page(seen)
    assert f'limiter_store_up{{store="{root}/missing"}} 0' in metrics(seen, True)


def test_a_large_store_is_sampled_and_the_page_says_so(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE", 10)
    monkeypatch.setattr(module, "COUNTED", 30)
    for number in range(40):
        directory = Path(root, f"client{number}@1-per-3600s")
        directory.mkdir()
        (directory / make(0, False, 0)).touch()
    seen = look(root)
    assert (seen.stores[0].looked, seen.stores[0].clients, seen.stores[0].is_all) == (10, 30, False)
    assert "This is a sample: 10 of 30 directories." in page(seen)
    assert "more than 30" in page(seen)


def test_the_scripts_answer_as_their_accept_header_asks(root: str) -> None:
    fill(root)
    kinds = {
        ("status.py", "text/html"): "text/html; charset=utf-8",
        ("status.py", "application/json"): "application/json; charset=utf-8",
        (
            "status.py",
            "application/openmetrics-text",
        ): "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ("metrics.py", "*/*"): "text/plain; version=0.0.4; charset=utf-8",
    }
    for (script, accept), kind in kinds.items():
        environ = clean_environ(LIMITER_ROOT=root, HTTP_ACCEPT=accept, REQUEST_METHOD="GET")
        command = [str(REPOSITORY / "cgi-bin" / script)]
        told = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        head, _, body = told.partition("\n\n")
        assert head.startswith("Status: 200 OK\n")
        assert f"Content-Type: {kind}\n" in head
        assert "Content-Security-Policy: default-src 'none';" in head
        assert body


def test_a_mistake_in_the_settings_is_a_500_that_the_log_explains(root: str) -> None:
    environ = clean_environ(LIMITER_ROOT=root, LIMITER_MODE="maybe")
    command = [str(REPOSITORY / "cgi-bin/status.py")]
    told = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("Status: 500 Internal Server Error\n")
    assert "LIMITER_MODE" in told.stderr
    assert "LIMITER_MODE" not in told.stdout


def test_wsgi_has_the_same(root: str) -> None:
    def ask(path: str, accept: str) -> tuple[str, bytes]:
        started: list[Any] = []
        environ = {
            "LIMITER_ROOT": root,
            "PATH_INFO": path,
            "HTTP_ACCEPT": accept,
            "REQUEST_METHOD": "GET",
        }
        body = wsgi.status(environ, lambda *it: started.append(it))  # type: ignore[arg-type]
        return dict(started[0][1])["Content-Type"], b"".join(body)

    assert ask("/", "text/html")[0] == "text/html; charset=utf-8"
    assert ask("/metrics", "*/*")[1].startswith(b"# HELP limiter_build_info")


@pytest.mark.one_python
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (prometheus)")
def test_promtool_has_no_complaint(root: str, tmp_path: Path) -> None:
    fill(root)
    Path(tmp_path, "1-a.counters").touch()
    text = metrics(look(root, LIMITER_METRICS=str(tmp_path)), False)
    check_metrics(text)
    ended = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert os.listdir(tmp_path) == ["1-a.counters"]
