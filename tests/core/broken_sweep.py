"""Hits and sweepers that break the protocol of docs/store-format.md: the tests of the laws must see it."""

from __future__ import annotations

import posix
from collections.abc import Callable

from limiter.core.decision import View
from limiter.core.limit import Limit
from limiter.core.removal import remove_empty
from limiter.core.store import Store, done


def claim_any(
    view: View, directory: str, now: int, cost: int, add: Callable[..., bool] = View.add
) -> bool:
    """Break L1: wake an idle directory by its last slot, while a sweeper takes the first."""
    goes_on = add(view, directory, now, cost)
    view.free.reverse()
    view.idle.clear()
    return goes_on


def clear_all(store: Store, directory: str, *_: object) -> bool:
    """Break S1: remove all that is in the directory now, also if it was taken since the look."""
    for name in store.names(directory):
        done(posix.unlink, f"{store.root}/{directory}/{name}")
    return remove_empty(f"{store.root}/{directory}")


def remove_at_once(store: Store, directory: str, limit: Limit, slots: list[str]) -> bool:
    """Break S1: remove without a mark."""
    return clear_all(store, directory)
