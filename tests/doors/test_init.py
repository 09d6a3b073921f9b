"""The package: its names, and the docstring of each module."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import limiter
import limiter.core.hit
import limiter.core.limiter
import limiter.core.store

MODULES = {it.name for it in pkgutil.walk_packages(limiter.__path__, "limiter.")} - {"limiter.__main__"}


def test_the_names_of_the_package() -> None:
    """A program can import all that it needs from one place."""
    from limiter import Decision, Limiter, Quota, StoreError

    assert Limiter is limiter.core.limiter.Limiter
    assert StoreError is limiter.core.store.StoreError
    assert (Decision, Quota) == (limiter.core.hit.Decision, limiter.core.hit.Quota)
    assert sorted(limiter.__all__) == ["Decision", "Limiter", "Quota", "StoreError"]


def test_all_of_them() -> None:
    """They can be imported with a star, too."""
    names: dict[str, object] = {}
    exec("from limiter import *", names)
    assert set(limiter.__all__) <= set(names)


@pytest.mark.parametrize("name", ["Limit", "limiters", "Store", "__path", "clock", "preload_"])
def test_an_unknown_name(name: str) -> None:
    """It is an AttributeError, as in any module; from-import makes it an ImportError."""
    with pytest.raises(AttributeError, match=f"^module 'limiter' has no attribute '{name}'$"):
        getattr(limiter, name)
    with pytest.raises(ImportError):
        exec(f"from limiter import {name}")


def test_the_version() -> None:
    """Numbers, separated by dots."""
    assert all(part.isdecimal() for part in limiter.__version__.split("."))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_says_what_it_is(name: str) -> None:
    """The first line is a docstring."""
    module = importlib.import_module(name)
    assert module.__doc__
    assert module.__doc__.splitlines()[0].endswith((".", ":", "::"))
