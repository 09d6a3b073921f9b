"""The pictures of the documentation are those that docs/draw.py draws."""

from __future__ import annotations

import runpy

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python


def test_pictures_are_as_the_script_draws_them() -> None:
    for name, picture in runpy.run_path(str(REPOSITORY / "docs/draw.py"))["PICTURES"].items():
        assert (REPOSITORY / f"docs/{name}.svg").read_text() == picture().as_svg() + "\n", name
