# SPDX-License-Identifier: GPL-3.0-or-later
# Run in the guest by ../guest/make.sh; see ABOUT.md. $MKFS asks nothing.
MKFS="mkreiserfs -q -f -f"

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

new_image r36-4k 24M
$MKFS -s 513 -l "SOME NAME" -u 12345678-1234-4321-9876-0123456789ab $DEVICE >/dev/null
mount -t reiserfs $DEVICE /mnt
echo one > /mnt/one; sync; sums /mnt
crash_copy r36-early-crash
fill /mnt 1 folder folder/deeper
sums /mnt
crash_copy r36-crash
umount /mnt
release

new_image r36-1k 24M
$MKFS -b 1024 -h tea $DEVICE >/dev/null
mount -t reiserfs -o notail $DEVICE /mnt
fill /mnt 2 folder folder/deeper
sums /mnt
umount /mnt
release

# It comes from the host: see ../../harness/reiserfs_images.py.
new_image r36-old 100M
dd if=/old.img of=/out/r36-old/image bs=1M conv=notrunc 2>/dev/null
mount -t reiserfs $DEVICE /mnt || exit 1
fill /mnt 3 folder folder/deeper
sums /mnt
umount /mnt
release
