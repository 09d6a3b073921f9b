"""The rooms of the package, and the direction of their imports (map: docs/development.md)."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

ROOMS: list[set[str]] = [
    {"__main__"},
    {"tools"},
    {"apache", "doctor", "errors"},
    {"contrib", "scripts"},
    {"asgi", "cgi", "wsgi"},
    {"status"},
    {"report"},
    {"request"},
    {"core"},
]
"""From the outermost to the innermost.  Rooms in one row do not import each other."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("limiter", exclude_type_checking_imports=True, cache_dir=None)


def test_imports_run_inwards_only(graph: grimp.ImportGraph) -> None:
    """This includes imports that functions make only when they need them.  An order that is wrong is seen."""
    assert not graph.find_illegal_dependencies_for_layers(ROOMS, containers={"limiter"})
    assert graph.find_illegal_dependencies_for_layers(ROOMS[::-1], containers={"limiter"})


def test_every_module_has_a_room(graph: grimp.ImportGraph) -> None:
    known = {f"limiter.{name}" for row in ROOMS for name in row}
    assert graph.find_children("limiter") == known


def test_imports_make_no_circle(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()
    imports["limiter.core.limit"] = {"limiter.cgi"}
    with pytest.raises(CycleError):
        TopologicalSorter(imports).prepare()


def test_rooms_and_modules_are_small() -> None:
    assert len([*(REPOSITORY / "limiter").glob("*.py")]) <= 12
    assert {
        file.name
        for file in (REPOSITORY / "limiter").rglob("*.py")
        if len(file.read_text().splitlines()) > 350
    } == set()
