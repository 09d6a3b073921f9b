"""Give back what a hit has claimed, if it cannot have all that it needs.  Few hits need this module."""

from limiter.core.limit import is_name
from limiter.core.retry import survive
from limiter.core.store import ROUNDS, Store, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limiter.core.hit import Claim


def give_back(
    store: Store,
    claims: "Sequence[Claim]",
    cost: int,
    clock: "Callable[[], int]",
    faults: "list[float]",
) -> None:
    """Undo these claims, the last first.  ``faults`` is as in ``survive``.  Raises StoreError."""
    for view, directory, old, new in reversed(claims):
        try:
            # Free, but not idle: other hits may have seen it taken, and so claim other slots first.
            free = view.limit.forgotten(old, clock() + view.limit.window)
            if store.rename(directory, new, max(view.limit.released(old), free)):
                continue
            for _ in range(ROUNDS):
                name = max(filter(is_name, store.names(directory)), default="")
                undone = view.limit.returned(name, new, clock(), cost) if name else None
                if undone is None or store.rename(directory, name, undone):
                    break
        except StoreError as error:
            # The claim may have been given back.  To repeat that would admit one hit too many.
            survive(error, faults)
