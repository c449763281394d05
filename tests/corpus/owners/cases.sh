# SPDX-License-Identifier: GPL-3.0-or-later
# Runs in the guest: members of firmware RAID sets, as mdadm writes their metadata; see ABOUT.md.
mkdir -p /etc/mdadm
export IMSM_NO_PLATFORM=1 IMSM_DEVNAME_AS_SERIAL=1 # there is neither Intel firmware nor a serial number to ask

container() { # CASE METADATA LEVEL: a container of two members with one volume, with a file system
  CASE=$1; mkdir -p /out/$CASE; M=""
  for i in 0 1; do
    truncate -s 64M /out/$CASE/m$i; d=$(losetup -f); losetup $d /out/$CASE/m$i; M="$M $d"
  done
  echo "=== $CASE:$M"
  yes | mdadm --create /dev/md/c --metadata=$2 --raid-devices=2 --run $M || return 1
  yes | mdadm --create /dev/md/v --level=$3 --raid-devices=2 --size=${SIZE:-4096} --run /dev/md/c || return 1
  cat /proc/mdstat
  mdadm --wait /dev/md/v
  /usr/sbin/mke2fs -q -t ext4 -b 1024 -O ^has_journal /dev/md/v
  mdadm --examine $M > /out/$CASE/examine 2>&1
 mdadm --stop /dev/md/v; sleep 1; mdadm --stop /dev/md/c
  for d in $M; do losetup -d $d; done
}
container imsm imsm 1 || echo FAILED imsm
container ddf ddf 1 || echo FAILED ddf
