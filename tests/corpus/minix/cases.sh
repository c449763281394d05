# SPDX-License-Identifier: GPL-3.0-or-later
# The cases of this corpus, run by ../guest/make.sh; see ABOUT.md.

fill() { # content in fragments, and free space between it
  age /mnt ''; rm /mnt/d/e/g3 /mnt/f7 /mnt/f21; sync
  dd if=/mnt/d/big of=/mnt/d/deep bs=1024 count=9 seek=${1:-7000} 2>/dev/null; sync
  sums /mnt
}

for kind in "1 14" "1 30" "2 14" "2 30" "3 60" "3 4k"; do
  set -- $kind
  new_image v$1-$2 12M
  case $2 in
  60) mkfs.minix -3 $DEVICE ;;
  4k) losetup -d $DEVICE; cp /v3-4k /out/$CASE/image; losetup $DEVICE /out/$CASE/image ;;
  *) mkfs.minix -$1 -n $2 $DEVICE ;;
  esac
  mount -t minix $DEVICE /mnt || echo FAILED
  mkdir /mnt/name; mkfifo /mnt/name/fifo; mknod /mnt/name/device b 8 17
  fill 7000
  [ $2 = 30 ] || [ $2 = 60 ] && crash_copy v$1-$2-crash
  df -k /mnt | tail -1 > /out/$CASE/df
  umount /mnt
  [ $2 = 4k ] || fsck.minix -fsv $DEVICE > /out/$CASE/fsck
  release
done

# Written to while it is copied: the map of zones on the device is older than some inodes, which version 3 does not tell.
new_image writing 12M
mkfs.minix -3 $DEVICE
mount -t minix $DEVICE /mnt || echo FAILED
age /mnt ''; sums /mnt
(
  k=0
  while [ $k -lt 400 ]; do
    seq ${k}000 ${k}900 > /mnt/d/n$k; cat /mnt/d/n$k >> /mnt/d/grow
    rm -f /mnt/d/n$((k-20)) /mnt/d/e/g$((k/60)); k=$((k+1))
  done
) &
(while sleep 0.05; do sync; done) & syncer=$!
sleep 7; crash_copy v3-60-torn-crash
kill $syncer; wait
umount /mnt; release; rm -rf /out/writing
true
