# SPDX-License-Identifier: GPL-3.0-or-later
# The cases of this corpus; runs in the guest, under busybox sh. See ABOUT.md.
set -eu
insmod /apfs.ko

fill() { # FOLDER: files, every second one deleted, others grown in turns, so that they are in pieces
  k=0; while [ $k -lt 40 ]; do seq ${k}000000 ${k}000$((100 + k % 9 * 99)) > $1/f$k; k=$((k+1)); done; sync
  k=0; while [ $k -lt 40 ]; do rm $1/f$k; k=$((k+2)); done; sync
  mkdir -p $1/d/e; k=0; while [ $k -lt 6 ]; do yes "line $k" | head -c 90000 > $1/d/t$k; k=$((k+1)); done
  for turn in 1 2 3 4 5 6; do for k in 1 3 5; do seq ${turn}${k}000 ${turn}${k}900 >> $1/d/e/g$k; sync; done; done
  seq 7000000 7029999 > $1/d/big; rm $1/d/t1
  dd if=$1/d/big of=$1/d/hole bs=4096 count=3 seek=50 2>/dev/null
  ln -s ../f1 $1/d/link; sync
}

one() { # CASE SIZE MKFS_OPTION...
  case=$1; size=$2; shift 2
  new_image $case $size
  mkapfs -L "Volume $case" "$@" $DEVICE
  mount -t apfs -o readwrite $DEVICE /mnt
  fill /mnt
  sums /mnt
}

finish() {
  umount /mnt
  apfsck -cu $DEVICE || echo "apfsck: $?"
  release
}

one plain 40M
crash_copy crash
finish

one case-sensitive 24M -s
finish

one snapshot 40M
apfs-snap /mnt first
rm -r /mnt/f1 /mnt/d/e; sync
seq 1 20000 > /mnt/after; sync
sums /mnt
finish
