"""Several stores, each for its part of the app_ids: *Distributed = {Replicated, Segmented}*.

Each store is on a volume of its own, which may be replicated; the set of them is segmented.  An
application's store is the one whose path together with the app_id has the highest hash (rendezvous
hashing: Thaler and Ravishankar, 1998).  So a store that is added takes its share from all others, one that is
removed leaves its share to all others, and nothing else moves.  Every machine must name the same paths, in
any order.
"""

from limiter.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def choose(roots: "Sequence[str]", app: str) -> str:
    """The store of an application, one of ``roots``: at least one path."""
    return max(roots, key=lambda root: sha256(f"{root}\0{app}".encode("utf-8", "surrogateescape")))
