# SPDX-License-Identifier: GPL-3.0-or-later
"""How each kind of volume gets a new identifier: what that looks like, and the program that writes it.

References:
    tune2fs(8): with checksums of metadata, -U wants a file system that was just checked. xfs_admin(8), btrfstune(8),
    ntfslabel(8), fatlabel(8), tune.exfat(8), swaplabel(8), jfs_tune(8), nilfs-tune(8), reiserfstune(8),
    cryptsetup-luksUUID(8).
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

Commands = Sequence[tuple[Sequence[str], Sequence[int]]]
"""Commands and the exit statuses of each that are no failure."""


@dataclass(frozen=True)
class Way:
    """How one kind of volume gets a new identifier.

    Attributes:
        program: That writes it.
        draw: A new one, as blkid writes it.
        commands: What is run, with the device and the new identifier.
        takes_long: Why it takes longer than a moment; "" when it does not.
    """

    program: str
    draw: Callable[[], str]
    commands: Callable[[str, str], Commands]
    takes_long: str = ""


def draw_uuid() -> str:
    """A random UUID (RFC 9562, version 4)."""
    return str(uuid.uuid4())


def draw_serial() -> str:
    """Of FAT and exFAT, which have 32 bits; not zero."""
    number = secrets.randbelow(2**32 - 1) + 1
    return f"{number >> 16:04X}-{number & 0xFFFF:04X}"


def draw_long_serial() -> str:
    """Of NTFS, which has 64 bits."""
    return f"{secrets.randbits(63) | 1 << 62:016X}"


def draw_signature() -> str:
    """Of an MBR, 8 hexadecimal digits; not zero, which stands for none."""
    return f"{secrets.randbelow(2**32 - 1) + 1:08x}"


def _once(*words: str) -> Callable[[str, str], Commands]:
    """One command in which {device} and {new} are replaced."""

    def commands(device: str, new: str) -> Commands:
        plain = new.replace("-", "")
        return [([word.format(device=device, new=new, plain=plain) for word in words], (0,))]

    return commands


def _ext(device: str, new: str) -> Commands:
    return [(("e2fsck", "-f", "-p", device), (0, 1)), (("tune2fs", "-U", new, device), (0,))]


_EXT: Final = Way("tune2fs", draw_uuid, _ext, "it is checked first")
_FAT: Final = Way("fatlabel", draw_serial, _once("fatlabel", "-i", "{device}", "{plain}"))
WAYS: Final = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), _EXT),
    **dict.fromkeys(("vfat", "fat12", "fat16", "fat32"), _FAT),
    "xfs": Way("xfs_admin", draw_uuid, _once("xfs_admin", "-U", "{new}", "{device}")),
    "btrfs": Way(
        "btrfstune", draw_uuid, _once("btrfstune", "-f", "-U", "{new}", "{device}"), "all of its metadata is rewritten"
    ),
    "ntfs": Way("ntfslabel", draw_long_serial, _once("ntfslabel", "--new-serial={plain}", "{device}")),
    "exfat": Way("tune.exfat", draw_serial, _once("tune.exfat", "-I", "0x{plain}", "{device}")),
    "swap": Way("swaplabel", draw_uuid, _once("swaplabel", "-U", "{new}", "{device}")),
    "jfs": Way("jfs_tune", draw_uuid, _once("jfs_tune", "-U", "{new}", "{device}")),
    "nilfs2": Way("nilfs-tune", draw_uuid, _once("nilfs-tune", "-U", "{new}", "{device}")),
    "reiserfs": Way("reiserfstune", draw_uuid, _once("reiserfstune", "-u", "{new}", "{device}")),
    "crypto_LUKS": Way(
        "cryptsetup",
        draw_uuid,
        _once("cryptsetup", "luksUUID", "--batch-mode", "--uuid", "{new}", "{device}"),
    ),
}
NEW_GROUP: Final = "LVM2_member"
NEW_ARRAY: Final = "linux_raid_member"
