# SPDX-License-Identifier: GPL-3.0-or-later
# Run by mmdebstrap with the unpacked root as first word, before it becomes an archive.
set -eu
root=$1
# GRUB's own start for BIOS, on CD and stick. Made with the root's tools, which fit the root's modules.
chroot "$root" grub-mkimage -O i386-pc -p /boot/grub -o /usr/lib/grub/i386-pc/bootmedia-core.img \
	biosdisk iso9660 part_msdos part_gpt search search_fs_file search_label normal configfile \
	linux echo ls cat test true regexp serial terminal minicmd chain reboot halt sleep
# The same for BIOS over the network, for `bootmedia netboot`.
chroot "$root" grub-mkimage -O i386-pc-pxe -p /grub -o /usr/lib/grub/i386-pc/bootmedia-pxe.img \
	pxe tftp http net normal configfile \
	linux echo ls cat test true regexp serial terminal minicmd reboot halt sleep
# What apt and the installation of packages leave behind, and what would differ from build to build.
rm -rf "$root"/var/log/* "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/var/cache/ldconfig/aux-cache
# What is one machine's own: made anew at each start, or not at all.
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/nvme/hostid "$root"/etc/nvme/hostnqn
# What hwdb.bin was made of.
rm -rf "$root"/usr/lib/udev/hwdb.d
