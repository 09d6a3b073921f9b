"""Checks where a store lies: the mount, the type of file system and, for GlusterFS, the volume.

The advice about GlusterFS volumes was measured.  In each measurement, a partition of 40 s separated the
nodes while both sides renamed the same slots.  With two replicas, 1,458 slots had two winners.  With
three replicas, or with two and an arbiter, no slot had two winners.
"""

import subprocess
from xml.etree import ElementTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"

# The laws have been proven on these, or the kernel ensures there what the laws need.
_KNOWN_GOOD = ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs")
# Here a rename is a copy and a removal.
_NOT_ATOMIC = (
    "fuse.s3fs",
    "fuse.goofys",
    "fuse.gcsfuse",
    "fuse.rclone",
    "fuse.blobfuse2",
    "fuse.mount-s3",
)
_CACHED = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p")
GLUSTERFS = "fuse.glusterfs"
"""The type of a GlusterFS mount."""

_NETWORK = (*_NOT_ATOMIC, *_CACHED, GLUSTERFS, "ceph", "fuse.ceph-fuse", "lustre", "ocfs2", "gfs2")

_PATIENCE = 10
_PING = 10
_DEFAULT_PING = 42
_UNASKED = "Run this on one of the volume's servers, as root, to have it judged: gluster volume info"

if TYPE_CHECKING:
    Finding = tuple[str, str, str, str]
    """PASS, WARN or FAIL; what was checked; what was found; advice, empty for a PASS."""


class Mount:
    """A mounted file system: its mount ``point``, its ``type``, and its ``source``."""

    def __init__(self, point: str, kind: str, source: str) -> None:
        self.point = point
        self.type = kind
        self.source = source


def mounted(path: str) -> Mount:
    """Return the current mount of a path, absolute and without links.  Raises OSError, ValueError."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        return mount_of(path, mountinfo.read())


def mount_of(path: str, mountinfo: str) -> Mount:
    """Return the mount that contains a path, absolute and without links.

    ``mountinfo`` is the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).  Raises ValueError if it
    has no such mount.
    """
    found = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = _plain(left.split(" ")[4])
        kind, source = right.split(" ")[:2]
        is_in = path == point or path.startswith(point.rstrip("/") + "/")
        # If several are mounted at the same point, the last one is visible.
        if is_in and (found is None or len(point) >= len(found.point)):
            found = Mount(point, kind, _plain(source))
    if found is None:
        raise ValueError(f"{path} lies in no mount")
    return found


def judge_mount(path: str, mount: Mount) -> "Iterator[Finding]":
    """Yield findings about the type of file system, and whether a lost mount would be noticed."""
    what = "file system"
    if mount.type in _KNOWN_GOOD:
        yield PASS, what, mount.type, ""
    elif mount.type == GLUSTERFS:
        yield PASS, what, f"GlusterFS, volume {volume_of(mount.source)}", ""
    elif mount.type in _NOT_ATOMIC:
        advice = "Its rename is a copy and a removal, so two hits can take one slot.  Use another for the store."
        yield FAIL, what, mount.type, advice
    elif mount.type in _CACHED:
        advice = "Nodes see old listings, for seconds.  Let one node alone use it, or use GlusterFS."
        yield WARN, what, mount.type, advice
    elif mount.type == "overlay":
        advice = "It goes with its container.  Mount a volume for the store."
        yield WARN, what, mount.type, advice
    else:
        yield (
            WARN,
            what,
            mount.type,
            "It has not been tried.  Rely on what is measured below, on every node.",
        )
    if mount.type in _NETWORK:
        if path == mount.point:
            advice = (
                "When the mount fails, what is left is an empty local directory, that is a second store:"
                f" make the store a directory in it, such as {path.rstrip('/')}/store."
            )
            yield WARN, "place", f"{path} is the mount point itself", advice
        else:
            yield PASS, "place", f"a directory in the mount {mount.point}", ""


def volume_of(source: str) -> str:
    """Return the volume in a GlusterFS source: ``web1:/limiter`` or ``web1:limiter/a/directory``."""
    return source.partition(":")[2].strip("/").partition("/")[0]


def judge_gluster(mount: Mount) -> "Iterator[Finding]":
    """Yield findings about the volume of a GlusterFS mount, if this node may query it."""
    if mount.type != GLUSTERFS:
        return
    server, volume = mount.source.partition(":")[0], volume_of(mount.source)
    for remote in ([], [f"--remote-host={server}"]):
        command = ["gluster", "--mode=script", *remote, "volume", "info", volume, "--xml"]
        try:
            asked = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        try:
            findings = list(judge_volume(asked.stdout))
        except ValueError:
            continue
        yield from findings
        return
    yield WARN, "volume", f"{volume} could not be asked for its type and options", _UNASKED


def judge_volume(xml: str) -> "Iterator[Finding]":
    """Yield findings about replicas, quorum and options.

    ``xml`` is the output of ``gluster volume info NAME --xml``.  Raises ValueError if it describes no
    volume.
    """
    try:
        volume = ElementTree.fromstring(xml).find("volInfo/volumes/volume")
    except ElementTree.ParseError as error:
        raise ValueError(f"Not XML: {error}") from error
    if volume is None:
        raise ValueError("No volume in there")
    options = {
        option.findtext("name", ""): option.findtext("value", "") for option in volume.iter("option")
    }
    replicas, bricks, arbiters, dispersed = [
        int(volume.findtext(name, "0") or "0")
        for name in ("replicaCount", "brickCount", "arbiterCount", "disperseCount")
    ]
    yield _judge_replicas(replicas, arbiters, dispersed)
    if bricks > max(replicas, dispersed):
        advice = (
            "A listing may show a renamed file twice, which costs another one, and directories may have two"
            " winners.  Use several replicated volumes instead (LIMITER_ROOT=/a:/b)."
        )
        yield WARN, "distribution", f"{bricks} bricks, so it is distributed", advice
    if replicas > 1:
        yield _judge_quorum(replicas, options)
    ping = options.get("network.ping-timeout", str(_DEFAULT_PING))
    if ping.isdecimal() and int(ping) <= _PING:
        yield PASS, "ping-timeout", f"{ping} s", ""
    else:
        advice = (
            "When a brick's host dies, every call hangs for so long and more: gluster volume set"
            f" {volume.findtext('name', '')} network.ping-timeout 3"
        )
        yield WARN, "ping-timeout", f"{ping} s", advice
    if options.get("performance.parallel-readdir", "off") in ("on", "enable", "yes", "true", "1"):
        yield WARN, "parallel-readdir", "on", "It is known for stale handles (ESTALE): switch it off."


def _judge_replicas(replicas: int, arbiters: int, dispersed: int) -> "Finding":
    what = "replicas"
    if dispersed > 1:
        return WARN, what, f"none, dispersed over {dispersed}", "It has not been tried: use replica 3."
    if replicas < 2:
        return WARN, what, "none", "With the one brick that holds it the store is lost: use replica 3."
    if replicas == 2:
        return WARN, what, "2", "Use replica 3, or replica 3 arbiter 1: the third decides who goes on."
    return PASS, what, f"{replicas}{', one of them an arbiter' if arbiters else ''}", ""


def _judge_quorum(replicas: int, options: "dict[str, str]") -> "Finding":
    what = "quorum"
    # With three or more replicas, GlusterFS's default is auto.
    kind = options.get("cluster.quorum-type", "none" if replicas == 2 else "auto")
    count = options.get("cluster.quorum-count", "0")
    enough = replicas // 2 + 1
    if kind == "fixed" and count.isdecimal() and int(count) >= enough:
        return PASS, what, f"{count} of {replicas} bricks", ""
    if kind == "auto" and replicas > 2:
        return PASS, what, "auto: more than half of the bricks", ""
    if kind == "auto":
        advice = "The loss of the first brick stops the second: use replica 3, or replica 3 arbiter 1."
        return WARN, what, "auto, with two bricks", advice
    advice = (
        "When the network parts the nodes, both sides admit, and the same slots end up in split-brain:"
        " use replica 3, or replica 3 arbiter 1, with cluster.quorum-type auto."
    )
    return FAIL, what, f"{kind}{f' {count}' if kind == 'fixed' else ''}", advice


def _plain(text: str) -> str:
    r"""Return a field of mountinfo with its escapes decoded: \040 is a space."""
    first, *rest = text.split("\\")
    return first + "".join([chr(int(part[:3], 8)) + part[3:] for part in rest])
