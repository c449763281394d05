# SPDX-License-Identifier: GPL-3.0-or-later
"""Block bitmaps of an ext3 or ext4 file system that was not unmounted, as a union over every possible recovery.

Why the union holds every outcome: recovery can only leave a bitmap as it is on disk, or put one of the copies in
the log there; both are united. Whether a bitmap counts is said by BLOCK_UNINIT in its group's descriptor, which in
turn is the one on disk or one of the copies in the log; if any of them says that it counts, it is read.

A bitmap with no copy in the log will stay as it is, and its descriptor changes only together with it, so it must
agree with one of the descriptors' copies. Nothing can be said of the others, of which each version is right once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted
from imager.filesystems.ext.bitmaps import Bitmaps, read_bitmaps
from imager.filesystems.ext.groups import (
    BoolArray,
    Groups,
    desc_block_locations,
    named_groups,
    rows_of_desc_blocks,
)
from imager.filesystems.ext.inode import FileMap
from imager.filesystems.ext.journal import Copy, Journal
from imager.filesystems.ext.structs import (
    EXT2_ERROR_FS,
    EXT2_SUPER_MAGIC,
    METADATA_CSUM,
    SUPERBLOCK_BYTES,
    Geometry,
    Superblock,
    check_geometry,
    unknown_features,
)

_BATCH_ROWS = 64


def bitmaps_of_every_recovery(
    reader: BlockReader, sb: Superblock, geometry: Geometry, groups: Groups
) -> tuple[Bitmaps, BoolArray]:
    """Every cluster that is used on disk or in any copy, and which groups have no bitmap in any of them.

    Raises:
        NotTrusted: The journal, or what it holds, leaves open what recovery would do.
    """
    journal = Journal(reader, geometry.block_size, FileMap(reader, sb, geometry, groups, sb["s_journal_inum"]))
    log = _Log(journal, sb, geometry, groups, reader.size)
    is_uninit = groups.is_uninit & ~log.initialised_groups()
    found, has_copy = log.bitmap_copies()
    numbers = np.flatnonzero(~is_uninit)
    on_disk = read_bitmaps(reader, geometry, groups, numbers, with_checksums=sb.has_ro_compat(METADATA_CSUM))
    must_agree = ~groups.is_uninit & ~has_copy
    wrong = np.flatnonzero(must_agree & ~log.groups_that_agree(on_disk))
    if wrong.size:
        raise NotTrusted(f"the block bitmap of {named_groups(wrong)} agrees with no copy of its descriptor")
    return found.united_with(on_disk), is_uninit & ~has_copy


class _Log:
    """The copies in a log, by what they are copies of."""

    def __init__(self, journal: Journal, sb: Superblock, geometry: Geometry, groups: Groups, volume_bytes: int) -> None:
        self._journal = journal
        self._sb = sb
        self._geometry = geometry
        self._groups = groups
        self._volume_bytes = volume_bytes
        self._desc_blocks = desc_block_locations(sb, geometry)

    def initialised_groups(self) -> BoolArray:
        """Which groups have a bitmap by any copy of their descriptor; the superblock's copies are checked."""
        found: BoolArray = np.zeros(self._geometry.group_count, dtype=np.bool_)
        superblock = self._geometry.superblock_block
        for copy in self._journal.copies(np.append(self._desc_blocks, superblock)):
            if copy.block == superblock:
                self._check_superblock(copy)
            else:
                numbers, copied = self._descriptors(copy)
                self._check_same_places(copy, numbers, copied)
                found[numbers] |= ~copied.is_uninit
        return found

    def bitmap_copies(self) -> tuple[Bitmaps, BoolArray]:
        """What is used by the copies of bitmaps, and which groups have any."""
        found = Bitmaps.none_read(self._geometry)
        has_copy: BoolArray = np.zeros(self._geometry.group_count, dtype=np.bool_)
        blocks = self._groups.block_bitmap
        order = np.argsort(blocks)
        for batch in _batches(self._journal.copies(blocks)):
            numbers = order[np.searchsorted(blocks, [copy.block for copy in batch], sorter=order)]
            rows = np.frombuffer(b"".join(copy.content for copy in batch), dtype=np.uint8)
            found.add(rows.reshape(len(batch), -1), numbers)
            has_copy[numbers] = True
        return found, has_copy

    def groups_that_agree(self, on_disk: Bitmaps) -> BoolArray:
        """Which groups' bitmaps on disk agree with the descriptor on disk, or with one of its copies."""
        agree = on_disk.agree_with(self._sb, self._groups, slice(None))
        for copy in self._journal.copies(self._desc_blocks):
            numbers, copied = self._descriptors(copy)
            agree[numbers] |= on_disk.agree_with(self._sb, copied, numbers)
        return agree

    def _descriptors(self, copy: Copy) -> tuple[slice, Groups]:
        index = int(np.flatnonzero(self._desc_blocks == copy.block)[0])
        first = index * self._geometry.desc_per_block
        count = min(self._geometry.desc_per_block, self._geometry.group_count - first)
        rows = rows_of_desc_blocks(copy.content, self._geometry)[:count]
        return slice(first, first + count), Groups.from_rows(rows, self._sb)

    def _check_same_places(self, copy: Copy, numbers: slice, copied: Groups) -> None:
        if not copy.may_be_replayed:
            return
        for name in ("block_bitmap", "inode_bitmap", "inode_table"):
            moved = np.flatnonzero(getattr(copied, name) != getattr(self._groups, name)[numbers])
            if moved.size:
                raise NotTrusted(f"the log moves the {name.replace('_', ' ')} of {named_groups(moved + numbers.start)}")

    def _check_superblock(self, copy: Copy) -> None:
        """A copy that may be replayed must not change anything that the map was computed from."""
        if not copy.may_be_replayed:
            return
        start = 0 if self._geometry.block_size == SUPERBLOCK_BYTES else SUPERBLOCK_BYTES
        later = Superblock(copy.content[start : start + SUPERBLOCK_BYTES])
        if later["s_magic"] != EXT2_SUPER_MAGIC or later["s_state"] & EXT2_ERROR_FS:
            raise NotTrusted("the log holds a superblock in which errors are flagged")
        unknown = unknown_features(later, dirty=True)
        if unknown:
            raise NotTrusted(f"the log switches on features that are not handled: {unknown}")
        if check_geometry(later, self._volume_bytes) != self._geometry:
            raise NotTrusted("the file system was being resized when it was last used")


def _batches(copies: Iterator[Copy]) -> Iterator[list[Copy]]:
    pending: list[Copy] = []
    for copy in copies:
        pending.append(copy)
        if len(pending) == _BATCH_ROWS:
            yield pending
            pending = []
    if pending:
        yield pending
