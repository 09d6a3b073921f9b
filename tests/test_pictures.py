"""The pictures of the documentation are those that docs/draw.py draws."""

from __future__ import annotations

import importlib.util

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python


def test_pictures_are_as_the_script_draws_them() -> None:
    spec = importlib.util.spec_from_file_location("draw", REPOSITORY / "docs/draw.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, picture in script.PICTURES.items():
        assert (REPOSITORY / f"docs/{name}.svg").read_text() == picture().as_svg() + "\n", name
