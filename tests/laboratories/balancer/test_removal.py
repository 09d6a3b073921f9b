"""Change and remove the load balancer that the other test files have left; those files run first."""

from __future__ import annotations

import pytest

from tests.laboratories.balancer.laboratory import VIP, Balanced
from tests.laboratories.balancer.test_balancer import judge_direct_return

pytestmark = pytest.mark.one_python


def test_the_firewall_of_a_web_server_can_take_the_address_as_well(whole: Balanced) -> None:
    whole.write_inventory("nftables")
    whole.do("install")
    for server in whole.servers:
        assert VIP not in server.do("ip", "address")
        assert f"{VIP} tcp dport 80 redirect" in server.do("nft", "list", "ruleset")
    judge_direct_return(whole)


def test_removal_leaves_nothing(whole: Balanced) -> None:
    whole.do("remove")
    # The service that heals the copies belongs to the store.
    files = "find /etc /usr/local -name '*access-limiter*' ! -name 'access-limiter-heal*'"
    rests = f"ip address show to {VIP}; {files}"
    said = [it.do("sh", "-ec", rests) for it in whole.directors]
    said += [it.do("sh", "-ec", rests) for it in whole.servers]
    running = [
        director.run("systemctl", "is-active", "keepalived").status for director in whole.directors
    ]
    assert not "".join(said)
    assert all(running)
