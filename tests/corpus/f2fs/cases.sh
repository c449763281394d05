# SPDX-License-Identifier: GPL-3.0-or-later
# Runs in the guest: makes each case in /out/CASE; see ABOUT.md.

inodes() { # numbers and digests of all files of /mnt, and what the kernel says of its space
  (cd /mnt && find . -type f -size -100000k | sort | while read -r f; do echo "$(stat -c %i "$f") $(sha256sum "$f")"; done) > /out/$CASE/inodes
  stat -f /mnt > /out/$CASE/statfs
}
start() { # CASE SIZE MOUNT_OPTIONS MKFS_OPTION...
  new_image $1 $2; options=$3; shift 3
  mkfs.f2fs -q "$@" $DEVICE || return 1
  mount -t f2fs -o ${options:-rw} $DEVICE /mnt
}
again() { # flushes tables to their places: a mount and a change each, so that both copies of SIT and NAT come to be current
  n=0; while [ $n -lt $1 ]; do
    umount /mnt; mount -t f2fs -o ${options:-rw} $DEVICE /mnt
    k=0; while [ $k -lt 60 ]; do seq $n$k 1 $n$((k+600)) > /mnt/again$((k%25)); k=$((k+1)); done; rm /mnt/again$n; sync
    n=$((n+1))
  done
}
finish() { inodes; umount /mnt; release; }

start aged 100M '' && age /mnt 1 && again 5; finish
start features 100M compress_algorithm=lz4,compress_extension=txt -C utf8 \
  -O extra_attr,project_quota,inode_checksum,flexible_inline_xattr,quota,inode_crtime,lost_found,verity,sb_checksum,casefold,compression,encrypt
age /mnt 2; yes compressible | head -c 700000 > /mnt/c.txt; sync; again 2; finish
start sections 160M '' -s 2 -z 2 -w 4096 && age /mnt 3 && again 2; finish
start large-nat 100M '' -i && age /mnt 4 && again 3; finish
start lfs 100M mode=lfs && age /mnt 5 && again 1; finish
start reserved 100M '' && age /mnt 6 && fallocate -l 30000000 /mnt/reserved && fallocate -l 5000000 /mnt/part
dd if=/mnt/d/big of=/mnt/part bs=4096 count=40 seek=300 conv=notrunc 2>/dev/null
for at in 1000 4000 1500000 2500000; do dd if=/mnt/d/big of=/mnt/far bs=4096 count=3 seek=$at conv=notrunc 2>/dev/null; done # every kind of node
mknod /mnt/device b 259 70000; mkfifo /mnt/pipe; ln -s "$(seq 1 300 | tr '\n' /)" /mnt/d/longlink; sync; finish
start full 52M '' ; k=0; while yes "full $k" | head -c 700000 > /mnt/r$k; do k=$((k+1)); done; rm -f /mnt/r3 /mnt/r7 /mnt/r11; sync
head -c 100000 /mnt/r1 > /mnt/small; finish
# So many blocks of each kind in the segments that are being written to that their summaries do not fit into two blocks.
start summaries 100M '' && age /mnt 8 && for name in hot.db warm cold.mp4; do yes $name | head -c 1250000 > /mnt/$name; sync; done; finish
# Three hundred segments, in each of which a little is written, so that many blocks of SIT and NAT have changed.
start scattered 700M mode=fragment:segment && age /mnt 9 && mkdir /mnt/many
k=0; while [ $k -lt 1500 ]; do echo $k > /mnt/many/$k; k=$((k+1)); [ $((k % 100)) = 0 ] && sync; done
k=0; while [ $k -lt 1500 ]; do rm /mnt/many/$k; k=$((k+3)); done; again 3; finish

# Cleanly unmounted, mounted again, copied while it was written to, and cleanly unmounted again.
start crash 100M '' && age /mnt 7; finish
losetup $DEVICE /out/crash/image; mount -t f2fs $DEVICE /mnt
mkdir -p /out/remounted; cp /out/crash/* /out/remounted
for n in 1 2 3; do dd if=/mnt/d/t$n of=/mnt/flushed$n bs=4096 conv=fsync 2>/dev/null; done; rm -f /mnt/f1
mkdir -p /out/flushed; cp /out/crash/image /out/flushed
sync; seq 1 90000 > /mnt/unflushed
mkdir -p /out/checkpointed; cp /out/crash/image /out/checkpointed
umount /mnt; release; rm -r /out/crash
start no-checkpoints 100M '' && age /mnt 8 && mount -o remount,checkpoint=disable:10% /mnt && seq 1 900 > /mnt/x; finish
