"""What all deploy scripts share (deploy/cluster.bash): their usage, and unreachable machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploying import EXAMPLE, Change, Script, write_inventory

pytestmark = pytest.mark.one_python

SCRIPTS = [Script(name) for name in ("glusterfs", "loadbalancer", "standby")]

# The example inventory is that of a load balancer.
_ROLES: dict[str, list[Change]] = {"standby": [("#standby=", "standby="), ("director=", "#director=")]}
_MACHINES = {
    "glusterfs": ["web1", "web2", "web3"],
    "loadbalancer": ["lb1", "lb2", "web1", "web2", "web3"],
    "standby": ["web1", "web2"],
}


@pytest.fixture(params=SCRIPTS, ids=str)
def script(request: pytest.FixtureRequest) -> Script:
    """Each of the deploy scripts."""
    found: Script = request.param
    return found


def _out_of_reach(script: Script, directory: Path) -> Path:
    """Write an inventory of machines that cannot be reached."""
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
    """The message says where to read more."""
    done = script.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{script.name}: {why} (see {script.path} --help)\n"


@pytest.mark.parametrize(
    ("script", "command"),
    [(SCRIPTS[0], "remove"), (SCRIPTS[1], "test"), (SCRIPTS[1], "failover lb1")],
    ids=str,
)
def test_command_of_another_script_is_none(script: Script, command: str) -> None:
    """An argument too many is refused, too."""
    done = script.run(*command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{script.name}: no such command: {command} (see {script.path} --help)\n"


def test_help_names_the_inventory(script: Script) -> None:
    """It goes to standard output."""
    told = script.run("--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert "--inventory FILE" in told.stdout


def test_missing_inventory_is_named(script: Script) -> None:
    """The message also names the one to copy."""
    done = script.run("render", "--inventory", "/nonexistent")
    assert (done.returncode, done.stdout) == (1, "")
    why = f"cannot read the inventory /nonexistent (copy and edit {EXAMPLE})"
    assert done.stderr == f"{script.name}: {why}\n"


_UNREACHED = "{0}: {1} cannot be reached (remote=false)\n"
_ENDED = _UNREACHED + "{0}: {1} is not in order: correct that and run this again\n"
_NOT_READY = "{0}: {1} is not ready, or cannot be reached (remote=false)\n"
_BOTH = _UNREACHED + _UNREACHED.replace("{1}", "web2")
_SURVEYS = ("check", "install", "install --dry-run")


@pytest.mark.parametrize(
    ("script", "command", "machine", "said"),
    [
        *[(SCRIPTS[0], command, "web1", _NOT_READY) for command in _SURVEYS],
        (SCRIPTS[0], "test", "web1", _ENDED),
        *[(SCRIPTS[1], command, "web1", _ENDED) for command in _SURVEYS],
        (SCRIPTS[1], "remove", "lb1", _ENDED),
        *[(SCRIPTS[2], command, "web1", _BOTH) for command in _SURVEYS],
        (SCRIPTS[2], "remove", "web2", _ENDED),
    ],
    ids=str,
)
def test_machine_that_is_not_reached_is_named(
    tmp_path: Path, script: Script, command: str, machine: str, said: str
) -> None:
    """This happens before anything is done."""
    done = script.run(*command.split(), "--inventory", _out_of_reach(script, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == said.format(script.name, machine)


def test_status_names_every_machine_that_is_not_reached(tmp_path: Path, script: Script) -> None:
    """It names them whatever else it can or cannot report."""
    done = script.run("status", "--inventory", _out_of_reach(script, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    for machine in _MACHINES[script.name]:
        assert f"{script.name}: {machine} cannot be reached (remote=false)\n" in done.stderr
