# SPDX-License-Identifier: GPL-3.0-or-later
# The cases of this corpus; runs in the guest, under busybox sh. See ABOUT.md.
set -eu

fill() { # FOLDER: files, every second one deleted, others grown in turns, so that they are in pieces
  k=0; while [ $k -lt 40 ]; do seq ${k}000000 ${k}000$((100 + k % 9 * 99)) > $1/f$k; k=$((k+1)); done; sync
  k=0; while [ $k -lt 40 ]; do rm $1/f$k; k=$((k+2)); done; sync
  mkdir -p $1/d/e; k=0; while [ $k -lt 6 ]; do yes "line $k" | head -c 90000 > $1/d/t$k; k=$((k+1)); done
  for turn in 1 2 3 4 5 6; do for k in 1 3 5; do seq ${turn}${k}000 ${turn}${k}900 >> $1/d/e/g$k; sync; done; done
  seq 7000000 7029999 > $1/d/big; rm $1/d/t1
  dd if=$1/d/big of=$1/d/hole bs=4096 count=3 seek=50 2>/dev/null
  ln -s ../f1 $1/d/link; sync
}

one() { # CASE SIZE MOUNT_OPTIONS MKFS_OPTION...
  case=$1; size=$2; options=$3; shift 3
  new_image $case $size
  mkfs.hfsplus -v "Volume $case" "$@" $DEVICE
  mount -t hfsplus -o $options $DEVICE /mnt
  fill /mnt
  sums /mnt
}

finish() { # the kernel keeps no count of folders, which HFSX has
  umount /mnt
  fsck.hfsplus -fn $DEVICE || fsck.hfsplus -fy $DEVICE || fsck.hfsplus -fn $DEVICE
  release
}

one plain 24M rw
crash_copy crash
finish
one blocks-512 24M rw -b 512
finish
one blocks-16k 64M rw -b 16384
finish
one hfsx 24M rw -s -b 1024
finish
one journaled 24M rw,force -J
finish
one wrapper 24M rw -w
finish

# Every other block of the free space is taken by files, so that the catalog itself ends up in more than eight pieces.
new_image fragmented 12M
mkfs.hfsplus -v fragmented -b 512 -c c=32,a=32,e=8 -n c=4096 $DEVICE
mount -t hfsplus $DEVICE /mnt
mkdir /mnt/s
k=0; while [ $k -lt 2400 ]; do echo $k > /mnt/s/a_rather_long_name_of_a_small_file_that_needs_room_in_the_catalog_$k; k=$((k+1)); done; sync
k=0; while [ $k -lt 2400 ]; do rm /mnt/s/a_rather_long_name_of_a_small_file_that_needs_room_in_the_catalog_$k; k=$((k+2)); done; sync
for turn in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do for k in 1 2 3; do seq ${turn}${k}0000 ${turn}${k}0100 >> /mnt/g$k; sync; done; done
sums /mnt
finish
