"""Change the load balancer that the other test files use; those files run first."""

from __future__ import annotations

import pytest

from tests.laboratories.balancer.laboratory import Balanced
from tests.laboratories.balancer.test_balancer import judge_direct_return
from tests.laboratories.machines import VIP

pytestmark = pytest.mark.one_python


def test_the_firewall_of_a_web_server_can_take_the_address_as_well(whole: Balanced) -> None:
    whole.accept_by("nftables")
    whole.deploy("install")
    for server in whole.machines:
        assert VIP not in server.do("ip", "address")
        assert f"{VIP} tcp dport 80 redirect" in server.do("nft", "list", "ruleset")
    judge_direct_return(whole)
