# SPDX-License-Identifier: GPL-3.0-or-later
# What case scripts share; runs in the guest, under busybox sh. See ABOUT.md.

new_image() { # CASE SIZE: makes /out/CASE/image on a loop device, $DEVICE
  CASE=$1; mkdir -p /out/$CASE; truncate -s $2 /out/$CASE/image
  DEVICE=$(losetup -f); losetup $DEVICE /out/$CASE/image
  echo "=== $CASE: $DEVICE"
}

age() { # FOLDER SEED: files written, every second one deleted, others grown in turns, holes, a tree, links
  k=0; while [ $k -lt 40 ]; do seq ${k}000000 ${k}000$((100 + k % 9 * 99)) > $1/f$k; k=$((k+1)); done; sync
  k=0; while [ $k -lt 40 ]; do rm $1/f$k; k=$((k+2)); done; sync
  mkdir -p $1/d/e; k=0; while [ $k -lt 6 ]; do yes "$2 $k" | head -c 90000 > $1/d/t$k; k=$((k+1)); done
  for turn in 1 2 3 4 5 6; do for k in 1 3 5; do yes "$turn $2 $k" | head -c 30000 >> $1/d/e/g$k; sync; done; done
  seq 7000000 7029999 > $1/d/big
  dd if=$1/d/big of=$1/d/hole bs=4096 count=3 seek=200 2>/dev/null
  dd if=$1/d/big of=$1/d/hole bs=4096 count=2 seek=20 conv=notrunc 2>/dev/null
  ln -s ../f1 $1/d/link; sync
}

sums() { # FOLDER: writes /out/CASE/sums
  (cd $1 && find . -type f | sort | xargs sha256sum) > /out/$CASE/sums
}

crash_copy() { # NEW_CASE: the image as it is now, mounted or not, with the sums that were taken last
  mkdir -p /out/$1; cp /out/$CASE/image /out/$1/image; cp /out/$CASE/sums /out/$1/sums 2>/dev/null || true
}

release() { # lets go of the image's loop device
  sync; losetup -d $DEVICE
}
