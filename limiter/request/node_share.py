"""A node's share of the limits.  Each node has its own store, and they share none.

If n nodes together may admit N hits per window W, each node admits:

* sliding, fixed: N // n per W.  If that is 0 but N is not: 1 hit per ceil(n / N) windows.
* burst: N per n * W, with a bucket of B // n, at least 1.

So no window holds more than N hits of all nodes together, if N is at least n.  Precision is lost: the
remainder of N // n, and what one node does not use while another has used up its share.
"""

from limiter.core.burst import Burst
from limiter.core.fixed import Fixed
from limiter.core.limit import SECOND, Limit
from limiter.core.notation import parse


def share(text: str, nodes: int) -> str:
    """The limits of one node of ``nodes``, which is at least 1.

    Raises ValueError as ``parse`` does, also if the window of a share is too long.
    """
    shared = ";".join(dict.fromkeys([_share(limit, nodes) for limit in parse(text)]))
    try:
        parse(shared)
    except ValueError as error:
        raise ValueError(
            f"LIMITER_NODES={nodes}, limit {text[:200]!r}: each share is a {error}"
        ) from error
    return shared


def _share(limit: Limit, nodes: int) -> str:
    if isinstance(limit, Burst):
        seconds = nodes * limit.period // SECOND
        return f"{limit.rate} per {seconds} seconds burst {max(1, limit.quota // nodes)}"
    seconds = limit.window // SECOND
    kind = " fixed" if isinstance(limit, Fixed) else ""
    if 0 < limit.quota < nodes:
        return f"1 per {seconds * -(-nodes // limit.quota)} seconds{kind}"
    return f"{limit.quota // nodes} per {seconds} seconds{kind}"
