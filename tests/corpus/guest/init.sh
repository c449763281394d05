#!/bin/busybox sh
# SPDX-License-Identifier: GPL-3.0-or-later
# First program of the guest: loads the modules, runs the cases, powers off; see ABOUT.md.
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev; mount -t tmpfs t /tmp
while read -r m; do
  case $m in loop.ko) parameter=max_loop=64 ;; *) parameter= ;; esac
  insmod /modules/$m $parameter 2>/dev/null || echo "not loaded: $m" # crc32c-intel is for other processors
done < /modules/list
echo 4 > /proc/sys/kernel/printk
mount -t ext4 /dev/vda /out && {
  sh -c '. /cases.lib.sh; . /cases.sh' > /out/cases.log 2>&1
  echo $? > /out/status
  tail -5 /out/cases.log
  dmesg > /out/dmesg.log
  umount /out && sync && echo GUEST-DONE
}
poweroff -f
