# SPDX-License-Identifier: GPL-3.0-or-later
"""Installed systems as trees of files, after Debian, Fedora and Arch, with programs that note how they are called.

The programs are scripts of a shell. Each writes a line to /calls, with its name, its arguments and what it saw, so a
test can say what was run and in which surroundings.
"""

from __future__ import annotations

import shutil
from pathlib import Path

KERNEL = "6.1.0-9-amd64"
OS_RELEASE = {
    "debian": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "ubuntu": 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "fedora": 'NAME="Fedora Linux"\nPRETTY_NAME="Fedora Linux 40"\nID=fedora\n',
    "rhel": 'PRETTY_NAME="Rocky Linux 9.4"\nID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "arch": 'PRETTY_NAME="Arch Linux"\nID=arch\n',
}
# As depmod writes them; the aliases are those of Linux 6.1.
MODULES_ALIAS = """\
# Aliases extracted from modules themselves.
alias virtio:d00000002v* virtio_blk
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias pci:v*d*sv*sd*bc01sc08i02* nvme
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias scsi:t-0x00* sd_mod
"""
_PROGRAMS = {
    "debian": ("update-initramfs", "lsinitramfs", "grub-install", "update-grub"),
    "ubuntu": ("update-initramfs", "lsinitramfs", "grub-install", "update-grub"),
    "fedora": ("dracut", "lsinitrd", "grub2-install", "grub2-mkconfig"),
    "rhel": ("dracut", "lsinitrd", "grub2-install", "grub2-mkconfig"),
    "arch": ("mkinitcpio", "lsinitcpio", "grub-install", "grub-mkconfig"),
}
_LISTERS = ("lsinitramfs", "lsinitrd", "lsinitcpio")
_NOTING = """\
#!/bin/sh
seen=
for file in /etc/initramfs-tools/conf.d/zzz-repair-boot /etc/mkinitcpio.conf; do
    [ -e $file ] && seen="$seen [$(grep -E 'MODULES=m|^HOOKS' $file)]"
done
echo "${0##*/} $*$seen" >> /calls
"""
_LISTING = """\
#!/bin/sh
echo "usr/lib/modules/x/kernel/drivers/ata/ahci.ko.xz"
echo "usr/lib/modules/x/kernel/drivers/nvme/host/nvme.ko"
echo "usr/lib/modules/x/kernel/drivers/scsi/sd_mod.ko.zst"
"""


def made_system(root: Path, kind: str, files: dict[str, str] | None = None) -> Path:
    """Write a system's tree into a folder; further files by their paths."""
    for folder in ("dev", "proc", "sys", "run", "etc", "boot", "tmp", "usr/bin", "usr/sbin", "var"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for link in ("bin", "sbin"):
        (root / link).symlink_to(f"usr/{link}")
    _programs(root, _PROGRAMS[kind])
    image = f"initrd.img-{KERNEL}" if kind in ("debian", "ubuntu") else f"initramfs-{KERNEL}.img"
    modules = f"usr/lib/modules/{KERNEL}"
    texts = {
        "usr/lib/os-release": OS_RELEASE[kind],
        "etc/fstab": "",
        f"{modules}/modules.dep": "",
        f"{modules}/modules.alias": MODULES_ALIAS,
        f"boot/{image}": "",
        "usr/lib/grub/i386-pc/modinfo.sh": "",
        f"boot/{'grub2' if kind in ('fedora', 'rhel') else 'grub'}/grub.cfg": "menuentry x {}\n",
        **(files or {}),
    }
    for name, text in texts.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    return root


def _programs(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        program = root / "usr/sbin" / name
        program.write_text(_LISTING if name in _LISTERS else _NOTING)
        program.chmod(0o755)


def with_shell(root: Path) -> Path:
    """Give a tree a shell, so that its programs run."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is missing"
    shutil.copy(busybox, root / "usr/bin/busybox")
    for name in ("sh", "env", "ls", "grep", "cat"):
        (root / "usr/bin" / name).symlink_to("busybox")
    return root
