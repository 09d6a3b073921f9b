"""The whole pair, set up by the deploy script: which machine serves the clients, also when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.deploying import wait_for_silence
from tests.laboratories.cluster.laboratory import wait_for
from tests.laboratories.standby.laboratory import CONF, ELASTIC_IP, TAKEOVER, VIP, Instance, Vpc

pytestmark = pytest.mark.one_python

Record = Callable[[str, object], None]

BACKUP = "Entering BACKUP STATE"
FAULT = "Entering FAULT STATE"
ADMITS = "VRRP_Script(web_server) succeeded"
"""What keepalived logs."""


@pytest.fixture(scope="module")
def installed(pair: Vpc) -> Iterator[Vpc]:
    done = pair.deploy("install")
    assert done.status == 0, done.output
    pair.wait_until_at(pair.instances[0])
    yield pair
    done = pair.deploy("remove")
    assert done.status == 0, done.output


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
        done = installed.deploy("failback")
        assert done.status == 0, done.output
    assert installed.is_at(first)
    assert not second.holds()
    return first


@pytest.fixture
def second(installed: Vpc, first: Instance) -> Instance:
    return next(it for it in installed.instances if it is not first)


def measure(pair: Vpc, taker: Instance, record: Record, what: str) -> None:
    """Wait until all is there, and record how long it took."""
    began = time.monotonic()
    wait_for(lambda: pair.served_by() == taker.name, f"{taker.name} serves")
    record(f"{what}: address", f"{time.monotonic() - began:.1f} s")
    pair.wait_until_at(taker)
    record(f"{what}: Elastic IP", f"{time.monotonic() - began:.1f} s")


def wait_for_one(pair: Vpc, holder: Instance, other: Instance) -> None:
    wait_for(lambda: not other.holds(), f"{other.name} gives way")
    pair.wait_until_at(holder)


def test_second_installation_changes_nothing(installed: Vpc, first: Instance) -> None:
    done = installed.deploy("install")
    assert done.status == 0, done.output
    assert done.output.endswith("\nNothing changed: all is in order.\n")
    done = installed.deploy("status")
    assert done.status == 0, done.output
    assert f"{first.name}: holds {VIP}\n" in done.output
    assert f"Elastic IP {ELASTIC_IP}: at {first.eni} {VIP}, {first.name}\n" in done.output


def test_killed_machine_is_replaced_and_takes_nothing_back(
    installed: Vpc, first: Instance, second: Instance, record_property: Record
) -> None:
    returns = first.logged(BACKUP)
    first.kill()
    measure(installed, second, record_property, "machine killed")
    done = installed.deploy("status")
    assert done.status == 1
    assert f"standby: {first.name} cannot be reached" in done.output
    first.start()
    wait_for(lambda: first.logged(BACKUP) > returns, "back")
    wait_for_silence(first.do, first.holds)
    assert not first.holds()
    assert installed.is_at(second)


def test_while_both_have_lost_their_stores_nobody_answers_and_then_one_does_again(
    installed: Vpc, record_property: Record
) -> None:
    faults = [it.logged(FAULT) for it in installed.instances]
    for it in installed.instances:
        it.lose_store()
    try:
        # A machine that does not know of its fault yet may take it from the other for a moment.
        for it, count in zip(installed.instances, faults):
            wait_for(lambda it=it, count=count: it.logged(FAULT) > count, f"{it.name} gives it away")  # type: ignore[misc]
        assert not any(it.holds() for it in installed.instances)
        assert installed.served_by() == ""
        done = installed.deploy("status")
        assert done.status == 1
        assert f"standby: nobody holds {VIP}" in done.output
    finally:
        for it in installed.instances:
            it.find_store()
    began = time.monotonic()
    wait_for(lambda: installed.served_by() != "", "one serves")
    record_property("both stores back: address", f"{time.monotonic() - began:.1f} s")
    wait_for(lambda: any(installed.is_at(it) for it in installed.instances), "all at one")
    record_property("both stores back: Elastic IP", f"{time.monotonic() - began:.1f} s")


def test_machine_that_is_cut_off_is_replaced_and_both_agree_when_it_is_back(
    installed: Vpc, first: Instance, second: Instance, record_property: Record
) -> None:
    first.unplug()
    measure(installed, second, record_property, "link cut")
    assert first.holds(), "it cannot know"
    first.plug_in()
    wait_for_one(installed, first, second)


def test_both_hold_it_while_they_do_not_hear_each_other_and_agree_afterwards(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    installed.keep_apart(True)
    wait_for(lambda: installed.elastic_ip_is_at(second), "the second has taken it")
    done = installed.deploy("status")
    assert done.status == 1
    assert f"standby: both hold {VIP}: do they hear each other" in done.output
    assert f"standby: {ELASTIC_IP} is not where {VIP} is held" in done.output
    installed.keep_apart(False)
    wait_for_one(installed, first, second)
    done = installed.deploy("status")
    assert done.status == 0, done.output


def test_failback_to_a_machine_that_has_it_tells_what_else_is_wrong(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    returns = second.logged(BACKUP)
    second.do("systemctl", "stop", "keepalived")
    try:
        done = installed.deploy("failback")
    finally:
        second.do("systemctl", "start", "keepalived")
    wait_for(lambda: second.logged(BACKUP) > returns, "back")
    assert done.status == 1
    assert f"standby: {second.name}: keepalived does not run" in done.output
    assert "all is in order" not in done.output


def test_failover_and_failback_by_command(
    installed: Vpc, first: Instance, second: Instance, record_property: Record
) -> None:
    done = installed.deploy("failover", "--dry-run")
    assert done.status == 0, done.output
    assert "has it all" not in done.output
    assert installed.is_at(first)
    for command, taker in (("failover", second), ("failback", first)):
        done = installed.deploy(command)
        assert done.status == 0, done.output
        assert installed.is_at(taker)
        (line,) = [
            it for it in done.output.splitlines() if it.startswith(f"{taker.name} has it all after ")
        ]
        record_property(command, line)
    done = installed.deploy("failback")
    assert done.status == 0, done.output
    assert done.output.endswith("\nNothing changed: all is in order.\n")


def test_elastic_ip_and_script_that_somebody_took_away_are_missed_and_brought_back(
    installed: Vpc, first: Instance, second: Instance
) -> None:
    installed.ask("put_elastic_ip", eni=second.eni, address=second.address)
    done = installed.deploy("status")
    assert done.status == 1
    assert f"standby: {ELASTIC_IP} is not where {VIP} is held (on the holder: {TAKEOVER} " in done.output
    first.path(TAKEOVER).unlink()
    done = installed.deploy("check")
    assert done.status == 1
    assert f"standby: {first.name}: {TAKEOVER} is missing, or cannot be executed" in done.output
    done = installed.deploy("install")
    assert done.status == 0, done.output
    assert installed.is_at(first)


def test_machine_whose_web_server_cannot_admit_gives_it_away(
    installed: Vpc, first: Instance, second: Instance, record_property: Record
) -> None:
    first.lose_store()
    try:
        measure(installed, second, record_property, "store lost")
        done = installed.deploy("status")
        assert done.status == 1
        assert f"standby: {first.name}: the web server cannot admit" in done.output
        done = installed.deploy("failback")
        assert (done.status, installed.is_at(second)) == (1, True)
        assert "correct that first: web1 may not be able to take" in done.output
    finally:
        recoveries = first.logged(ADMITS)
        first.find_store()
    wait_for(lambda: first.logged(ADMITS) > recoveries, "it can again")
    assert installed.is_at(second)


def test_without_elastic_ip_nobody_asks_amazon(installed: Vpc, without_elastic_ip: None) -> None:
    """The holder keeps the address while its settings change; the Elastic IP stays where it is put."""
    first, second = sorted(installed.instances, key=installed.is_at, reverse=True)
    ends = first.log().count("not wanted (any more)")
    done = installed.deploy("install")
    assert done.status == 0, done.output
    wait_for(lambda: first.log().count("not wanted (any more)") > ends, "the one that looked has ended")
    installed.ask("put_elastic_ip", eni=second.eni, address=second.address)
    installed.ask("calls")
    for it in installed.instances:
        assert "notify" not in it.path(CONF).read_text()
    assert installed.served_by() == first.name
    done = installed.deploy("failover")
    assert done.status == 0, done.output
    assert installed.served_by() == second.name
    assert installed.ask("calls") == []
    assert installed.ask("elastic_ip") == [second.eni, second.address]


def test_removal_leaves_nothing_but_packages_and_logs(installed: Vpc, without_elastic_ip: None) -> None:
    logs = [it.log() for it in installed.instances]
    assert any(logs)
    done = installed.deploy("remove")
    assert done.status == 0, done.output
    for it, log in zip(installed.instances, logs):
        assert it.log().startswith(log)
        assert not it.holds()
        assert not it.path(CONF).exists()
        assert not it.path(TAKEOVER).exists()
        assert it.run("systemctl", "-q", "is-active", "keepalived").status == 1
    done = installed.deploy("remove")
    assert (done.status, done.output) == (0, "Nothing changed: all is in order.\n")
