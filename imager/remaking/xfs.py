# SPDX-License-Identifier: GPL-3.0-or-later
"""The mkfs.xfs command that makes an XFS like another one.

Every feature that mkfs.xfs knows is named, on or off: what a newer one switches on by default, an older kernel of the
restored system may refuse to mount.

References:
    mkfs.xfs(8) of xfsprogs 6.1 and 6.13; Linux 6.12: fs/xfs/libxfs/xfs_format.h.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Final

from imager.blocks import BlockReader
from imager.filesystems.xfs.structs import (
    FINOBT,
    INCOMPAT,
    LAZYSBCOUNT,
    LOGV2,
    REFLINK,
    RMAPBT,
    SUPERBLOCK_BYTES,
    XFS_SB_MAGIC,
    Superblock,
)
from imager.fitting.anew import XFS_LEAST_BYTES, xfs_overhead
from imager.remaking.model import CannotRemake, Remake

_QUOTA: Final = 0x0040
_ASCII_CI: Final = 0x4000
_ATTR2: Final = 0x8
_PROJID32: Final = 0x80
_FTYPE: Final = 0x200
_BIT_OF: Final = {name: bit for bit, name in INCOMPAT.items()}
_INOBTCOUNT: Final = 0x8
_FEW_GROUPS_BELOW: Final = 16 * 1024**3


def superblock_of(reader: BlockReader) -> Superblock:
    """The first superblock.

    Raises:
        CannotRemake: It is none, or one that nobody would mount.
    """
    raw = reader.read(0, min(SUPERBLOCK_BYTES, reader.size))
    sb = Superblock(raw) if raw.startswith(XFS_SB_MAGIC) and len(raw) == SUPERBLOCK_BYTES else None
    if sb is None or not sb.block_size or not sb.sector_size or sb.version not in (4, 5):
        raise CannotRemake("it has no XFS superblock that could be read")
    return sb


def refusal(sb: Superblock) -> str:
    """What would be lost, so that it is not made anew; empty when it can be."""
    if sb["sb_rblocks"]:
        return "a part of its files lies on a realtime device"
    if sb["sb_logstart"] == 0:
        return "its log lies on another device"
    if sb["sb_qflags"] or sb["sb_versionnum"] & _QUOTA:
        return "it has quotas, and their limits would be lost"
    return ""


def plan(reader: BlockReader, sector_bytes: int, size_bytes: int, options: str) -> Remake:
    """How an XFS is made anew.

    Args:
        reader: The old one.
        sector_bytes: Logical sector of the disk that it comes to.
        size_bytes: Its new size.
        options: What mkfs.xfs says that it knows.

    Raises:
        CannotRemake: It would lose something, or cannot be as small.
    """
    sb = superblock_of(reader)
    if reason := refusal(sb):
        raise CannotRemake(f"XFS is not made anew: {reason}")
    if size_bytes < XFS_LEAST_BYTES:
        raise CannotRemake(f"mkfs.xfs makes no file system smaller than {XFS_LEAST_BYTES >> 20} MiB")
    sector = max(sb.sector_size, sector_bytes)
    block = max(sb.block_size, sector)
    command = ["mkfs.xfs", "-f", "-q", "-K", "-b", f"size={block}", "-s", f"size={sector}"]
    command += ["-i", ",".join(_inode_words(sb, options)), "-n", ",".join(_naming_words(sb, block, options))]
    command += ["-m", ",".join(_metadata_words(sb, options)), *_log_words(sb), *_stripe_words(sb, size_bytes)]
    label = sb.raw_field("sb_fname").split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    command += ["-L", label] if label else []
    changed = [f"it has blocks of {block} bytes instead of {sb.block_size}"] if block != sb.block_size else []
    changed += [f"it has sectors of {sector} bytes instead of {sb.sector_size}"] if sector != sb.sector_size else []
    unknown = [f"it has no {name} any more, which this mkfs.xfs does not know" for name in _unknown(sb, options)]
    return Remake(
        type="xfs",
        way="files",
        command=tuple(command),
        check=("xfs_repair", "-n"),
        size_bytes=size_bytes,
        sector_bytes=sector_bytes,
        mount_options=("nouuid",),
        least_free_bytes=xfs_overhead(size_bytes),
        changes=(*changed, *unknown),
        programs=("mkfs.xfs", "xfs_repair", "rsync"),
    )


def _known(name: str, options: str) -> bool:
    return f"{name}=" in options


def _switch(name: str, options: str, *, on: bool) -> list[str]:
    return [f"{name}={int(on)}"] if _known(name, options) else []


def _inode_words(sb: Superblock, options: str) -> Iterator[str]:
    yield f"size={sb['sb_inodesize']}"
    if 0 < sb["sb_imax_pct"] <= 100:
        yield f"maxpct={sb['sb_imax_pct']}"
    if sb.version == 4:
        yield f"attr={2 if sb.features2 & _ATTR2 else 1}"
        yield f"projid32bit={int(bool(sb.features2 & _PROJID32))}"
        return
    yield from _switch("sparse", options, on=sb.has_incompat(_BIT_OF["sparse inodes"]))
    yield from _switch("nrext64", options, on=sb.has_incompat(_BIT_OF["nrext64"]))
    yield from _switch("exchange", options, on=sb.has_incompat(_BIT_OF["exchange"]))


def _naming_words(sb: Superblock, block: int, options: str) -> Iterator[str]:
    yield f"size={max(sb.block_size << min(sb['sb_dirblklog'], 7), block)}"
    if sb["sb_versionnum"] & _ASCII_CI:
        yield "version=ci"
    if sb.version == 4:
        yield f"ftype={int(bool(sb.features2 & _FTYPE))}"
        return
    yield from _switch("parent", options, on=sb.has_incompat(_BIT_OF["parent"]))


def _metadata_words(sb: Superblock, options: str) -> Iterator[str]:
    yield f"uuid={uuid.UUID(bytes=sb.raw_field('sb_uuid'))}"
    yield f"crc={int(sb.version == 5)}"
    if sb.version == 5:
        yield from _switch("finobt", options, on=sb.has_ro_compat(FINOBT))
        yield from _switch("rmapbt", options, on=sb.has_ro_compat(RMAPBT))
        yield from _switch("reflink", options, on=sb.has_ro_compat(REFLINK))
        yield from _switch("inobtcount", options, on=sb.has_ro_compat(_INOBTCOUNT))
        yield from _switch("bigtime", options, on=sb.has_incompat(_BIT_OF["bigtime"]))


def _log_words(sb: Superblock) -> list[str]:
    if sb.version == 5:
        return []
    version, lazy = (2 if sb["sb_versionnum"] & LOGV2 else 1), int(bool(sb.features2 & LAZYSBCOUNT))
    return ["-l", f"version={version},lazy-count={lazy}"]


def _stripe_words(sb: Superblock, size_bytes: int) -> list[str]:
    unit, width = sb["sb_unit"], sb["sb_width"]
    if not 0 < unit <= width < 2**20 or width % unit:
        return ["-d", "noalign"]
    per_block = sb.block_size // 512
    words = f"sunit={unit * per_block},swidth={width * per_block}"
    # For stripes it makes so many groups of a small device that none has room for a log.
    return ["-d", f"{words},agcount=4" if size_bytes < _FEW_GROUPS_BELOW else words]


def _unknown(sb: Superblock, options: str) -> Iterator[str]:
    """Features that cannot be had."""
    switches = {"sparse inodes": "sparse"}
    for name in ("sparse inodes", "bigtime", "nrext64", "exchange", "parent"):
        if sb.has_incompat(_BIT_OF[name]) and not _known(switches.get(name, name), options):
            yield name
    for name, bit in (("finobt", FINOBT), ("rmapbt", RMAPBT), ("reflink", REFLINK), ("inobtcount", _INOBTCOUNT)):
        if sb.has_ro_compat(bit) and not _known(name, options):
            yield name
