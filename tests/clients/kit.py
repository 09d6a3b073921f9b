"""Clients in all languages, each driven by a small program that reads commands and writes answers as JSON.

::

    with client("php") as it:
        assert it.ask("parse", text="10/second") == [["10-per-1s", 1_000_000]]

docs/store-format.md, "Conformance", has the commands.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from limiter.core.limit import clock
from tests.places import REPOSITORY

HERE = REPOSITORY / "tests/clients"
COMMANDS = {
    "python": [sys.executable, "-m", "tests.clients.driver"],
    "php": ["php", "-n", "{drivers}/driver.php"],
    "perl": ["perl", "{drivers}/driver.pl"],
    "ruby": ["ruby", "--disable=gems", "{drivers}/driver.rb"],
}
"""How to start the driver of each client; the file of the client follows, if it has but one."""
FILES = {
    "php": REPOSITORY / "clients/php/limiter.php",
    "perl": REPOSITORY / "clients/perl/Limiter.pm",
    "ruby": REPOSITORY / "clients/ruby/limiter.rb",
}
"""The file of each client that has but one."""


def needs(language: str) -> None:
    """Skip the test if the interpreter of this language is not installed."""
    program = COMMANDS[language][0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


class MistakeError(Exception):
    """The client says that an argument is wrong."""


class StoreFailedError(Exception):
    """The client says that the store failed; the text is errno's name."""


class Client:
    """A client that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, what: str, **arguments: object) -> None:
        """Send a command, without waiting for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The answer to the oldest command without one.  Raises MistakeError or StoreFailedError."""
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        if "mistake" in answer:
            raise MistakeError(answer["mistake"])
        if "errno" in answer:
            raise StoreFailedError(answer["errno"])
        return answer["is"]

    def ask(self, what: str, **arguments: object) -> Any:
        """Send a command, and return its answer."""
        self.tell(what, **arguments)
        return self.hear()


@contextmanager
def client(
    language: str, file: Path | None = None, prefix: Sequence[str] = (), drivers: Path = HERE
) -> Iterator[Client]:
    """Run the client of this language.

    ``file`` is in place of its own.  ``prefix`` runs it elsewhere, where ``drivers`` has its driver.
    """
    needs(language)
    pipe = subprocess.PIPE
    more = [str(file or FILES[language])] if language in FILES else []
    command = [*prefix, *[it.format(drivers=drivers) for it in COMMANDS[language]], *more]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY) as process:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0


Hits = list[tuple[int, int]]
"""When each hit began and ended, in microseconds."""


def flood(
    root: str,
    limits: str,
    processes: Sequence[tuple[Any, ...]],
    microseconds: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[Hits, Hits]:
    """Let these clients, with the arguments of ``client``, hit one app_id, all at once.

    Returns the admitted and the denied hits.
    """
    admitted: Hits = []
    denied: Hits = []
    with ExitStack() as stack:
        clients = [stack.enter_context(client(*it)) for it in processes]
        for it in clients:
            it.ask("parse", text=limits)  # it has started
        until = clock() + microseconds
        for it in clients:
            it.tell("flood", root=root, limits=limits, app="acme", until=until)
        meanwhile()
        for it in clients:
            found = it.hear()
            admitted += [(begin, end) for begin, end in found[0]]
            denied += [(begin, end) for begin, end in found[1]]
    return admitted, denied
