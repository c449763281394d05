# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints of F2FS: which of the two packs counts, whether it was made by a clean unmount, and its journals.

A pack is its header, the rest of the bitmaps that say which copy of each SIT and NAT block counts (cp_payload),
orphans, summaries of the segments that are being written to, and the header again. The newest entries of SIT and NAT
lie in these summaries, as journals. Headers are written last, so a pack whose two headers agree is complete.

References:
    Linux 6.6: fs/f2fs/checkpoint.c (f2fs_get_valid_checkpoint, do_checkpoint), fs/f2fs/segment.c
    (read_compacted_summaries, read_normal_summaries), fs/f2fs/f2fs.h (__bitmap_ptr).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.filesystems.base import NotTrusted
from imager.filesystems.f2fs.structs import (
    BLOCK_BYTES,
    BLOCKS_PER_SEGMENT,
    CHECKPOINT,
    CHECKPOINT_HEADER_BYTES,
    NAT_JOURNAL_ENTRY,
    SIT_JOURNAL_ENTRY,
    Geometry,
    bits_of,
    checksum,
    fields_of,
)

CP_UMOUNT_FLAG: Final = 0x1
_CP_COMPACT_SUM_FLAG: Final = 0x4
_CP_LARGE_NAT_BITMAP_FLAG: Final = 0x400
_CP_QUOTA_NEED_FSCK_FLAG: Final = 0x800
_HARMLESS_FLAGS: Final = (
    CP_UMOUNT_FLAG | 0x2 | _CP_COMPACT_SUM_FLAG | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
)
"""Orphans present, fast boot, recovery with and without CRC, NAT bits, trimmed."""
_REFUSED_FLAGS: Final = {
    0x8: "the driver met an error in it",
    0x10: "it is flagged for a check by fsck.f2fs",
    0x1000: "its checkpoints were switched off when it was last in use",
    0x2000: "its checkpoints were switched off when it was last in use",
    0x4000: "it was being resized when it was last in use",
}

_CRC_BYTES: Final = 4
_LAST_CRC_OFFSET: Final = BLOCK_BYTES - _CRC_BYTES
_HEADERS: Final = 2
_NODE_SUMMARIES: Final = 3
_DATA_SUMMARIES: Final = 3
_HOT_DATA: Final = 0
_COLD_DATA: Final = 2

_SUMMARY_BYTES: Final = 7 * BLOCKS_PER_SEGMENT
_SUM_JOURNAL_SIZE: Final = BLOCK_BYTES - 5 - _SUMMARY_BYTES
"""Bytes of a journal: what summaries and a footer of 5 bytes leave of a block."""

Records = npt.NDArray[Any]


@dataclass(frozen=True)
class Checkpoint:
    """The state that the driver would mount.

    Attributes:
        fields: Of its header.
        sit_bitmap: For each block of the SIT, whether its second copy counts.
        nat_bitmap: The same of the NAT.
        sit_journal: SIT entries that are newer than the table, later ones before earlier.
        nat_journal: The same of the NAT.
    """

    fields: dict[str, Any]
    sit_bitmap: npt.NDArray[np.bool_]
    nat_bitmap: npt.NDArray[np.bool_]
    sit_journal: Records
    nat_journal: Records

    @property
    def quota_is_stale(self) -> bool:
        """Whether the quota files, and only they, need fsck.f2fs."""
        return bool(self.fields["ckpt_flags"] & _CP_QUOTA_NEED_FSCK_FLAG)


@dataclass(frozen=True)
class _Pack:
    start: int
    fields: dict[str, Any]


def read_checkpoint(reader: BlockReader, geometry: Geometry) -> Checkpoint:
    """The newer of the two checkpoint packs.

    Raises:
        NotTrusted: A pack is damaged, or the newer one is not that of a clean unmount.
    """
    packs = [_read_pack(reader, geometry.cp_blkaddr + at) for at in (0, BLOCKS_PER_SEGMENT)]
    first, second = packs
    if first is None or second is None:
        # The driver would mount the other one, which may be older than the files.
        raise NotTrusted("one of its two checkpoint packs is damaged or incomplete")
    pack = second if _is_newer(second, first) else first
    _check_flags(pack.fields["ckpt_flags"])
    _check_fields(pack.fields, geometry)
    sit_bitmap, nat_bitmap = _read_bitmaps(reader, pack, geometry)
    nat_journal, sit_journal = _read_journals(reader, pack)
    return Checkpoint(
        pack.fields,
        sit_bitmap,
        nat_bitmap,
        _records(sit_journal, SIT_JOURNAL_ENTRY, "SIT"),
        _records(nat_journal, NAT_JOURNAL_ENTRY, "NAT"),
    )


def _is_newer(pack: _Pack, than: _Pack) -> bool:
    """Versions wrap around, as the driver compares them."""
    distance: int = (pack.fields["checkpoint_ver"] - than.fields["checkpoint_ver"]) % 2**64
    return 0 < distance < 2**63


def _read_pack(reader: BlockReader, start: int) -> _Pack | None:
    """A pack whose two headers are sound and of one version."""
    head = _read_header(reader, start)
    if head is None or not _HEADERS < head["cp_pack_total_block_count"] <= BLOCKS_PER_SEGMENT:
        return None
    tail = _read_header(reader, start + head["cp_pack_total_block_count"] - 1)
    if tail is None or tail["checkpoint_ver"] != head["checkpoint_ver"]:
        return None
    return _Pack(start, head)


def _read_header(reader: BlockReader, block: int) -> dict[str, Any] | None:
    raw = reader.read(block * BLOCK_BYTES, BLOCK_BYTES)
    fields = fields_of(raw, CHECKPOINT)
    at = fields["checksum_offset"]
    if not CHECKPOINT_HEADER_BYTES <= at <= _LAST_CRC_OFFSET:
        return None
    # Where the checksum lies in front of the bitmaps, what lies behind it is covered too.
    expected = checksum(raw[at + _CRC_BYTES :], checksum(raw[:at]))
    return fields if int.from_bytes(raw[at : at + _CRC_BYTES], "little") == expected else None


def _check_flags(flags: int) -> None:
    reason = next((reason for bit, reason in _REFUSED_FLAGS.items() if flags & bit), "")
    if reason:
        raise NotTrusted(reason, warnings=("it needs a check: run fsck.f2fs",))
    unknown = flags & ~_HARMLESS_FLAGS
    if unknown:
        raise NotTrusted(f"its checkpoint has unknown flags {unknown:#x}")
    if not flags & CP_UMOUNT_FLAG:
        raise NotTrusted(
            "it was not cleanly unmounted: files may be newer than its checkpoint",
            warnings=("it was not unmounted: mounting it will recover what was written last",),
        )


def _check_fields(fields: dict[str, Any], geometry: Geometry) -> None:
    total, summaries = fields["cp_pack_total_block_count"], fields["cp_pack_start_sum"]
    behind = _NODE_SUMMARIES + 1
    is_compact = bool(fields["ckpt_flags"] & _CP_COMPACT_SUM_FLAG)
    count = total - behind - summaries
    large = fields["ckpt_flags"] & _CP_LARGE_NAT_BITMAP_FLAG
    possible = {
        "cp_pack_start_sum": 1 + geometry.cp_payload <= summaries
        and (1 <= count <= _DATA_SUMMARIES if is_compact else count == _DATA_SUMMARIES),
        "valid_block_count": fields["valid_block_count"] <= geometry.main_segments * BLOCKS_PER_SEGMENT,
        "sit_ver_bitmap_bytesize": fields["sit_ver_bitmap_bytesize"] * 8 == geometry.sit_blocks,
        "nat_ver_bitmap_bytesize": fields["nat_ver_bitmap_bytesize"] * 8 == geometry.nat_blocks,
        # Before Linux 5.2 the checksum lay elsewhere with this flag, and drivers refuse that now.
        "checksum_offset": not large or fields["checksum_offset"] == CHECKPOINT_HEADER_BYTES,
    }
    wrong = next((name for name, is_possible in possible.items() if not is_possible), "")
    if wrong:
        raise NotTrusted(f"its checkpoint has an impossible {wrong} of {fields[wrong]}")


def _read_bitmaps(
    reader: BlockReader, pack: _Pack, geometry: Geometry
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which copy of each block counts, of SIT and NAT."""
    content = reader.read(pack.start * BLOCK_BYTES, (1 + geometry.cp_payload) * BLOCK_BYTES)
    sit_bytes, nat_bytes = pack.fields["sit_ver_bitmap_bytesize"], pack.fields["nat_ver_bitmap_bytesize"]
    end = pack.fields["checksum_offset"]
    if pack.fields["ckpt_flags"] & _CP_LARGE_NAT_BITMAP_FLAG:
        nat_at = CHECKPOINT_HEADER_BYTES + _CRC_BYTES
        sit_at = nat_at + nat_bytes
        fits = sit_at + sit_bytes <= len(content)
    elif geometry.cp_payload:
        nat_at, sit_at = CHECKPOINT_HEADER_BYTES, BLOCK_BYTES
        fits = nat_at + nat_bytes <= end and sit_at + sit_bytes <= len(content)
    else:
        sit_at = CHECKPOINT_HEADER_BYTES
        nat_at = sit_at + sit_bytes
        fits = nat_at + nat_bytes <= end
    if not fits:
        raise NotTrusted("the bitmaps of its checkpoint do not fit into their place")
    return bits_of(content[sit_at : sit_at + sit_bytes]), bits_of(content[nat_at : nat_at + nat_bytes])


def _read_journals(reader: BlockReader, pack: _Pack) -> tuple[bytes, bytes]:
    """The journals of NAT and SIT as they lie on disk."""
    first = pack.start + pack.fields["cp_pack_start_sum"]
    if pack.fields["ckpt_flags"] & _CP_COMPACT_SUM_FLAG:
        raw = reader.read(first * BLOCK_BYTES, 2 * _SUM_JOURNAL_SIZE)
        return raw[:_SUM_JOURNAL_SIZE], raw[_SUM_JOURNAL_SIZE:]
    nat, sit = ((first + kind) * BLOCK_BYTES + _SUMMARY_BYTES for kind in (_HOT_DATA, _COLD_DATA))
    return reader.read(nat, _SUM_JOURNAL_SIZE), reader.read(sit, _SUM_JOURNAL_SIZE)


def _records(journal: bytes, layout: np.dtype[Any], name: str) -> Records:
    """The entries of a journal, of each number only the last."""
    count = int.from_bytes(journal[:2], "little")
    if count > (len(journal) - 2) // layout.itemsize:
        raise NotTrusted(f"its journal of the {name} says that it has {count} entries, more than fit")
    entries = np.frombuffer(journal, dtype=layout, count=count, offset=2)[::-1]
    return entries[np.unique(entries["number"], return_index=True)[1]]
