#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes a corpus of file systems or volumes in a small guest, for what the kernel of this machine cannot mount. ABOUT.md says how
# to use it. Needs root (loop mount), QEMU, kmod, cpio, busybox-static, e2fsprogs, zstd.
set -euo pipefail
usage() {
	cat >&2 <<'USAGE'
usage: make.sh --kernel DEB_OR_FOLDER --work FOLDER --cases SCRIPT --result FOLDER [option ...]
  --kernel K      linux-image .deb, or a folder that one was unpacked to
  --work FOLDER   scratch, about 1 GiB; serial.log and cases.log are left there
  --cases SCRIPT  run by busybox sh in the guest, with cases.lib.sh read before it
  --result FOLDER each folder CASE that the script left in /out becomes CASE.tar.zst here
  --module M      kernel module, with what it depends on; may be repeated, or hold several names
  --program P     program of this machine, with its libraries; likewise
  --file F        file of this machine, or HOST=GUEST; likewise
  --disk SIZE[:SECTOR_BYTES]  blank virtio disk: /dev/vdb, /dev/vdc, ...; left in the scratch folder as vdb.img, ...; may be repeated
  --space SIZE    size of /out, 1500M
  --memory MIB    of the guest, 768
  --seconds S     the most that the guest may take, 1800
USAGE
	exit 2
}
here=$(cd "$(dirname "$0")" && pwd)
modules=(virtio_pci virtio_blk virtio_rng ext4 crc32c_generic loop)
programs=() files=() disks=() space=1500M memory=768 seconds=1800 kernel='' work='' cases='' result=''
while (($#)); do
	(($# > 1)) || usage
	read -ra words <<<"$2"
	case $1 in
	--kernel) kernel=$(realpath "$2") ;;
	--work) work=$2 ;;
	--cases) cases=$(realpath "$2") ;;
	--result) mkdir -p "$2" && result=$(realpath "$2") ;;
	--module) modules+=("${words[@]}") ;;
	--program) programs+=("${words[@]}") ;;
	--file) files+=("${words[@]}") ;;
	--disk) disks+=("$2") ;;
	--space) space=$2 ;;
	--memory) memory=$2 ;;
	--seconds) seconds=$2 ;;
	*) usage ;;
	esac
	shift 2
done
[[ $kernel && $work && $cases && $result ]] || usage
mkdir -p "$work"
cd "$work"

unpack_kernel() {
	[[ -f $kernel ]] || return 0
	dpkg-deb -x "$kernel" kernel
	kernel=$PWD/kernel
	depmod -b "$kernel" "$(ls "$kernel/lib/modules")"
}

copy_with_libraries() {
	local library
	cp -L --parents "$1" root
	{ ldd "$1" || true; } 2>/dev/null | { grep -o '/[^ ]*' || true; } | while read -r library; do
		mkdir -p "root$(dirname "$library")"
		cp -L "$library" "root$library"
	done
}

make_root() {
	local item file
	rm -rf root
	mkdir -p root/{bin,sbin,lib,lib64,proc,sys,dev,run,tmp,etc,usr/sbin,usr/bin,out,mnt,modules}
	cp /usr/bin/busybox root/bin/busybox
	for item in "${programs[@]}"; do copy_with_libraries "$(command -v "$item")"; done
	for item in "${files[@]}"; do
		file=root${item#*=}
		mkdir -p "$(dirname "$file")"
		cp -L "${item%%=*}" "$file"
	done
	install -m 755 "$here/init.sh" root/init
	cp "$here/cases.lib.sh" root/
	cp "$cases" root/cases.sh
}

copy_modules() {
	local module path
	for module in "${modules[@]}"; do
		modprobe -d "$kernel" -S "$(ls "$kernel/lib/modules")" --show-depends "$module" || { echo "no module $module" >&2 && return 1; }
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
		cp "$path" root/modules/
		basename "$path" >>root/modules/list
	done
}

run_guest() {
	local letter=b disk arguments=()
	rm -f out.img vd?.img
	truncate -s "$space" out.img
	mkfs.ext4 -q -F -O ^has_journal out.img
	for disk in "${disks[@]}"; do
		truncate -s "${disk%%:*}" "vd$letter.img"
		arguments+=(-drive "file=vd$letter.img,format=raw,if=none,id=vd$letter,cache=unsafe,discard=unmap")
		if [[ $disk == *:* ]]; then disk=logical_block_size=${disk#*:},physical_block_size=${disk#*:}; else disk=logical_block_size=512; fi
		arguments+=(-device "virtio-blk-pci,drive=vd$letter,$disk")
		letter=$(tr b-y c-z <<<"$letter")
	done
	timeout "$seconds" qemu-system-x86_64 -accel tcg -cpu qemu64 -smp 1 -m "$memory" -nodefaults -no-reboot -display none \
		-serial file:serial.log -device virtio-rng-pci -drive file=out.img,format=raw,if=none,id=vda,cache=unsafe \
		-device virtio-blk-pci,drive=vda "${arguments[@]}" \
		-kernel "$kernel"/boot/vmlinuz-* -initrd initrd -append "console=ttyS0 quiet panic=-1"
}

pack() {
	local folder status
	mkdir -p out
	mount -o loop,ro out.img out
	cp out/cases.log .
	status=$(<out/status)
	for folder in out/*/; do
		folder=$(basename "$folder")
		[[ $folder == lost+found ]] || tar --sort=name --owner=0 --group=0 --mtime=@0 -S --hole-detection=raw -cf - -C "out/$folder" . |
			zstd -19 --long=27 -q -f -o "$result/$folder.tar.zst"
	done
	umount out
	return "$status"
}

unpack_kernel
make_root
copy_modules
(cd root && find . | cpio -o -H newc --quiet | gzip -1) >initrd
run_guest
grep -q GUEST-DONE serial.log || { tail -20 serial.log >&2 && exit 1; }
pack || { tail -20 cases.log >&2 && exit 1; }
