# SPDX-License-Identifier: GPL-3.0-or-later
"""The file systems whose used blocks are known; a new one is added here and nowhere else."""

from __future__ import annotations

from typing import Final

from imager.blocks import BlockReader, OutOfRange
from imager.filesystems import (
    apfs,
    btrfs,
    erofs,
    exfat,
    ext,
    f2fs,
    fat,
    hfsplus,
    iso9660,
    jfs,
    minix,
    nilfs2,
    ntfs,
    reiserfs,
    squashfs,
    swap,
    ufs,
    xfs,
)
from imager.filesystems.base import Parser, SharedParser
from imager.filesystems.root_files import FileFinder
from imager.layout import Content

PARSERS: Final[tuple[Parser, ...]] = (
    ext,
    fat,
    exfat,
    ntfs,
    xfs,
    btrfs,
    f2fs,
    squashfs,
    erofs,
    iso9660,
    minix,
    nilfs2,
    ufs,
    jfs,
    reiserfs,
    hfsplus,
    apfs,
    swap,
)

SHARED: Final[dict[str, SharedParser]] = {"btrfs": btrfs}
"""Those that may lie on several devices, by blkid's name."""

FINDERS: Final[dict[str, FileFinder]] = {"ext2": ext, "ext3": ext, "ext4": ext, "ntfs": ntfs, "xfs": xfs}
"""Those that find files by their names, by blkid's name."""


def probe_all(reader: BlockReader) -> tuple[tuple[Parser, Content], ...]:
    """Every parser that recognises the volume, with what it found.

    Raises:
        SourceUnreadable: The medium could not be read.
    """
    recognised = ((parser, _probe(parser, reader)) for parser in PARSERS)
    return tuple((parser, content) for parser, content in recognised if content is not None)


def _probe(parser: Parser, reader: BlockReader) -> Content | None:
    try:
        return parser.probe(reader)
    except OutOfRange:  # a structure points out of the volume: whatever it is, it is not what the parser knows
        return None
