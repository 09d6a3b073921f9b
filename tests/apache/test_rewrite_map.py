"""The RewriteMap program: its answer to each line, with any settings, and the user as whom it acts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.core.limiter import Limiter
from limiter.request.register import put
from tests.conftest import clean_environ
from tests.places import PYTHON, new_root


class Program:
    """The running program, which gets lines as Apache sends them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.log = ""

    def ask(self, query: str = "app_id=acme", address: str = "192.0.2.1", header: str = "") -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{address} {query} {header}\n".encode("latin-1"))
        self.process.stdin.flush()
        answer = self.process.stdout.readline().decode()
        assert answer.endswith("\n")
        return answer[:-1]


@contextmanager
def program(installed: Path, root: str, python: str = PYTHON, **settings: str) -> Iterator[Program]:
    """Run the program until it is not needed any more; its log is complete then."""
    settings = {"ROOT": root, "TIMEOUT": "60", **settings}  # no busy machine takes that long
    variables = [f"LIMITER_{name}={text}" for name, text in settings.items()]
    with subprocess.Popen(
        [python, "-IS", installed / "rewritemap", *variables],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environ(LIMITER_LIMIT="0/second"),  # settings do not come from the environment
    ) as process:
        it = Program(process)
        try:
            yield it
        finally:
            rest, said = process.communicate(timeout=60)
            it.log = said.decode()
        assert not rest
        assert process.returncode == 0


@pytest.fixture
def store(root: str) -> str:
    """A store that does not belong to root, even if root runs the tests."""
    if os.geteuid() == 0:
        os.chown(root, 65534, 65533)
    return root


def test_admitted_and_denied(installed: Path, store: str) -> None:
    with program(installed, store, LIMIT="2 per 2 hours;5/day") as it:
        answers = [it.ask() for _ in range(3)]
    policy = r'"2-per-7200s";q=2;w=7200, "5-per-86400s";q=5;w=86400'
    standing = r'"2-per-7200s";r={};t=\d+, "5-per-86400s";r={};t=\d+'
    patterns = [
        rf"200\|{policy}\|{standing.format(1, 4)}\|",
        rf"200\|{policy}\|{standing.format(0, 3)}\|",
        rf"429\|{policy}\|{standing.format(0, 3)}\|7(200|[01]\d\d)",
    ]
    for answer, pattern in zip(answers, patterns):
        assert re.fullmatch(pattern, answer), answer
    assert it.log == ""


@pytest.mark.parametrize("query", ["", "app_id=", "app_id=..", "app_id=a&app_id=b", "x", "app_id=\xe9"])
def test_no_app_id(installed: Path, store: str, query: str) -> None:
    with program(installed, store) as it:
        assert it.ask(query) == "401|||"
    assert os.listdir(store) == []


def test_the_default_and_other_pythons_than_the_system_s(installed: Path, store: str) -> None:
    with program(installed, store, sys.executable) as it:
        assert it.ask().startswith('200|"10-per-1s";q=10;w=1|"10-per-1s";r=9;t=1|')


def test_the_key_may_be_a_header(installed: Path, store: str) -> None:
    with program(installed, store, KEY="header:X-Api-Key", LIMIT="9/hour") as it:
        assert it.ask("", header="acme").startswith("200|")
        assert it.ask("app_id=other", header="a token, or two").startswith("401|")
        assert it.ask("", header="Bearer a token").startswith("200|")
        assert it.ask("").startswith("401|")
    names = sorted(os.listdir(store))
    assert names[0] == "acme"
    assert re.fullmatch("sha256-[0-9a-f]{56}", names[1])


def test_the_key_may_be_the_address(installed: Path, store: str) -> None:
    settings = {"KEY": "env:REMOTE_ADDR", "TRUSTED_PROXIES": "10.0.0.0/8", "LIMIT": "9/hour"}
    with program(installed, store, **settings) as it:
        it.ask("", "192.0.2.1", "198.51.100.1")
        it.ask("", "10.0.0.1", "198.51.100.7, 198.51.100.2, 10.9.9.9")
    assert sorted(os.listdir(store)) == ["192.0.2.1", "198.51.100.2"]


def test_other_variables_are_not_there_yet(installed: Path, store: str) -> None:
    with program(installed, store, KEY="env:REMOTE_USER", ON_ERROR="admit") as it:
        assert [it.ask(), it.ask()] == ["500|||"] * 2
    line = "limiter: ValueError: LIMITER_KEY='env:REMOTE_USER': Apache asks before it has any other"
    assert it.log.count("\n") == it.log.count(line) == 2


def test_a_mistake_in_the_settings(installed: Path, store: str) -> None:
    with program(installed, store, LIMIT="10/fortnight", ON_ERROR="admit") as it:
        assert it.ask() == "500|||"
    assert it.log.count("\n") == 1
    assert "expected a unit" in it.log


@pytest.fixture
def register() -> Iterator[str]:
    """A register that every user may read, because the program does not stay root."""
    path = new_root("/dev/shm")
    yield str(path)
    shutil.rmtree(path)


def test_the_register(installed: Path, store: str, register: str) -> None:
    with program(installed, store, APPS=register) as it:
        assert it.ask() == "401|||"
        put(register, "acme", "1/hour")
        assert [it.ask()[:3], it.ask()[:3]] == ["200", "429"]
        put(register, "acme", "2/hour")
        assert [it.ask()[:3] for _ in range(3)] == ["200", "200", "429"]
        put(register, "acme", "unlimited")
        assert it.ask() == "200|||"


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_modes(installed: Path, store: str, mode: str) -> None:
    with program(installed, store, LIMIT="0/second", MODE=mode) as it:
        assert it.ask() == "200|||"
    assert it.log == (
        "limiter: shadow: acme would have got 429 Too Many Requests\n" if mode == "shadow" else ""
    )


@pytest.mark.parametrize(("word", "answer"), [("deny", "500|||"), ("admit", "200|||")])
def test_a_store_that_is_missing(installed: Path, store: str, word: str, answer: str) -> None:
    """The store may come back; the program then uses it, as its owner."""
    missing = f"{store}/missing"
    with program(installed, missing, ON_ERROR=word) as it:
        assert it.ask() == answer
        os.mkdir(missing)
        if os.geteuid() == 0:
            os.chown(missing, 65534, 65533)
        assert it.ask().startswith('200|"')
    assert it.log.count("\n") == it.log.count("The store does not exist") == 1


def test_root_acts_as_the_owner_of_the_store(installed: Path, store: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    with program(installed, store) as it:
        it.ask()
        status = Path(f"/proc/{it.process.pid}/status").read_text()
    assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", status, re.MULTILINE)
    assert re.search(r"^Gid:\t65533\t65533\t65533\t65533$", status, re.MULTILINE)
    assert re.search(r"^Groups:\s*$", status, re.MULTILINE)
    assert {path.stat().st_uid for path in Path(store).rglob("*")} == {65534}


def test_root_touches_no_store_of_its_own(installed: Path, root: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can have such a store")
    with program(installed, root) as it:
        assert it.ask() == "500|||"
    assert "The store belongs to root (give it to the user that Apache runs as)" in it.log
    assert os.listdir(root) == []


def test_what_it_admits_is_counted_together_with_others(installed: Path, store: str) -> None:
    with (
        program(installed, store, LIMIT="4/hour") as it,
        program(installed, store, LIMIT="4/hour") as other,
    ):
        assert [p.ask()[:3] for p in (it, other) * 3] == ["200"] * 4 + ["429"] * 2
    assert Limiter(store, "4/hour").peek("acme").remaining == 0


def test_an_end_from_the_terminal_is_quiet(installed: Path, store: str) -> None:
    with program(installed, store) as it:
        it.ask()
        it.process.send_signal(signal.SIGINT)
        it.process.wait(timeout=60)
    assert it.log == ""


def test_the_end_of_apache_is_its_end(installed: Path, store: str) -> None:
    with program(installed, store) as it:
        assert it.process.stdin is not None
        assert it.process.stdout is not None
        it.process.stdout.close()
        it.process.stdin.write(b"192.0.2.1 app_id=acme \n")
        it.process.stdin.flush()
        assert it.process.wait(timeout=60) == 0
        it.process.stdout = None
    assert it.log == ""
