# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a system that name volumes by identifiers, and the same files with other ones. Pure.

Only these files are changed, and in them only whole identifiers. A file that GRUB reads without a file system's driver
(grubenv) keeps its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from imager.booting.steps import Step
from imager.booting.tree import Tree
from imager.opening.mapper import lvm_name

_FILES: Final = (
    *("/etc/fstab", "/etc/crypttab", "/etc/default/grub", "/etc/kernel/cmdline", "/etc/initramfs-tools/conf.d/resume"),
    *("/etc/mdadm.conf", "/etc/mdadm/mdadm.conf", "/etc/dracut.conf", "/etc/mkinitcpio.conf", "/etc/grub.d/40_custom"),
    *("/boot/grub/grub.cfg", "/boot/grub/custom.cfg", "/boot/grub/grubenv"),
    *("/boot/grub2/grub.cfg", "/boot/grub2/custom.cfg", "/boot/grub2/grubenv"),
    *("/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg", "/boot/refind_linux.conf", "/boot/cmdline.txt"),
)
_FOLDERS: Final = (
    ("/etc/default/grub.d", ".cfg"),
    ("/etc/dracut.conf.d", ".conf"),
    ("/etc/cmdline.d", ".conf"),
    ("/etc/kernel/cmdline.d", ".conf"),
    ("/etc/mdadm.conf.d", ".conf"),
    ("/etc/mdadm/mdadm.conf.d", ".conf"),
    ("/etc/mkinitcpio.conf.d", ".conf"),
    ("/etc/initramfs-tools/conf.d", ""),
    ("/etc/systemd/system", ".mount"),
    ("/etc/systemd/system", ".swap"),
    *((f"{top}/loader/entries", ".conf") for top in ("/boot", "/boot/efi", "/efi")),
)
_LVM_DEVICES: Final = "/etc/lvm/devices/system.devices"
"""It lists volume groups' disks by their identifiers (lvmdevices(8)); where it is missing, lvm looks at all disks."""
_LOADERS: Final = ("/boot/efi/EFI", "/efi/EFI", "/boot/EFI")
"""GRUB's stub lies in a folder of these: it leads to the file system that has the rest."""
_GRUBENV: Final = "grubenv"
_GRUBENV_BYTES: Final = 1024


def system_files(tree: Tree) -> Iterator[str]:
    """The files that a system has of those."""
    yield from (path for path in _FILES if tree.is_file(path))
    for folder, end in _FOLDERS:
        yield from (f"{folder}/{name}" for name in tree.listing(folder) if name.endswith(end) and _is_own(name))
    for folder in _LOADERS:
        for name in tree.listing(folder):
            yield from (path for path in [f"{folder}/{name}/grub.cfg"] if tree.is_file(path))


def _is_own(name: str) -> bool:
    return not name.endswith((".before-repair", "~", ".bak", ".dpkg-old", ".rpmsave"))


def replacing_steps(tree: Tree, ids: Mapping[str, str], groups: Mapping[str, str]) -> Iterator[Step]:
    """Rewrites the files that name old identifiers, and puts aside lvm's list of disks, which would hide the new ones.

    Args:
        tree: The system.
        ids: New identifiers by old ones.
        groups: New names of volume groups by old ones.
    """
    seen: set[str] = set()
    for path in system_files(tree):
        real = tree.real_path(path)
        if real in seen:
            continue
        seen.add(real)
        old = tree.text(path)
        new, changed = replaced(old, ids, groups)
        if path.endswith(_GRUBENV) and len(new) != _GRUBENV_BYTES:
            new = f"{new.rstrip('#'):#<{_GRUBENV_BYTES}}"
            if len(new) > _GRUBENV_BYTES:
                continue
        if new != old:
            becomes = ", ".join(f"{each} becomes {what}" for each, what in changed.items())
            yield Step("rewrite", f"in {path} {becomes}; the old file stays beside it", path=path, new_text=new)
    disks = tree.text(_LVM_DEVICES)
    if disks and (groups or replaced(disks, ids, {})[0] != disks):
        yield Step("put-aside", f"put {_LVM_DEVICES} aside, which knows only old identifiers", path=_LVM_DEVICES)


def replaced(text: str, ids: Mapping[str, str], groups: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A text with the new ones, and which of them it named."""
    changed: dict[str, str] = {}

    def new_id(match: re.Match[str]) -> str:
        new = lowered[match[0].lower()]
        changed[match[0]] = new
        return new.upper() if match[0].isupper() and not new.isupper() else new

    lowered = {old.lower(): new for old, new in ids.items()}
    if lowered:
        longest_first = sorted(map(re.escape, lowered), key=len, reverse=True)
        text = re.sub(
            rf"(?<![0-9A-Za-z])(?<![0-9A-Fa-f]{{4}}-)(?:{'|'.join(longest_first)})(?![0-9A-Za-z])",
            new_id,
            text,
            flags=re.IGNORECASE,
        )
    for old, new in groups.items():
        text, count = _with_group(text, old, new)
        if count:
            changed[f"volume group {old}"] = new
    return text, changed


def _with_group(text: str, old: str, new: str) -> tuple[str, int]:
    """The names of a group's volumes: /dev/GROUP/x, /dev/mapper/GROUP-x, rd.lvm.lv=GROUP/x, rd.lvm.vg=GROUP."""
    old_mapped, new_mapped = (lvm_name(each, "")[:-1] for each in (old, new))
    patterns = (
        (rf"(?<=/dev/mapper/){re.escape(old_mapped)}(?=-(?!-))", new_mapped),
        (rf"(?<=/dev/){re.escape(old)}(?=/)", new),
        (rf"(?<=rd\.lvm\.lv=){re.escape(old)}(?=/)", new),
        (rf"(?<=rd\.lvm\.vg=){re.escape(old)}(?![\w.+-])", new),
    )
    total = 0
    for pattern, word in patterns:
        text, count = re.subn(pattern, word, text)  # no name of a group has a backslash
        total += count
    return text, total
