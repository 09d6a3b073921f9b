"""How the scripts are called, what they do when no machine can be reached, and what they plan."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.deploying import (
    GLUSTERFS,
    LOADBALANCER,
    PAIR,
    STANDBY,
    Change,
    Script,
    call,
    write_inventory,
)

pytestmark = pytest.mark.one_python

_REMOTE = "ssh -o BatchMode=yes root@%a"
_OWN: dict[Script, list[Change]] = {GLUSTERFS: [], LOADBALANCER: [], STANDBY: PAIR}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (GLUSTERFS.path, "render check install status test add-node replace-node --inventory"),
        (LOADBALANCER.path, "render check install status failover remove --inventory"),
        (STANDBY.path, "render check install status failover failback remove --inventory"),
        (STANDBY.path.with_name("takeover"), "--deadline"),
    ],
    ids=lambda it: getattr(it, "name", it),
)
def test_help(path: Path, words: str) -> None:
    """It has a line for each command and each option."""
    done = call(path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {path} ")
    for word in [*words.split(), "--dry-run", "--help"]:
        assert re.search(rf"^  {word} ", done.stdout, re.M)


@pytest.mark.parametrize(
    ("script", "arguments", "why"),
    [
        (LOADBALANCER, "", "no command"),
        (LOADBALANCER, "install web1", "no such command: install web1"),
        (LOADBALANCER, "install --force", "unknown option --force"),
        (GLUSTERFS, "install --force", "unknown option --force"),
        (STANDBY, "install --force", "unknown option --force"),
        (LOADBALANCER, "install --inventory", "--inventory needs a file"),
        (LOADBALANCER, "test", "no such command: test"),
        (GLUSTERFS, "remove", "no such command: remove"),
    ],
    ids=str,
)
def test_usage_error(script: Script, arguments: str, why: str) -> None:
    """The message says where to read more."""
    done = script.run(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{script}: {why} (see {script.path} --help)\n"


_UNREACHED = "cannot be reached (remote=false)"


@pytest.mark.parametrize(
    ("script", "command", "machines", "why"),
    [
        (GLUSTERFS, "check", "web1", f"is not ready, or {_UNREACHED}"),
        (GLUSTERFS, "install", "web1", f"is not ready, or {_UNREACHED}"),
        (GLUSTERFS, "status", "web1 web2 web3", _UNREACHED),
        (GLUSTERFS, "test", "web1", _UNREACHED),
        (GLUSTERFS, "replace-node web1 web2 192.0.2.12", "web2", "is listed twice"),
        (GLUSTERFS, "replace-node web3 web3 192.0.2.31", "web3", "is 192.0.2.13 in {}, not 192.0.2.31"),
        (LOADBALANCER, "check", "web1", _UNREACHED),
        (LOADBALANCER, "install", "web1", _UNREACHED),
        (LOADBALANCER, "status", "lb1 lb2 web1 web2 web3", _UNREACHED),
        (LOADBALANCER, "failover", "lb2", 'holds 192.0.2.100: see "status"'),
        (LOADBALANCER, "remove", "lb1", _UNREACHED),
        (STANDBY, "check", "web1 web2", _UNREACHED),
        (STANDBY, "install", "web1 web2", _UNREACHED),
        (STANDBY, "status", "web1 web2", _UNREACHED),
        (STANDBY, "failover", "web1", "may not be able to take 192.0.2.100"),
        (STANDBY, "failback", "web1", "may not be able to take 192.0.2.100"),
        (STANDBY, "remove", "web2", _UNREACHED),
    ],
    ids=str,
)
def test_a_command_that_cannot_succeed_does_nothing(
    tmp_path: Path, script: Script, command: str, machines: str, why: str
) -> None:
    """It names each machine that it cannot reach, or that does not fit."""
    inventory = write_inventory(tmp_path, *_OWN[script], (_REMOTE, "false"))
    done = script.run(*command.split(), "--inventory", inventory)
    assert (done.returncode, done.stdout) == (1, "")
    for machine in machines.split():
        assert re.search(
            rf"^{script}: .*\b{machine} {re.escape(why.format(inventory))}", done.stderr, re.M
        )


def test_nothing_in_the_inventory_is_executed(tmp_path: Path) -> None:
    remote = f"false $(touch {tmp_path}/made)"
    done = STANDBY.run("status", "--inventory", write_inventory(tmp_path, *PAIR, (_REMOTE, remote)))
    assert f"standby: web1 cannot be reached (remote={remote})\n" in done.stderr
    assert os.listdir(tmp_path) == ["cluster.conf"]


def test_this_machine_is_called_directly(tmp_path: Path) -> None:
    """The script recognizes this machine by its address."""
    addresses = [it for it in call("hostname", "-I").stdout.split() if ":" not in it]
    if os.geteuid() != 0 or not addresses:
        pytest.skip("only root can do this, on a machine with an address")
    changes = [("192.0.2.11", addresses[0]), ("#user=www-data", "user=nobody"), (_REMOTE, "false")]
    done = GLUSTERFS.run("check", "--inventory", write_inventory(tmp_path, *changes))
    assert done.stdout.startswith("web1: ready; clock +0 ms\n")
    assert done.stderr.startswith(f"glusterfs: web2 is not ready, or {_UNREACHED}")
