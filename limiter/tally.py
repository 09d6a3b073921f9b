"""A tally: a number that many processes count up, and that others take from, without losing any.

It is the name of an empty file, ``ROOT/.tally/NAME/17``, in a store.  To count is to rename it to ``18``, to take 10
is to rename it to ``7``: of all who try the same old name one succeeds, and the others look again.
"""

import errno

from limiter.furnish import furnish
from limiter.store import Store, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PLACE = ".tally"
_ROUNDS = 10_000


def add(root: str, name: str, number: int = 1) -> None:
    """Count so many more.  Raises StoreError."""
    _replace(Store(root), name, lambda old: old + number)


def read(root: str, name: str) -> int:
    """What has been counted, and not been taken.  Raises StoreError."""
    return max([0, *_numbers(Store(root), name)])


def take(root: str, name: str, most: int) -> int:
    """Take at most so many, and return how many that were.  Raises StoreError."""
    return min(most, _replace(Store(root), name, lambda old: max(0, old - most)))


def _replace(store: Store, name: str, change: "Callable[[int], int]") -> int:
    """Rename the file once, and return what it said before."""
    for _ in range(_ROUNDS):
        numbers = _numbers(store, name)
        if not numbers:
            furnish(store, _PLACE, {name: ["0"]})
        # A listing that others rename in may show two names for the one file.
        for old in numbers:
            new = change(old)
            if new == old or store.rename(f"{_PLACE}/{name}", str(old), str(new)):
                return old
    raise StoreError(errno.EIO, "A tally cannot be counted (remove it)", f"{store.root}/{_PLACE}/{name}")


def _numbers(store: Store, name: str) -> "list[int]":
    return [int(it) for it in store.names(f"{_PLACE}/{name}") if it.isascii() and it.isdigit()]
