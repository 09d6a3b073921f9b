"""SHA-256 from a built-in part of the interpreter gives the standard results."""

from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.request.digest import sha256


@given(st.binary())
def test_it_is_that_of_hashlib(value: bytes) -> None:
    assert sha256(value) == hashlib.sha256(value).hexdigest()


def test_an_interpreter_without_that_part_has_hashlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, name, None)
    assert sha256(b"acme") == hashlib.sha256(b"acme").hexdigest()
