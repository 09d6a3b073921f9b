"""The mounted file system that a path lies on, as the kernel's table of mounts says (proc_pid_mountinfo(5))."""

import re
from typing import NamedTuple

LOCAL = ("btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs")
"""The types of file systems on this machine alone.  No call to one waits for another machine or program."""


class Mount(NamedTuple):
    """A mounted file system: its mount ``point``, its ``type``, and its ``source``."""

    point: str
    type: str
    source: str


def mounted(path: str) -> Mount:
    """Return the current mount of a path, absolute and without links.  Raises OSError, ValueError."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        return mount_of(path, mountinfo.read())


def mount_of(path: str, mountinfo: str) -> Mount:
    """Return the mount that contains a path, absolute and without links.

    ``mountinfo`` is the text of /proc/self/mountinfo.  Raises ValueError if it has no such mount.
    """
    mounts = [it for it in map(_read, mountinfo.splitlines()) if _contains(it[2].point, path)]
    numbers = {number for number, _, _ in mounts}
    found = [it for it in mounts if it[1] not in numbers or it[1] == it[0]]
    if not found:
        raise ValueError(f"No mount contains {path}")
    # Walk down as the kernel does: a mount hides what is mounted below its point on the mount before.
    while found:
        number, _, mount = found[0]
        found = [it for it in mounts if it[1] == number != it[0]]
        found.sort(key=lambda it: len(it[2].point))
    return mount


def _read(line: str) -> "tuple[str, str, Mount]":
    """The number of a mount, that of the mount that it is mounted on, and the mount."""
    left, _, right = line.partition(" - ")
    number, parent, _, _, point = left.split(" ")[:5]
    kind, source = right.split(" ")[:2]
    return number, parent, Mount(_plain(point), kind, _plain(source))


def _contains(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _plain(text: str) -> str:
    r"""Return a field of mountinfo with its escapes decoded: \040 is a space."""
    return re.sub(r"\\([0-7]{3})", lambda it: chr(int(it[1], 8)), text)
