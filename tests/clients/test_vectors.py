"""Every client answers as Python's: the notation, the arithmetic of limits, and who asks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients import vectors
from tests.clients.kit import COMMANDS, MistakeError, client

pytestmark = pytest.mark.one_python

VECTORS: list[dict[str, Any]] = json.loads(vectors.FILE.read_text())["vectors"]


def test_the_vectors_are_what_python_answers() -> None:
    assert vectors.FILE.read_text() == vectors.text()


REFUSE_KEYS = ("perl", "ruby")
"""These clients know parameters alone, and say so."""


@pytest.mark.parametrize("language", COMMANDS)
def test_a_client_answers_as_the_vectors_say(language: str) -> None:
    wrong = []
    with client(language) as it:
        for vector in VECTORS:
            arguments = {
                name: value for name, value in vector.items() if name not in ("do", "is", "mistake")
            }
            try:
                got = it.ask(vector["do"], **arguments)
            except MistakeError as error:
                is_refused = language in REFUSE_KEYS and ":" in vector.get("key", "")
                if "mistake" not in vector and not is_refused:
                    wrong.append((vector, str(error)))
            else:
                if "mistake" in vector or got != vector["is"]:
                    wrong.append((vector, got))
    assert wrong == []
    assert len(VECTORS) > 800
