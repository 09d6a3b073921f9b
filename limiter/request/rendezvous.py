"""Several stores, each for a part of the app_ids: *Distributed = {Replicated, Segmented}*.

The store of an application is the one whose path, together with the app_id, has the highest hash
(rendezvous hashing: Thaler and Ravishankar, 1998).  A store that is added takes its share from all others,
and one that is removed leaves its share to them.  Nothing else moves.  docs/cluster.md, "Several volumes".
"""

from limiter.request.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def choose(roots: "Sequence[str]", app: str) -> str:
    """The store of an application: one of ``roots``, which has at least one path."""
    return max(roots, key=lambda root: sha256(f"{root}\0{app}".encode("utf-8", "surrogateescape")))
