"""The mount that a path lies on, as Linux reports it."""

from __future__ import annotations

import pytest

from limiter.core.mount import Mount, mount_of

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
25 22 0:23 / /dev/shm rw,nosuid - tmpfs tmpfs rw
31 22 0:40 / /mnt/my\040store rw,relatime shared:1 master:2 - fuse.glusterfs web1:/limiter rw
32 22 0:41 / /mnt/over rw - xfs /dev/vdb rw
33 32 0:42 / /mnt/over rw - btrfs /dev/vdc rw
34 22 0:43 / /mnt/overlay rw - overlay overlay rw,lowerdir=/a,upperdir=/b
35 22 0:44 / /mnt/hidden/below rw - xfs /dev/vdd rw
36 22 0:45 / /mnt/hidden rw - nfs4 server:/a rw
37 36 0:46 / /mnt/hidden/on/top rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/", Mount("/", "ext4", "/dev/vda")),
        ("/var/lib/store", Mount("/", "ext4", "/dev/vda")),
        ("/dev/shm", Mount("/dev/shm", "tmpfs", "tmpfs")),
        ("/dev/shmall", Mount("/", "ext4", "/dev/vda")),
        ("/mnt/my store/limiter", Mount("/mnt/my store", "fuse.glusterfs", "web1:/limiter")),
        ("/mnt/over", Mount("/mnt/over", "btrfs", "/dev/vdc")),
        ("/mnt/hidden/below/store", Mount("/mnt/hidden", "nfs4", "server:/a")),
        ("/mnt/hidden/on/top/store", Mount("/mnt/hidden/on/top", "tmpfs", "tmpfs")),
        ("/mnt/overlay/store", Mount("/mnt/overlay", "overlay", "overlay")),
    ],
)
def test_a_path_lies_in_the_nearest_mount(path: str, mount: Mount) -> None:
    assert mount_of(path, MOUNTINFO) == mount


def test_a_path_outside_of_all_mounts_is_an_error() -> None:
    with pytest.raises(ValueError, match="No mount contains /nowhere"):
        mount_of("/nowhere", "25 22 0:23 / /dev/shm rw,nosuid - tmpfs tmpfs rw")


def test_a_path_may_lie_in_a_mount_whose_own_place_is_not_shown() -> None:
    """As after chroot."""
    lines = "25 22 0:23 / /dev rw - devtmpfs udev rw\n26 25 0:24 / /dev/shm rw - tmpfs tmpfs rw"
    assert mount_of("/dev/shm/store", lines) == Mount("/dev/shm", "tmpfs", "tmpfs")
