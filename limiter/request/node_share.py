"""A node's share of the limits.  Each node has its own store, and they share none.

If n nodes together may admit N hits per window W, each node admits:

* sliding, fixed: N // n per W.  If that is 0 but N is not: 1 hit per ceil(n / N) windows.
* burst: N per n * W, with a bucket of B // n, at least 1.

docs/limits.md says what this guarantees, and how much precision it costs.
"""

from limiter.core.limit import Limit
from limiter.core.notation import parse


def share(text: str, nodes: int) -> str:
    """The limits of one node of ``nodes``, which is at least 1.

    Raises ValueError as ``parse`` does, also if the window of a share is too long.
    """
    shared = ";".join(dict.fromkeys([_name(limit) + limit.share(nodes) for limit in parse(text)]))
    try:
        parse(shared)
    except ValueError as error:
        raise ValueError(
            f"LIMITER_NODES={nodes}, limit {text[:200]!r}: each share is a {error}"
        ) from error
    return shared


def _name(limit: Limit) -> str:
    return f"{limit.policy}=" if limit.policy else ""
