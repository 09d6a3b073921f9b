"""A cell: one name that holds the whole state of something, which hits replace by a rename.

The stamp says when the state is over, and the number holds it, in whatever way the owner of the cell has
chosen.  So the store can be swept by those who do not know what a cell means.  ``limiter.contrib`` has kinds.
"""

from limiter.core.limit import Limit, time_of

CELL = "cell-"
"""How the name of a cell's directory begins, behind the ``@``."""


class Cell(Limit):
    """A cell of an unknown kind: its state is over when its stamp has passed."""

    quota = 1
    window = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def look(self, names: "list[str]", now: int, cost: int) -> "tuple[list[str], int, int]":
        """The same as for every limit; it is full while its state counts."""
        left = max(0, time_of(names[-1]) - now)
        return [] if left else names[-1:], int(left > 0), left

    def hits(self, names: "list[str]", now: int) -> "list[int]":
        """None: a cell does not show them."""
        return []
