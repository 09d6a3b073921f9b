"""Checks where a store lies: the mount, the type of file system and, for GlusterFS, the volume.

The advice about GlusterFS volumes was measured.  In each measurement, a partition of 40 s separated the
nodes while both sides renamed the same slots.  With two replicas, 1,458 slots had two winners.  With
three replicas, or with two and an arbiter, no slot had two winners.
"""

import subprocess
from xml.etree import ElementTree

from limiter.core.mount import LOCAL, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Finding = tuple[str, str, str, str]
    """PASS, WARN or FAIL; what was checked; what was found; advice, empty for a PASS."""

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"

GLUSTERFS = "fuse.glusterfs"
"""The type of a GlusterFS mount."""

# Here a rename is a copy and a removal.
_BUCKETS = ("s3fs", "goofys", "gcsfuse", "rclone", "blobfuse2", "mount-s3")
_NOT_ATOMIC = tuple([f"fuse.{name}" for name in _BUCKETS])
_CACHED = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p")
_NETWORK = (*_NOT_ATOMIC, *_CACHED, GLUSTERFS, "ceph", "fuse.ceph-fuse", "lustre", "ocfs2", "gfs2")

_COPIES = (
    "Its rename is a copy and a removal, so two hits can take one slot.  Use another for the store."
)
_STALE = "Nodes see old listings, for seconds.  Let only one node use it, or use GlusterFS."
_KNOWN = {
    # The laws have been proven on these, or the kernel ensures there what the laws need.
    **dict.fromkeys(LOCAL, (PASS, "")),
    **dict.fromkeys(_NOT_ATOMIC, (FAIL, _COPIES)),
    **dict.fromkeys(_CACHED, (WARN, _STALE)),
    "overlay": (WARN, "It is removed with its container.  Mount a volume for the store."),
}
_UNKNOWN = (WARN, "Nobody has tested it.  Rely on what is measured below, on every node.")

_OFF = ("off", "disable", "no", "false", "0")
_PATIENCE = 10
_PING = 10
_DEFAULT_PING = 42
_NO_ANSWER = (
    "Run the doctor as root on one of the volume's servers.  There it can call: gluster volume info"
)


def finding(is_good: bool, what: str, found: str, advice: str, level: str = FAIL) -> "Finding":
    """Return a finding: PASS without the advice, or this level with it."""
    return (PASS, what, found, "") if is_good else (level, what, found, advice)


def check_mount(path: str, mount: Mount) -> "Iterator[Finding]":
    """Yield findings about the type of file system, and whether a lost mount would be noticed."""
    what = "file system"
    if mount.type == GLUSTERFS:
        yield PASS, what, f"GlusterFS, volume {volume_of(mount.source)}", ""
    else:
        level, advice = _KNOWN.get(mount.type, _UNKNOWN)
        yield level, what, mount.type, advice
    if mount.type not in _NETWORK:
        return
    if path == mount.point:
        advice = (
            "If the mount fails, an empty local directory is left, which is a second store: make the store a"
            f" directory in the mount, such as {path.rstrip('/')}/store."
        )
        yield WARN, "place", f"{path} is the mount point itself", advice
    else:
        yield PASS, "place", f"a directory in the mount {mount.point}", ""


def volume_of(source: str) -> str:
    """Return the volume in a GlusterFS source: ``web1:/limiter`` or ``web1:limiter/a/directory``."""
    return source.partition(":")[2].strip("/").partition("/")[0]


def check_gluster(mount: Mount) -> "Iterator[Finding]":
    """Yield findings about the volume of a GlusterFS mount, if this node may query it."""
    if mount.type != GLUSTERFS:
        return
    server, volume = mount.source.partition(":")[0], volume_of(mount.source)
    for remote in ([], [f"--remote-host={server}"]):
        command = ["gluster", "--mode=script", *remote, "volume", "info", volume, "--xml"]
        try:
            answer = subprocess.check_output(
                command,
                text=True,
                timeout=_PATIENCE,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            yield from list(check_volume(answer))
            return
        except (OSError, subprocess.SubprocessError, ElementTree.ParseError, ValueError):
            pass  # the server may answer
    yield WARN, "volume", f"gluster does not report the type and options of {volume}", _NO_ANSWER


def check_volume(xml: str) -> "Iterator[Finding]":
    """Yield findings about replicas, quorum and options.

    ``xml`` is the output of ``gluster volume info NAME --xml``.  Raises ParseError if it is not XML, and
    ValueError if it describes no volume.
    """
    volume = ElementTree.fromstring(xml).find("volInfo/volumes/volume")
    if volume is None:
        raise ValueError("It describes no volume")
    options = {
        option.findtext("name", ""): option.findtext("value", "") for option in volume.iter("option")
    }
    replicas, bricks, arbiters, dispersed = [
        int(volume.findtext(name, "0") or "0")
        for name in ("replicaCount", "brickCount", "arbiterCount", "disperseCount")
    ]
    yield _check_replicas(replicas, arbiters, dispersed)
    if bricks > max(replicas, dispersed):
        advice = (
            "A listing may show a renamed file twice, which costs another one, and directories may have two"
            " winners.  Use several replicated volumes instead (LIMITER_ROOT=/a:/b)."
        )
        yield WARN, "distribution", f"{bricks} bricks, so it is distributed", advice
    if replicas > 1:
        yield _check_quorum(replicas, options)
        advice = (
            "A copy that comes back keeps old names of slots that were renamed without it (GlusterFS 9 and"
            f" later): gluster volume set {volume.findtext('name', '')} cluster.use-anonymous-inode off"
        )
        anonymous = options.get("cluster.use-anonymous-inode", "on")
        yield finding(anonymous in _OFF, "old names", f"anonymous inodes {anonymous}", advice, WARN)
    ping = options.get("network.ping-timeout", str(_DEFAULT_PING))
    advice = (
        "If a brick's host dies, every call hangs at least so long: gluster volume set"
        f" {volume.findtext('name', '')} network.ping-timeout 3"
    )
    is_short = ping.isdecimal() and int(ping) <= _PING
    yield finding(is_short, "ping-timeout", f"{ping} s", advice, WARN)
    if options.get("performance.parallel-readdir", "off") in ("on", "enable", "yes", "true", "1"):
        yield WARN, "parallel-readdir", "on", "It is known for stale handles (ESTALE): switch it off."


def _check_replicas(replicas: int, arbiters: int, dispersed: int) -> "Finding":
    what = "replicas"
    if dispersed > 1:
        return WARN, what, f"none, dispersed over {dispersed}", "Nobody has tested it: use replica 3."
    if replicas < 2:
        return WARN, what, "none", "The store is lost with the one brick that holds it: use replica 3."
    if replicas == 2:
        return WARN, what, "2", "Use replica 3, or replica 3 arbiter 1: the third decides who goes on."
    return PASS, what, f"{replicas}{', one of them an arbiter' if arbiters else ''}", ""


def _check_quorum(replicas: int, options: "dict[str, str]") -> "Finding":
    what = "quorum"
    # With three or more replicas, GlusterFS's default is auto.
    kind = options.get("cluster.quorum-type", "none" if replicas == 2 else "auto")
    count = options.get("cluster.quorum-count", "0")
    if kind == "fixed" and count.isdecimal() and int(count) > replicas // 2:
        return PASS, what, f"{count} of {replicas} bricks", ""
    if kind == "auto" and replicas > 2:
        return PASS, what, "auto: more than half of the bricks", ""
    if kind == "auto":
        advice = "The loss of the first brick stops the second: use replica 3, or replica 3 arbiter 1."
        return WARN, what, "auto, with two bricks", advice
    advice = (
        "If the network separates the nodes, both sides admit, and the same slots end up in split-brain:"
        " use replica 3, or replica 3 arbiter 1, with cluster.quorum-type auto."
    )
    return FAIL, what, f"{kind}{f' {count}' if kind == 'fixed' else ''}", advice
