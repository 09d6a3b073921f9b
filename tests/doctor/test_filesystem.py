"""What a store lies on: mounts as Linux reports them, and volumes as GlusterFS 10.3 describes them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from limiter.doctor.filesystem import (
    Mount,
    judge_gluster,
    judge_mount,
    judge_volume,
    mount_of,
    mounted,
    volume_of,
)

RECORDED = Path(__file__).parent / "recorded"
"""Answers of ``gluster volume info NAME --xml`` for volumes of one host."""

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
25 22 0:23 / /dev/shm rw,nosuid - tmpfs tmpfs rw
31 22 0:40 / /mnt/my\040store rw,relatime shared:1 master:2 - fuse.glusterfs web1:/limiter rw
32 22 0:41 / /mnt/over rw - xfs /dev/vdb rw
33 32 0:42 / /mnt/over rw - btrfs /dev/vdc rw
34 22 0:43 / /mnt/overlay rw - overlay overlay rw,lowerdir=/a,upperdir=/b
""".strip()


def volume(name: str) -> str:
    return (RECORDED / f"volume-{name}.xml").read_text()


def with_option(xml: str, name: str, value: str) -> str:
    return xml.replace(
        "<options>", f"<options><option><name>{name}</name><value>{value}</value></option>"
    )


def levels(xml: str) -> dict[str, str]:
    return {what: level for level, what, _, _ in judge_volume(xml)}


@pytest.mark.parametrize(
    ("path", "point", "kind", "source"),
    [
        ("/", "/", "ext4", "/dev/vda"),
        ("/var/lib/store", "/", "ext4", "/dev/vda"),
        ("/dev/shm", "/dev/shm", "tmpfs", "tmpfs"),
        ("/dev/shm/store", "/dev/shm", "tmpfs", "tmpfs"),
        ("/dev/shmall", "/", "ext4", "/dev/vda"),
        ("/mnt/my store/limiter", "/mnt/my store", "fuse.glusterfs", "web1:/limiter"),
        ("/mnt/over", "/mnt/over", "btrfs", "/dev/vdc"),
        ("/mnt/overlay/store", "/mnt/overlay", "overlay", "overlay"),
    ],
)
def test_a_path_lies_in_the_nearest_mount(path: str, point: str, kind: str, source: str) -> None:
    mount = mount_of(path, MOUNTINFO)
    assert (mount.point, mount.type, mount.source) == (point, kind, source)


def test_a_path_that_lies_in_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="lies in no mount"):
        mount_of("/nowhere", "25 22 0:23 / /dev/shm rw,nosuid - tmpfs tmpfs rw")


def test_this_machine_tells_its_mounts_so() -> None:
    mount = mounted("/proc/self")
    assert (mount.point, mount.type) == ("/proc", "proc")


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("ext4", "PASS"),
        ("xfs", "PASS"),
        ("btrfs", "PASS"),
        ("tmpfs", "PASS"),
        ("zfs", "PASS"),
        ("fuse.glusterfs", "PASS"),
        ("overlay", "WARN"),
        ("nfs4", "WARN"),
        ("fuse.sshfs", "WARN"),
        ("vfat", "WARN"),
        ("fuse.something", "WARN"),
        ("fuse.s3fs", "FAIL"),
    ],
)
def test_a_type_is_known_to_be_good_or_bad_or_not_known(kind: str, level: str) -> None:
    first = next(judge_mount("/mnt/store", Mount("/mnt", kind, "web1:/limiter")))
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
def test_on_a_network_the_store_is_no_mount_point(path: str, kind: str, level: str | None) -> None:
    found = {what: level for level, what, _, _ in judge_mount(path, Mount("/mnt", kind, "a:/b"))}
    assert found.get("place") == level


@pytest.mark.parametrize(
    "source", ["web1:/limiter", "web1:limiter", "web1:/limiter/a/directory", "10.0.0.1:/limiter"]
)
def test_the_source_of_a_mount_names_the_volume(source: str) -> None:
    assert volume_of(source) == "limiter"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two", {"replicas": "WARN", "quorum": "FAIL", "ping-timeout": "WARN"}),
        ("quorate", {"replicas": "WARN", "quorum": "WARN", "ping-timeout": "PASS"}),
        ("three", {"replicas": "PASS", "quorum": "PASS", "ping-timeout": "PASS"}),
        ("arbiter", {"replicas": "PASS", "quorum": "PASS", "ping-timeout": "WARN"}),
        ("distributed", {"replicas": "WARN", "distribution": "WARN", "ping-timeout": "WARN"}),
        (
            "both",
            {"replicas": "PASS", "distribution": "WARN", "quorum": "PASS", "ping-timeout": "WARN"},
        ),
    ],
)
def test_a_volume_is_judged_by_what_gluster_says_of_it(name: str, expected: dict[str, str]) -> None:
    assert levels(volume(name)) == expected


@pytest.mark.parametrize("name", ["two", "quorate", "three", "arbiter", "distributed", "both"])
def test_whatever_does_not_pass_has_advice(name: str) -> None:
    for level, _, found, advice in judge_volume(volume(name)):
        assert found
        assert bool(advice) == (level != "PASS")


@pytest.mark.parametrize(
    ("name", "option", "value", "what", "level"),
    [
        ("three", "cluster.quorum-type", "none", "quorum", "FAIL"),
        ("three", "cluster.quorum-type", "auto", "quorum", "PASS"),
        ("two", "cluster.server-quorum-type", "server", "quorum", "FAIL"),
        ("arbiter", "network.ping-timeout", "10", "ping-timeout", "PASS"),
        ("arbiter", "network.ping-timeout", "11", "ping-timeout", "WARN"),
        ("three", "performance.parallel-readdir", "on", "parallel-readdir", "WARN"),
    ],
)
def test_an_option_counts(name: str, option: str, value: str, what: str, level: str) -> None:
    assert levels(with_option(volume(name), option, value))[what] == level


@pytest.mark.parametrize(("count", "level"), [("1", "FAIL"), ("2", "PASS"), ("3", "PASS")])
def test_a_fixed_quorum_is_more_than_half(count: str, level: str) -> None:
    xml = with_option(volume("three"), "cluster.quorum-type", "fixed")
    assert levels(with_option(xml, "cluster.quorum-count", count))["quorum"] == level


@pytest.mark.parametrize("text", ["", "No volumes present", volume("nothing")])
def test_what_describes_no_volume_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"Not XML|No volume"):
        list(judge_volume(text))


# Calling gluster


@pytest.fixture(name="answer")
def _answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a program in gluster's place prints; the program writes its arguments beside it."""
    program = tmp_path / "gluster"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncat {tmp_path}/answer\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "answer"


GLUSTER = Mount("/mnt", "fuse.glusterfs", "web1:/three")


def test_the_volume_of_a_mount_is_asked_for(answer: Path) -> None:
    answer.write_text(volume("three"))
    assert [found[0] for found in judge_gluster(GLUSTER)] == ["PASS"] * 3
    assert (answer.parent / "asked").read_text() == "--mode=script volume info three --xml\n"


def test_where_this_node_does_not_know_the_server_is_asked(answer: Path) -> None:
    answer.write_text(volume("nothing"))
    (found,) = judge_gluster(GLUSTER)
    assert found[:2] == ("WARN", "volume")
    assert "could not be asked" in found[2]
    asked = (answer.parent / "asked").read_text().splitlines()
    assert asked[1] == "--mode=script --remote-host=web1 volume info three --xml"


def test_without_the_command_nothing_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [found[:2] for found in judge_gluster(GLUSTER)] == [("WARN", "volume")]


def test_a_server_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def never(command: list[str], *, timeout: float, **_: object) -> None:
        limits.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", never)
    assert [found[:2] for found in judge_gluster(GLUSTER)] == [("WARN", "volume")]
    assert sum(limits) <= 20


def test_no_other_file_system_is_asked(answer: Path) -> None:
    assert list(judge_gluster(Mount("/mnt", "ext4", "/dev/vda"))) == []
    assert not (answer.parent / "asked").exists()
