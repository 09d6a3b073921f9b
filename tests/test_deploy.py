"""What all deploy scripts do alike (deploy/cluster.bash): how they are called, and a machine that is not reached."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploying import EXAMPLE, Change, Script, write_inventory

pytestmark = pytest.mark.one_python

SCRIPTS = [Script(name) for name in ("glusterfs", "loadbalancer", "standby")]

# The example is a load balancer's.
_ROLES: dict[str, list[Change]] = {"standby": [("#standby=", "standby="), ("director=", "#director=")]}
_MACHINES = {
    "glusterfs": ["web1", "web2", "web3"],
    "loadbalancer": ["lb1", "lb2", "web1", "web2", "web3"],
    "standby": ["web1", "web2"],
}


@pytest.fixture(params=SCRIPTS, ids=str)
def script(request: pytest.FixtureRequest) -> Script:
    """Each of them."""
    found: Script = request.param
    return found


def _out_of_reach(script: Script, directory: Path) -> Path:
    """An inventory of machines of which none is reached."""
    unreached = ("remote=ssh -o BatchMode=yes root@%a", "remote=false")
    return write_inventory(directory, *_ROLES.get(script.name, []), unreached)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no command"),
        (["destroy"], "no such command: destroy"),
        (["install", "web1"], "no such command: install web1"),
        (["add-node", "web4"], "no such command: add-node web4"),
        (["install", "--force"], "unknown option --force"),
        (["install", "--inventory"], "--inventory needs a file"),
    ],
)
def test_error_of_usage(script: Script, arguments: list[str], why: str) -> None:
    """It is told where to read more."""
    done = script.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{script.name}: {why} (see {script.path} --help)\n"


def test_help_names_the_inventory(script: Script) -> None:
    """On standard output."""
    told = script.run("--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert "--inventory FILE" in told.stdout


def test_missing_inventory_is_named(script: Script) -> None:
    """With the one to copy."""
    done = script.run("render", "--inventory", "/nonexistent")
    assert (done.returncode, done.stdout) == (1, "")
    why = f"cannot read the inventory /nonexistent (copy and edit {EXAMPLE})"
    assert done.stderr == f"{script.name}: {why}\n"


@pytest.mark.parametrize(
    ("script", "command"),
    [(script, command) for script in SCRIPTS for command in ("check", "install", "install --dry-run")]
    + [(SCRIPTS[0], "test"), (SCRIPTS[1], "remove"), (SCRIPTS[2], "remove")],
    ids=str,
)
def test_machine_that_is_not_reached_is_named(tmp_path: Path, script: Script, command: str) -> None:
    """Before anything is done."""
    done = script.run(*command.split(), "--inventory", _out_of_reach(script, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match(rf"{script.name}: (web|lb)\d .*cannot be reached \(remote=false\)\n", done.stderr)


def test_status_names_every_machine_that_is_not_reached(tmp_path: Path, script: Script) -> None:
    """Whatever else it can or cannot tell."""
    done = script.run("status", "--inventory", _out_of_reach(script, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    for machine in _MACHINES[script.name]:
        assert f"{script.name}: {machine} cannot be reached (remote=false)\n" in done.stderr
