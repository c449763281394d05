# SPDX-License-Identifier: GPL-3.0-or-later
# The cases of this corpus, run by ../guest/make.sh; see ABOUT.md.

fill() { # content in fragments, and free space between it
  age /mnt ''; rm /mnt/d/e/g3 /mnt/f7 /mnt/f21; sync
  dd if=/mnt/d/big of=/mnt/d/deep bs=1024 count=9 seek=${1:-7000} 2>/dev/null; sync
  sums /mnt
}

ln -s /proc/mounts /etc/mtab
mkdir -p /dev/mqueue /dev/shm; mount -t mqueue none /dev/mqueue; mount -t tmpfs shm /dev/shm

clean() { # the cleaner frees segments that hold nothing but old checkpoints, in the middle of the volume
  nilfs_cleanerd -c /cleanerd.conf $DEVICE /mnt; sleep $1; kill $(pidof nilfs_cleanerd); sleep 2; sync
}

for kind in "1024 256 1024" "4096 128 4096" "tree 32 1024"; do
  set -- $kind
  new_image $1 48M
  mkfs.nilfs2 -q -f -b $3 -B $2 $DEVICE
  mount -t nilfs2 $DEVICE /mnt || echo FAILED
  fill 60000
  mkcp -s $DEVICE; rm /mnt/f1; sync
  [ $1 = tree ] || clean 20; seq 1 9000 > /mnt/after; sync
  sums /mnt
  [ $1 != 4096 ] || crash_copy $1-crash
  umount /mnt
  mount -t nilfs2 -o ro $DEVICE /mnt
  lssu -a $DEVICE > /out/$CASE/lssu; lscp -s $DEVICE > /out/$CASE/lscp; df -k /mnt | tail -1 > /out/$CASE/df
  umount /mnt
  release
done
true
