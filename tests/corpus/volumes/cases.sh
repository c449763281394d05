# SPDX-License-Identifier: GPL-3.0-or-later
# Runs in the guest: makes each case in /out/CASE, member files m0, m1, ...; see ABOUT.md.
mkdir -p /run/lock/lvm /run/lvm /etc/mdadm
members() { # case size count
  CASE=$1; mkdir -p /out/$CASE; M=""; i=0
  while [ $i -lt $3 ]; do truncate -s $2 /out/$CASE/m$i; d=$(losetup -f); losetup $d /out/$CASE/m$i; M="$M $d"; i=$((i+1)); done
  echo "=== $CASE:$M"
}
release() { for d in $M; do losetup -d $d; done; }
fill() { # device label
  /usr/sbin/mke2fs -q -t ext4 -b ${B:-1024} ${J:--J size=1} -m 0 -L $2 $1 || return 1
  mount -t ext4 $1 /mnt || return 1
  age /mnt $2
  umount /mnt
}
age() { 
  k=0; while [ $k -lt 30 ]; do seq ${k}000000 ${k}000$((100+k%9*99)) > $1/f$k; k=$((k+1)); done; sync
  k=0; while [ $k -lt 30 ]; do rm $1/f$k; k=$((k+2)); done; sync
  mkdir -p $1/d; k=0; while [ $k -lt 6 ]; do yes "$2 $k" | head -c 90000 > $1/d/t$k; k=$((k+1)); done
  seq 7000000 7029999 > $1/d/big; sync
  (cd $1 && find . -type f | sort | xargs sha256sum) > /out/$CASE/$2.sums
}
waitsync() { mdadm --wait $1 2>/dev/null; sleep 1; }
mdcase() { # case size count mdadm-args...
  c=$1; s=$2; k=$3; shift 3
  members $c $s $k
  yes | mdadm --create /dev/md0 --name=$c --homehost=guest --run "$@" $M || { echo "FAILED create $c"; release; return; }
  waitsync /dev/md0
  fill /dev/md0 $c || echo "FAILED fill $c"
  sync; sleep 1
  mdadm --stop /dev/md0 -q
  cat /proc/mdstat | grep md0
  for d in $M; do mdadm --examine $d; done > /out/$c/examine 2>&1
  release
}
mdcase r1-12 8M 2 -l1 -n2 -e1.2 -binternal
mdcase r1-11 8M 2 -l1 -n2 -e1.1
mdcase r1-10 8M 2 -l1 -n2 -e1.0 -binternal
mdcase r1-090 8M 2 -l1 -n2 -e0.90
mdcase r1-spare 8M 3 -l1 -n2 -x1 -e1.2
mdcase r0-12 6M 3 -l0 -n3 -e1.2 -c64
mdcase lin-12 6M 2 -llinear -n2 -e1.2 
mdcase r10-n2 6M 4 -l10 -n4 -pn2 -e1.2 -c64
mdcase r10-n2-3 6M 3 -l10 -n3 -pn2 -e1.2 -c64
mdcase r10-f2 6M 4 -l10 -n4 -pf2 -e1.2 -c64
mdcase r10-f2-3 6M 3 -l10 -n3 -pf2 -e1.2 -c64
mdcase r10-o2 6M 4 -l10 -n4 -po2 -e1.2 -c64
mdcase r10-o2-3 6M 3 -l10 -n3 -po2 -e1.2 -c64
for p in la ra ls rs parity-first parity-last; do mdcase r5-$p 6M 3 -l5 -n3 -p$p -e1.2 -c64; done
mdcase r4 6M 3 -l4 -n3 -e1.2 -c64
for p in left-asymmetric right-asymmetric left-symmetric right-symmetric; do mdcase r6-$p 6M 5 -l6 -n5 -p$p -e1.2 -c64; done
# unequal RAID0
members r0-zones 6M 2; d=$(losetup -f); truncate -s 10M /out/r0-zones/m2; losetup $d /out/r0-zones/m2; M="$M $d"
echo 2 > /sys/module/raid0/parameters/default_layout
yes | mdadm --create /dev/md0 --name=r0-zones --homehost=guest --run -q -l0 -n3 -c64 $M; fill /dev/md0 r0-zones; mdadm --stop /dev/md0 -q; release
# degraded: second leg never there
members r1-degraded 8M 1
yes | mdadm --create /dev/md0 --name=r1-degraded --homehost=guest --run -q -l1 -n2 $M missing; fill /dev/md0 r1-degraded; mdadm --stop /dev/md0 -q; release
# stale leg
members r1-stale 8M 2; set -- $M
yes | mdadm --create /dev/md0 --name=r1-stale --homehost=guest --run -q -l1 -n2 $M; waitsync /dev/md0; fill /dev/md0 r1-stale
mdadm /dev/md0 -q --fail $2; mdadm /dev/md0 -q --remove $2
mount -t ext4 /dev/md0 /mnt; rm /mnt/f1 /mnt/f3; age /mnt r1-stale; umount /mnt; mdadm --stop /dev/md0 -q; release
# active and dirty
members r1-active 8M 2
yes | mdadm --create /dev/md0 --name=r1-active --homehost=guest --run -q -l1 -n2 -e1.2 $M; waitsync /dev/md0; echo 1000 > /sys/block/md0/md/safe_mode_delay; fill /dev/md0 r1-active
mount -t ext4 /dev/md0 /mnt; echo x > /mnt/now; sync; mkdir -p /out/tmp; for i in 0 1; do sync; cp /out/r1-active/m$i /out/tmp/m$i; done; umount /mnt; mdadm --stop /dev/md0 -q; release; mv /out/tmp/m* /out/r1-active/
# rebuilding
members r1-rebuild 8M 2; set -- $M
yes | mdadm --create /dev/md0 --name=r1-rebuild --homehost=guest --run -q -l1 -n2 -e1.2 -bnone $1 missing; fill /dev/md0 r1-rebuild
echo 50 > /proc/sys/dev/raid/speed_limit_max; echo 10 > /proc/sys/dev/raid/speed_limit_min
mdadm /dev/md0 -q --add $2; sleep 4; cat /proc/mdstat; sync; echo frozen > /sys/block/md0/md/sync_action; sleep 1; mdadm --stop /dev/md0 -q; release
echo 200000 > /proc/sys/dev/raid/speed_limit_max
# reshape in progress skipped; raid5 with ppl and journal
mdcase r5-ppl 6M 3 -l5 -n3 -e1.2 -c64 --consistency-policy=ppl

lv() { lvm "$@" || echo "FAILED $*"; }
lvcase() { members $1 $2 $3; lv vgcreate -q -s 256k ${VGOPT} vg_$(echo $1 | tr - _) $M; VG=vg_$(echo $1 | tr - _); }
lvdone() { lvm vgcfgbackup -f /out/$CASE/text $VG >/dev/null; lvm lvs -a --units b --segments -o lv_name,segtype,seg_pe_ranges,lv_size $VG > /out/$CASE/lvs; dmsetup status > /out/$CASE/status; lv vgchange -an $VG; sync; release; }
lvcase lv-linear 10M 2; lv lvcreate -q -y -l 20 -n a $VG; lv lvcreate -q -y -l 12 -n b $VG; lv lvextend -q -l +20 $VG/a; fill /dev/$VG/a a; fill /dev/$VG/b b; lvdone
lvcase lv-striped 8M 3; lv lvcreate -q -y -i3 -I16k -l 60 -n a $VG; fill /dev/$VG/a a; lvdone
lvcase lv-raid0 8M 3; lv lvcreate -q -y --type raid0 -i3 -I16k -l 60 -n a $VG; fill /dev/$VG/a a; lvdone
lvcase lv-raid1 10M 2; lv lvcreate -q -y --type raid1 -m1 -l 30 -n a $VG; sleep 4; fill /dev/$VG/a a; sleep 1; lvdone
lvcase lv-raid1-nosync 10M 2; lv lvcreate -q -y --type raid1 -m1 -l 30 -n a --maxrecoveryrate 1k $VG; fill /dev/$VG/a a; lvdone
lvcase lv-mirror 10M 3; lv lvcreate -q -y --type mirror -m1 -l 30 -n a $VG; sleep 4; fill /dev/$VG/a a; sleep 1; lvdone
lvcase lv-raid5 8M 3; lv lvcreate -q -y --type raid5 -i2 -I16k -l 40 -n a $VG; sleep 4; fill /dev/$VG/a a; lvdone
lvcase lv-raid10 8M 4; lv lvcreate -q -y --type raid10 -i2 -m1 -I16k -l 40 -n a $VG; sleep 4; fill /dev/$VG/a a; lvdone
lvcase lv-snapshot 16M 1; lv lvcreate -q -y -l 30 -n a $VG; fill /dev/$VG/a a; lv lvcreate -q -y -s -l 10 -n snap $VG/a; mount -t ext4 /dev/$VG/a /mnt; rm /mnt/f1; echo new > /mnt/new; umount /mnt; lvdone
lvcase lv-thin 20M 1; lv lvcreate -q -y --type thin-pool -c 64k -l 48 --poolmetadatasize 2M -n pool $VG; lv lvcreate -q -y -V 12M -T $VG/pool -n t1; fill /dev/$VG/t1 t1; lv lvcreate -q -y -s -n t2 -kn $VG/t1; mount -t ext4 /dev/$VG/t1 /mnt; rm /mnt/f1; echo more > /mnt/more; umount /mnt; lv lvcreate -q -y -V 100M -T $VG/pool -n t3; B=4096 J="-O ^has_journal" fill /dev/$VG/t3 t3; lvdone
lvcase lv-cache 40M 1; lv lvcreate -q -y -l 40 -n a $VG; lv lvcreate -q -y --type cache-pool --poolmetadatasize 2M -l 24 -n cp $VG; lv lvconvert -q -y --type cache --cachepool $VG/cp $VG/a; fill /dev/$VG/a a; lvdone
lvcase lv-writecache 24M 1; lv lvcreate -q -y -l 30 -n a $VG; lv lvcreate -q -y -l 16 -n wc $VG; fill /dev/$VG/a a; lv lvchange -an $VG/wc; lv lvconvert -q -y --type writecache --cachevol wc $VG/a; lvdone
lvcase lv-pvmove 16M 2; lv lvcreate -q -y -l 40 -n a $VG; fill /dev/$VG/a a; set -- $M; lvm pvmove -b -i +100 $1 & sleep 2; lvm lvs -a $VG; lvm vgcfgbackup -f /out/$CASE/text $VG >/dev/null; sync; mkdir -p /out/tmp; cp /out/$CASE/m0 /out/$CASE/m1 /out/tmp/; sleep 3; lvm pvmove --abort; mv /out/tmp/m* /out/$CASE/; lvdone
rmdir /out/tmp
for c in /out/r* /out/lin*; do mv $c /out/md-${c#/out/}; done
lvcase lv-raid4 8M 3; lv lvcreate -q -y --type raid4 -i2 -I16k -l 40 -n a $VG; sleep 4; fill /dev/$VG/a a; lvdone
for t in la ra rs n; do lvcase lv-raid5-$t 8M 3; lv lvcreate -q -y --type raid5_$t -i2 -I16k -l 40 -n a $VG; sleep 4; fill /dev/$VG/a a; lvdone; done
for t in zr nr nc; do lvcase lv-raid6-$t 6M 5; lv lvcreate -q -y --type raid6_$t -i3 -I16k -l 48 -n a $VG; sleep 4; fill /dev/$VG/a a; lvdone; done
lvcase lv-raid5-grown 8M 3; lv lvcreate -q -y --type raid5 -i2 -I16k -l 20 -n a $VG; lv lvcreate -q -y -l 6 -n b $VG; sleep 3; lv lvextend -q -y -l +20 $VG/a; sleep 3; fill /dev/$VG/a a; lvdone
lvcase lv-raid5-nosync 8M 3; lv lvcreate -q -y --type raid5 -i2 -I16k -l 40 -n a --maxrecoveryrate 1k $VG; fill /dev/$VG/a a; lvdone
lvcase lv-raid10-6 6M 6; lv lvcreate -q -y --type raid10 -i3 -m1 -I16k -l 45 -n a $VG; sleep 4; fill /dev/$VG/a a; lvdone
# disk -> array -> volume group -> XFS and ext4
members nest-md-lvm-xfs 28M 3; VG=vg_nest
yes | mdadm --create /dev/md0 --name=nest --homehost=guest --run -q -l5 -n3 -c64 -e1.2 $M; waitsync /dev/md0
lv vgcreate -q -s 256k $VG /dev/md0; lv lvcreate -q -y -l 150 -n x $VG; lv lvcreate -q -y -l 40 -n e $VG
TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1 mkfs.xfs -q -d agcount=2 /dev/$VG/x && mount -t xfs /dev/$VG/x /mnt && age /mnt x && umount /mnt || echo "FAILED xfs"
fill /dev/$VG/e e; lv vgchange -an $VG; sync; sleep 1; mdadm --stop /dev/md0 -q; for d in $M; do mdadm --examine $d; done > /out/nest-md-lvm-xfs/examine 2>&1; release
# mirror -> volume group -> ext4; mirror -> MBR -> ext4; volume group -> GPT -> ext4
on_part() { # DISK LABEL
  P=$(losetup -f); losetup -o 1048576 $P $1; /usr/sbin/mke2fs -q -t ext4 -b 1024 -J size=1 -m 0 -L $2 $P 7000
  mount -t ext4 $P /mnt && age /mnt $2; umount /mnt; sync; losetup -d $P
}
members nest-md1-lvm 10M 2; VG=vg_nest
yes | mdadm --create /dev/md0 --name=nest --homehost=guest --run -q -l1 -n2 -e1.2 $M; waitsync /dev/md0
lv vgcreate -q -s 256k $VG /dev/md0; lv lvcreate -q -y -l 26 -n e $VG; fill /dev/$VG/e e
lv vgchange -an $VG; sync; sleep 1; mdadm --stop /dev/md0 -q; release
members nest-md1-mbr 10M 2
yes | mdadm --create /dev/md0 --name=nest --homehost=guest --run -q -l1 -n2 -e1.2 $M; waitsync /dev/md0
printf '2048,14000,83\n' | sfdisk -q --no-reread --label dos /dev/md0; on_part /dev/md0 p; sync; sleep 1; mdadm --stop /dev/md0 -q; release
lvcase nest-lv-gpt 12M 1; lv lvcreate -q -y -l 40 -n d $VG
printf '2048,16000,L\n' | sfdisk -q --no-reread --label gpt /dev/$VG/d; on_part /dev/$VG/d p; lvdone
