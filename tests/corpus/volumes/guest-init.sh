#!/bin/busybox sh
# SPDX-License-Identifier: GPL-3.0-or-later
# First program of the guest: loads modules, runs the cases, powers off; see ABOUT.md.
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev; mount -t tmpfs t /tmp
for m in $(cat /mods/list); do insmod /mods/$m max_loop=64 2>/dev/null || insmod /mods/$m || echo "insmod $m"; done
echo 4 > /proc/sys/kernel/printk
mount -t ext4 /dev/vda /out || echo NOOUT
sh /cases.sh > /out/log 2>&1
cat /out/log | tail -5
umount /out; sync
echo GUEST-DONE
poweroff -f
