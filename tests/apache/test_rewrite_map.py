"""The RewriteMap program: its answers to lines, the user as whom it acts, and how it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import NOBODY, clean_environ
from tests.places import PYTHON, REPOSITORY

PYTHONS = sorted({PYTHON, sys.executable})


@dataclass
class Program:
    """The running program, which gets lines as Apache sends them."""

    process: subprocess.Popen[str]
    log: str = ""

    def ask(self, query: str = "app_id=acme", header: str = "") -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(f"192.0.2.1 GET /api/ {query}  {header}", file=self.process.stdin, flush=True)
        return self.process.stdout.readline().removesuffix("\n")


@contextmanager
def program(
    installed: Path,
    root: str,
    python: str = PYTHON,
    user: int | None = None,
    temporary: object = "",
    **settings: str,
) -> Iterator[Program]:
    """Run the program until it is not needed any more; its log is complete then."""
    settings = {"ROOT": root, "TIMEOUT": "60", **settings}  # no busy machine takes that long
    variables = [f"LIMITER_{name}={text}" for name, text in settings.items()]
    with subprocess.Popen(
        [python, "-IS", installed / "rewritemap", *variables, f"TMPDIR={temporary}"],
        user=user,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environ(LIMITER_LIMIT="0/second"),  # settings do not come from the environment
        encoding="latin-1",
    ) as process:
        it = Program(process)
        try:
            yield it
        finally:
            rest, it.log = process.communicate(timeout=60)
        assert not rest
        assert process.returncode == 0


@pytest.mark.parametrize("python", PYTHONS)
def test_a_line_is_answered_with_status_policy_standing_and_wait(
    installed: Path, store: str, python: str
) -> None:
    with program(installed, store, python, LIMIT="2 per 2 hours;5/day") as it:
        answers = [it.ask() for _ in range(3)]
        assert it.ask("app_id=\xe9") == it.ask("") == "401"
    policy = r'"2-per-7200s";q=2;w=7200, "5-per-86400s";q=5;w=86400~'
    standing = r'"2-per-7200s";r={};t=\d+, "5-per-86400s";r={};t=\d+'
    patterns = [
        rf"200\|{policy}{standing.format(1, 4)}\|[0-9a-f]{{16}}",
        rf"200\|{policy}{standing.format(0, 3)}\|[0-9a-f]{{16}}",
        rf"429\|{policy}{standing.format(0, 3)}\|\|7(200|[01]\d\d)",
    ]
    for answer, pattern in zip(answers, patterns):
        assert re.fullmatch(pattern, answer), answer
    assert it.log == ""


def test_other_variables_are_not_there_yet(installed: Path, store: str) -> None:
    """Each request gets 500.  The first and each hundredth are logged."""
    with program(installed, store, KEY="env:REMOTE_USER", ON_ERROR="admit") as it:
        assert [it.ask() for _ in range(201)] == ["500"] * 201
    line = "limiter: ValueError: LIMITER_KEY='env:REMOTE_USER': Apache asks before it has any other"
    assert it.log.count(line) == 3
    assert re.findall(r"limiter: this was error (\d+) of its kind", it.log) == ["100", "200"]
    assert it.log.count("\n") == 5


def test_a_store_that_comes_back_is_used_by_its_owner(installed: Path, store: str) -> None:
    missing = f"{store}/missing"
    owner = os.stat(store).st_uid
    with program(installed, missing) as it:
        assert it.ask() == "500"
        os.mkdir(missing)
        os.chown(missing, owner, -1)
        assert it.ask().startswith("200|10;1;")
    assert it.log.count("\n") == it.log.count("The store does not exist") == 1
    assert {path.stat().st_uid for path in Path(missing).rglob("*")} == {owner}


def test_a_default_store_that_was_removed_is_made_again(installed: Path, place: Path) -> None:
    """The client that it knew begins anew.  As root the program has no default store."""
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    os.chown(place, user, -1)
    with program(installed, "", user=user, temporary=place, LIMIT="2/day") as it:
        for _ in range(2):
            assert it.ask().startswith("200|2;86400;1;")
            (store,) = place.iterdir()
            shutil.rmtree(store)
    assert it.log.count("\n") == it.log.count(f"limiter: The store is {store}, ") == 2


def test_root_touches_no_store_of_its_own(installed: Path, root: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can have such a store")
    with program(installed, root) as it:
        assert it.ask() == "500"
    assert "The store belongs to root (give it to the user that Apache runs as)" in it.log
    assert os.listdir(root) == []


def test_root_is_given_up_before_the_first_request(installed: Path, store: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give that up")
    with program(installed, store) as it:
        assert it.ask("") == "401"
        status = Path(f"/proc/{it.process.pid}/status").read_text()
    assert re.findall(r"\nUid:\s(.*)", status) == ["\t".join([str(NOBODY)] * 4)]
    assert re.findall(r"\nGroups:[ \t]*(.*)", status) == [""]


def test_root_reads_no_request_while_there_is_no_store(installed: Path, store: str) -> None:
    """A request without a valid app_id gets the answer of a failed store, too."""
    if os.geteuid() != 0:
        pytest.skip("only root has something to give up")
    missing = f"{store}/missing"
    with program(installed, missing) as it:
        assert it.ask("") == "500"
        os.mkdir(missing)
        os.chown(missing, NOBODY, NOBODY)
        assert it.ask("") == "401"
    assert it.log.count("\n") == it.log.count("The store does not exist") == 1


def test_root_follows_no_link_of_another_user(installed: Path, root: str) -> None:
    """That user would choose as whom the program acts."""
    if os.geteuid() != 0:
        pytest.skip("only root could follow it")
    victim, link = Path(root, "victim"), Path(root, "link")
    victim.mkdir()
    os.chown(victim, NOBODY, NOBODY)
    link.symlink_to(victim)
    os.chown(link, NOBODY - 1, NOBODY - 1, follow_symlinks=False)
    with program(installed, str(link)) as it:
        assert it.ask() == "500"
    assert "a link of another user" in it.log
    assert os.listdir(victim) == []


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
        it.process.stdin.write("192.0.2.1 GET / app_id=acme  \n")
        it.process.stdin.flush()
        assert it.process.wait(timeout=60) == 0
        it.process.stdout = None
    assert it.log == ""


# Graceful restart: the program ends when it gets the signal, and a copy of it goes on answering.

SIGNALLED_WHILE_IT_ANSWERS = """\
import os, signal, sys

def main(handover):
    for _ in handover.lines(sys.stdin.buffer):
        process = os.getpid()
        os.kill(process, signal.SIGTERM)
        print(process, os.getpid(), flush=True)
"""
SIGNALLED_WHILE_IT_STARTS = """\
import os, signal, sys

os.kill(os.getpid(), signal.SIGTERM)

def main(handover):
    for _ in handover.lines(sys.stdin.buffer):
        print(os.getpid(), flush=True)
"""


def start(place: Path, python: str, text: str) -> subprocess.Popen[str]:
    """Start the program with only those parts of the package that it starts with, and this text.

    It may have another Python than that of its first line, but has the same options.
    """
    (place / "limiter/apache").mkdir(parents=True)
    for name in ("__init__.py", "apache/__init__.py", "apache/graceful_restart.py"):
        shutil.copy(REPOSITORY / "limiter" / name, place / "limiter" / name)
    (place / "limiter/apache/rewrite_map.py").write_text(text)
    file = REPOSITORY / "deploy/apache/rewritemap"
    options = file.read_text().splitlines()[0].partition(" ")[2]
    command = [python, options, shutil.copy(file, place)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("python", PYTHONS)
def test_an_answer_is_finished_before_a_copy_is_left(place: Path, python: str) -> None:
    with start(place, python, SIGNALLED_WHILE_IT_ANSWERS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == f"{process.pid} {process.pid}\n"
        assert process.wait(timeout=60) == 0
        # The copy dies by the signal, as any program would.
        assert process.communicate("\n", timeout=60) == ("", "")


@pytest.mark.parametrize("python", PYTHONS)
def test_a_copy_is_left_by_a_program_that_has_hardly_started(place: Path, python: str) -> None:
    with start(place, python, SIGNALLED_WHILE_IT_STARTS) as process:
        assert process.wait(timeout=60) == 0
        said, error = process.communicate("\n", timeout=60)
    assert error == ""
    assert said not in ("", f"{process.pid}\n")
