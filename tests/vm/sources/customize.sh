# SPDX-License-Identifier: GPL-3.0-or-later
# Run by mmdebstrap with the unpacked root as first word, before it becomes an archive.
set -eu
root=$1
# The proof is typed on the serial line: root is let in there without a password, and on the screen too.
getty=$root/etc/systemd/system/serial-getty@ttyS0.service.d
mkdir -p "$getty"
cat >"$getty/root.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 - vt220
UNIT
chroot "$root" passwd --quiet --delete root
# What begins at a certain hour would change files between the reference and the proof.
for timer in "$root"/usr/lib/systemd/system/*.timer; do
	ln -sf /dev/null "$root/etc/systemd/system/$(basename "$timer")"
done
# An identity that was given at the installation, as every machine has one: else each start would be the first.
echo 5f1e2d3c4b5a69788796a5b4c3d2e1f0 >"$root/etc/machine-id"
# The one file that a proof begins with, and some that are easily lost on the way.
mkdir "$root/srv/files"
echo "this machine was here before" >"$root/srv/files/marker"
ln "$root/srv/files/marker" "$root/srv/files/another name"
ln -s marker "$root/srv/files/link"
truncate --size 40M "$root/srv/files/sparse"
printf end >>"$root/srv/files/sparse"
mkfifo "$root/srv/files/fifo"
chown 1000:1001 "$root/srv/files/sparse"
chmod 4711 "$root/srv/files/sparse"
# Made for whatever it will start on, and therefore once for all machines.
sed -i 's/^MODULES=.*/MODULES=most/; s/^#* *COMPRESS=.*/COMPRESS=zstd/' "$root/etc/initramfs-tools/initramfs.conf"
for modules in "$root"/usr/lib/modules/*; do chroot "$root" update-initramfs -c -k "$(basename "$modules")"; done
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
