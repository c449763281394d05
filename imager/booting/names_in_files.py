# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a restored system that name devices of the machine that it came from, and what they should say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imager.booting import tabs
from imager.booting.old_names import Candidate, OldName, resolve
from imager.booting.steps import Step
from imager.booting.tree import Tree, kept_as

_COMMAND_LINES: Final = (
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/etc/initramfs-tools/conf.d/resume",
    "/boot/grub2/grubenv",
)
_ENTRY_FOLDERS: Final = ("/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries")
_DEVICE_MAPS: Final = ("/boot/grub/device.map", "/boot/grub2/device.map")
_LVM_DEVICES: Final = "/etc/lvm/devices/system.devices"
"""lvmdevices(8); Fedora and RHEL have it since 34 and 9."""
_TYPES_THAT_COME_ALONG: Final = frozenset(("crypt_uuid", "lvmlv_uuid", "md_uuid"))
_FIXED_SIZE: Final = "/boot/grub2/grubenv"
_GRUBENV_BYTES: Final = 1024


@dataclass(frozen=True)
class _File:
    """A file that names devices."""

    path: str
    text: str
    names: tuple[OldName, ...]
    rewritten: Callable[[str, Mapping[str, Candidate]], str]


def _files(tree: Tree, root_type: str) -> Iterator[_File]:
    fstab, crypttab = tree.text("/etc/fstab"), tree.text("/etc/crypttab")
    yield _File("/etc/fstab", fstab, tuple(tabs.fstab_names(fstab)), tabs.with_uuids_in_fstab)
    yield _File("/etc/crypttab", crypttab, tuple(tabs.crypttab_names(crypttab)), tabs.with_uuids_in_crypttab)
    entries = [
        f"{folder}/{name}" for folder in _ENTRY_FOLDERS for name in tree.listing(folder) if name.endswith(".conf")
    ]
    drop_ins = [f"/etc/default/grub.d/{name}" for name in tree.listing("/etc/default/grub.d") if name.endswith(".cfg")]
    for path in (*_COMMAND_LINES, *drop_ins, *entries):
        text = tree.text(path)
        names = tuple(tabs.command_line_names(text, root_type=root_type))
        yield _File(path, text, names, _in_grubenv if path == _FIXED_SIZE else tabs.with_uuids_in_command_line)


def _in_grubenv(text: str, meant: Mapping[str, Candidate]) -> str:
    """GRUB's environment block has 1024 bytes, the end filled with #; where it would not fit it stays."""
    if not meant:
        return text
    new = tabs.with_uuids_in_command_line(text.rstrip("#"), meant)
    return f"{new:#<{_GRUBENV_BYTES}}" if len(new) <= _GRUBENV_BYTES else text


def naming_steps(tree: Tree, candidates: Sequence[Candidate], *, root_type: str = "") -> Iterator[Step]:
    """Rewrites names of devices that did not come along."""
    files = [*_files(tree, root_type)]
    meant = resolve(_all_names(files), candidates)
    for file in files:
        changed = {name.text: meant[name.text] for name in file.names if name.text in meant}
        new_text = file.rewritten(file.text, changed)
        if new_text != file.text:
            becomes = ", ".join(f"{old} becomes UUID={new.uuid}" for old, new in changed.items())
            text = f"in {file.path} {becomes}; the old file stays as {kept_as(file.path)}"
            yield Step("rewrite", text, path=file.path, new_text=new_text)
    yield from _device_map_steps(tree)
    yield from _lvm_devices_steps(tree)


def _all_names(files: Iterable[_File]) -> Iterator[OldName]:
    return (name for file in files for name in file.names)


def unclear_names(tree: Tree, candidates: Sequence[Candidate], *, root_type: str = "") -> Iterator[str]:
    """Names of which nobody can say for certain what they mean now."""
    files = [*_files(tree, root_type)]
    meant = resolve(_all_names(files), candidates)
    for file in files:
        left = dict.fromkeys(name.text for name in file.names if name.text not in meant)
        if left:
            yield (
                f"{file.path} names {', '.join(left)}, which is not one volume of the restored disks beyond doubt: "
                "it stays; write UUID=... there by hand (`blkid` shows them)"
            )


def _device_map_steps(tree: Tree) -> Iterator[Step]:
    """GRUB's map of BIOS drives to device names: an old one leads grub-install to the wrong disk, or to none."""
    for path in _DEVICE_MAPS:
        if re.search(r"^\s*\([hf]d\d+\)\s+/dev/", tree.text(path), re.MULTILINE):
            yield Step("put-aside", f"put {path} aside, which names disks of the old machine", path=path)


def _lvm_devices_steps(tree: Tree) -> Iterator[Step]:
    """LVM's list of the disks that it may look at, by serial numbers: without a list it looks at all of them."""
    types = re.findall(r"\bIDTYPE=(\w+)", tree.text(_LVM_DEVICES))
    if set(types) - _TYPES_THAT_COME_ALONG:
        yield Step(
            "put-aside", f"put {_LVM_DEVICES} aside, which knows only disks of the old machine", path=_LVM_DEVICES
        )
