# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the journal of ReiserFS holds transactions that a mount would replay.

A transaction is a description block, copies of blocks, and a commit block. The journal header, in the block behind the
journal, has the number of the last transaction whose blocks all reached their places; those of later numbers are
replayed, or, when the header holds no such number, all that are complete. Every description of a later transaction
counts here, complete or not and of whatever mount, so that nothing depends on the rules by which a replay ends.

References:
    Linux 6.12: fs/reiserfs/journal.c (journal_read). reiserfsprogs 3.6.27: reiserfscore/journal.c.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import numpy as np

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted
from imager.filesystems.reiserfs.structs import Geometry, Superblock

JOURNAL_DESC_MAGIC: Final = b"ReIsErLB"
_MAGIC_FROM_END: Final = 12
_HEADER: Final = Struct("<III8I")
_JOURNAL_MAGIC: Final = 7
"""Index of jp_journal_magic in the header."""
_PIECE_BYTES: Final = 1024 * 1024


def check_finished(reader: BlockReader, sb: Superblock, geometry: Geometry) -> None:
    """Raise when a mount could replay anything.

    Raises:
        NotTrusted: A transaction is newer than the last one that was finished, or the header is damaged.
    """
    end = geometry.journal_start + geometry.journal_blocks
    header = _HEADER.unpack(reader.read(end * geometry.block_size, _HEADER.size))
    last_flush_trans_id, first_unflushed_offset = header[:2]
    if first_unflushed_offset >= geometry.journal_blocks:
        raise NotTrusted(f"its journal is said to go on at block {first_unflushed_offset} of {geometry.journal_blocks}")
    if not sb.has_standard_journal and header[_JOURNAL_MAGIC] != sb.jp_journal_magic:
        raise NotTrusted("the header of its journal is another file system's")
    step = max(1, _PIECE_BYTES // geometry.block_size)
    for block in range(geometry.journal_start, end, step):
        piece = reader.read(block * geometry.block_size, min(step, end - block) * geometry.block_size)
        newest = _newest_transaction(piece, geometry.block_size)
        if newest is not None and newest > last_flush_trans_id:
            raise NotTrusted(
                f"its journal holds unfinished transactions (number {newest}; {last_flush_trans_id} is finished)",
                warnings=("it was not unmounted: mounting it will replay its journal",),
            )


def _newest_transaction(piece: bytes, block_size: int) -> int | None:
    """The highest number of a transaction that is described in some blocks of the journal."""
    if piece.count(0) == len(piece):
        return None
    blocks = np.frombuffer(piece, dtype=np.uint8).reshape(-1, block_size)
    at = block_size - _MAGIC_FROM_END
    magic = np.frombuffer(JOURNAL_DESC_MAGIC, dtype=np.uint8)
    is_description = (blocks[:, at : at + len(magic)] == magic).all(axis=1)
    if not is_description.any():
        return None
    numbers = np.ascontiguousarray(blocks[is_description, :4]).view("<u4")
    return int(numbers.max())
