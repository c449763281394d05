# SPDX-License-Identifier: GPL-3.0-or-later
"""The mkfs.f2fs command that makes an F2FS like another one.

References:
    mkfs.f2fs(8) of f2fs-tools 1.15; Linux 6.6: include/linux/f2fs_fs.h.
"""

from __future__ import annotations

import uuid
from typing import Final

from imager.blocks import BlockReader
from imager.filesystems.f2fs.structs import (
    BLOCK_BYTES,
    F2FS_SUPER_MAGIC,
    F2FS_SUPER_OFFSET,
    FEATURES,
    SUPERBLOCK,
    SUPERBLOCK_BYTES,
    Superblock,
    fields_of,
)
from imager.fitting.anew import F2FS_LEAST_BYTES, f2fs_overhead, f2fs_refusal
from imager.remaking.model import CannotRemake, Remake

_CASEFOLD: Final = "casefold"
_NOT_OF_MKFS: Final = frozenset({"atomic_write"})
_MOST_SEGMENTS: Final = 2**16
_UTF8: Final = 1
_STRICT: Final = 1


def plan(reader: BlockReader, sector_bytes: int, size_bytes: int) -> Remake:
    """How an F2FS is made anew.

    Args:
        reader: The old one.
        sector_bytes: Logical sector of the disk that it comes to.
        size_bytes: Its new size.

    Raises:
        CannotRemake: It would lose something, or cannot be as small.
    """
    sb = _superblock_of(reader)
    features = [name for bit, name in FEATURES.items() if sb["feature"] & bit]
    known = sum(bit for bit in FEATURES if sb["feature"] & bit)
    if sb["feature"] != known:
        raise CannotRemake(f"F2FS is not made anew: it has unknown features ({sb['feature'] & ~known:#x})")
    if reason := f2fs_refusal(features):
        raise CannotRemake(f"F2FS is not made anew: {reason}")
    if size_bytes < F2FS_LEAST_BYTES:
        raise CannotRemake(f"an F2FS of less than {F2FS_LEAST_BYTES >> 20} MiB has no room for files")
    wanted = [name for name in features if name not in {_CASEFOLD, *_NOT_OF_MKFS}]
    command = ["mkfs.f2fs", "-f", "-q", "-t", "0", "-U", str(uuid.UUID(bytes=sb["uuid"]))]
    command += ["-s", str(_segments(sb, "segs_per_sec")), "-z", str(_segments(sb, "secs_per_zone"))]
    command += ["-O", ",".join(wanted)] if wanted else []
    command += ["-C", _encoding(sb)] if _CASEFOLD in features else []
    label = sb["volume_name"].decode("utf-16-le", errors="replace").split("\0", 1)[0]
    command += ["-l", label] if label else []
    return Remake(
        type="f2fs",
        way="files",
        command=tuple(command),
        check=("fsck.f2fs", "--dry-run"),
        size_bytes=size_bytes,
        sector_bytes=sector_bytes,
        least_free_bytes=f2fs_overhead(size_bytes),
        programs=("mkfs.f2fs", "fsck.f2fs", "rsync"),
    )


def _superblock_of(reader: BlockReader) -> Superblock:
    end = F2FS_SUPER_OFFSET + SUPERBLOCK_BYTES
    if reader.size >= end:
        sb = fields_of(reader.read(F2FS_SUPER_OFFSET, SUPERBLOCK_BYTES), SUPERBLOCK)
        if sb["magic"] == F2FS_SUPER_MAGIC and 1 << min(sb["log_blocksize"], 31) == BLOCK_BYTES:
            return sb
    raise CannotRemake("it has no F2FS superblock with blocks of 4096 bytes")


def _segments(sb: Superblock, name: str) -> int:
    count: int = sb[name]
    if not 0 < count <= _MOST_SEGMENTS:
        raise CannotRemake(f"its superblock has an impossible {name} of {count}")
    return count


def _encoding(sb: Superblock) -> str:
    if sb["s_encoding"] != _UTF8:
        raise CannotRemake(f"its names are compared by the unknown encoding {sb['s_encoding']}")
    return "utf8:strict" if sb["s_encoding_flags"] & _STRICT else "utf8"
