# SPDX-License-Identifier: GPL-3.0-or-later
# Run in the guest by ../guest/make.sh; see ABOUT.md.

fill() { # FOLDER SEED SUBFOLDERS: many small files of which half go, three that grow in turns, some that are large, with holes, or links
  top=$1; growing=$1/$3; tiny=$1/$4
  mkdir -p $growing $tiny
  k=0; while [ $k -lt 60 ]; do yes "$2 small $k" | head -c $((k * k * 11 + 7)) > $top/small-file-$k; k=$((k+1)); done; sync
  k=0; while [ $k -lt 60 ]; do rm -f $top/small-file-$k; k=$((k+2)); done; sync
  for turn in 1 2 3 4 5 6 7 8 9; do
    for k in 1 2 3; do yes "$2 growing $turn $k" | head -c $((turn * 9000)) >> $growing/growing-file-$k; sync; done
  done
  yes "$2 large" | head -c 900000 > $growing/large-file
  dd if=$growing/large-file of=$tiny/file-with-holes bs=4096 count=3 seek=200 2>/dev/null
  dd if=$growing/large-file of=$tiny/file-with-holes bs=4096 count=2 seek=20 conv=notrunc 2>/dev/null
  k=0; while [ $k -lt 30 ]; do echo $2 tiny $k > $tiny/tiny-file-$k; k=$((k+1)); done
  k=1; while [ $k -lt 60 ]; do rm -f $top/small-file-$k; k=$((k+4)); done # the holes stay
  ln -s small-file-3 $top/symbolic-link; sync
}

new_image jfs-aged 24M
mkfs.jfs -q -L "SOME NAME" $DEVICE
mount -t jfs $DEVICE /mnt
fill /mnt 1 folder folder/deeper
sums /mnt
crash_copy jfs-crash
umount /mnt
release

# Grown twice, while it is in use: its block map gets new extents, log and workspace move.
new_image jfs-grown 300M
mkfs.jfs -q -s 1 $DEVICE 4096
mount -t jfs $DEVICE /mnt
fill /mnt 2 folder folder/deeper
mount -o remount,resize=40000 $DEVICE /mnt
seq 1 90000 > /mnt/later
mount -o remount,resize $DEVICE /mnt
seq 1 70000 > /mnt/last
sums /mnt
umount /mnt
release

truncate -s 4M /tmp/log
LOG=$(losetup -f); losetup $LOG /tmp/log
new_image jfs-external 20M
mkfs.jfs -q -j $LOG $DEVICE
mount -t jfs $DEVICE /mnt
fill /mnt 3 folder folder/deeper
sums /mnt
crash_copy jfs-external-crash
umount /mnt
release
