"""Where a store lies: types of file systems, and volumes as GlusterFS 10.3 describes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from limiter.core.mount import Mount
from limiter.doctor.filesystem import (
    check_gluster,
    check_mount,
    check_volume,
    volume_of,
)

RECORDED = (Path(__file__).parent / "recorded/volume-arbiter.xml").read_text()
"""The answer of ``gluster volume info arbiter --xml`` for a volume of one host."""


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        *[(kind, "PASS") for kind in ("ext4", "xfs", "btrfs", "tmpfs", "zfs", "fuse.glusterfs")],
        *[(kind, "WARN") for kind in ("overlay", "nfs4", "fuse.sshfs", "vfat", "fuse.something")],
        ("fuse.s3fs", "FAIL"),
    ],
)
def test_a_type_of_file_system_is_good_or_bad_or_unknown(kind: str, level: str) -> None:
    first = next(check_mount("/mnt/store", Mount("/mnt", kind, "web1:/limiter")))
    assert first[:2] == (level, "file system")
    assert bool(first[3]) == (level != "PASS")


@pytest.mark.parametrize(
    ("path", "kind", "level"),
    [
        ("/mnt", "fuse.glusterfs", "WARN"),
        ("/mnt/store", "fuse.glusterfs", "PASS"),
        ("/mnt", "nfs", "WARN"),
        ("/mnt", "ext4", None),
    ],
)
def test_a_store_on_a_network_should_not_be_a_mount_point(
    path: str, kind: str, level: str | None
) -> None:
    found = {what: level for level, what, _, _ in check_mount(path, Mount("/mnt", kind, "a:/b"))}
    assert found.get("place") == level


@pytest.mark.parametrize(
    "source", ["web1:/limiter", "web1:limiter", "web1:/limiter/a/directory", "10.0.0.1:/limiter"]
)
def test_the_source_of_a_mount_names_the_volume(source: str) -> None:
    assert volume_of(source) == "limiter"


# Volumes


def volume(counts: tuple[int, int, int, int], options: dict[str, str]) -> str:
    """Return what gluster reports of a volume with so many bricks, replicas, arbiters and dispersed
    bricks, and with these options added.
    """
    text = RECORDED
    for name, count in zip(("brick", "replica", "arbiter", "disperse"), counts):
        text, found = re.subn(f"<{name}Count>.*<", f"<{name}Count>{count}<", text)
        assert found == 1
    added = [f"<option><name>{it}</name><value>{options[it]}</value></option>" for it in options]
    return text.replace("<options>", f"<options>{''.join(added)}")


TWO, THREE, ARBITER = (2, 2, 0, 0), (3, 3, 0, 0), (3, 3, 1, 0)
GOOD = {"replicas": "PASS", "quorum": "PASS", "old names": "WARN", "ping-timeout": "WARN"}
BAD_QUORUM = {**GOOD, "quorum": "FAIL"}
KIND, COUNT, PING = "cluster.quorum-type", "cluster.quorum-count", "network.ping-timeout"
ANONYMOUS = "cluster.use-anonymous-inode"


@pytest.mark.parametrize(
    ("counts", "options", "expected"),
    [
        (ARBITER, {}, GOOD),
        (THREE, {}, GOOD),
        (THREE, {KIND: "auto"}, GOOD),
        (THREE, {KIND: "none"}, BAD_QUORUM),
        (THREE, {KIND: "fixed", COUNT: "1"}, BAD_QUORUM),
        (THREE, {KIND: "fixed", COUNT: "2"}, GOOD),
        (THREE, {KIND: "fixed", COUNT: "3"}, GOOD),
        (THREE, {PING: "10"}, {**GOOD, "ping-timeout": "PASS"}),
        (THREE, {PING: "11"}, GOOD),
        (THREE, {ANONYMOUS: "off"}, {**GOOD, "old names": "PASS"}),
        (THREE, {ANONYMOUS: "on"}, GOOD),
        (THREE, {"performance.parallel-readdir": "on"}, {**GOOD, "parallel-readdir": "WARN"}),
        (TWO, {}, {**BAD_QUORUM, "replicas": "WARN"}),
        (TWO, {KIND: "auto"}, {**GOOD, "replicas": "WARN", "quorum": "WARN"}),
        (TWO, {"cluster.server-quorum-type": "server"}, {**BAD_QUORUM, "replicas": "WARN"}),
        ((6, 3, 0, 0), {}, {**GOOD, "distribution": "WARN"}),
        ((2, 1, 0, 0), {}, {"replicas": "WARN", "distribution": "WARN", "ping-timeout": "WARN"}),
        ((3, 1, 0, 3), {}, {"replicas": "WARN", "ping-timeout": "WARN"}),
    ],
)
def test_findings_follow_what_gluster_reports_of_the_volume(
    counts: tuple[int, int, int, int], options: dict[str, str], expected: dict[str, str]
) -> None:
    """Each finding but PASS has advice."""
    findings = list(check_volume(volume(counts, options)))
    assert {what: level for level, what, _, _ in findings} == expected
    assert [bool(advice) for *_, advice in findings] == [level != "PASS" for level, *_ in findings]


# Calling gluster

GLUSTER = Mount("/mnt", "fuse.glusterfs", "web1:/three")


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a program in gluster's place prints; the program writes its arguments beside it."""
    program = tmp_path / "gluster"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\ncat {tmp_path}/answer\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "answer"


def test_gluster_describes_the_volume_of_a_mount(answer: Path) -> None:
    answer.write_text(volume(THREE, {PING: "3", ANONYMOUS: "off"}))
    assert [found[0] for found in check_gluster(GLUSTER)] == ["PASS"] * 4
    assert (answer.parent / "calls").read_text() == "--mode=script volume info three --xml\n"


@pytest.mark.parametrize("text", [None, "", "No volumes present", "<cliOutput><volInfo/></cliOutput>"])
def test_the_server_of_the_mount_is_called_next(answer: Path, text: str | None) -> None:
    """If it describes no volume either, or fails, nothing is known."""
    if text is not None:
        answer.write_text(text)
    (found,) = check_gluster(GLUSTER)
    assert found[:2] == ("WARN", "volume")
    assert "does not report the type and options of three" in found[2]
    calls = (answer.parent / "calls").read_text().splitlines()
    assert calls[1] == "--mode=script --remote-host=web1 volume info three --xml"


def test_without_gluster_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [found[:2] for found in check_gluster(GLUSTER)] == [("WARN", "volume")]


def test_an_unresponsive_server_is_given_up(answer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (answer.parent / "gluster").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("limiter.doctor.filesystem._PATIENCE", 0.1)
    assert [found[:2] for found in check_gluster(GLUSTER)] == [("WARN", "volume")]
