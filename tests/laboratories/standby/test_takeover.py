"""The takeover script alone: a master by hand, the real AWS CLI, and a cloud that fails as clouds do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.laboratories.cluster.laboratory import wait_for
from tests.laboratories.standby.laboratory import (
    CONF,
    ELASTIC_IP,
    POLICY,
    TAKEOVER,
    VIP,
    Instance,
    Vpc,
    finish,
)

pytestmark = pytest.mark.one_python

ASSIGN = "AssignPrivateIpAddresses"
ASSOCIATE = "AssociateAddress"
DESCRIBE = "DescribeAddresses"
LOCK = "/run/access-limiter-takeover.lock"


@pytest.fixture
def master(pair: Vpc) -> Iterator[Instance]:
    """This machine has the address; for Amazon the other one has both."""
    first, second = pair.instances
    pair.ask("put_elastic_ip", eni=second.eni, address=VIP)
    pair.ask("calls")
    set_up(first)
    win(first)
    yield first
    lose(first)
    first.end_takeovers()
    pair.ask("forget_faults")
    pair.ask("permit", policy=POLICY)
    first.path(CONF).unlink()
    first.path("/var/log/access-limiter-takeover.log").unlink(missing_ok=True)


def set_up(instance: Instance) -> None:
    """Configure keepalived to run it."""
    file = instance.path(CONF)
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'notify_master "{TAKEOVER} {VIP} {ELASTIC_IP} eth0" root\n')


def win(instance: Instance) -> None:
    instance.do("ip", "address", "add", f"{VIP}/32", "dev", "eth0")


def lose(instance: Instance) -> None:
    instance.do("ip", "address", "flush", "to", f"{VIP}/32", "dev", "eth0")


def calls(pair: Vpc, instance: Instance) -> list[str]:
    return [call for address, call in pair.ask("calls") if address == instance.address]


def wait_for_log(instance: Instance, text: str) -> None:
    wait_for(lambda: text in instance.log(), text)


def is_awaited(lock: Path) -> bool:
    """Return whether a process waits for the lock (proc_locks(5)).

    Trying the lock could block that process.
    """
    inode = f":{lock.stat().st_ino}"
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(words[6].endswith(inode) for words in waiting)


def test_master_takes_both_and_looks_whether_they_are_there(pair: Vpc, master: Instance) -> None:
    done = master.takes_over()
    assert done.status == 0, done.output
    assert pair.elastic_ip_is_at(master)
    assert calls(pair, master) == [DESCRIBE, ASSIGN, ASSOCIATE, DESCRIBE]
    master.end_takeovers()  # otherwise its second look may be among the calls of the next one
    pair.ask("calls")
    done = master.takes_over()
    assert done.status == 0, done.output
    assert calls(pair, master) == [DESCRIBE]


def test_dry_run_says_what_it_would_call(pair: Vpc, master: Instance) -> None:
    done = master.takes_over("--dry-run")
    assert done.status == 0, done.output
    assert f"assign-private-ip-addresses --network-interface-id {master.eni} " in done.output
    assert f"--private-ip-address {VIP} --allow-reassociation" in done.output
    assert calls(pair, master) == [DESCRIBE]
    assert not pair.elastic_ip_is_at(master)


def test_who_is_not_the_master_calls_nobody(pair: Vpc, master: Instance) -> None:
    lose(master)
    done = master.takes_over()
    assert done.status == 1
    assert f"not the master (any more): {VIP} is not on eth0" in done.output
    assert calls(pair, master) == []


def test_failing_calls_are_logged_and_tried_again(pair: Vpc, master: Instance) -> None:
    pair.ask("fail", call=DESCRIBE, kind="hold")
    master.be_impatient()
    pair.ask("fail", call=ASSIGN, kind="throttle")
    pair.ask("fail", call=ASSOCIATE, kind="error")
    done = master.takes_over()
    assert done.status == 0, done.output
    assert pair.elastic_ip_is_at(master)
    slow, throttle, error = (it for it in master.log().splitlines() if "; again in " in it)
    assert "Read timeout on endpoint URL" in slow
    assert "(RequestLimitExceeded) when calling the AssignPrivateIpAddresses operation" in throttle
    assert "(InternalError) when calling the AssociateAddress operation" in error
    secrets = pair.ask("secrets")
    assert len(secrets) > len(pair.instances) * 2, "credentials, and at least one token"
    assert not [it for it in secrets if it in master.log() + done.output]


def test_failing_metadata_are_logged_and_asked_again(pair: Vpc, master: Instance) -> None:
    pair.ask("hide_metadata", hidden=True)
    process = master.start_takeover()
    wait_for_log(
        master, "the instance's metadata (IMDSv2): curl: (22) The requested URL returned error: 400"
    )
    pair.ask("hide_metadata", hidden=False)
    done = finish(process)
    assert done.status == 0, done.output
    assert pair.elastic_ip_is_at(master)


def test_deadline_ends_it(pair: Vpc, master: Instance) -> None:
    pair.ask("fail", call=DESCRIBE, kind="throttle", times=1000)
    done = master.takes_over("--deadline", "2")
    assert done.status == 1
    assert "RequestLimitExceeded" in done.output
    assert "given up after " in done.output
    assert not pair.elastic_ip_is_at(master)


def test_missing_permission_ends_it_with_what_to_do(pair: Vpc, master: Instance) -> None:
    pair.ask("permit", policy=without(ASSOCIATE))
    done = master.takes_over()
    assert done.status == 1
    assert "(UnauthorizedOperation)" in done.output
    assert "; attach the policy to the role of this instance" in done.output
    assert "ENCODED" not in done.output
    assert calls(pair, master) == [DESCRIBE, ASSIGN, ASSOCIATE]


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


def test_who_loses_in_between_takes_nothing_more(pair: Vpc, master: Instance) -> None:
    pair.ask("fail", call=ASSIGN, kind="hold")
    process = master.start_takeover()
    wait_for(lambda: [master.address, ASSIGN] in pair.ask("calls"), "the call")
    lose(master)
    pair.ask("forget_faults")
    done = finish(process)
    assert done.status == 1, done.output
    assert "not the master (any more)" in done.output
    assert calls(pair, master) == []


def test_call_of_the_loser_that_comes_late_is_undone(pair: Vpc, master: Instance) -> None:
    """That call was under way when the winner looked and found everything in order."""
    done = master.takes_over(soon=True)
    assert done.status == 0, done.output
    other = pair.instances[1]
    pair.ask("put_elastic_ip", eni=other.eni, address=VIP)
    assert not pair.elastic_ip_is_at(master)
    wait_for(lambda: pair.elastic_ip_is_at(master), "the second look")


def test_one_works_and_one_waits_and_further_ones_leave_it_to_that(pair: Vpc, master: Instance) -> None:
    works = ("flock", LOCK, "sh", "-c", "echo works; exec cat")
    with subprocess.Popen(
        master.command(*works), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "works\n"
        second = master.start_takeover()
        wait_for(lambda: is_awaited(master.path(LOCK)), "the second waits")
        third = master.takes_over()
        assert (third.status, third.output) == (0, "")
        assert calls(pair, master) == []
        first.communicate()
    done = finish(second)
    assert done.status == 0, done.output
    assert calls(pair, master) == [DESCRIBE, ASSIGN, ASSOCIATE, DESCRIBE]
