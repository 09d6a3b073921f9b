"""Furnishing while a copy of the store comes back."""

from __future__ import annotations

import os

import pytest

from tests.laboratories.cluster.laboratory import (
    BRICK,
    COPY,
    INSIDE,
    STORE,
    VOLUME,
    Laboratory,
    await_healed,
    wait_for,
    writes_to,
)
from tests.places import PYTHON

pytestmark = pytest.mark.one_python

LIMIT = "2/hour"
DIRECTORY = "returned/2-per-3600s"


def test_a_returned_copy_lets_no_second_furnisher_win(cluster3: Laboratory) -> None:
    """The copy lacks what was furnished without it.  Only there a rename to that name succeeds.

    A process furnishes a second time only if it looked before the first one was done.  In this test it
    does not look at all.
    """
    first, second, lost = cluster3.machines
    inside = [PYTHON, "-I", INSIDE, "arrive", COPY, STORE, LIMIT, "returned"]
    lost.kill_brick()
    wait_for(lambda: not writes_to(first, lost), "the loss is noticed")
    assert first.do_as_user(*inside) == "True\n"
    listing = sorted(os.listdir(first.path(f"{STORE}/{DIRECTORY}")))
    taken = "1111111111.000000-0"
    first.do("mv", *[f"{STORE}/{DIRECTORY}/{name}" for name in (listing[0], taken)])
    first.gluster("volume", "start", VOLUME, "force")
    wait_for(lambda: writes_to(second, lost), "the brick's return")
    assert not lost.path(f"{BRICK}/brick/store/returned").exists(), "healed already"
    assert second.do_as_user(*inside) == "False\n"
    await_healed(cluster3)
    for machine in cluster3.machines:
        for place in (STORE, f"{BRICK}/brick/store"):
            assert not [name for name in os.listdir(machine.path(place)) if name.startswith(".")]
            assert sorted(os.listdir(machine.path(f"{place}/{DIRECTORY}"))) == [listing[1], taken]
