# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in a partition and a disk with sectors of another length: can it live there, and what must be done?

A kernel reads and writes whole logical sectors. So a file system whose own unit is smaller cannot be mounted, and one
whose structures count sectors of the disk must count others.

References:
    Linux: block/bdev.c (set_blocksize: no block smaller than the logical sector); fs/ext4/super.c and fs/xfs/xfs_buf.c
    (xfs_setsize_buftarg), which use it; fs/fat/inode.c and fs/exfat/super.c ("logical sector size too small for
    device"); fs/f2fs/super.c and fs/btrfs/disk-io.c, which read blocks of 4096 bytes whatever the sector is;
    mm/swapfile.c (pages). drivers/md/dm-crypt.c (crypt_io_hints), dm-table.c and md.c: what lies on them shows the
    larger one of their own and the disk's sectors.
    Microsoft, "NTFS and 4K disks" (2011): clusters and file records are at least as large as a sector.
    UEFI 2.10, section 13.3 (FAT of the firmware); Microsoft, FAT specification 1.03 (BPB_BytsPerSec), exFAT
    specification (2019), section 3.1.14 (BytesPerSectorShift).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from imager.fitting.anew import ext_refusal_of
from imager.fitting.ways import anew_way_of, why_not
from imager.layout import Content

VerdictKind = Literal["keeps", "adapts", "anew", "inside", "cannot"]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a content on sectors of another length.

    Attributes:
        kind: keeps: nothing need be done; adapts: its boot sectors are changed; anew: it is made anew and filled with
            its files; inside: that is done with something in it; cannot: it would not be readable.
        text: Why, or what is not certain, as a clause; "" for nothing to say.
    """

    kind: VerdictKind
    text: str = ""


KEEPS: Final = Verdict("keeps")
_BLOCKS: Final = frozenset({"ext2", "ext3", "ext4", "jfs", "reiserfs", "nilfs2", "ufs", "minix", "squashfs", "erofs"})
"""Their blocks must be at least as large as a sector; nothing in them counts sectors of the disk."""
_FREE: Final = frozenset({"btrfs", "f2fs", "swap", "apfs"})
"""They live in blocks or pages of 4096 bytes."""
_CAN_BE_ANEW: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "vfat", "exfat"})
_LARGEST: Final = 4096
_OPENED: Final = frozenset({"crypto_LUKS", "LVM2_member"})
"""What lies in them can be made anew, as when they become smaller."""


def verdict_of(content: Content | None, old: int, new: int) -> Verdict:
    """What becomes of a content when sectors of `old` bytes become sectors of `new` bytes."""
    if content is None or old == new or content.kind == "blank":
        return KEEPS
    if content.type in ("vfat", "exfat"):
        return _fat(content, new)
    if content.type == "ntfs":
        return _ntfs(content, new)
    if content.type == "xfs":
        return _at_least(content, _fact(content, "sector_size_bytes"), new, "sectors")
    if content.type in _BLOCKS:
        return _at_least(content, content.block_size_bytes or 0, new, "blocks")
    if content.type in _FREE and new <= _LARGEST:
        return KEEPS
    if content.kind in ("encrypted", "volume-manager", "raid"):
        return _container(content, old, new)
    return Verdict("keeps", "nobody knows whether it can live with them")


def _fact(content: Content, name: str) -> int:
    text = content.facts.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _anew(content: Content, reason: str) -> Verdict:
    return Verdict("anew" if content.type in _CAN_BE_ANEW else "cannot", reason)


def _at_least(content: Content, unit: int, new: int, name: str) -> Verdict:
    if unit >= new:
        return KEEPS
    if not unit:
        return Verdict("keeps", f"it does not say how long its {name} are: shorter ones cannot be mounted")
    return _anew(content, f"its {name} have {unit} bytes, and no kernel mounts {name} shorter than the disk's sectors")


def _fat(content: Content, new: int) -> Verdict:
    own = _fact(content, "sector_size_bytes")
    if own == new:
        return KEEPS
    return Verdict("anew", f"it counts sectors of {own or 'an unknown number of'} bytes")


def _ntfs(content: Content, new: int) -> Verdict:
    own, cluster = _fact(content, "sector_size_bytes"), content.block_size_bytes or 0
    record = _fact(content, "mft_record_bytes")
    if own == new:
        return KEEPS
    if not cluster:
        return Verdict("cannot", "it does not say how long its clusters are")
    if cluster < new:
        return Verdict("cannot", f"its clusters have {cluster} bytes, and NTFS has none that are shorter than a sector")
    if record < new:
        found = f"{record} bytes" if record else "an unknown length"
        return Verdict("cannot", f"its file records have {found}, and Windows wants at least a sector for each")
    return Verdict("adapts", f"its boot sectors count sectors of {own} bytes and are changed")


def _container(content: Content, old: int, new: int) -> Verdict:
    """LUKS, LVM and arrays count in units of 512 bytes or keep their own; what lies in them sees the disk's sectors."""
    if content.type == "BitLocker":
        return Verdict("cannot", "BitLocker encrypts sectors of the length that the disk had")
    if new < old:
        return KEEPS
    if crooked := _crooked(content, new):
        return Verdict("cannot", crooked)
    if not content.inside:
        return Verdict(
            "keeps", "what lies in it could not be looked at: blocks shorter than a sector cannot be mounted"
        )
    found = [_inside(content, each, verdict_of(each, old, new)) for each in content.inside]
    for kind in ("cannot", "inside"):
        if any(verdict.kind == kind for verdict in found):
            return Verdict(kind, "; ".join(verdict.text for verdict in found if verdict.kind == kind))
    return next((verdict for verdict in found if verdict.text), KEEPS)


def _crooked(content: Content, new: int) -> str:
    """Why device-mapper would refuse what it shows of a container; "" when it would not.

    It starts no mapping in the middle of a logical sector, and ends none there (device_area_is_invalid in
    drivers/md/dm-table.c).
    """
    places = {
        "data_offset_bytes": "its data begin at byte",
        "data_size_bytes": "its data have a length of",
        "first_extent_bytes": "its extents begin at byte",
        "extent_size_bytes": "its extents have a length of",
    }
    for name, words in places.items():
        if _fact(content, name) % new:
            return f"{words} {_fact(content, name)}, no multiple of a sector, and the kernel refuses to map that"
    return ""


def _inside(content: Content, each: Content, verdict: Verdict) -> Verdict:
    """What becomes of a container, as far as one of the things in it is concerned."""
    what = each.name or each.type
    if verdict.kind == "keeps":
        return Verdict("keeps", verdict.text and f"{what} in it: {verdict.text}")
    if verdict.kind == "inside" and content.type == "crypto_LUKS":
        return verdict
    if verdict.kind == "anew" and content.type in _OPENED:
        why = why_not(content) or ("" if anew_way_of(each) else why_not(each) or ext_refusal_of(each))
        if not why:
            return Verdict("inside", f"{what} in it is made anew and filled with its files: {verdict.text}")
        return Verdict("cannot", f"{what} in it cannot live with them ({verdict.text}), nor be made anew: {why}")
    return Verdict("cannot", f"{what} in it cannot live with them, and is not changed there: {verdict.text}")
