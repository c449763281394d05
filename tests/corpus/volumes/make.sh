#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew in a small guest: make.sh LINUX_IMAGE_DEB WORK_FOLDER. Needs root (loop mount), QEMU, kmod, cpio,
# busybox-static, mdadm, lvm2, thin-provisioning-tools, zstd. Takes five minutes with TCG.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
deb=$(realpath "$1")
mkdir -p "$2"
cd "$2"
dpkg-deb -x "$deb" kern
version=$(ls kern/lib/modules)
depmod -b kern "$version"
rm -rf root
mkdir -p root/{bin,sbin,lib,lib64,proc,sys,dev,run/lock/lvm,run/lvm,tmp,etc/lvm,usr/sbin,usr/bin,out,mnt,etc/mdadm,mods}
cp /usr/bin/busybox root/bin/busybox
for program in /usr/sbin/mdadm /usr/sbin/lvm /usr/sbin/mke2fs /usr/sbin/pdata_tools /usr/sbin/dmsetup; do
	cp -L "$program" "root$program"
	ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "root$(dirname "$library")"
		cp -Ln "$library" "root$library"
	done
done
for tool in thin_check cache_check thin_dump; do ln -s pdata_tools "root/usr/sbin/$tool"; done
cp /etc/mke2fs.conf root/etc/
cat >root/etc/lvm/lvm.conf <<'LVM'
activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 monitoring=0 thin_pool_autoextend_threshold=100 }
devices { scan=["/dev"] obtain_device_list_from_udev=0 use_devicesfile=0 external_device_info_source="none" }
backup { backup=0 archive=0 }
LVM
for module in virtio_pci virtio_blk ext4 loop md_mod raid0 raid1 raid10 raid456 linear dm_mod dm_raid dm_mirror dm_log \
	dm_snapshot dm_thin_pool dm_cache dm_cache_smq dm_writecache crc32c_generic virtio_rng; do
	modprobe -d kern -S "$version" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
done | awk '!seen[$0]++' | while read -r module; do
	cp "$module" root/mods/
	basename "$module" >>root/mods/list
done
install -m 755 "$here/guest-init.sh" root/init
install -m 755 "$here/guest-cases.sh" root/cases.sh
(cd root && find . | cpio -o -H newc --quiet | gzip -1) >initrd
truncate -s 1500M out.img
mkfs.ext4 -q -F out.img
qemu-system-x86_64 -accel tcg -cpu qemu64 -smp 1 -m 768 -nodefaults -no-reboot -display none -serial file:serial.log \
	-device virtio-rng-pci -drive file=out.img,format=raw,if=virtio,cache=unsafe -kernel kern/boot/vmlinuz-* -initrd initrd \
	-append "console=ttyS0 quiet panic=-1"
mkdir -p out
mount -o loop,ro out.img out
for folder in out/r* out/lin* out/lv*; do
	case=$(basename "$folder")
	[[ $case == lv-* ]] || case=md-$case
	tar --sort=name --owner=0 --group=0 -S -cf - -C "$folder" . | zstd -19 --long=27 -q -f -o "$here/$case.tar.zst"
done
umount out
