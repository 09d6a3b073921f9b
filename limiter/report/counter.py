"""A counter that many processes can increase or take from, without losing a count.

The count is the name of an empty file in a store, such as ``ROOT/.counter-NAME/17``.  To count 1, a
process renames the file to ``18``.  To take 10, it renames the file to ``7``.  If several processes
rename the same old name, one succeeds, and the others list the directory again.
"""

import errno

from limiter.core.furnish import furnish
from limiter.core.store import Store, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PLACE = ".counter-"
_ROUNDS = 10_000


def add(root: str, name: str, number: int = 1) -> None:
    """Add ``number`` to the counter.  Raises StoreError."""
    _replace(Store(root), name, lambda old: old + number)


def read(root: str, name: str) -> int:
    """Return what was counted and not yet taken.  Raises StoreError."""
    return max([0, *_numbers(Store(root), name)])


def take(root: str, name: str, most: int) -> int:
    """Take at most ``most`` from the counter, and return how many were taken.  Raises StoreError."""
    return min(most, _replace(Store(root), name, lambda old: max(0, old - most)))


def _replace(store: Store, name: str, change: "Callable[[int], int]") -> int:
    """Rename the file once, and return its old number."""
    for _ in range(_ROUNDS):
        numbers = _numbers(store, name)
        if not numbers:
            furnish(store.root, _PLACE + name, ["0"])
        # While other processes rename the file, a listing may show two names for it.
        for old in numbers:
            new = change(old)
            if new == old or store.rename(_PLACE + name, str(old), str(new)):
                return old
    path = f"{store.root}/{_PLACE}{name}"
    raise StoreError(errno.EIO, "The counter cannot be changed (remove it)", path)


def _numbers(store: Store, name: str) -> "list[int]":
    return [int(it) for it in store.names(_PLACE + name) if it.isascii() and it.isdigit()]
