"""``check`` on real machines that have nothing yet: it finds early what a takeover would notice too
late.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.laboratories.standby.laboratory import CONF, POLICY, VIP, Vpc
from tests.laboratories.standby.test_takeover import ASSIGN, ASSOCIATE, DESCRIBE, actions, without

pytestmark = pytest.mark.one_python


@pytest.fixture
def cloud(pair: Vpc) -> Iterator[Vpc]:
    """A pair whose cloud may be changed."""
    yield pair
    pair.ask("permit", policy=POLICY)
    pair.let_in()
    pair.write_pair()


def places(pair: Vpc) -> list[object]:
    return [pair.ask("elastic_ip"), *[pair.ask("addresses", eni=it.eni) for it in pair.instances]]


def test_machines_that_lack_nothing_pass_and_nothing_moves(cloud: Vpc) -> None:
    """Members of their group are let in.  And the policy permits no more than has been called."""
    cloud.ask("let_in_itself")
    cloud.ask("put_elastic_ip", eni=cloud.instances[1].eni, address=cloud.instances[1].address)
    cloud.ask("calls")
    before = places(cloud)
    done = cloud.deploy("check")
    assert done.status == 0, done.output
    for it in cloud.instances:
        assert f"{it.name}: ready\n" in done.output
        assert f"{it.name}: permitted: " in done.output
    assert places(cloud) == before
    called = {f"ec2:{call.rstrip('?')}" for _, call in cloud.ask("calls")}
    assert called == {action for statement in POLICY["Statement"] for action in actions(statement)}


def test_every_missing_permission_is_named(cloud: Vpc) -> None:
    cloud.ask("permit", policy=without(ASSIGN, ASSOCIATE, "DescribeSecurityGroups"))
    done = cloud.deploy("check")
    assert done.status == 1
    for it in cloud.instances:
        (line,) = [
            text for text in done.output.splitlines() if f"{it.name}: permissions are missing: " in text
        ]
        for call in ("associate-address", "assign-private-ip-addresses", "describe-security-groups"):
            assert line.count(f"{call}: An error occurred (UnauthorizedOperation)") == 1
        assert line.endswith("attach the policy to the role of this instance (render shows it)")


def test_machine_that_may_not_even_look_is_told_so(cloud: Vpc) -> None:
    cloud.ask("permit", policy=without(DESCRIBE))
    done = cloud.deploy("install")
    assert done.status == 1
    assert done.output.count("describe-addresses: An error occurred (UnauthorizedOperation)") == 2
    assert not any(it.path(CONF).exists() for it in cloud.instances)


def test_security_group_that_keeps_out_what_is_needed_is_found(cloud: Vpc) -> None:
    cloud.ask("let_in", rules=[["112", -1, -1, "10.77.0.0/31"], ["tcp", 80, 80, "0.0.0.0/0"]])
    done = cloud.deploy("check")
    assert done.status == 1
    lacking = "standby: {}: the security group does not let in VRRP (protocol 112) from"
    assert f"{lacking.format('web1')} 10.77.0.2: " in done.output
    assert lacking.format("web2") not in done.output, "10.77.0.1 is in that network"
    assert "aws ec2 authorize-security-group-ingress --group-id sg-" in done.output


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
    done = cloud.deploy("check")
    assert done.status == 1
    assert f"standby: web1: {why}" in done.output


def test_elastic_ip_of_somebody_else_is_found(cloud: Vpc) -> None:
    cloud.write_pair(elastic_ip="203.0.113.11")
    done = cloud.deploy("check")
    assert done.status == 1
    assert (
        "; 203.0.113.11 is no Elastic IP of this account and region: correct elastic_ip" in done.output
    )


def test_another_elastic_ip_of_the_account_is_not_permitted(cloud: Vpc) -> None:
    """The policy is for one Elastic IP: an intruder on a machine can take no other."""
    other = "203.0.113.12"
    cloud.ask("add_elastic_ip", elastic_ip=other)
    cloud.write_pair(elastic_ip=other)
    done = cloud.deploy("check")
    assert done.status == 1
    for it in cloud.instances:
        refused = "permissions are missing: associate-address: An error occurred (UnauthorizedOperation)"
        assert f"standby: {it.name}: {refused}" in done.output
    assert "assign-private-ip-addresses:" not in done.output


def test_address_of_a_third_interface_at_amazon_is_found(cloud: Vpc) -> None:
    eni = cloud.ask("add_interface", address=VIP)
    try:
        done = cloud.deploy("check")
    finally:
        cloud.ask("remove_interface", eni=eni)
    assert done.status == 1
    for it in cloud.instances:
        assert f"standby: {it.name}: {VIP} is in use: {eni} has it\n" in done.output


def test_address_of_a_third_machine_on_the_network_is_found(cloud: Vpc) -> None:
    cloud.write_pair(elastic_ip="")
    cloud.do("ip", "address", "add", f"{VIP}/32", "dev", "switch")
    try:
        for command in ("check", "install"):
            done = cloud.deploy(command)
            assert done.status == 1
            said = f"standby: {VIP} is in use: web1 hears 02:00:0a:4d:00:fe answer for it\n"
            assert done.output.endswith(said)
    finally:
        cloud.do("ip", "address", "del", f"{VIP}/32", "dev", "switch")
    assert not any(it.path(CONF).exists() for it in cloud.instances)
    done = cloud.deploy("check")
    assert done.status == 0, done.output


def test_address_that_somebody_else_has_put_there_is_found(cloud: Vpc) -> None:
    cloud.write_pair(elastic_ip="")
    second = cloud.instances[1]
    second.do("ip", "address", "add", f"{VIP}/32", "dev", "eth0")
    try:
        done = cloud.deploy("check")
    finally:
        second.do("ip", "address", "flush", "to", f"{VIP}/32", "dev", "eth0")
    assert done.status == 1
    assert (
        f"standby: web2: {VIP} is on eth0, but not put there by this script's keepalived" in done.output
    )


def test_configuration_of_somebody_else_is_left_alone(cloud: Vpc) -> None:
    cloud.write_pair(elastic_ip="")
    file = cloud.instances[0].path(CONF)
    file.parent.mkdir(exist_ok=True)
    file.write_text("! mine\n")
    try:
        for command in ("check", "install"):
            done = cloud.deploy(command)
            assert done.status == 1
            assert f"standby: web1: {CONF} was not made by this script, and is left alone" in done.output
        done = cloud.deploy("remove")
        assert done.status == 0, done.output
        assert done.output == "Nothing changed: all is in order.\n"
        assert file.read_text() == "! mine\n"
    finally:
        file.unlink()
