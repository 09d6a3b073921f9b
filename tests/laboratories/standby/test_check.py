"""``check`` on real machines that have nothing yet: it finds early what a takeover would notice too
late.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploying import KEEPALIVED
from tests.laboratories.machines import VIP
from tests.laboratories.standby.laboratory import ASSIGN, ASSOCIATE, DESCRIBE, POLICY, Vpc

pytestmark = pytest.mark.one_python

UNAUTHORIZED = "An error occurred (UnauthorizedOperation)"


@pytest.fixture
def cloud(pair: Vpc) -> Iterator[Vpc]:
    """A pair whose cloud and inventory may be changed; none of these tests installs anything."""
    yield pair
    pair.call("permit", policy=POLICY)
    pair.let_in()
    pair.write_pair()
    assert not any(it.path(KEEPALIVED).exists() for it in pair.instances)


def without(*calls: str) -> dict[str, object]:
    """Return the policy without these calls."""
    refused = [f"ec2:{it}" for it in calls]
    return {
        "Statement": [
            {**it, "Action": [action for action in actions(it) if action not in refused]}
            for it in POLICY["Statement"]
        ]
    }


def actions(statement: dict[str, Any]) -> list[str]:
    action = statement["Action"]
    return [action] if isinstance(action, str) else action


def places(pair: Vpc) -> list[object]:
    return [pair.call("elastic_ip"), *[pair.call("addresses", eni=it.eni) for it in pair.instances]]


def test_machines_that_lack_nothing_pass_and_nothing_moves(cloud: Vpc) -> None:
    """Members of their group are let in.  And the policy permits no more than has been called."""
    cloud.call("let_in", rules=[["-1", "-1", "-1", None]])
    cloud.call("put_elastic_ip", eni=cloud.instances[1].eni, address=cloud.instances[1].address)
    cloud.call("calls")
    before = places(cloud)
    output = cloud.deploy("check")
    for it in cloud.instances:
        assert f"{it.name}: ready\n" in output
        assert f"{it.name}: permitted: " in output
    assert places(cloud) == before
    called = {f"ec2:{call.rstrip('?')}" for _, call in cloud.call("calls")}
    assert called == {action for statement in POLICY["Statement"] for action in actions(statement)}


def test_every_missing_permission_is_named(cloud: Vpc) -> None:
    cloud.call("permit", policy=without(ASSIGN, ASSOCIATE, "DescribeSecurityGroups"))
    output = cloud.refusal("check")
    for it in cloud.instances:
        found = [line for line in output.splitlines() if f"{it.name}: permissions are missing: " in line]
        assert len(found) == 1, output
        line = found[0]
        for call in ("associate-address", "assign-private-ip-addresses", "describe-security-groups"):
            assert line.count(f"{call}: {UNAUTHORIZED}") == 1
        assert "ENCODED" not in line
        assert line.endswith("attach the policy to the role of this instance (render shows it)")


def test_machine_that_may_not_even_look_is_named(cloud: Vpc) -> None:
    cloud.call("permit", policy=without(DESCRIBE))
    assert cloud.refusal("install").count(f"describe-addresses: {UNAUTHORIZED}") == 2


def test_security_group_that_keeps_out_what_is_needed_is_found(cloud: Vpc) -> None:
    cloud.let_in(vrrp_from="10.77.0.0/31")
    output = cloud.refusal("check")
    lacking = "standby: {}: the security group does not let in VRRP (protocol 112) from"
    assert f"{lacking.format('web1')} 10.77.0.2: " in output
    assert lacking.format("web2") not in output, "10.77.0.1 is in that network"
    assert "aws ec2 authorize-security-group-ingress --group-id sg-" in output


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("interface", "eth1", "10.77.0.1 is not on eth1: correct interface in the inventory"),
        ("vip", "10.77.1.100", "vip=10.77.1.100 is not in the network of 10.77.0.1/24"),
        ("port", "81", "the web server cannot admit: http://127.0.0.1:81/cgi-bin/health.py: curl: (7)"),
        ("health", "/nowhere", "the web server cannot admit: http://127.0.0.1:80/nowhere: curl: (22)"),
    ],
)
def test_mistake_in_the_inventory_is_found(cloud: Vpc, name: str, value: str, why: str) -> None:
    cloud.write_pair(**{"elastic_ip": "", name: value})
    assert f"standby: web1: {why}" in cloud.refusal("check")


def test_elastic_ip_of_somebody_else_is_found(cloud: Vpc) -> None:
    cloud.write_pair(elastic_ip="203.0.113.11")
    why = "; 203.0.113.11 is no Elastic IP of this account and region: correct elastic_ip"
    assert why in cloud.refusal("check")


def test_another_elastic_ip_of_the_account_is_not_permitted(cloud: Vpc) -> None:
    """The policy is for one Elastic IP: an intruder on a machine can take no other."""
    other = "203.0.113.12"
    cloud.call("add_elastic_ip", elastic_ip=other)
    cloud.write_pair(elastic_ip=other)
    output = cloud.refusal("check")
    for it in cloud.instances:
        refused = f"permissions are missing: associate-address: {UNAUTHORIZED}"
        assert f"standby: {it.name}: {refused}" in output
    assert "assign-private-ip-addresses:" not in output


def test_address_of_a_third_interface_at_amazon_is_found(cloud: Vpc) -> None:
    eni = cloud.call("add_interface", address=VIP)
    try:
        output = cloud.refusal("check")
    finally:
        cloud.call("remove_interface", eni=eni)
    for it in cloud.instances:
        assert f"standby: {it.name}: {VIP} is in use: {eni} has it\n" in output


@pytest.mark.parametrize(
    ("do", "undo", "why"),
    [
        (
            f"ip address add {VIP}/32 dev eth0",
            f"ip address flush to {VIP}/32 dev eth0",
            f"{VIP} is on eth0, but not put there by this script's keepalived",
        ),
        (
            f"install -D /etc/hostname {KEEPALIVED}",
            f"cmp /etc/hostname {KEEPALIVED} && rm {KEEPALIVED}",
            f"{KEEPALIVED} was not made by this script, and is left alone",
        ),
    ],
    ids=["address", "configuration"],
)
def test_what_somebody_else_has_put_there_is_found_and_left_alone(
    cloud: Vpc, do: str, undo: str, why: str
) -> None:
    cloud.write_pair(elastic_ip="")
    second = cloud.instances[1]
    second.do("sh", "-ec", do)
    try:
        for command in ("check", "install"):
            assert f"standby: web2: {why}" in cloud.refusal(command)
        assert cloud.deploy("remove") == "Nothing changed: all is in order.\n"
    finally:
        second.do("sh", "-ec", undo)
    cloud.deploy("check")
