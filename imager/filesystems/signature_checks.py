# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners whose magic number alone is too weak, or lies at a place that has to be computed.

Each check answers with where it found its mark: (name, offset, length). They are for recognition only: strict enough
that random data passes none, lax enough that a damaged or stale structure still speaks up.

References:
    Linux Documentation/filesystems/ext4/super.rst; Linux include/uapi/linux/raid/md_p.h; SNIA DDF 2.0; LUKS2 On-Disk
    Format Specification 1.1; ZFS On-Disk Specification (Sun, 2006), chapter 1; Apple TN1150 (HFS Plus); Inside
    Macintosh: Files, chapter 2 (HFS); FreeBSD sys/ufs/ffs/fs.h; Linux include/uapi/linux/nilfs2_ondisk.h;
    ECMA-167 part 2 (UDF); UEFI 2.10, chapter 5 (GPT, MBR).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final

from imager.blocks import BlockReader
from imager.filesystems import swap
from imager.filesystems.fat import boot

Found = tuple[str, int, int]

_HEAD_BYTES: Final = 512 * 1024
_TAIL_BYTES: Final = 1024 * 1024
_SECTOR: Final = 512


class View:
    """A volume's bytes for many small looks: both ends are read once; outside there is nothing."""

    def __init__(self, reader: BlockReader) -> None:
        self.reader = reader
        self.size = reader.size
        self._head = reader.read(0, min(_HEAD_BYTES, reader.size))
        self._tail_start = max(0, reader.size - _TAIL_BYTES)
        self._tail = reader.read(self._tail_start, reader.size - self._tail_start)

    def at(self, offset: int, length: int) -> bytes:
        """The bytes at an offset; fewer where the volume ends, none for an offset outside."""
        if offset < 0 or offset >= self.size:
            return b""
        end = min(offset + length, self.size)
        if end <= len(self._head):
            return self._head[offset:end]
        if offset >= self._tail_start:
            return self._tail[offset - self._tail_start : end - self._tail_start]
        return self.reader.read(offset, end - offset)

    def number(self, offset: int, length: int, order: str = "little") -> int:
        """An unsigned number; -1 where the volume ends before it does."""
        content = self.at(offset, length)
        if len(content) < length:
            return -1
        return int.from_bytes(content, "big" if order == "big" else "little")


def _power_of_two(number: int, least: int, most: int) -> bool:
    return least <= number <= most and number & (number - 1) == 0


# --- File systems ---------------------------------------------------------------------------------------------------

_EXT_SUPERBLOCK: Final = 1024
_EXT_MAGIC: Final = _EXT_SUPERBLOCK + 56
_EXT_HAS_JOURNAL: Final = 0x0004
_EXT_JOURNAL_DEV: Final = 0x0008
_EXT_TEST_FILESYS: Final = 0x0004
_EXT3_KNOWS_INCOMPAT: Final = 0x0002 | 0x0004 | 0x0010
_EXT2_KNOWS_INCOMPAT: Final = 0x0002 | 0x0010
_EXT3_KNOWS_RO_COMPAT: Final = 0x0001 | 0x0002 | 0x0004


def ext(view: View) -> Iterator[Found]:
    """ext2, ext3, ext4, told apart as blkid does: by what ext3 and ext2 do not know; and external journals."""
    block = view.at(_EXT_SUPERBLOCK, 1024)
    if len(block) < 1024 or block[56:58] != b"\x53\xef":
        return
    log_block_size = int.from_bytes(block[24:28], "little")
    if log_block_size > 6 or not any(block[4:8]):
        return
    compat, incompat, ro_compat = (int.from_bytes(block[at : at + 4], "little") for at in (92, 96, 100))
    flags = int.from_bytes(block[0x160:0x164], "little")
    yield _ext_name(compat, incompat, ro_compat, flags), _EXT_MAGIC, 2


def _ext_name(compat: int, incompat: int, ro_compat: int, flags: int) -> str:
    if incompat & _EXT_JOURNAL_DEV:
        return "jbd"
    journal = bool(compat & _EXT_HAS_JOURNAL)
    known = _EXT3_KNOWS_INCOMPAT if journal else _EXT2_KNOWS_INCOMPAT
    if not incompat & ~known and not ro_compat & ~_EXT3_KNOWS_RO_COMPAT:
        return "ext3" if journal else "ext2"
    return "ext4dev" if flags & _EXT_TEST_FILESYS else "ext4"


def fat(view: View) -> Iterator[Found]:
    """FAT12, FAT16, FAT32."""
    if boot.read_boot_sector(view.reader):
        yield "vfat", 0, 3


_MINIX_V1_V2: Final = Struct("<HHHHHHIHHI")
_MINIX_V3: Final = Struct("<IHHHHHHIIHHH")
_MINIX_MAGICS: Final = {0x137F: 1, 0x138F: 1, 0x2468: 2, 0x2478: 2}
_MINIX_V3_MAGIC: Final = 0x4D5A
_MINIX_BITS: Final = 1024 * 8


def minix(view: View) -> Iterator[Found]:
    """Minix 1 to 3, in either byte order: a 2-byte magic, so the counts must fit each other."""
    block = view.at(1024, 32)
    if len(block) < 32 or view.at(_EXT_MAGIC, 2) == b"\x53\xef" or block.startswith(_EROFS_MAGIC):
        return
    for order in "<>":
        first = Struct(_MINIX_V1_V2.format.replace("<", order)).unpack_from(block)
        inodes, zones16, imaps, zmaps, data_zone, log_zone, _, magic, _, zones32 = first
        version = _MINIX_MAGICS.get(magic)
        zones = zones32 if version == 2 else zones16
        if version and _minix_fits(inodes, imaps, zones, zmaps, data_zone, log_zone):
            yield "minix", 1024 + 16, 2
        third = Struct(_MINIX_V3.format.replace("<", order)).unpack_from(block)
        inodes, _, imaps, zmaps, data_zone, log_zone, _, _, zones, magic, _, _ = third
        if magic == _MINIX_V3_MAGIC and _minix_fits(inodes, imaps, zones, zmaps, data_zone, log_zone):
            yield "minix", 1024 + 24, 2


def _minix_fits(inodes: int, imaps: int, zones: int, zmaps: int, data_zone: int, log_zone: int) -> bool:
    return (
        log_zone == 0
        and 0 < inodes < 0xFFFFFFFF
        and imaps * _MINIX_BITS >= inodes + 1
        and data_zone <= zones
        and zmaps * _MINIX_BITS >= zones - data_zone + 1
    )


_EROFS_MAGIC: Final = b"\xe2\xe1\xf5\xe0"


def hfs(view: View) -> Iterator[Found]:
    """HFS and HFS+, also inside of an HFS wrapper."""
    block = view.at(1024, 512)
    if len(block) < 512:
        return
    if block[:2] == b"BD":
        block_size = int.from_bytes(block[20:24], "big")
        if block_size and block_size % _SECTOR == 0 and any(block[18:20]):
            yield "hfsplus" if block[124:126] in (b"H+", b"HX") else "hfs", 1024, 2
    block_size = int.from_bytes(block[40:44], "big")
    is_plus = block[:4] in (b"H+\0\4", b"HX\0\5")
    if is_plus and _power_of_two(block_size, _SECTOR, 2**31):
        yield "hfsplus", 1024, 2


def apfs(view: View) -> Iterator[Found]:
    """The container superblock: NXSB, in an object of that type."""
    if view.at(32, 4) == b"NXSB" and view.number(24, 2) == 1:
        yield "apfs", 32, 4


_UFS_MAGIC_OFFSET: Final = 1372
_UFS_MAGICS: Final = frozenset((0x00011954, 0x19540119, 0x00195612, 0x00095014, 0x00612195, 0x05231994))


def ufs(view: View) -> Iterator[Found]:
    """UFS1 and UFS2 at each place where a superblock may lie, in either byte order."""
    for superblock in (0, 8192, 65536, 262144):
        for order in ("little", "big"):
            if view.number(superblock + _UFS_MAGIC_OFFSET, 4, order) not in _UFS_MAGICS:
                continue
            block_size, fragment_size, fragments = (view.number(superblock + at, 4, order) for at in (48, 52, 56))
            fits = _power_of_two(block_size, 4096, 65536) and _power_of_two(fragment_size, 512, block_size)
            if fits and block_size == fragment_size * fragments:
                yield "ufs", superblock + _UFS_MAGIC_OFFSET, 4


_NILFS_SUM_OFFSET: Final = 16
_NILFS_MOST_BYTES: Final = 1024


def nilfs2(view: View) -> Iterator[Found]:
    """Both superblocks; the second one lies near the end and survives other file systems' mkfs."""
    for superblock in (1024, (view.size // _SECTOR - 8) * _SECTOR):
        if view.number(superblock + 6, 2) != 0x3434:
            continue
        length = view.number(superblock + 8, 2)
        if not _NILFS_SUM_OFFSET + 4 < length <= _NILFS_MOST_BYTES:
            continue
        block = bytearray(view.at(superblock, length))
        seed, recorded = view.number(superblock + 12, 4), view.number(superblock + _NILFS_SUM_OFFSET, 4)
        block[_NILFS_SUM_OFFSET : _NILFS_SUM_OFFSET + 4] = bytes(4)
        if zlib.crc32(block, seed ^ 0xFFFFFFFF) ^ 0xFFFFFFFF == recorded:
            yield "nilfs2", superblock + 6, 2


def squashfs(view: View) -> Iterator[Found]:
    """Squashfs 4 and later; older ones, in either byte order, have a name of their own."""
    magic = view.at(0, 4)
    major = view.number(28, 2, "big" if magic == b"sqsh" else "little")
    if magic in (b"hsqs", b"sqsh") and 0 < major < 16:
        yield "squashfs" if magic == b"hsqs" and major >= 4 else "squashfs3", 0, 4


def udf(view: View) -> Iterator[Found]:
    """A volume recognition sequence that names NSR02 or NSR03."""
    for step in (2048, 4096):
        for position in range(32768, 32768 + 16 * step, step):
            identifier = view.at(position + 1, 5)
            if identifier in (b"NSR02", b"NSR03"):
                yield "udf", position + 1, 5
                return
            if identifier not in (b"BEA01", b"BOOT2", b"CD001", b"CDW02", b"TEA01"):
                break


def hpfs(view: View) -> Iterator[Found]:
    """OS/2 HPFS: superblock and spare block."""
    if view.at(0x2000, 4) == b"\x49\xe8\x95\xf9" and view.at(0x2200, 4) == b"\x49\x18\x91\xf9":
        yield "hpfs", 0x2000, 4


def bitlocker(view: View) -> Iterator[Found]:
    """BitLocker by OEM name, or by the identifier that BitLocker To Go puts into a FAT boot sector."""
    if view.at(3, 8) == b"-FVE-FS-":
        yield "BitLocker", 3, 8
    elif view.at(boot.BITLOCKER_TO_GO_OFFSET, 16) == boot.BITLOCKER_TO_GO_GUID:
        yield "BitLocker", boot.BITLOCKER_TO_GO_OFFSET, 16


def swap_area(view: View) -> Iterator[Found]:
    """Swap, and a system hibernated in it."""
    area = swap.find_area(view.reader)
    if area:
        yield "swsuspend" if area.hibernated else "swap", area.offset, 10


# --- What holds other file systems ----------------------------------------------------------------------------------


def lvm2(view: View) -> Iterator[Found]:
    """A physical volume's label, in one of the first four sectors."""
    for sector in range(4):
        offset = sector * _SECTOR
        if view.at(offset, 8) == b"LABELONE" and view.at(offset + 24, 8) == b"LVM2 001":
            yield "LVM2_member", offset + 24, 8


_MD_MAGIC: Final = 0xA92B4EFC
_MD_090_RESERVED: Final = 64 * 1024


def md_raid(view: View) -> Iterator[Found]:
    """Superblocks of Linux MD: 0.90 and 1.0 near the end, 1.1 at the start, 1.2 behind 4 KiB."""
    old = view.size // _MD_090_RESERVED * _MD_090_RESERVED - _MD_090_RESERVED
    for order in ("little", "big"):
        if view.number(old, 4, order) == _MD_MAGIC and view.number(old + 4, 4, order) == 0:
            yield "linux_raid_member", old, 4
    for offset in sorted({0, 4096, view.size // 4096 * 4096 - 8192}):
        is_new = view.number(offset, 4) == _MD_MAGIC and view.number(offset + 4, 4) == 1
        if is_new and view.number(offset + 144, 8) == offset // _SECTOR:
            yield "linux_raid_member", offset, 4


_LUKS_SECOND_HEADERS: Final = tuple(0x4000 << step for step in range(9))


def luks(view: View) -> Iterator[Found]:
    """LUKS1 and LUKS2; a LUKS2 volume whose first header is gone is still found by its second."""
    if view.at(0, 6) == b"LUKS\xba\xbe" and view.number(6, 2, "big") in (1, 2):
        yield "crypto_LUKS", 0, 6
    for offset in _LUKS_SECOND_HEADERS:
        if view.at(offset, 6) == b"SKUL\xba\xbe" and view.number(offset + 256, 8, "big") == offset:
            yield "crypto_LUKS", offset, 6


_ZFS_LABEL: Final = 256 * 1024
_ZFS_UBERBLOCK_MAGIC: Final = 0x00BAB10C
_ZFS_NAMES: Final = (b"pool_guid", b"vdev_tree", b"top_guid")


def zfs(view: View) -> Iterator[Found]:
    """Any of the four labels of a vdev: two at the start, two at the end."""
    if view.size < 4 * _ZFS_LABEL:
        return
    end = view.size // _ZFS_LABEL * _ZFS_LABEL
    for label in (0, _ZFS_LABEL, end - 2 * _ZFS_LABEL, end - _ZFS_LABEL):
        pairs = view.at(label + 16 * 1024, 16 * 1024)
        if pairs[:1] == b"\x01" and pairs[1:2] in (b"\0", b"\1") and any(name in pairs for name in _ZFS_NAMES):
            yield "zfs_member", label + 16 * 1024, 12
        ring = view.at(label + 128 * 1024, 128 * 1024)
        slot = _zfs_uberblock(ring)
        if slot >= 0:
            yield "zfs_member", label + 128 * 1024 + slot, 8


def _zfs_uberblock(ring: bytes) -> int:
    """Where the first uberblock of a label lies in its ring; -1 when there is none."""
    for order in ("little", "big"):
        magic = _ZFS_UBERBLOCK_MAGIC.to_bytes(8, "big" if order == "big" else "little")
        position = ring.find(magic)
        while position >= 0:
            if position % 1024 == 0:
                return position
            position = ring.find(magic, position + 1)
    return -1


def drbd(view: View) -> Iterator[Found]:
    """Internal metadata of DRBD 8 and 9: the last 4 KiB block."""
    for block in sorted({view.size - 4096, view.size // 4096 * 4096 - 4096}):
        if view.at(block + 60, 3) == b"\x83\x74\x02" and view.at(block + 63, 1) in (b"\x6b", b"\x6c", b"\x6d"):
            yield "drbd", block + 60, 4


# --- RAID of firmware: metadata so many sectors before the end -------------------------------------------------------

_PROMISE_SECTORS: Final = (63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087)
_FIRMWARE_RAIDS: Final = (
    ("ddf_raid_member", (1, 257), 0, b"\xde\x11\xde\x11"),
    ("isw_raid_member", (2,), 0, b"Intel Raid ISM Cfg Sig. "),
    ("adaptec_raid_member", (1,), 256, b"DPTM"),
    ("nvidia_raid_member", (2,), 0, b"NVIDIA  "),
    ("lsi_mega_raid_member", (1,), 0, b"$XIDE$"),
    ("hpt45x_raid_member", (11,), 0, b"\xf3\x16\x78\x5a"),
    ("hpt45x_raid_member", (11,), 0, b"\xfd\x16\x78\x5a"),
    ("promise_fasttrack_raid_member", _PROMISE_SECTORS, 0, b"Promise Technology, Inc."),
)


def firmware_raid(view: View) -> Iterator[Found]:
    """Members of RAID sets that a mainboard or controller made."""
    for sector_bytes in sorted({_SECTOR, view.reader.sector_size}):
        sectors = view.size // sector_bytes
        for name, distances, inside, magic in _FIRMWARE_RAIDS:
            for distance in distances:
                offset = (sectors - distance) * sector_bytes + inside
                if view.at(offset, len(magic)) == magic:
                    yield name, offset, len(magic)


# --- Partition tables inside ----------------------------------------------------------------------------------------


def gpt(view: View) -> Iterator[Found]:
    """A GPT header whose checksum holds, for sectors of 512 or 4096 bytes."""
    for offset in (512, 4096):
        header = bytearray(view.at(offset, 92))
        if len(header) == 92 and header.startswith(b"EFI PART") and view.number(offset + 12, 4) == 92:
            recorded = int.from_bytes(header[16:20], "little")
            header[16:20] = bytes(4)
            if zlib.crc32(header) == recorded:
                yield "gpt", offset, 8


def mbr(view: View) -> Iterator[Found]:
    """A partition table in the first sector: every entry must make sense, for boot code ends in 55 AA too."""
    sector = view.at(0, _SECTOR)
    if len(sector) < _SECTOR or sector[510:] != b"\x55\xaa" or boot.read_boot_sector(view.reader):
        return
    entries = [sector[at : at + 16] for at in range(446, 510, 16)]
    if all(map(_mbr_entry_is_sound, entries)) and any(entry[4] for entry in entries):
        yield "dos", 510, 2


def _mbr_entry_is_sound(entry: bytes) -> bool:
    if not entry[4]:
        return not any(entry)
    start, count = int.from_bytes(entry[8:12], "little"), int.from_bytes(entry[12:16], "little")
    return entry[0] in (0x00, 0x80) and start > 0 and count > 0


CHECKS: Final[tuple[tuple[str, Callable[[View], Iterator[Found]]], ...]] = (
    ("filesystem", ext),
    ("filesystem", fat),
    ("filesystem", minix),
    ("filesystem", hfs),
    ("filesystem", apfs),
    ("filesystem", ufs),
    ("filesystem", nilfs2),
    ("filesystem", squashfs),
    ("filesystem", udf),
    ("filesystem", hpfs),
    ("filesystem", zfs),
    ("swap", swap_area),
    ("encrypted", bitlocker),
    ("encrypted", luks),
    ("volume-manager", lvm2),
    ("volume-manager", gpt),
    ("volume-manager", mbr),
    ("raid", md_raid),
    ("raid", drbd),
    ("raid", firmware_raid),
)
"""Kind of content and how to look for it."""
