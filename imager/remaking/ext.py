# SPDX-License-Identifier: GPL-3.0-or-later
"""The mke2fs command that makes an ext2, ext3 or ext4 like another one, with blocks that a disk's sectors allow.

A small one, as `/boot` often is, has blocks of 1 KiB, and no kernel mounts these on sectors of 4096 bytes.

References:
    mke2fs(8), ext4(5) of e2fsprogs 1.47; Linux, Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

import struct
import uuid
from typing import Final

from imager.blocks import BlockReader
from imager.filesystems.ext.structs import Superblock
from imager.fitting.anew import EXT_BLOCK_BYTES, ext_refusal
from imager.remaking.model import CannotRemake, Remake

_SUPERBLOCK_AT: Final = 1024
_SUPERBLOCK_BYTES: Final = 1024
_MAGIC: Final = 0xEF53
_STATES: Final = frozenset({"needs_recovery", "orphan_present", "fast_commit"})
"""Features that say what state it is in."""
_NOT_OF_MKE2FS: Final = frozenset({"dir_prealloc", "imagic_inodes", "btree_dir", "meta_bg", "mmp", "stable_inodes"})
_ERRORS: Final = {1: "continue", 2: "remount-ro", 3: "panic"}  # s_errors
_MOST_JOURNAL_BYTES: Final = 1024**3


def plan(reader: BlockReader, kind: str, sector_bytes: int, size_bytes: int) -> Remake:
    """How an ext file system is made anew.

    Args:
        reader: The old one.
        kind: ext2, ext3 or ext4.
        sector_bytes: Logical sector of the disk that it comes to.
        size_bytes: Its new size.

    Raises:
        CannotRemake: It would lose something.
    """
    raw = reader.read(_SUPERBLOCK_AT, _SUPERBLOCK_BYTES) if reader.size >= 2 * _SUPERBLOCK_BYTES else b""
    if len(raw) < _SUPERBLOCK_BYTES or struct.unpack_from("<H", raw, 56)[0] != _MAGIC:
        raise CannotRemake(f"it has no {kind} superblock")
    sb = Superblock(raw)
    features = sb.feature_names()
    if reason := ext_refusal(features):
        raise CannotRemake(f"{kind} is not made anew: {reason}")
    inodes, inode_size = struct.unpack_from("<I", raw)[0], sb.inode_size
    block = max(EXT_BLOCK_BYTES, sector_bytes, sb.block_size)
    wanted = [name for name in features if name not in _STATES | _NOT_OF_MKE2FS]
    command = ["mke2fs", "-q", "-F", "-t", kind, "-b", str(block), "-I", str(inode_size), "-N", str(inodes)]
    command += ["-O", ",".join(["none", *wanted]), "-U", str(uuid.UUID(bytes=sb.raw_field("s_uuid")))]
    command += ["-m", _reserved(raw, sb), "-E", "lazy_itable_init=1"]
    command += ["-e", _ERRORS[errors]] if (errors := struct.unpack_from("<H", raw, 60)[0]) in _ERRORS else []
    label, last = sb.text("s_volume_name"), sb.text("s_last_mounted")
    command += ["-L", label] if label else []
    command += ["-M", last] if last else []
    journal = min(_MOST_JOURNAL_BYTES, size_bytes // 16) if "has_journal" in features else 0
    return Remake(
        type=kind,
        way="files",
        command=tuple(command),
        check=("e2fsck", "-f", "-n"),
        size_bytes=size_bytes,
        sector_bytes=sector_bytes,
        least_free_bytes=inodes * inode_size + journal + size_bytes // 64,
        changes=(f"it has blocks of {block} bytes instead of {sb.block_size}",) if block != sb.block_size else (),
        programs=("mke2fs", "e2fsck", "rsync"),
    )


def _reserved(raw: bytes, sb: Superblock) -> str:
    """Blocks that are kept for root, in percent."""
    blocks = struct.unpack_from("<I", raw, 8)[0]
    return f"{min(50.0, 100 * blocks / max(1, sb.blocks_count)):.4f}"
