"""The package: its names, and what each of its modules says of itself."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import limiter
import limiter.hit
import limiter.limiter
import limiter.store

MODULES = {it.name for it in pkgutil.iter_modules(limiter.__path__)} - {"__main__"}


def test_the_names_of_the_package() -> None:
    """Those that a program needs, from one place."""
    from limiter import Decision, Limiter, Quota, StoreError

    assert Limiter is limiter.limiter.Limiter
    assert StoreError is limiter.store.StoreError
    assert (Decision, Quota) == (limiter.hit.Decision, limiter.hit.Quota)
    assert sorted(limiter.__all__) == ["Decision", "Limiter", "Quota", "StoreError"]


def test_all_of_them() -> None:
    """Also with a star."""
    names: dict[str, object] = {}
    exec("from limiter import *", names)
    assert set(limiter.__all__) <= set(names)


@pytest.mark.parametrize("name", ["Limit", "limiters", "Store", "__path", "clock", "preload_"])
def test_an_unknown_name(name: str) -> None:
    """An AttributeError, as of any module; from-import makes it an ImportError."""
    with pytest.raises(AttributeError, match=f"^module 'limiter' has no attribute '{name}'$"):
        getattr(limiter, name)
    with pytest.raises(ImportError):
        exec(f"from limiter import {name}")


def test_the_version() -> None:
    """Numbers, with dots between."""
    assert all(part.isdecimal() for part in limiter.__version__.split("."))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_says_what_it_is(name: str) -> None:
    """In its first line."""
    module = importlib.import_module(f"limiter.{name}")
    assert module.__doc__
    assert module.__doc__.splitlines()[0].endswith((".", ":", "::"))
