"""The documents: links lead somewhere, commands and programs run unchanged, pictures are as drawn."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter.request.register import DEFAULT, put
from tests.conftest import clean_environ
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("deploy/*.md")]
)


def _anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes from headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text())
    return {re.sub(r"[^\w -]", "", it.lower()).replace(" ", "-") for it in headings}


def _links(document: Path) -> Iterator[str]:
    text = re.sub(r"(?ms)^```.*?^```$", "", document.read_text())
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda it: it.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for link in _links(document):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


ELSEWHERE = (
    "deploy/",
    "a2enmod",
    "apt-get install",
    "tests/run",
    "limiter serve",
    "-m benchmarks",
    "/mnt/",
)
"""Commands that other tests (installation, laboratories, benchmarks) or a developer run."""


def _blocks(language: str) -> list[str]:
    return [
        block
        for document in DOCUMENTS
        for block in re.findall(rf"(?ms)^```{language}\n(.*?)^```$", document.read_text())
    ]


COMMANDS = [block for block in _blocks("sh") if not any(it in block for it in ELSEWHERE)]


@pytest.mark.parametrize("block", COMMANDS, ids=lambda it: re.sub(r"\W+", "-", it)[:40])
def test_commands_succeed(tmp_path: Path, block: str) -> None:
    """The shell ends at the first command that fails."""
    place = str(tmp_path)
    environ = clean_environ(HOME=place, TMPDIR=place, LIMITER_APPS=f"{place}/register")
    (tmp_path / "register").mkdir()
    put(f"{tmp_path}/register", DEFAULT, "3/minute")
    script = block.replace("/etc/", f"{tmp_path}/").replace("python3 ", f"{sys.executable} ")
    command = ["bash", "-euo", "pipefail", "-c", script]
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


PROGRAMS = [block for block in _blocks("python") if "Limiter(" in block]


@pytest.mark.parametrize("block", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_run(tmp_path: Path, block: str) -> None:
    (tmp_path / "my-limiter").mkdir()
    program = block.replace("/var/lib/", f"{tmp_path}/")
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150


def test_pictures_are_as_the_script_draws_them() -> None:
    for name, picture in runpy.run_path(str(REPOSITORY / "docs/draw.py"))["PICTURES"].items():
        assert (REPOSITORY / f"docs/{name}.svg").read_text() == picture().as_svg() + "\n", name


def test_few_sentences_are_long() -> None:
    """At most 5 in 100 have more than 30 words."""
    lengths = []
    for page in DOCUMENTS:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        text = re.sub(r"^[|#].*$", "", text, flags=re.MULTILINE)
        for paragraph in re.split(r"\n\s*\n|\n(?=- |\d\. )", re.sub(r"\]\([^)]*\)", "]", text)):
            lengths += [len(it.split()) for it in re.split(r"(?<=[.!?])\s", paragraph) if it.strip()]
    assert len([it for it in lengths if it > 30]) <= 0.05 * len(lengths)
