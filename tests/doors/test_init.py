"""The package: its names, and all its modules with this version of Python."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import limiter
import limiter.core.decision
import limiter.core.limiter
import limiter.core.store

ALL = {it.name for it in pkgutil.walk_packages(limiter.__path__, "limiter.")} - {"limiter.__main__"}
MODULES = {name for name in ALL if not name.startswith("limiter.contrib.")}
"""Those of contrib need their libraries: tests/contrib imports them."""


def test_a_program_can_import_all_from_one_place() -> None:
    names: dict[str, object] = {}
    exec("from limiter import *", names)
    del names["__builtins__"]
    assert names == {
        "Decision": limiter.core.decision.Decision,
        "Limiter": limiter.core.limiter.Limiter,
        "Quota": limiter.core.decision.Quota,
        "StoreError": limiter.core.store.StoreError,
    }


@pytest.mark.parametrize("name", ["Limit", "__path"])
def test_an_unknown_name_is_an_error_as_in_any_module(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^module 'limiter' has no attribute '{name}'$"):
        getattr(limiter, name)
    with pytest.raises(ImportError):
        exec(f"from limiter import {name}")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_can_be_imported_and_says_what_it_is(name: str) -> None:
    first_line, *_ = (importlib.import_module(name).__doc__ or "").splitlines()
    assert first_line.endswith((".", ":", "::"))
