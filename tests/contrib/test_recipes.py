"""The recipes of docs/python.md for one view of FastAPI and of Flask, as they are printed."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.places import REPOSITORY

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette recommends httpx2
    from starlette.testclient import TestClient

pytestmark = pytest.mark.one_python

BLOCKS = re.findall(r"(?ms)^```python\n(.*?)^```$", (REPOSITORY / "docs/python.md").read_text())


def application(framework: str, place: Path) -> Any:
    """The application that the one recipe with this import makes."""
    (block,) = [
        block for block in BLOCKS if re.search(rf"^(from|import) {framework}\b", block, re.MULTILINE)
    ]
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(block.replace("/var/lib/my-limiter", str(place)).replace("from __future__", "#"), names)
    return names["app"]


def test_fastapi(tmp_path: Path) -> None:
    with TestClient(application("fastapi", tmp_path)) as client:
        answers = [client.get("/login") for _ in range(6)]
    assert [it.status_code for it in answers] == [200] * 5 + [429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 60


def test_flask(tmp_path: Path) -> None:
    client = application("flask", tmp_path).test_client()
    answers = [client.get("/login") for _ in range(6)]
    assert [it.status_code for it in answers] == [200] * 5 + [429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 60
