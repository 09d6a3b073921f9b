"""The takeover script alone: a master by hand, the real AWS CLI, and a cloud that fails as clouds do.

tests/deploy/bats/standby.bats tests all else, with commands that stand for those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploying import KEEPALIVED
from tests.laboratories.machines import VIP, line_of, output_of, wait_for
from tests.laboratories.standby.laboratory import (
    ASSIGN,
    ASSOCIATE,
    DESCRIBE,
    ELASTIC_IP,
    TAKEOVER,
    Instance,
    Vpc,
    end_of,
)

pytestmark = pytest.mark.one_python

LOCK = "/run/access-limiter-takeover.lock"


@pytest.fixture
def master(pair: Vpc) -> Iterator[Instance]:
    """This machine has the address; for Amazon the other one has both."""
    first, second = pair.instances
    first.end_takeovers()  # one of an earlier pair would look again, as this machine is now the master
    pair.call("put_elastic_ip", eni=second.eni, address=VIP)
    pair.call("calls")
    configuration = first.path(KEEPALIVED)
    configuration.parent.mkdir(exist_ok=True)
    configuration.write_text(f'notify_master "{TAKEOVER} {VIP} {ELASTIC_IP} eth0" root\n')
    first.do("ip", "address", "add", f"{VIP}/32", "dev", "eth0")
    yield first
    lose(first)
    first.end_takeovers()
    pair.call("forget_faults")
    configuration.unlink()
    first.forget_log()


def lose(instance: Instance) -> None:
    instance.do("ip", "address", "flush", "to", f"{VIP}/32", "dev", "eth0")


def calls(pair: Vpc, instance: Instance) -> list[str]:
    return [call for address, call in pair.call("calls") if address == instance.address]


def is_awaited(lock: Path) -> bool:
    """Return whether a process waits for the lock (proc_locks(5)).

    Trying the lock could block that process.
    """
    inode = f":{lock.stat().st_ino}"
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(words[6].endswith(inode) for words in waiting)


def test_master_takes_both_and_looks_whether_they_are_there(pair: Vpc, master: Instance) -> None:
    output_of(master.take_over())
    assert pair.elastic_ip_is_at(master)
    assert calls(pair, master) == [DESCRIBE, ASSIGN, ASSOCIATE, DESCRIBE]
    master.end_takeovers()  # otherwise its second look may be among the calls of the next one
    pair.call("calls")
    output_of(master.take_over())
    assert calls(pair, master) == [DESCRIBE], master.log()


def test_failing_calls_are_logged_and_tried_again(pair: Vpc, master: Instance) -> None:
    pair.call("fail", call=DESCRIBE, kind="delay")
    master.be_impatient()
    pair.call("fail", call=ASSIGN, kind="throttle")
    pair.call("fail", call=ASSOCIATE, kind="error")
    output = output_of(master.take_over())
    assert pair.elastic_ip_is_at(master)
    slow, throttle, error = (it for it in master.log().splitlines() if "; again in " in it)
    assert "Read timeout on endpoint URL" in slow
    assert "(RequestLimitExceeded) when calling the AssignPrivateIpAddresses operation" in throttle
    assert "(InternalError) when calling the AssociateAddress operation" in error
    secrets = pair.call("secrets")
    assert len(secrets) > len(pair.instances) * 2, "credentials, and at least one token"
    assert not [it for it in secrets if it in master.log() + output]


def test_failing_metadata_are_logged_and_requested_again(pair: Vpc, master: Instance) -> None:
    failure = "the instance's metadata (IMDSv2): curl: (22) The requested URL returned error: 400"
    pair.call("fail_metadata", fail=True)
    process = master.start_takeover()
    wait_for(lambda: failure in master.log(), failure)
    pair.call("fail_metadata", fail=False)
    output_of(end_of(process))
    assert pair.elastic_ip_is_at(master)


def test_who_loses_in_between_takes_nothing_more(pair: Vpc, master: Instance) -> None:
    pair.call("fail", call=ASSIGN, kind="delay")
    process = master.start_takeover()
    wait_for(lambda: [master.address, ASSIGN] in pair.call("calls"), "the call")
    lose(master)
    pair.call("forget_faults")
    assert "not the master: " in output_of(end_of(process), 1)
    assert calls(pair, master) == []


def test_one_works_and_one_waits_and_further_ones_leave_it_to_that(pair: Vpc, master: Instance) -> None:
    with master.begin("flock", LOCK, "sh", "-c", "echo works; exec cat") as first:
        assert line_of(first) == "works\n"
        second = master.start_takeover()
        wait_for(lambda: is_awaited(master.path(LOCK)), "the second waits")
        assert output_of(master.take_over()) == ""
        assert calls(pair, master) == []
    output_of(end_of(second))
    assert calls(pair, master) == [DESCRIBE, ASSIGN, ASSOCIATE, DESCRIBE]
