"""The whole pair, set up by the deploy script: which machine serves the clients, also when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.deploying import KEEPALIVED, wait_for_silence
from tests.laboratories.machines import VIP, wait_for
from tests.laboratories.standby.laboratory import ELASTIC_IP, TAKEOVER, Instance, Vpc

pytestmark = pytest.mark.one_python

BACKUP = "Entering BACKUP STATE"
FAULT = "Entering FAULT STATE"
ADMITS = "VRRP_Script(web_server) succeeded"
"""What keepalived logs."""

ENDED = "not configured: "
"""What a takeover script logs."""


@pytest.fixture(scope="module")
def installed(pair: Vpc) -> Iterator[Vpc]:
    pair.deploy("install")
    pair.wait_until_at(pair.instances[0])
    yield pair
    pair.deploy("remove")


@pytest.fixture
def without_elastic_ip(installed: Vpc) -> Iterator[None]:
    """The pair without an Elastic IP."""
    installed.write_pair(elastic_ip="")
    yield
    installed.write_pair()


@pytest.fixture
def first(installed: Vpc) -> Instance:
    """This machine has the address and the Elastic IP; the other stands by."""
    first, second = installed.instances
    if not installed.is_at(first):
        installed.deploy("failback")
    assert installed.is_at(first)
    assert not second.holds()
    return first


@pytest.fixture
def second(installed: Vpc, first: Instance) -> Instance:
    return next(it for it in installed.instances if it is not first)


def wait_for_more(instance: Instance, text: str, count: int) -> None:
    """Return when its keepalived has logged this more often than so."""
    wait_for(lambda: instance.logged(text) > count, f"{instance.name}: {text}")


def measure(what: str, serves: Callable[[], bool], is_complete: Callable[[], bool]) -> None:
    """Wait until a machine serves, and until the Elastic IP is there; print how long both took."""
    began = time.monotonic()
    wait_for(serves, f"{what}: address")
    print(f"{what}: address after {time.monotonic() - began:.1f} s")
    wait_for(is_complete, f"{what}: Elastic IP")
    print(f"{what}: Elastic IP after {time.monotonic() - began:.1f} s")


def measure_takeover(what: str, pair: Vpc, taker: Instance) -> None:
    measure(what, lambda: pair.served_by() == taker.name, lambda: pair.is_at(taker))


def wait_for_one(pair: Vpc, holder: Instance, other: Instance) -> None:
    wait_for(lambda: not other.holds(), f"{other.name} gives way")
    pair.wait_until_at(holder)


def test_second_installation_changes_nothing(installed: Vpc, first: Instance) -> None:
    assert installed.deploy("install").endswith("\nNothing changed: all is in order.\n")
    output = installed.deploy("status")
    assert f"{first.name}: holds {VIP}\n" in output
    assert f"Elastic IP {ELASTIC_IP}: at {first.eni} {VIP}, {first.name}\n" in output


def test_killed_machine_is_replaced_and_takes_nothing_back(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    returns = first.logged(BACKUP)
    first.kill()
    measure_takeover("machine killed", installed, second)
    assert f"standby: {first.name} cannot be reached" in installed.refusal("status")
    first.start()
    wait_for_more(first, BACKUP, returns)
    wait_for_silence(first.do, first.holds)
    assert not first.holds()
    assert installed.is_at(second)


def test_while_both_have_lost_their_stores_nobody_answers_and_then_one_does_again(
    installed: Vpc,
) -> None:
    faults = [it.logged(FAULT) for it in installed.instances]
    for it in installed.instances:
        it.lose_store()
    try:
        # A machine that does not know of its fault yet may take it from the other for a moment.
        for it, count in zip(installed.instances, faults):
            wait_for_more(it, FAULT, count)
        assert not any(it.holds() for it in installed.instances)
        assert installed.served_by() == ""
        assert f"standby: neither web1 nor web2 holds {VIP}" in installed.refusal("status")
    finally:
        for it in installed.instances:
            it.find_store()
    measure(
        "both stores back",
        lambda: installed.served_by() != "",
        lambda: any(installed.is_at(it) for it in installed.instances),
    )


def test_machine_that_is_cut_off_is_replaced_and_both_agree_when_it_is_back(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    first.unplug()
    measure_takeover("link cut", installed, second)
    assert first.holds(), "it cannot know"
    first.plug_in()
    wait_for_one(installed, first, second)


def test_both_hold_it_while_they_do_not_hear_each_other_and_agree_afterwards(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    installed.keep_apart(True)
    wait_for(lambda: installed.elastic_ip_is_at(second), "the second has taken it")
    output = installed.refusal("status")
    assert f"standby: both hold {VIP}: do they hear each other" in output
    assert f"standby: {ELASTIC_IP} is not where {VIP} is held" in output
    installed.keep_apart(False)
    wait_for_one(installed, first, second)
    installed.deploy("status")


def test_failback_to_a_machine_that_has_it_reports_what_else_is_wrong(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    returns = second.logged(BACKUP)
    second.do("systemctl", "stop", "keepalived")
    try:
        output = installed.refusal("failback")
    finally:
        second.do("systemctl", "start", "keepalived")
    wait_for_more(second, BACKUP, returns)
    assert f"standby: {second.name}: keepalived does not run" in output
    assert "all is in order" not in output


def test_failover_and_failback_by_command(installed: Vpc, first: Instance, second: Instance) -> None:
    assert "has taken over" not in installed.deploy("failover", "--dry-run")
    assert installed.is_at(first)
    for command, taker in (("failover", second), ("failback", first)):
        lines = installed.deploy(command).splitlines()
        assert installed.is_at(taker)
        assert any(it.startswith(f"{taker.name} has taken over after ") for it in lines)
    assert installed.deploy("failback").endswith("\nNothing changed: all is in order.\n")


def test_elastic_ip_and_script_that_somebody_took_away_are_missed_and_brought_back(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    installed.call("put_elastic_ip", eni=second.eni, address=second.address)
    advice = f"standby: {ELASTIC_IP} is not where {VIP} is held (on the holder: {TAKEOVER} "
    assert advice in installed.refusal("status")
    first.path(TAKEOVER).unlink()
    missing = f"standby: {first.name}: {TAKEOVER} is missing, or cannot be executed"
    assert missing in installed.refusal("check")
    installed.deploy("install")
    assert installed.is_at(first)


def test_machine_whose_web_server_cannot_admit_gives_it_away(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    first.lose_store()
    try:
        measure_takeover("store lost", installed, second)
        assert f"standby: {first.name}: the web server cannot admit" in installed.refusal("status")
        assert "correct that first: web1 may not be able to take" in installed.refusal("failback")
        assert installed.is_at(second)
    finally:
        recoveries = first.logged(ADMITS)
        first.find_store()
    wait_for_more(first, ADMITS, recoveries)
    assert installed.is_at(second)


def test_without_elastic_ip_nothing_calls_amazon(installed: Vpc, without_elastic_ip: None) -> None:
    """The holder keeps the address while its settings change; the Elastic IP stays where it is put."""
    first, second = sorted(installed.instances, key=installed.is_at, reverse=True)
    ends = first.log().count(ENDED)
    installed.deploy("install")
    wait_for(lambda: first.log().count(ENDED) > ends, "the one that looked has ended")
    installed.call("put_elastic_ip", eni=second.eni, address=second.address)
    installed.call("calls")
    for it in installed.instances:
        assert "notify" not in it.path(KEEPALIVED).read_text()
    assert installed.served_by() == first.name
    installed.deploy("failover")
    assert installed.served_by() == second.name
    assert installed.call("calls") == []
    assert installed.call("elastic_ip") == [second.eni, second.address]


def test_removal_leaves_nothing_but_packages_and_logs(installed: Vpc, without_elastic_ip: None) -> None:
    logs = [it.log() for it in installed.instances]
    assert any(logs)
    installed.deploy("remove")
    for it, log in zip(installed.instances, logs):
        assert it.log().startswith(log)
        assert not it.holds()
        assert not it.path(KEEPALIVED).exists()
        assert not it.path(TAKEOVER).exists()
        assert it.run("systemctl", "-q", "is-active", "keepalived").returncode == 1
    assert installed.deploy("remove") == "Nothing changed: all is in order.\n"
