#!/bin/sh
# The first process of a director, whose kernel was given $name, $address and $disk: a directory of this
# machine's, of which it has its own /etc and /usr/local/sbin.  All else that it writes is gone when it is switched off.
# shellcheck disable=SC2154 # they are in the environment
set -e
export PATH=/run/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
ln -s /proc/self/fd /dev/fd
mkdir /run/bin /run/disk /run/lib /run/var /run/work
mount -t hostfs none /run/disk -o "$disk"
exec >/run/disk/console 2>&1
mount -t hostfs none /etc -o "$disk/etc"
mount -t hostfs none /usr/local/sbin -o "$disk/sbin"
cp /run/disk/bin/* /run/bin
# modprobe looks below /lib/modules.
ln -s /usr/lib/uml/modules /run/lib/modules
insmod "/usr/lib/uml/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
mount -t overlay overlay -o lowerdir=/run/lib:/usr/lib /usr/lib
mount -t overlay overlay -o lowerdir=/var,upperdir=/run/var,workdir=/run/work /var
hostname "$name"
ip link set lo up
ip link set vec0 name eth0
ip addr add "$address/24" dev eth0
ip link set eth0 up
# What systemd does, of what the scripts put there.
sed '/^#/d' /etc/modules-load.d/*.conf | xargs -rn 1 modprobe
find /etc/sysctl.d -name '*access-limiter*' -exec sysctl -qp {} +
systemctl default
exec agent serve
