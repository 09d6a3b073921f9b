"""Read a store: which limit a directory is for, and which of the names in it are slots and marks."""

from limiter.core.cell import CELL, Cell
from limiter.core.limit import Limit, is_name, number_of
from limiter.core.notation import parse

GONE = ".gone-"
"""The prefix of a mark: the lowest slot of a directory that is being removed."""


def limit_of(directory: str) -> "tuple[Limit, int] | None":
    """The limit whose directory has this name, and the number of the segment.  None: no limit's has.

    The name of a limit is its notation, with ``-`` for each space.
    """
    if directory.startswith(CELL):
        return Cell(directory), 0
    name, _, number = directory.partition(".")
    segment = int(number) if number.isdecimal() else 0
    label, equals, text = name.rpartition("=")
    try:
        (limit,) = parse(label + equals + text.replace("-", " "))
    except ValueError:
        return None
    is_exact = segment < limit.segments and limit.directory(segment) == directory
    return (limit, segment) if is_exact else None


def contents(names: "list[str]", limit: Limit, segment: int) -> "tuple[list[str], list[str]]":
    """The slots among the names in a directory, sorted, and the marks.  All else there is not ours."""
    numbers = limit.numbers(segment)

    def is_slot(name: str) -> bool:
        return is_name(name) and str(number_of(name)) == name[18:] and limit.slot(name) in numbers

    slots = sorted(filter(is_slot, names))
    return slots, [it for it in names if it.startswith(GONE) and is_slot(it[len(GONE) :])]
