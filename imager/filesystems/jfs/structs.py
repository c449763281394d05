# SPDX-License-Identifier: GPL-3.0-or-later
"""Superblock, extent descriptors and fixed places of JFS.

It knows how the fields lie and which values are possible; it reads no maps.

An aggregate, in pages of 4096 bytes; the last two parts lie behind the blocks that the block map describes::

    0 .. 7   8          9, 10      11 .. 14    15          16 ..      | blocks ..  | fsck's workspace | inline log
    boot     superblock inode map  inode table superblock  block map  |            |                  |
             primary    of the aggregate       secondary

References:
    Linux fs/jfs: jfs_superblock.h, jfs_filsys.h, jfs_types.h, jfs_logmgr.h. jfsutils 1.1.15: mkfs/mkfs.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted

JFS_MAGIC: Final = b"JFS1"
JFS_VERSION: Final = 2
PSIZE: Final = 4096
"""Everything but data is kept in pages of this size."""
SUPER1_OFF: Final = 0x8000
AITBL_OFF: Final = 0xB000
BMAP_OFF: Final = 0x10000
SUPERBLOCK_BYTES: Final = 184
MAXMAPSIZE: Final = 1 << 43
"""Most blocks that a block map can describe."""

JFS_INLINELOG: Final = 0x800
HANDLED_FLAGS: Final = {
    0x00000001: "unicode",
    0x00000002: "errors=remount-ro",
    0x00000004: "errors=continue",
    0x00000008: "errors=panic",
    0x00000010: "usrquota",
    0x00000020: "grpquota",
    0x00000040: "nointegrity",
    0x00000080: "discard",
    0x00000100: "group-commit",
    0x00000200: "lazy-commit",
    JFS_INLINELOG: "inline-log",
    0x00020000: "sparse",
    0x00040000: "dasd-enabled",
    0x00080000: "dasd-prime",
    0x00200000: "dir-index",
    0x10000000: "linux",
    0x40000000: "os2",
}
REFUSED_FLAGS: Final = {
    0x00000400: "temporary",
    0x00001000: "inline log being moved",
    0x00010000: "bad secondary inode table",
    0x00100000: "big-endian",
    0x20000000: "dfs",
    0x80000000: "aix",
}

FM_CLEAN: Final = 0
STATES: Final = {1: "mounted", 2: "dirty", 4: "log redo failed", 8: "extendfs under way"}

LOGSUPER_B: Final = 1
LOGMAGIC: Final = 0x87654321
LOGVERSION: Final = 1
LOGREDONE: Final = 1
_LOGSUPER: Final = Struct("<IiiiiiII")

_SUPERBLOCK: Final = Struct("<4sIQIHHIHHIIII8s8sII8s8sQIb11sQ8s8s16s16s16s")
_MOST_BYTES: Final = 2**62


class Pxd(NamedTuple):
    """pxd_t: a run of blocks."""

    address: int
    length: int

    @classmethod
    def unpack(cls, raw: bytes) -> Pxd:
        """From its eight bytes: a length of 24 bits, and an address of 40 whose upper part comes first."""
        return cls(raw[3] << 32 | int.from_bytes(raw[4:8], "little"), int.from_bytes(raw[:3], "little"))

    @property
    def end(self) -> int:
        """The block after the last one."""
        return self.address + self.length


class Superblock(NamedTuple):
    """struct jfs_superblock."""

    s_magic: bytes
    s_version: int
    s_size: int
    s_bsize: int
    s_l2bsize: int
    s_l2bfactor: int
    s_pbsize: int
    s_l2pbsize: int
    pad: int
    s_agsize: int
    s_flag: int
    s_state: int
    s_compress: int
    s_ait2: bytes
    s_aim2: bytes
    s_logdev: int
    s_logserial: int
    s_logpxd: bytes
    s_fsckpxd: bytes
    s_time: int
    s_fsckloglen: int
    s_fscklog: int
    s_fpack: bytes
    s_xsize: int
    s_xfsckpxd: bytes
    s_xlogpxd: bytes
    s_uuid: bytes
    s_label: bytes
    s_loguuid: bytes

    @property
    def has_inline_log(self) -> bool:
        """Whether the log lies in the same volume."""
        return bool(self.s_flag & JFS_INLINELOG)

    @property
    def flag_names(self) -> tuple[str, ...]:
        """Names of the flags that are set."""
        names = {**HANDLED_FLAGS, **REFUSED_FLAGS}
        return tuple(names.get(bit, f"{bit:#x}") for bit in _bits(self.s_flag))

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the state says when it is not clean."""
        return tuple(STATES.get(bit, f"{bit:#x}") for bit in _bits(self.s_state))


@dataclass(frozen=True)
class Geometry:
    """Sizes and places that were checked.

    Attributes:
        map_blocks: How many blocks the block map describes.
        end_block: The block after the last one that belongs to the file system, workspace and log included.
        tables: Secondary inode map and secondary inode table.
    """

    block_size: int
    map_blocks: int
    end_block: int
    tables: tuple[Pxd, ...]


def _bits(word: int) -> list[int]:
    return [1 << position for position in range(32) if word >> position & 1]


def read_superblock(reader: BlockReader) -> Superblock | None:
    """The primary superblock, or None when this is not JFS or its sizes have no meaning."""
    if reader.size < SUPER1_OFF + SUPERBLOCK_BYTES:
        return None
    sb = Superblock._make(_SUPERBLOCK.unpack(reader.read(SUPER1_OFF, SUPERBLOCK_BYTES)))
    sound = (
        sb.s_magic == JFS_MAGIC
        and 9 <= sb.s_l2pbsize <= sb.s_l2bsize <= 12
        and sb.s_l2bfactor == sb.s_l2bsize - sb.s_l2pbsize
        and sb.s_bsize == 1 << sb.s_l2bsize
        and sb.s_pbsize == 1 << sb.s_l2pbsize
        and sb.s_size <= _MOST_BYTES >> sb.s_l2pbsize
    )
    return sb if sound else None


def check_features(sb: Superblock) -> None:
    """Refuse what the superblock says about version, features and state.

    Raises:
        NotTrusted: It is not handled, or not clean.
    """
    if sb.s_version > JFS_VERSION:
        raise NotTrusted(f"it is version {sb.s_version} of JFS, which is not handled")
    refused = sb.s_flag & ~sum(HANDLED_FLAGS)
    if refused:
        names = ", ".join(sb._replace(s_flag=refused).flag_names)
        raise NotTrusted(f"it has features that are not handled: {names}")
    if sb.s_compress:
        raise NotTrusted("it is compressed, which is not handled")
    if sb.s_state != FM_CLEAN:
        state = ", ".join(sb.state_names)
        raise NotTrusted(
            f"it was not cleanly unmounted (state: {state})",
            warnings=("it was not cleanly unmounted: run fsck.jfs before it is mounted",),
        )


def check_geometry(sb: Superblock, reader: BlockReader) -> Geometry:
    """Check each field that becomes a size, shift, count or offset.

    Raises:
        NotTrusted: One of them cannot be, or the log was not closed.
    """
    if sb.s_bsize != PSIZE:
        raise NotTrusted(f"its blocks have {sb.s_bsize} bytes; only {PSIZE} are handled")
    map_blocks = sb.s_size >> sb.s_l2bfactor
    fsck, log = Pxd.unpack(sb.s_fsckpxd), Pxd.unpack(sb.s_logpxd)
    log = log if sb.has_inline_log else Pxd(0, 0)
    end_block = max(map_blocks, fsck.end, log.end)
    tables = (Pxd.unpack(sb.s_aim2), Pxd.unpack(sb.s_ait2))
    if sb.s_size % (1 << sb.s_l2bfactor) or not BMAP_OFF // PSIZE < map_blocks <= MAXMAPSIZE:
        raise NotTrusted(f"it says that it has {sb.s_size} sectors")
    if end_block * PSIZE > reader.size:
        raise NotTrusted(f"it says that it reaches to byte {end_block * PSIZE}, in a volume of {reader.size}")
    for name, pxd in (("fsck workspace", fsck), *((("log", log),) if sb.has_inline_log else ())):
        if pxd.address < map_blocks or not pxd.length:
            raise NotTrusted(f"its {name} is said to be blocks {pxd.address} to {pxd.end} of {map_blocks}")
    if [pxd.length for pxd in tables] != [2, 4] or any(pxd.end > map_blocks for pxd in tables):
        raise NotTrusted("its secondary inode map and table are not where they can be")
    if sb.has_inline_log:
        _check_log(log, reader)
    return Geometry(sb.s_bsize, map_blocks, end_block, tables)


def _check_log(log: Pxd, reader: BlockReader) -> None:
    raw = reader.read((log.address + LOGSUPER_B) * PSIZE, _LOGSUPER.size)
    magic, version, _, _, _, _, _, state = _LOGSUPER.unpack(raw)
    if magic != LOGMAGIC or version != LOGVERSION:
        raise NotTrusted("its log has no superblock that is known")
    if state != LOGREDONE:
        raise NotTrusted(
            f"its log was not closed (state {state})",
            warnings=("it was not cleanly unmounted: run fsck.jfs before it is mounted",),
        )
