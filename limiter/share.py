"""A node's share of the limits, for nodes that have a store each and share none.

Where N hits per window W are allowed to n nodes together, each allows

* sliding, fixed: N // n per W; if that would be none, 1 per so many windows as nodes share a hit,
* burst: N per n * W, a bucket of B // n, but at least 1.

So no window holds more than N hits of all nodes together, as long as N is at least n.  What is lost is
precision: the remainder of N // n, and what a node does not use while another has used up its share.
"""

from limiter.burst import Burst
from limiter.fixed import Fixed
from limiter.limit import SECOND, Limit
from limiter.notation import parse


def share(text: str, nodes: int) -> str:
    """The limits of one of so many nodes, at least 1.

    Raises ValueError as ``parse`` does, also for a share whose window is too long.
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
